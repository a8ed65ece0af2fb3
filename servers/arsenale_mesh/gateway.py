"""The gateway: it knows who is there, gives tasks to the best node, and judges what comes back.

It alone decides; nodes only say. One process at a time dispatches for a database. What a node has
is a lease: known to the database, and ended here when the node is silent, has forgotten it, or
takes too long. A gateway that begins again waits a little for the nodes that had leases.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeAlias

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.tasks import background
from arsenale_mesh import changes, rows, settling, welcoming
from arsenale_mesh.committing import Committer
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, Message
from arsenale_mesh.node import work
from arsenale_mesh.node.work import Assignment
from arsenale_mesh.placement import Choice, Fleet, Wanted
from arsenale_mesh.rates import NodeRates, Rate
from arsenale_mesh.record import Attempt, Node, Task
from arsenale_mesh.rows import Change
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.sessions import QUEUE_A_SLOT, Lease, Session, fuels, measured, numbers
from arsenale_mesh.settling import Settled
from arsenale_mesh.store import MeshStore
from arsenale_mesh.telemetry import keep_sample

Changed: TypeAlias = Callable[[Sequence[Task]], Awaitable[None]]

SILENT_BEATS = 3
"""A node that misses so many heartbeats is gone."""

GRACE_US = 10_000_000
"""How long a lease outlives its node's connection."""

LOOK_S = 2.0
"""How often it is looked for tasks that another process has added."""

SWEEP_S = 1.0
LEASE_GRACE_US = 60_000_000
PROBE_US = 60_000_000
BANDWIDTH_US = 600_000_000
SAMPLE_US = 60_000_000
PROBE_BYTES = 256 << 10
MOST_PLACED = 128
BYTES_IN_A_MESSAGE = 8 << 20
RESULTS_AT_ONCE = 4
"""Messages of results of one node that are judged at a time; more wait in its connection."""

