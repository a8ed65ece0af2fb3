"""A gateway with real nodes over memory links, and a clock that a test moves on."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup
from tests.mesh.village import Hand

from arsenale_core import boot
from arsenale_core.errors import UnavailableError
from arsenale_core.tasks import background
from arsenale_mesh import books, changes, guests, identity, rows
from arsenale_mesh.committing import Committer
from arsenale_mesh.gateway import Clock, Gateway
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, MemoryLink, Message, memory_links
from arsenale_mesh.node.agent import Agent, Profile
from arsenale_mesh.node.joining import join
from arsenale_mesh.record import ENDED, Attempt, NewTask, Result, Task
from arsenale_mesh.rows import Change
from arsenale_mesh.sandbox.jobs import limits
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.store import MeshStore

T = TypeVar("T")
LIMIT_S = 30
HEARTBEAT_S = 5.0
SHA = guests.sha_of("sha256")


@dataclass
class Skewed:
    """The real clock, which a test can move on."""

    more_us: int = 0

    def ticks_us(self) -> int:
        return boot.ticks() + self.more_us

    def passes(self, seconds: float) -> None:
        self.more_us += int(seconds * 1e6)


class Telling(Committer):
    """Tells who waits that something was written."""

    moved: anyio.Event | None = None

    async def do(self, work: Callable[[Change], T]) -> T:
        try:
            return await super().do(work)
        finally:
            self.tell()

    def tell(self) -> None:
        if self.moved is not None:
            self.moved.set()


class Gated(Agent):
    """A node that answers when it is let."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate, self.began, self.stopped = anyio.Event(), anyio.Event(), anyio.Event()
        self.begun: list[str] = []

    async def answer(self, assignment: Any, module: bytes, begun: Any) -> Result:
        self.begun.append(assignment.task)
        self.began.set()
        try:
            await self.gate.wait()
        except BaseException:
            self.stopped.set()
            raise
        return await super().answer(assignment, module, begun)


@dataclass
class Line:
    """How one node reaches the gateway: it can be cut, and kept from coming back."""

    hive: "Hive"
    said: list[str] = field(default_factory=list[str])
    links: list[MemoryLink] = field(default_factory=list[MemoryLink])
    free: anyio.Event = field(default_factory=anyio.Event)

    async def connect(self) -> Link:
        await self.free.wait()
        node, gateway = memory_links()
        self.links += [node, gateway]
        self.hive.tasks.start_soon(self.hive.gateway.serve, gateway)
        return Heard(node.way, node.outward, node.inward, self.said)

    async def cut(self, *, for_good: bool = False) -> None:
        """Cut it; FOR_GOOD until it is set free again."""
        if for_good:
            self.free = anyio.Event()
        for link in self.links:
            await link.aclose()


class Heard(MemoryLink):
    """A node's end of a link, on which is noted what it says."""

    __slots__ = ("said",)

    def __init__(self, way: Any, outward: Any, inward: Any, said: list[str]) -> None:
        super().__init__(way, outward, inward)
        self.said = said

    async def send(self, message: Message) -> None:
        self.said.append(message.kind)
        await super().send(message)


