"""A node at work: it joins, tells how it is, runs what it is given, and signs what came of it.

What is promised: a result is kept until the gateway says that it has it, over lost connections too.
A node that is killed loses what it had; the gateway gives it to another.
"""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.tasks import background
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, Message
from arsenale_mesh.node import work
from arsenale_mesh.node.joining import Joined, RefusedError, join
from arsenale_mesh.node.work import Assignment
from arsenale_mesh.record import NodeKind, Result
from arsenale_mesh.sandbox.jobs import Outcome
from arsenale_mesh.sandbox.kinds import MEMORY_BYTES, engine_id
from arsenale_mesh.sandbox.pool import Pool

Connect: TypeAlias = Callable[[], Awaitable[Link]]
Measure: TypeAlias = Callable[[float | None], dict[str, Any]]
"""Is told how fast guests burn fuel, a second; `None` before the first."""

MODULE_BYTES = 64 << 20
"""Of modules that a node keeps at hand."""

MOST_IN_A_MESSAGE = 64
BYTES_IN_A_MESSAGE = 8 << 20

GATHER_S = 0.002
"""How long results are gathered for a message while more of them are on their way."""

BUSY_BEAT_S = 0.5
"""How often a node tells how far its guests are."""

SPEED_S = 30.0
"""After about so much guest time, what was burnt before counts a third."""

LEAST_BACKOFF_S, MOST_BACKOFF_S = 0.2, 30.0
FETCH_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a node says of itself when it joins. `slots`: guests that it runs at once."""

    name: str
    kind: NodeKind
    slots: int
    memory_bytes: int = MEMORY_BYTES
    invitation: str = ""


@dataclass(slots=True)
class _Running:
    assignment: Assignment
    scope: anyio.CancelScope
    burnt: Callable[[], int] = field(default=lambda: 0)


class Speed:
    """How fast guests burn fuel: of what was burnt lately, the latest counts most."""

    def __init__(self) -> None:
        self._fuel = 0.0
        self._s = 0.0

    @property
    def fuel_per_s(self) -> float | None:
        """Fuel in a second of a guest's wall time; `None` before the first guest."""
        return self._fuel / self._s if self._fuel > 0 and self._s > 0 else None

    def add(self, fuel: int, wall_ms: float) -> None:
        """Take in a guest's run."""
        if fuel > 0 and wall_ms > 0:
            kept = SPEED_S / (SPEED_S + wall_ms / 1e3)
            self._fuel = self._fuel * kept + fuel
            self._s = self._s * kept + wall_ms / 1e3