MESSAGES, BYTES = Rate(a_second=500, burst=2_000), Rate(a_second=256 << 20, burst=512 << 20)
"""What a node may send; beyond, it is read more slowly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """`ticks_us` never goes back; `now_us` is UTC."""

    ticks_us: Callable[[], int]
    now_us: Callable[[], int]


@dataclass(slots=True)
class _Orphans:
    leases: set[int]
    until_us: int


@dataclass(slots=True)
class Counts:
    """What happened since the gateway began."""

    placed: int = 0
    settled: int = 0
    slowed: int = 0
    refused: int = 0
    place_s: list[float] = field(default_factory=list[float])


class Gateway:
    """One mesh.

    Args:
        store: Its database.
        committer: Writes to it.
        identity: The gateway's key.
        house: The did of our own node.
        heartbeat_s: How often a node has to say that it lives.
        clock: What time it is.
        changed: Is told of tasks that changed.
    """

    def __init__(
        self,
        store: MeshStore,
        committer: Committer,
        identity: Identity,
        house: str,
        heartbeat_s: float,
        clock: Clock,
        changed: Changed,
    ) -> None:
        self._store = store
        self._commit = committer
        self.identity = identity
        self._house = house
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._changed = changed
        self.sessions: dict[int, Session] = {}
        self.counts = Counts()
        self.has_waiting = False
        self.waiting_because: dict[int, str] = {}
        self.can_house = True
        self._fleet = Fleet()
        self._rates = NodeRates(MESSAGES, BYTES)
        self._orphans: dict[int, _Orphans] = {}
        self._nudged = anyio.Event()
        self._engine = engine_id("cranelift")
        self._log = logs.get("arsenale.mesh.gateway")

    async def run(self) -> None:
        """Dispatch and sweep for ever."""
        await self._commit.do(rows.all_offline)
        for one in await to_thread.run_sync(self._leases):
            grace = self._clock.ticks_us() + GRACE_US + int(self._heartbeat_s * 1e6)
            self._orphans.setdefault(one.node_id, _Orphans(set(), grace)).leases.add(one.id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._dispatch)
            tasks.start_soon(self._sweep)

    def nudge(self) -> None:
        """Say that there may be something to place."""
        self._nudged.set()

    def ranked(self, wanted: Wanted, limit: int = 10) -> list[Choice]:
        """Return the best nodes for a task, and why."""
        return self._fleet.ranked(wanted, limit)

    @property
    def house_session(self) -> Session | None:
        """Our own node's connection."""
        return next((one for one in self.sessions.values() if one.node.house), None)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to stay up for."""
        return self.has_waiting or any(one.leases for one in self.sessions.values())

    def fuel_so_far(self, task: int) -> int:
        """Return what the furthest attempt at a task has burnt."""
        fuels = (
            lease.fuel
            for session in self.sessions.values()
            for lease in session.leases.values()
            if lease.task_id == task
        )
        return max(fuels, default=0)

    async def drop(self, attempts: Iterable[Attempt]) -> None:
        """Tell nodes that these are not wanted any more."""
        for attempt in attempts:
            session = self.sessions.get(attempt.node_id)
            if session is not None and attempt.id in session.leases:
                self._forget(session, attempt.id)
                with suppress(UnavailableError):
                    await session.link.send(Message(kind="drop", body={"leases": [attempt.id]}))
        self.nudge()

    # A node's connection.

    async def serve(self, link: Link) -> None:
        """Serve a node until it goes."""
        try:
            try:
                arrival = await welcoming.welcome(link, self.identity, self._house)
                node = await self._commit.do(lambda c: changes.admit(c, arrival.newcomer))
            except TimeoutError:
                return
            except UnavailableError:
                raise
            except ArsenaleError as exc:
                self.counts.refused += 1
                self._log.warning("a node is refused", reason=str(exc))
                await welcoming.refuse(link, exc)
                return
            await self._serve(link, node, arrival)
        except UnavailableError:
            return
        finally:
            await link.aclose()

    async def _serve(self, link: Link, node: Node, arrival: welcoming.Arrival) -> None:
        before = self.sessions.get(node.id)
        if before is not None:  # the same key, again: the older connection is a ghost
            await self._gone(before)
            await before.link.aclose()
        session = Session(
            node=node, link=link, heard_us=self._clock.ticks_us(),
            engine_fits=node.engine == self._engine, said=measured(arrival.measured),
        )  # fmt: skip
        self.sessions[node.id] = session
        try:
            await self._adopt(session, numbers(arrival.holds))
            said = {"name": node.name, "heartbeat_s": self._heartbeat_s}
            await link.send(Message(kind="joined", body=said))
            self._fleet.put(node.id, session.entry())
            self._log.info("joined", node=node.name, did=node.did, kind=node.kind)
            self.nudge()
            async with background() as tasks:
                tasks.start_soon(self._probe_at_first, session)
                await self._listen(session, tasks)
        except InvalidError as exc:
            self._log.warning("a node is cut off", node=node.name, reason=str(exc))
        finally:
            with anyio.CancelScope(shield=True):
                await self._gone(session)

    async def _listen(self, session: Session, tasks: TaskGroup) -> None:
        judging = anyio.Semaphore(RESULTS_AT_ONCE)
        while not session.leaving:
            message = await session.link.receive()
            session.heard_us = self._clock.ticks_us()
            now_s = session.heard_us / 1e6
            while wait_s := self._rates.allow(session.node.id, now_s, message.size):
                self.counts.slowed += 1
                await anyio.sleep(wait_s)
                now_s = self._clock.ticks_us() / 1e6
            if message.kind == "done":
                results = work.parse_results(message.body, message.blobs)
                await judging.acquire()
                tasks.start_soon(self._judge, session, results, judging)
            else:
                await self._hear(session, message)

    async def _hear(self, session: Session, message: Message) -> None:
        body = message.body
        if message.kind == "beat":
            await self._heard_beat(session, body)
        elif message.kind == "fetch":
            sha = str(body.get("sha"))
            data = await to_thread.run_sync(self._blob, session, sha)
            blobs = () if data is None else (data,)
            await session.link.send(Message(kind="blob", body={"sha": sha}, blobs=blobs))
        elif message.kind == "returned":
            leases = [one for one in numbers(body.get("leases")) if one in session.leases]
            self._log.warning("given back", node=session.node.name, reason=body.get("reason"))
            await self._let_go(session, leases, "returned", is_failure=True)
        elif message.kind == "echo":
            self._heard_echo(session, str(body.get("nonce")), body.get("sha"))
        elif message.kind == "leave":
            session.leaving = True

    async def _heard_beat(self, session: Session, body: dict[str, Any]) -> None:
        session.said = measured(body.get("measured"))
        for id, burnt in fuels(body.get("fuel")).items():
            if lease := session.leases.get(id):
                lease.fuel = burnt
        holds = set(numbers(body.get("holds")))
        forgotten = [
            one.id for one in session.leases.values()
            if one.id not in holds and session.heard_us - one.begun_us > GRACE_US
        ]  # fmt: skip
        if forgotten:
            await self._let_go(session, forgotten, "lost", is_failure=True)
        self._fleet.put(session.node.id, session.entry())
        if session.heard_us - session.kept_us > SAMPLE_US:
            session.kept_us = session.heard_us
            await self._commit.do(partial(keep_sample, session=session))

    async def _adopt(self, session: Session, holds: Sequence[int]) -> None:
        """Take over the leases that the node still has; those it forgot go to others."""
        orphans = self._orphans.pop(session.node.id, None)
        known = orphans.leases if orphans else set[int]()
        kept = known & set(holds)
        for task, id in await to_thread.run_sync(self._tasks_of, sorted(kept)):
            self._leased(session, id, task)
        await self._let_go(session, sorted(known - kept), "lost", is_failure=True)

    async def _gone(self, session: Session) -> None:
        """Take a connection out of everything; leases are kept for a while, unless it left."""
        if self.sessions.get(session.node.id) is not session:
            return
        del self.sessions[session.node.id]
        self._fleet.remove(session.node.id)
        leases = set(session.leases)
        if leases and session.leaving:
            await self._let_go(session, sorted(leases), "returned", is_failure=False)
        elif leases:
            until = self._clock.ticks_us() + GRACE_US
            self._orphans[session.node.id] = _Orphans(leases, until)
        state = "left" if session.leaving else "offline"
        with suppress(ArsenaleError):
            await self._commit.do(partial(_note_gone, node=session.node.id, state=state))
        self._log.info("gone", node=session.node.name, left=session.leaving, leases=len(leases))

    # Results.

    async def _judge(
        self, session: Session, results: list[work.Result], judging: anyio.Semaphore
    ) -> None:
        try:
            with anyio.CancelScope(shield=True):
                read = await to_thread.run_sync(_read, results)
                judge = partial(
                    settling.settle_all, node_id=session.node.id, results=read,
                    has_house=self.can_house,
                )  # fmt: skip
                settled = await self._commit.do(judge)
                await self._settled(session, settled)
            kept = {"leases": [one.lease for one in results]}
            with suppress(UnavailableError):
                await session.link.send(Message(kind="kept", body=kept))
        except ArsenaleError as exc:  # the node keeps them and comes again
            self._log.error("results are not kept", node=session.node.name, reason=str(exc))
            await session.link.aclose()
        finally:
            judging.release()

    async def _settled(self, session: Session, settled: Sequence[Settled]) -> None:
        for one in settled:
            self.counts.settled += 1
            self._forget(session, one.lease)
            for node in one.nodes:
                await self._note_standing(node)
            if one.drop:
                await self.drop(one.drop)
        await self._changed([one.task for one in settled if one.task])
        self.nudge()

    async def _note_standing(self, node: Node) -> None:
        session = self.sessions.get(node.id)
        if session is None:
            return
        session.node = replace(session.node, standing=node.standing, state=node.state)
        self._fleet.put(node.id, session.entry())
        if node.state == "banned":
            session.leaving = True
            self._log.warning("banned", node=node.name, reason=node.reason)
            await session.link.aclose()

    # Placing.

    async def _dispatch(self) -> None:
        while True:
            self._nudged = anyio.Event()
            try:
                placed = await self._place()
            except ArsenaleError as exc:
                self._log.error("tasks are not placed", reason=str(exc))
                placed = 0
            if not placed:
                with anyio.move_on_after(LOOK_S):
                    await self._nudged.wait()

    async def _place(self) -> int:
        """Give waiting tasks to nodes; return how many."""
        room = sum(
            (1 + QUEUE_A_SLOT) * session.node.slots - len(session.leases)
            for session in self.sessions.values()
        )
        tasks = await to_thread.run_sync(self._waiting, min(max(room, 1), MOST_PLACED))
        self.has_waiting = bool(tasks)
        if not tasks or room < 1:
            return 0
        begun = self._clock.ticks_us()
        choices = self._fleet.choose_many([self._wanted(task, tried) for task, tried in tasks])
        self.counts.place_s = [(self._clock.ticks_us() - begun) / 1e6 / len(tasks)]
        pairs = [
            (task.id, choice.node)
            for (task, _), choice in zip(tasks, choices, strict=True)
            if choice is not None and choice.node in self.sessions
        ]
        if not pairs:
            return 0
        attempts = await self._commit.do(partial(changes.lease, pairs=pairs))
        by_id = {task.id: task for task, _ in tasks}
        for one in attempts:
            session = self.sessions.get(one.node_id)
            if session is None:  # it went meanwhile
                until = self._clock.ticks_us()
                self._orphans.setdefault(one.node_id, _Orphans(set(), until)).leases.add(one.id)
            else:
                self._leased(session, one.id, by_id[one.task_id])
        await self._send(attempts, by_id)
        self.counts.placed += len(attempts)
        return len(attempts)

    def _wanted(self, task: Task, tried: frozenset[int]) -> Wanted:
        return Wanted(
            memory_bytes=task.limits.memory_bytes, excluded=tried,
            engines=frozenset({self._engine}), where="ours" if task.asks == "house" else "any",
            prefers_green=task.carbon == "prefer",
        )  # fmt: skip

    async def _send(self, attempts: Sequence[Attempt], tasks: dict[int, Task]) -> None:
        inputs = await to_thread.run_sync(self._inputs, {t.input for t in tasks.values()})
        by_node: dict[int, list[Assignment]] = {}
        for one in attempts:
            made = assignment(one.id, tasks[one.task_id], inputs)
            by_node.setdefault(one.node_id, []).append(made)
        async with anyio.create_task_group() as sending:
            for node, given in by_node.items():
                if session := self.sessions.get(node):
                    sending.start_soon(_give, session, given)

    def _leased(self, session: Session, id: int, task: Task) -> None:
        now = self._clock.ticks_us()
        wall_us = task.limits.wall_ms * 1_000 * (2 + QUEUE_A_SLOT)
        session.leases[id] = Lease(
            id=id, task_id=task.id, begun_us=now, until_us=now + LEASE_GRACE_US + wall_us
        )
        self._fleet.load(session.node.id, 1)

    def _forget(self, session: Session, lease: int) -> None:
        if session.leases.pop(lease, None) is not None:
            self._fleet.load(session.node.id, -1)

    async def _let_go(
        self, session: Session | None, leases: Sequence[int], state: str, *, is_failure: bool
    ) -> None:
        if not leases:
            return
        for lease in leases:
            if session is not None:
                self._forget(session, lease)
        let_go = partial(changes.let_go, leases=leases, state=state, is_failure=is_failure)
        await self._changed(await self._commit.do(let_go))
        self.nudge()

    # What time does.

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(SWEEP_S)
            try:
                await self._swept()
            except ArsenaleError as exc:
                self._log.error("leases are not looked after", reason=str(exc))

    async def _swept(self) -> None:
        now = self._clock.ticks_us()
        for node, orphans in list(self._orphans.items()):
            if orphans.until_us < now:
                del self._orphans[node]
                await self._let_go(None, sorted(orphans.leases), "lost", is_failure=True)
        for session in list(self.sessions.values()):
            if now - session.heard_us > SILENT_BEATS * self._heartbeat_s * 1e6:
                self._log.warning("silent", node=session.node.name)
                await session.link.aclose()
                continue
            late = [one.id for one in session.leases.values() if one.until_us < now]
            if late:
                with suppress(UnavailableError):
                    await session.link.send(Message(kind="drop", body={"leases": late}))
                await self._let_go(session, late, "late", is_failure=True)
            await self._probe_if_due(session, now)

    async def _probe_at_first(self, session: Session) -> None:
        with suppress(UnavailableError):
            await self._probe(session, 0)
            await self._probe(session, PROBE_BYTES)

    async def _probe_if_due(self, session: Session, now: int) -> None:
        last = max((sent for sent, _, _ in session.probes.values()), default=0)
        if session.probes and now - last > PROBE_US:  # an answer never came: very slow
            session.probes.clear()
            session.latency_s = max(session.latency_s or 0.0, PROBE_US / 1e6)
            self._fleet.put(session.node.id, session.entry())
        if not session.probes and now - session.heard_us < PROBE_US and not session.leases:
            due = self._clock.ticks_us() // PROBE_US != (now - int(SWEEP_S * 1e6)) // PROBE_US
            if due:
                with suppress(UnavailableError):
                    await self._probe(session, 0)

    async def _probe(self, session: Session, size: int) -> None:
        """Measure the way to a node: its answer holds what only who got all of it can say."""
        nonce, data = secrets.token_hex(8), secrets.token_bytes(size) if size else b""
        digest = sha256(data).hexdigest() if data else ""
        session.probes[nonce] = (self._clock.ticks_us(), size, digest)
        blobs = (data,) if data else ()
        await session.link.send(Message(kind="probe", body={"nonce": nonce}, blobs=blobs))

    def _heard_echo(self, session: Session, nonce: str, digest: object) -> None:
        sent = session.probes.pop(nonce, None)
        if sent is None or sent[2] != digest:
            return
        took_s = max((self._clock.ticks_us() - sent[0]) / 1e6, 1e-6)
        if not sent[1]:
            before = session.latency_s
            session.latency_s = took_s if before is None else 0.7 * before + 0.3 * took_s
        else:
            session.bandwidth = sent[1] / max(took_s - (session.latency_s or 0.0), 1e-6)
        self._fleet.put(session.node.id, session.entry())

    # In a worker thread.

    def _leases(self) -> list[Attempt]:
        with self._store.reading() as db:
            return rows.leases(db)

    def _waiting(self, limit: int) -> list[tuple[Task, frozenset[int]]]:
        with self._store.reading() as db:
            found: list[tuple[Task, frozenset[int]]] = []
            for task in rows.waiting(db, limit):
                fresh = task.state == "queued" and not task.failures
                tried = () if fresh else rows.attempts(db, task.id)
                found.append((task, frozenset(a.node_id for a in tried if not _may_again(a))))
            return found

    def _inputs(self, shas: set[str]) -> dict[str, bytes]:
        with self._store.reading() as db:
            return {sha: rows.blob(db, sha) or b"" for sha in shas}

    def _tasks_of(self, leases: Sequence[int]) -> list[tuple[Task, int]]:
        with self._store.reading() as db:
            found: list[tuple[Task, int]] = []
            for id in leases:
                attempt = rows.attempt(db, id)
                task = rows.task(db, attempt.task_id) if attempt else None
                if task is not None:
                    found.append((task, id))
            return found

    def _blob(self, session: Session, sha: str) -> bytes | None:
        """Return a module that the node was given a task of, and nothing else."""
        with self._store.reading() as db:
            tasks = [rows.task(db, lease.task_id) for lease in list(session.leases.values())]
            if not any(task and task.module == sha for task in tasks):
                return None
            return rows.blob(db, sha)


def assignment(lease: int, task: Task, inputs: dict[str, bytes]) -> Assignment:
    """Return what a node is told of a task."""
    return Assignment(
        lease=lease, task=task.name, nonce=task.nonce, module=task.module, function=task.function,
        input=inputs[task.input], limits=task.limits, seed=task.seed, clock_us=task.clock_us,
        slice_fuel=task.slice_fuel,
    )  # fmt: skip


async def _give(session: Session, given: Sequence[Assignment]) -> None:
    batch: list[Assignment] = []
    size = 0
    with suppress(UnavailableError):  # the session ends, and its leases go to others
        for place, one in enumerate(given, 1):
            batch.append(one)
            size += len(one.input)
            if size > BYTES_IN_A_MESSAGE or place == len(given):
                body = {"tasks": [each.plain() for each in batch]}
                blobs = tuple(each.input for each in batch)
                await session.link.send(Message(kind="work", body=body, blobs=blobs))
                batch, size = [], 0


def _read(results: Sequence[work.Result]) -> list[settling.Read]:
    return [settling.read(one) for one in results]


def _may_again(attempt: Attempt) -> bool:
    """Say whether the node of an attempt may try the same task once more."""
    return attempt.state in ("lost", "returned", "late") or (
        attempt.state == "void" and attempt.role == "check"
    )


def _note_gone(c: Change, *, node: int, state: str) -> None:
    if rows.node(c.db, node).state == "online":
        rows.set_node_state(c, node, state)