@dataclass
class Hive:
    """A gateway and what it serves."""

    store: MeshStore
    committer: Telling
    gateway: Gateway
    house: Identity
    clock: Skewed
    pool: Pool
    tasks: TaskGroup
    lines: list[Line] = field(default_factory=list[Line])

    # Nodes.

    def node(
        self,
        kind: type[Agent] = Agent,
        *,
        name: str = "node",
        house: bool = False,
        slots: int = 2,
        within: TaskGroup | None = None,
    ) -> tuple[Any, Line]:
        """Start a node; return it and its line. WITHIN: what it lives in, else the gateway."""
        profile = Profile(name=name, kind="pc", slots=slots)
        own = self.house if house else identity.make()
        agent = kind(own, profile, self.pool, lambda _: {}, lambda: 1_800_000_000_000_000)
        line = Line(self)
        line.free.set()
        self.lines.append(line)
        (within or self.tasks).start_soon(agent.serve, line.connect)
        return agent, line

    @asynccontextmanager
    async def by_hand(
        self, key: Identity, *, waiting: int = 1_000, **about: Any
    ) -> AsyncGenerator[Link]:
        """Give the link of a node that joined and does nothing by itself."""
        node, gateway = memory_links(waiting)
        self.tasks.start_soon(self.gateway.serve, gateway)
        said: dict[str, Any] = {
            "name": "hand", "kind": "pc", "slots": 2, "memory_bytes": 512 << 20,
            "engine": engine_id("cranelift"), "holds": [], "measured": {}, **about,
        }  # fmt: skip
        try:
            with anyio.fail_after(LIMIT_S):
                await join(node, key, said)
            yield node
        finally:
            await node.aclose()
            await gateway.aclose()

    # Tasks.

    async def task(self, data: bytes = b"abc", **more: Any) -> Task:
        """Enqueue a task: SHA-256 of DATA."""
        more.setdefault("limits", limits(fuel=10**9, wall_ms=20_000))
        new = NewTask(module=SHA, function="run", input=sha256(data).hexdigest(), **more)
        module = guests.module("sha256")
        made = await self.committer.do(lambda c: changes.enqueue(c, new, (module, data)))
        self.gateway.nudge()
        return made

    def now(self, task: Task) -> Task:
        with self.store.reading() as db:
            found = rows.task(db, task.id)
        assert found
        return found

    def attempts(self, task: Task) -> list[Attempt]:
        with self.store.reading() as db:
            return rows.attempts(db, task.id)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something is so; it is looked at whenever something was written."""
        with anyio.fail_after(LIMIT_S):
            while True:
                moved = self.committer.moved = anyio.Event()
                if holds():
                    return
                with anyio.move_on_after(0.2):  # what is written nowhere
                    await moved.wait()

    async def over(self, *tasks: Task) -> None:
        """Wait until TASKS are over, and see that their results are right."""
        await self.until(lambda: all(self.now(task).state in ENDED for task in tasks))
        for task in map(self.now, tasks):
            assert (task.state, task.status) == ("done", "ok"), task
            with self.store.reading() as db:
                input, output = rows.blob(db, task.input), rows.blob(db, task.output or "")
            assert input is not None
            assert output == sha256(input).hexdigest().encode()

    def online(self, did: str) -> bool:
        return any(one.node.did == did for one in self.gateway.sessions.values())

    def check(self) -> None:
        """Check that the books are whole and nobody was paid twice."""
        with self.store.reading() as db:
            assert books.ledger_fault(db) is None
            assert books.audit_fault(db) is None


async def nothing(tasks: Sequence[Task]) -> None:
    """Hear of tasks that changed."""
    del tasks


@asynccontextmanager
async def hive(
    store: MeshStore,
    pool: Pool,
    *,
    house: Identity | None = None,
    key: Identity | None = None,
    begin: anyio.Event | None = None,
) -> AsyncGenerator[Hive]:
    """Give a gateway on STORE, which runs; from BEGIN on, where that is given."""
    committer, clock, own = Telling(store), Skewed(), house or identity.make()
    gateway = Gateway(
        store, committer, key or identity.make(), own.did, HEARTBEAT_S,
        Clock(ticks_us=clock.ticks_us, now_us=lambda: int(Hand().s * 1e6)), nothing,
    )  # fmt: skip
    async with background() as outer:
        outer.start_soon(committer.run)
        async with background() as tasks:
            tasks.start_soon(_run_from, gateway, begin)
            made = Hive(store, committer, gateway, own, clock, pool, tasks)
            try:
                yield made
            finally:
                for line in made.lines:
                    await line.cut(for_good=True)


async def _run_from(gateway: Gateway, begin: anyio.Event | None) -> None:
    if begin is not None:
        await begin.wait()
    await gateway.run()


async def drained(link: Link) -> None:
    """Read until the other end goes."""
    with anyio.fail_after(LIMIT_S):
        while True:
            try:
                await link.receive()
            except UnavailableError:
                return


async def heard(link: Link, kind: str) -> Message:
    """Return the next message of a kind."""
    with anyio.fail_after(LIMIT_S):
        while (message := await link.receive()).kind != kind:
            pass
    return message
