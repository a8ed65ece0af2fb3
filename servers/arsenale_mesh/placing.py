"""Tasks that wait are given to nodes, the most urgent first; what waits in vain stops no other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError, UnavailableError
from arsenale_core.store import Connection
from arsenale_core.tasks import background
from arsenale_mesh import changes, rows
from arsenale_mesh.committing import Committer
from arsenale_mesh.links import Message
from arsenale_mesh.node.work import Assignment
from arsenale_mesh.placement import Fleet, Wanted
from arsenale_mesh.record import Attempt, Task
from arsenale_mesh.roster import Roster
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.sessions import Session
from arsenale_mesh.store import MeshStore

LOOK_S: Final = 2.0
"""How often it is looked for tasks that another process has added."""

GATHER_S: Final = 0.002
"""How long tasks are gathered for a message while nodes have enough to do."""

MOST_PLACED: Final = 128
"""Tasks that are placed in one commit."""

MOST_LOOKED_AT: Final = 1_024
"""Tasks that are looked at for some that a node can take."""

EXPLAINED: Final = 20
"""Tasks of which it is told why they wait."""

BYTES_IN_A_MESSAGE: Final = 8 << 20


STRANGERS_TRIES = 2
"""So often a node that is not ours may have a task and come to nothing with it."""

_Given: TypeAlias = tuple[int, Task]
"""A lease and its task."""


@dataclass(slots=True)
class Counts:
    """What happened since the gateway began."""

    placed: int = 0
    settled: int = 0
    slowed: int = 0
    refused: int = 0
    place_s: list[float] = field(default_factory=list[float])


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A task, and the nodes that may not have it."""

    task: Task
    tried: frozenset[int]


class Placer:
    """Places the tasks of STORE on the nodes of ROSTER.

    Attributes:
        has_waiting: Whether tasks wait, as far as it was looked.
        because: Why the first of those wait that no node can take, by task.
    """

    def __init__(
        self, store: MeshStore, committer: Committer, roster: Roster, counts: Counts
    ) -> None:
        self._store = store
        self._commit = committer
        self._roster = roster
        self._counts = counts
        self._nudged = anyio.Event()
        self._engines = frozenset({engine_id("cranelift")})
        self._log = logs.get("arsenale.mesh.gateway")
        self.has_waiting = False
        self.because: dict[int, str] = {}

    def nudge(self) -> None:
        """Say that there may be something to place."""
        self._nudged.set()

    async def run(self) -> None:
        """Place for ever."""
        async with background() as tasks:
            await self._run(tasks)

    async def _run(self, tasks: TaskGroup) -> None:
        while True:
            self._nudged = anyio.Event()
            try:
                placed = await self._place(tasks)
            except ArsenaleError as exc:
                self._log.error("tasks are not placed", reason=str(exc))
                placed = 0
            if not placed:
                with anyio.move_on_after(LOOK_S):
                    await self._nudged.wait()
            if self._roster.leased:
                await anyio.sleep(GATHER_S)

    async def _place(self, tasks: TaskGroup) -> int:
        """Give waiting tasks to nodes, which are sent to by TASKS; return how many."""
        room = min(self._roster.room, MOST_PLACED)
        if room < 1 and self.has_waiting and self._roster.leased:
            return 0
        pairs, known = await self._pairs(room)
        if not pairs:
            await self._explain()
            return 0
        self.has_waiting, self.because = True, {}
        attempts = await self._commit.do(partial(changes.lease, pairs=pairs))
        for one in attempts:
            session = self._roster.sessions.get(one.node_id)
            if session is None:  # it went meanwhile
                self._roster.orphan(one.node_id, [one.id], 0)
            else:
                self._roster.lease(session, one.id, known[one.task_id])
        self._send(attempts, known, tasks)
        self._counts.placed += len(attempts)
        return len(attempts)

    async def _pairs(self, room: int) -> tuple[list[tuple[int, int]], dict[int, Task]]:
        """Return up to ROOM tasks that wait with the node for each, and these tasks."""
        pairs: list[tuple[int, int]] = []
        known: dict[int, Task] = {}
        in_vain = set[Wanted]()
        sessions = self._roster.sessions
        most = max((one.node.memory_bytes for one in sessions.values()), default=0)
        look = partial(self._waiting, most, self._roster.house is not None)
        sending = frozenset(id for id, one in sessions.items() if one.sending)
        with _TriedOut(self._roster.fleet) as choosing:
            for offset in range(0, MOST_LOOKED_AT if room > 0 else 0, MOST_PLACED):
                page = await to_thread.run_sync(look, offset)
                begun = self._roster.clock.ticks_us()
                for one in page:
                    wanted = self._wanted(one, sending)
                    if one.task.id in known:
                        continue
                    node = None if wanted in in_vain else choosing.choose(wanted)
                    if node is None or node not in sessions:
                        in_vain.add(wanted)
                        continue
                    pairs.append((one.task.id, node))
                    known[one.task.id] = one.task
                    if len(pairs) == room:
                        break
                took = self._roster.clock.ticks_us() - begun
                self._counts.place_s = [took / 1e6 / len(page)] if page else []
                if len(pairs) == room or len(page) < MOST_PLACED:
                    break
        return pairs, known

    async def _explain(self) -> None:
        """Note why the first tasks wait that nobody can take."""
        head = await to_thread.run_sync(self._head)
        self.has_waiting = bool(head)
        self.because = {one.task.id: self._why(self._wanted(one)) for one in head}

    def _why(self, wanted: Wanted) -> str:
        fleet = self._roster.fleet
        if not len(fleet):
            return "no node is connected"
        lacking = ", ".join(f"{count} {name}" for name, count in fleet.lacking(wanted).items())
        return f"of {len(fleet)} nodes: {lacking}" if lacking else "it is about to begin"

    def _wanted(self, one: _Waiting, sending: frozenset[int] = frozenset()) -> Wanted:
        task = one.task
        return Wanted(
            memory_bytes=task.limits.memory_bytes, excluded=one.tried | sending,
            engines=self._engines,
            where="ours" if task.asks == "house" else "any", prefers_green=task.carbon == "prefer",
        )  # fmt: skip

    def _send(self, attempts: Sequence[Attempt], known: dict[int, Task], tasks: TaskGroup) -> None:
        """Let each node be sent its part; one that takes it slowly stops no other."""
        by_node: dict[int, list[_Given]] = {}
        for one in attempts:
            by_node.setdefault(one.node_id, []).append((one.id, known[one.task_id]))
        for node, given in by_node.items():
            if session := self._roster.sessions.get(node):
                session.sending = True
                tasks.start_soon(self._give, session, given)

    async def _give(self, session: Session, given: Sequence[_Given]) -> None:
        """Send a node what it was given, as many inputs at a time as a message holds."""
        try:
            rest = given
            while rest:
                batch = await to_thread.run_sync(self._batch, rest)
                rest = rest[len(batch) :]
                body = {"tasks": [one.plain() for one in batch]}
                blobs = tuple(one.input for one in batch)
                await session.link.send(Message(kind="work", body=body, blobs=blobs))
        except UnavailableError:  # its leases go to others
            await session.link.aclose()
        except ArsenaleError as exc:
            self._log.error("tasks are not sent", node=session.node.name, reason=str(exc))
            await session.link.aclose()
        finally:
            session.sending = False
            self.nudge()

    # In a worker thread.

    def _waiting(self, most: int, has_house: bool, offset: int) -> list[_Waiting]:
        """Return tasks that ask for no more memory than MOST, and for no house there is not."""
        with self._store.reading() as db:
            found = rows.waiting_for(db, most, has_house, MOST_PLACED, offset)
            return [_Waiting(task, _tried(db, task)) for task in found]

    def _head(self) -> list[_Waiting]:
        with self._store.reading() as db:
            return [_Waiting(task, _tried(db, task)) for task in rows.waiting(db, EXPLAINED)]

    def _batch(self, given: Sequence[_Given]) -> list[Assignment]:
        """Return the first of what is given, with their inputs: what one message holds."""
        batch: list[Assignment] = []
        size = 0
        with self._store.reading() as db:
            for lease, task in given:
                input = rows.blob(db, task.input) or b""
                batch.append(assignment(lease, task, input))
                size += len(input)
                if size > BYTES_IN_A_MESSAGE:
                    break
        return batch


