"""A node that is connected, as its gateway sees it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio

from arsenale_core.errors import InvalidError
from arsenale_mesh.health import Health, Telemetry, health, known_number
from arsenale_mesh.links import Link, Message
from arsenale_mesh.placement import Entry
from arsenale_mesh.record import Node

QUEUE_A_SLOT, SHORT_QUEUE = 32, 4
"""Tasks that may wait at a node for each that it runs: many of quick ones, so that it never waits
for us; few of slow ones, so that they do not wait for it while others are idle."""

QUICK_S = 0.25
"""A node is quick whose tasks come back so soon, waiting included."""

MOST_SLOTS = 1_024
MOST_NOTICES = 1_000
"""That wait until a node takes them; then the oldest go."""

_NUMBERS = (
    "cpu", "memory_free", "watts", "celsius", "carbon", "joules_per_gfuel", "battery", "gfuel_per_s"
)  # fmt: skip
_WORDS = ("energy", "celsius_from", "carbon_from")


@dataclass(slots=True, kw_only=True)
class Lease:
    """A task that a node has. `until_us`: then it is given to another, whatever the node says."""

    id: int
    task_id: int
    begun_us: int
    wall_us: int
    until_us: int
    fuel: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One node's connection.

    Attributes:
        heard_us: When it last said something, by the gateway's own clock.
        latency_s: Round trip as the gateway measured it; `bandwidth` too, bytes a second.
        said: What the node says of itself.
        took_s: From a lease to its result, on average of late.
        probes: When a probe was sent, by its nonce, with its size and the digest expected.
        sending: Tasks are on their way to it; it gets no others meanwhile.
    """

    node: Node
    link: Link
    heard_us: int
    engine_fits: bool
    leases: dict[int, Lease] = field(default_factory=dict[int, Lease])
    latency_s: float | None = None
    bandwidth: float | None = None
    said: Mapping[str, Any] = field(default_factory=dict[str, Any])
    probes: dict[str, tuple[int, int, str]] = field(default_factory=dict[str, tuple[int, int, str]])
    probed_us: int = 0
    took_s: float = 1.0
    kept_us: int = 0
    leaving: bool = False
    sending: bool = False
    _notices: deque[Message] = field(default_factory=lambda: deque[Message](maxlen=MOST_NOTICES))
    _noticed: anyio.Event = field(default_factory=anyio.Event)

    def tell(self, message: Message) -> None:
        """Let MESSAGE be sent when the node takes it; nobody waits for that."""
        self._notices.append(message)
        self._noticed.set()

    async def pass_on(self) -> None:
        """Send what is told, for ever.

        Raises:
            UnavailableError: The node is gone.
        """
        while True:
            while self._notices:
                await self.link.send(self._notices.popleft())
            self._noticed = anyio.Event()
            await self._noticed.wait()

    @property
    def telemetry(self) -> Telemetry:
        """What is known of the node."""
        said = self.said
        return Telemetry(
            bandwidth=self.bandwidth, latency_s=self.latency_s,
            joules_per_gfuel=said.get("joules_per_gfuel"), energy=said.get("energy", "unknown"),
            watts=said.get("watts"), celsius=said.get("celsius"), carbon=said.get("carbon"),
            cpu=said.get("cpu"), memory_free=said.get("memory_free"),
        )  # fmt: skip

    @property
    def health(self) -> Health:
        """Its score, and the terms of it."""
        return health(self.telemetry, self.node.standing.worth, is_ours=self.node.house)

    @property
    def room(self) -> int:
        """How many more tasks it may be given."""
        if self.leaving or self.sending or not self.engine_fits:
            return 0
        return max(self.slots + self.queue - len(self.leases), 0)

    @property
    def slots(self) -> int:
        """How many tasks it runs at once."""
        return min(max(self.node.slots, 0), MOST_SLOTS)

    @property
    def queue(self) -> int:
        """How many tasks may wait there."""
        return self.slots * (QUEUE_A_SLOT if self.took_s < QUICK_S else SHORT_QUEUE)

    def settled(self, lease: int, now_us: int) -> None:
        """Note that the result of a lease came."""
        if one := self.leases.get(lease):
            self.took_s += 0.1 * ((now_us - one.begun_us) / 1e6 - self.took_s)

    def entry(self) -> Entry:
        """Return it as placement sees it."""
        return Entry(
            health=self.health, joules_per_gfuel=self.said.get("joules_per_gfuel"),
            carbon=self.said.get("carbon"), slots=self.slots, queue=self.queue,
            memory_bytes=self.node.memory_bytes, engine=self.node.engine, kind=self.node.kind,
            is_open=self.engine_fits and not self.leaving, is_ours=self.node.house,
        )  # fmt: skip


def measured(said: object) -> dict[str, Any]:
    """Return what of a node's words on itself is understood; the rest is dropped."""
    if not isinstance(said, dict):
        return {}
    given = cast("dict[str, Any]", said)
    numbers = {
        name: value
        for name in _NUMBERS
        if isinstance(given.get(name), int | float)
        and (value := known_number(float(given[name]))) is not None
    }
    words = {
        name: given[name][:80]
        for name in _WORDS
        if isinstance(given.get(name), str) and given[name].isprintable()
    }
    if words.get("energy") not in ("measured", "estimated"):
        words.pop("energy", None)
    return {**numbers, **words}


def numbers(value: object, most: int = 100_000) -> list[int]:
    """Return VALUE as a list of numbers of leases.

    Raises:
        InvalidError: It is none.
    """
    if not isinstance(value, list) or len(cast("list[Any]", value)) > most:
        raise InvalidError("leases are a list of numbers", hint="update the node")
    found = [one for one in cast("list[Any]", value) if type(one) is int and 0 <= one < 2**63]
    if len(found) != len(cast("list[Any]", value)):
        raise InvalidError("leases are numbers", hint="update the node")
    return found


def fuels(value: object) -> dict[int, int]:
    """Return what VALUE says of the fuel that leases have burnt; the rest is dropped."""
    if not isinstance(value, dict):
        return {}
    return {
        int(lease): burnt
        for lease, burnt in cast("dict[str, Any]", value).items()
        if lease.isdecimal() and len(lease) < 20 and type(burnt) is int and 0 <= burnt < 2**53
    }
