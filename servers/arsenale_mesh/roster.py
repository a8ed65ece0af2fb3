"""Who is connected and what each has: the sessions, their leases, and how placement sees them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from arsenale_mesh.placement import Fleet
from arsenale_mesh.record import Task
from arsenale_mesh.sessions import Lease, Session

GRACE_US = 10_000_000
"""How long a lease outlives its node's connection."""

LEASE_GRACE_US = 60_000_000
"""How long a lease outlives the wall time of its task and of all that the node had before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """`ticks_us` never goes back; `now_us` is UTC."""

    ticks_us: Callable[[], int]
    now_us: Callable[[], int]


@dataclass(slots=True)
class Orphans:
    """Leases of a node that is not connected; at `until_us` others get the tasks."""

    leases: set[int]
    until_us: int


class Roster:
    """The connected nodes of one gateway."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sessions: dict[int, Session] = {}
        self.fleet = Fleet()
        self.orphans: dict[int, Orphans] = {}

    @property
    def room(self) -> int:
        """How many more tasks all of them may be given."""
        return sum(one.room for one in self.sessions.values())

    @property
    def house(self) -> Session | None:
        """Our own node's connection."""
        return next((one for one in self.sessions.values() if one.node.house), None)

    @property
    def leased(self) -> int:
        """How many tasks nodes have."""
        return sum(len(one.leases) for one in self.sessions.values())

    def add(self, session: Session) -> None:
        """Let SESSION be its node's."""
        self.sessions[session.node.id] = session

    def rate(self, session: Session) -> None:
        """Let placement see how a node is now."""
        self.fleet.put(session.node.id, session.entry())

    def remove(self, session: Session) -> bool:
        """Take SESSION out; say whether it still was its node's."""
        if self.sessions.get(session.node.id) is not session:
            return False
        del self.sessions[session.node.id]
        self.fleet.remove(session.node.id)
        return True

    def lease(self, session: Session, id: int, task: Task) -> None:
        """Note that a node has a task."""
        now, wall_us = self.clock.ticks_us(), task.limits.wall_ms * 1_000
        before_us = sum(one.wall_us for one in session.leases.values()) // max(session.slots, 1)
        until = now + LEASE_GRACE_US + before_us + 2 * wall_us
        session.leases[id] = Lease(
            id=id, task_id=task.id, begun_us=now, wall_us=wall_us, until_us=until
        )
        self.fleet.load(session.node.id, 1)

    def forget(self, session: Session, lease: int) -> None:
        """Note that a node has a task no more."""
        if session.leases.pop(lease, None) is not None:
            self.fleet.load(session.node.id, -1)

    def orphan(self, node: int, leases: Iterable[int], grace_us: int = GRACE_US) -> None:
        """Keep LEASES of a node for a while, in case it comes back."""
        until = self.clock.ticks_us() + grace_us
        self.orphans.setdefault(node, Orphans(set(), until)).leases.update(leases)

    def overdue(self) -> list[tuple[int, list[int]]]:
        """Return the nodes that did not come back, with what they had; they are forgotten."""
        now = self.clock.ticks_us()
        gone = [node for node, one in self.orphans.items() if one.until_us < now]
        return [(node, sorted(self.orphans.pop(node).leases)) for node in gone]

    def fuel_so_far(self, task: int) -> int:
        """Return what the furthest attempt at a task has burnt."""
        fuels = (
            lease.fuel
            for session in self.sessions.values()
            for lease in session.leases.values()
            if lease.task_id == task
        )
        return max(fuels, default=0)