class Agent:
    """A node.

    Args:
        identity: Its key.
        profile: What it says of itself.
        pool: Where guests run.
        measure: Tells how the machine is, as JSON.
        now_us: UTC microseconds.
    """

    def __init__(
        self,
        identity: Identity,
        profile: Profile,
        pool: Pool,
        measure: Measure,
        now_us: Callable[[], int],
    ) -> None:
        self.identity = identity
        self._profile = profile
        self._pool = pool
        self._measure = measure
        self._now_us = now_us
        self._running: dict[int, _Running] = {}
        self._results: dict[int, Result] = {}
        self._sent: set[int] = set()
        self._modules: OrderedDict[str, bytes] = OrderedDict()
        self._fetching: dict[str, anyio.Event] = {}
        self._more = anyio.Event()
        self._begun = anyio.Event()
        self._speed = Speed()
        self._link: Link | None = None
        self._resting = False
        self.name = profile.name
        self._log = logs.get("arsenale.mesh.node")

    async def serve(self, connect: Connect) -> None:
        """Work for the gateway that CONNECT reaches, until it sends the node to rest.

        A gateway that goes is looked for again, ever less often.

        Raises:
            RefusedError: It does not admit the node.
        """
        backoff_s = LEAST_BACKOFF_S
        async with background() as tasks:
            while not self._resting:
                try:
                    link = await connect()
                    since_s = anyio.current_time()
                    try:
                        await self._serve(link, tasks)
                    finally:
                        if anyio.current_time() - since_s > backoff_s:  # it was there
                            backoff_s = LEAST_BACKOFF_S
                        await link.aclose()
                except RefusedError:
                    raise
                except ArsenaleError as exc:
                    self._log.info("no gateway", reason=str(exc), again_in_s=round(backoff_s, 1))
                if not self._resting:
                    await anyio.sleep(backoff_s * (0.5 + secrets.randbelow(1000) / 1000))
                    backoff_s = min(backoff_s * 2, MOST_BACKOFF_S)

    async def leave(self) -> None:
        """Say farewell: what it had is given to others at once."""
        self._resting = True
        if self._link is not None:
            with suppress(ArsenaleError):
                await self._link.send(Message(kind="leave"))

    async def answer(self, assignment: Assignment, module: bytes, begun: Any) -> Result:
        """Run a guest and sign what came of it."""
        started_us = self._now_us()
        outcome: Outcome = await self._pool.run(assignment.job(module), begun)
        self._speed.add(outcome.fuel, outcome.wall_ms)
        return work.signed(assignment, outcome, self.identity, started_us, self._now_us())

    # One connection.

    async def _serve(self, link: Link, works: TaskGroup) -> None:
        profile = self._profile
        about = {
            "name": profile.name, "kind": profile.kind, "slots": profile.slots,
            "memory_bytes": profile.memory_bytes, "engine": engine_id("cranelift"),
            "holds": [*self._running, *self._results],
            "measured": self._measure(self._speed.fuel_per_s),
        }  # fmt: skip
        joined = await join(link, self.identity, about, profile.invitation)
        self.name, self._link = joined.name, link
        self._log.info("joined", name=joined.name, node=self.identity.did)
        self._sent.clear()
        async with background() as tasks:
            tasks.start_soon(self._tell, link)
            tasks.start_soon(self._beat, link, joined)
            try:
                while not self._resting:
                    await self._hear(await link.receive(), link, works)
            finally:
                self._link = None
                for waiting in self._fetching.values():
                    waiting.set()

    async def _hear(self, message: Message, link: Link, works: TaskGroup) -> None:
        body = message.body
        if message.kind == "work":
            self._begin(work.assignments(body.get("tasks"), message.blobs), works)
        elif message.kind == "kept":
            for lease in body.get("leases", []):
                self._results.pop(lease, None)
        elif message.kind == "blob":
            self._fetched(str(body.get("sha")), message.blobs)
        elif message.kind == "drop":
            for lease in body.get("leases", []):
                if running := self._running.get(lease):
                    running.scope.cancel()
        elif message.kind == "probe":
            await link.send(_echo(message))
        elif message.kind == "rest":
            self._resting = True

    def _begin(self, given: list[Assignment], works: TaskGroup) -> None:
        for one in given:
            if one.lease not in self._running and one.lease not in self._results:
                self._running[one.lease] = _Running(one, anyio.CancelScope())
                works.start_soon(self._work, one)
                self._begun.set()

    async def _beat(self, link: Link, joined: Joined) -> None:
        """Say regularly that the node lives, and how far it is."""
        with suppress(UnavailableError):
            while True:
                if not self._running:
                    self._begun = anyio.Event()
                    with anyio.move_on_after(joined.heartbeat_s):
                        await self._begun.wait()
                if self._running:
                    await anyio.sleep(min(BUSY_BEAT_S, joined.heartbeat_s))
                fuel = {str(lease): one.burnt() for lease, one in self._running.items()}
                holds = [*self._running, *self._results]
                said = {
                    "fuel": fuel,
                    "holds": holds,
                    "measured": self._measure(self._speed.fuel_per_s),
                }
                await link.send(Message(kind="beat", body=said))

    async def _tell(self, link: Link) -> None:
        """Send results as they come, many at a time; they are kept until they are acknowledged."""
        with suppress(UnavailableError):
            while True:
                self._more = anyio.Event()
                for batch in _batches([r for r in self._results.values() if self._is_new(r)]):
                    self._sent.update(one.lease for one in batch)
                    body, blobs = work.results_message(batch)
                    await link.send(Message(kind="done", body=body, blobs=blobs))
                if not any(map(self._is_new, self._results.values())):
                    await self._more.wait()
                    if self._running:
                        await anyio.sleep(GATHER_S)

    def _is_new(self, result: Result) -> bool:
        return result.lease not in self._sent

    # One task.

    async def _work(self, assignment: Assignment) -> None:
        running = self._running[assignment.lease]

        def begun(burnt: Callable[[], int]) -> None:
            running.burnt = burnt

        with running.scope:
            try:
                module = await self._module(assignment.module)
                result = await self.answer(assignment, module, begun)
            except ArsenaleError as exc:
                self._log.warning("a task is given back", task=assignment.task, reason=str(exc))
                await self._give_back(assignment, str(exc))
            except Exception:  # noqa: BLE001  # it ends a task, and not the node
                self._log.exception("a task is given back", task=assignment.task)
                await self._give_back(assignment, "the node has a fault: its log says which")
            else:
                self._results[assignment.lease] = result
                self._sent.discard(assignment.lease)
                self._more.set()
        self._running.pop(assignment.lease, None)

    async def _give_back(self, assignment: Assignment, reason: str) -> None:
        if self._link is not None:
            with suppress(UnavailableError):
                said = {"leases": [assignment.lease], "reason": reason[:300]}
                await self._link.send(Message(kind="returned", body=said))

    async def _module(self, sha: str) -> bytes:
        """Return a module, asked for once however many wait for it.

        Raises:
            UnavailableError: The gateway does not give it.
        """
        if (found := self._modules.get(sha)) is not None:
            self._modules.move_to_end(sha)
            return found
        waiting = self._fetching.get(sha)
        if waiting is None:
            if self._link is None:
                raise UnavailableError("the gateway is gone", hint="connect again")
            waiting = self._fetching[sha] = anyio.Event()
            await self._link.send(Message(kind="fetch", body={"sha": sha}))
        with anyio.move_on_after(FETCH_S):
            await waiting.wait()
        if self._fetching.get(sha) is waiting:
            del self._fetching[sha]
        if (found := self._modules.get(sha)) is None:
            raise UnavailableError(f"module {sha[:12]} was not given", hint="it is tried again")
        return found

    def _fetched(self, sha: str, blobs: tuple[bytes, ...]) -> None:
        if blobs and sha256(blobs[0]).hexdigest() != sha:
            raise InvalidError("the gateway gave another module", hint="connect again")
        if blobs:
            self._modules[sha] = blobs[0]
            while sum(map(len, self._modules.values())) > MODULE_BYTES and len(self._modules) > 1:
                self._modules.popitem(last=False)
        if waiting := self._fetching.pop(sha, None):
            waiting.set()


def _echo(probe: Message) -> Message:
    """Return what only who got all of PROBE can answer."""
    digest = sha256(probe.blobs[0]).hexdigest() if probe.blobs else ""
    return Message(kind="echo", body={"nonce": probe.body.get("nonce"), "sha": digest})


def _batches(results: list[Result]) -> list[list[Result]]:
    """Return RESULTS in batches of limited number and size."""
    found: list[list[Result]] = []
    size = 0
    for one in results:
        if not found or len(found[-1]) >= MOST_IN_A_MESSAGE or size > BYTES_IN_A_MESSAGE:
            found.append([])
            size = 0
        found[-1].append(one)
        size += len(one.output) + len(one.stderr) + 32 * len(one.leaves)
    return found