class _TriedOut:
    """Chooses nodes, each choice load for the next; the load is as it was at the end."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._given: list[int] = []

    def __enter__(self) -> "_TriedOut":
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._given:
            self._fleet.load(node, -1)

    def choose(self, wanted: Wanted) -> int | None:
        """Return the best node."""
        choice = self._fleet.choose(wanted)
        if choice is None:
            return None
        self._fleet.load(choice.node, 1)
        self._given.append(choice.node)
        return choice.node


def assignment(lease: int, task: Task, input: bytes) -> Assignment:
    """Return what a node is told of a task."""
    return Assignment(
        lease=lease, task=task.name, nonce=task.nonce, module=task.module, function=task.function,
        input=input, limits=task.limits, seed=task.seed, clock_us=task.clock_us,
        slice_fuel=task.slice_fuel,
    )  # fmt: skip


def _tried(db: Connection, task: Task) -> frozenset[int]:
    """Return the nodes that may not have TASK, since they had it."""
    if task.started_us is None:
        return frozenset()
    tries = rows.attempts(db, task.id)
    lost = Counter(one.node_id for one in tries if _came_to_nothing(one))
    return frozenset(
        one.node_id
        for one in tries
        if not _may_again(one, lost[one.node_id], is_ours=rows.node(db, one.node_id).house)
    )


def _came_to_nothing(attempt: Attempt) -> bool:
    died = attempt.state == "void" and attempt.status == "worker_died"
    return attempt.state in ("lost", "returned", "late") or died


def _may_again(attempt: Attempt, lost: int, *, is_ours: bool) -> bool:
    """Say whether the node of an attempt may try the same task once more.

    Our own may always, since a verdict can need its word; the task counts its failures, so this
    ends. Another may where nothing came of it, and not for ever.
    """
    if is_ours:
        return attempt.state == "void" or _came_to_nothing(attempt)
    return _came_to_nothing(attempt) and lost < STRANGERS_TRIES
