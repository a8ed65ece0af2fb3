"""The gateway: it knows who is there, gives tasks to the best node, and judges what comes back.

It alone decides; nodes only say. One process at a time dispatches for a database. What a node has
is a lease: known to the database, and ended here when the node is silent, has forgotten it, or
takes too long. A gateway that begins again waits a little for the nodes that had leases.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio import TASK_STATUS_IGNORED, to_thread
from anyio.abc import TaskGroup, TaskStatus

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.tasks import background
from arsenale_mesh import changes, inspecting, reputation, rows, settling, welcoming
from arsenale_mesh.committing import Committer
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, Message
from arsenale_mesh.node import work
from arsenale_mesh.placement import Choice, Wanted
from arsenale_mesh.placing import Counts, Placer
from arsenale_mesh.probing import Prober
from arsenale_mesh.rates import NodeRates, Rate
from arsenale_mesh.record import Attempt, Node, Result, Task
from arsenale_mesh.roster import GRACE_US, Clock, Roster
from arsenale_mesh.rows import Change
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.sessions import Session, fuels, measured, numbers
from arsenale_mesh.settling import Settled
from arsenale_mesh.store import MeshStore
from arsenale_mesh.telemetry import keep_sample

__all__ = ["Changed", "Clock", "Counts", "Gateway"]

Changed: TypeAlias = Callable[[Sequence[Task]], Awaitable[None]]

SILENT_BEATS = 3
"""A node that misses so many heartbeats is gone."""

SWEEP_S = 1.0
SAMPLE_US = 60_000_000
QUICK_BYTES = 64 << 10
"""An output up to this size is hashed, and its receipt checked, faster than a thread is asked."""

RESULTS_AT_ONCE = 4
"""Messages of results of one node that are judged at a time; more wait in its connection."""

MESSAGES, BYTES = Rate(a_second=500, burst=2_000), Rate(a_second=256 << 20, burst=512 << 20)
"""What a node may send; beyond, it is read more slowly."""


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
        self.roster = Roster(clock)
        self.counts = Counts()
        self.can_house = True
        self._placer = Placer(store, committer, self.roster, self.counts)
        self._prober = Prober(self.roster)
        self._rates = NodeRates(MESSAGES, BYTES)
        self._ready = anyio.Event()
        self._engine = engine_id("cranelift")
        self._log = logs.get("arsenale.mesh.gateway")

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Dispatch and sweep for ever; it has started when it knows who has what."""
        await self._commit.do(rows.all_offline)
        grace = GRACE_US + int(self._heartbeat_s * 1e6)
        for one in await to_thread.run_sync(self._leases):
            self.roster.orphan(one.node_id, [one.id], grace)
        self._ready.set()
        task_status.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._placer.run)
            tasks.start_soon(self._sweep)

    def nudge(self) -> None:
        """Say that there may be something to place."""
        self._placer.nudge()

    def ranked(self, wanted: Wanted, limit: int = 10) -> list[Choice]:
        """Return the best nodes for a task, and why."""
        return self.roster.fleet.ranked(wanted, limit)

    @property
    def sessions(self) -> dict[int, Session]:
        """The connected nodes, by their numbers."""
        return self.roster.sessions

    @property
    def house_session(self) -> Session | None:
        """Our own node's connection."""
        return self.roster.house

    @property
    def has_waiting(self) -> bool:
        """Whether tasks wait, as far as it was looked."""
        return self._placer.has_waiting

    @property
    def waiting_because(self) -> dict[int, str]:
        """Why the first of those wait that no node can take, by task."""
        return self._placer.because

    @property
    def is_busy(self) -> bool:
        """Whether there is something to stay up for."""
        return self.has_waiting or self.roster.leased > 0

    def fuel_so_far(self, task: int) -> int:
        """Return what the furthest attempt at a task has burnt."""
        return self.roster.fuel_so_far(task)

    def drop(self, attempts: Iterable[Attempt]) -> None:
        """Tell nodes that these are not wanted any more."""
        for attempt in attempts:
            session = self.sessions.get(attempt.node_id)
            if session is not None and attempt.id in session.leases:
                self.roster.forget(session, attempt.id)
                session.tell(Message(kind="drop", body={"leases": [attempt.id]}))
        self.nudge()

    # A node's connection.

    async def serve(self, link: Link) -> None:
        """Serve a node until it goes, whatever it says; `run` has to run."""
        try:
            try:
                await self._ready.wait()  # until it is known which leases nodes may still have
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
        except Exception:  # noqa: BLE001  # it ends a connection, and not the mesh
            self._log.exception("a connection ends by a fault of ours")
        finally:
            await link.aclose()

    async def _serve(self, link: Link, node: Node, arrival: welcoming.Arrival) -> None:
        while before := self.sessions.get(node.id):  # the same key: the older one is a ghost
            await self._gone(before)
            await before.link.aclose()
            await self._commit.do(partial(_note_back, node=node.id))
        link.widen()
        now = self._clock.ticks_us()
        session = Session(
            node=node, link=link, heard_us=now, probed_us=now,  # no probe before it has joined
            engine_fits=node.engine == self._engine, said=measured(arrival.measured),
        )  # fmt: skip
        self.roster.add(session)
        try:
            await self._adopt(session, numbers(arrival.holds))
            said = {"name": node.name, "heartbeat_s": self._heartbeat_s}
            await link.send(Message(kind="joined", body=said))
            self.roster.rate(session)
            self._log.info("joined", node=node.name, did=node.did, kind=node.kind)
            self.nudge()
            async with background() as tasks:
                tasks.start_soon(_pass_on, session)
                tasks.start_soon(self._prober.begin, session)
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
            reason = str(body.get("reason"))[:200]
            why = reason if reason.isprintable() else ""
            if leases:
                self._log.warning("given back", node=session.node.name, reason=why)
            await self._let_go(session, leases, "returned", is_failure=True, why=why)
        elif message.kind == "echo":
            self._prober.heard(session, str(body.get("nonce")), body.get("sha"))
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
        self.roster.rate(session)
        if session.heard_us - session.kept_us > SAMPLE_US:
            session.kept_us = session.heard_us
            await self._commit.do(partial(keep_sample, session=session))

    async def _adopt(self, session: Session, holds: Sequence[int]) -> None:
        """Take over the leases that the node still has; those it forgot go to others."""
        orphans = self.roster.orphans.pop(session.node.id, None)
        known = orphans.leases if orphans else set[int]()
        kept = known & set(holds)
        for task, id in await to_thread.run_sync(self._tasks_of, sorted(kept)):
            self.roster.lease(session, id, task)
        await self._let_go(session, sorted(known - kept), "lost", is_failure=True)

    async def _gone(self, session: Session) -> None:
        """Take a connection out of everything; leases are kept for a while, unless it left."""
        if not self.roster.remove(session):
            return
        leases = set(session.leases)
        if leases and session.leaving:
            await self._let_go(session, sorted(leases), "returned", is_failure=False)
        elif leases:
            self.roster.orphan(session.node.id, leases)
        state = "left" if session.leaving else "offline"
        with suppress(ArsenaleError):
            await self._commit.do(partial(_note_gone, node=session.node.id, state=state))
        self._log.info("gone", node=session.node.name, left=session.leaving, leases=len(leases))

    # Results.

    async def _judge(
        self, session: Session, results: Sequence[Result], judging: anyio.Semaphore
    ) -> None:
        try:
            with anyio.CancelScope(shield=True):
                theirs = [one for one in results if one.lease in session.leases]
                if theirs:
                    await self._settle(session, theirs)
            kept = {"leases": [one.lease for one in results]}
            with suppress(UnavailableError):
                await session.link.send(Message(kind="kept", body=kept))
        except ArsenaleError as exc:  # the node keeps them and comes again
            self._log.error("results are not kept", node=session.node.name, reason=str(exc))
            await session.link.aclose()
        finally:
            judging.release()

    async def _settle(self, session: Session, results: Sequence[Result]) -> None:
        is_quick = len(results) == 1 and len(results[0].output) < QUICK_BYTES
        read = _read(results) if is_quick else await to_thread.run_sync(_read, results)
        judge = partial(
            settling.settle_all, node_id=session.node.id, results=read, has_house=self.can_house
        )
        await self._settled(session, await self._commit.do(judge))

    async def _settled(self, session: Session, settled: Sequence[Settled]) -> None:
        now = self._clock.ticks_us()
        for one in settled:
            self.counts.settled += 1
            session.settled(one.lease, now)
            self.roster.forget(session, one.lease)
            if one.drop:
                self.drop(one.drop)
        for node in {node.id: node for one in settled for node in one.nodes}.values():
            await self._note_standing(node)
        await self._changed([one.task for one in settled if one.task])
        self.nudge()

    async def _note_standing(self, node: Node) -> None:
        session = self.sessions.get(node.id)
        if session is None:
            return
        session.node = replace(session.node, standing=node.standing, state=node.state)
        self.roster.rate(session)
        if node.state == "banned":
            session.leaving = True
            self._log.warning("banned", node=node.name, reason=node.reason)
            await session.link.aclose()

    async def _let_go(
        self, session: Session | None, leases: Sequence[int], state: str, *, is_failure: bool,
        why: str = "",
    ) -> None:  # fmt: skip
        if not leases:
            return
        for lease in leases:
            if session is not None:
                self.roster.forget(session, lease)
        let_go = partial(
            changes.let_go, leases=leases, state=state, is_failure=is_failure,
            has_house=self.can_house, why=why,
        )  # fmt: skip
        await self._changed(await self._commit.do(let_go))
        if is_failure and session is not None:
            node = session.node
            standing = reputation.after(node.standing, "nothing")
            session.node = replace(node, standing=standing)
            self.roster.rate(session)
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
        for _, leases in self.roster.overdue():
            await self._let_go(None, leases, "lost", is_failure=True)
        banned = await to_thread.run_sync(self._banned) if self.sessions else frozenset[int]()
        silent_us = SILENT_BEATS * self._heartbeat_s * 1e6
        async with anyio.create_task_group() as closing:
            for session in list(self.sessions.values()):
                if now - session.heard_us > silent_us:
                    self._log.warning("silent", node=session.node.name)
                    closing.start_soon(session.link.aclose)
                    continue
                if session.node.id in banned:  # by hand, which is another process's
                    session.leaving = True
                    self._log.warning("banned", node=session.node.name)
                    closing.start_soon(session.link.aclose)
                    continue
                late = [one.id for one in session.leases.values() if one.until_us < now]
                if late:
                    session.tell(Message(kind="drop", body={"leases": late}))
                    await self._let_go(session, late, "late", is_failure=True)
                self._prober.look_after(session)

    # In a worker thread.

    def _leases(self) -> list[Attempt]:
        with self._store.reading() as db:
            return rows.leases(db)

    def _banned(self) -> frozenset[int]:
        with self._store.reading() as db:
            return rows.banned(db)

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


async def _pass_on(session: Session) -> None:
    try:
        await session.pass_on()
    except UnavailableError:
        await session.link.aclose()


def _read(results: Sequence[Result]) -> list[inspecting.Read]:
    return [inspecting.read(one) for one in results]


def _note_back(c: Change, *, node: int) -> None:
    if rows.node(c.db, node).state in ("offline", "left"):
        rows.set_node_state(c, node, "online")


def _note_gone(c: Change, *, node: int, state: str) -> None:
    if rows.node(c.db, node).state == "online":
        rows.set_node_state(c, node, state)
