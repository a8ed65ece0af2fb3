"""Where agents wait for work, and tasks for agents: bound late, when both are there.

An agent that has room is given the task that suits it best among those that wait, and a task the
agent that suits it best among those that are free, decided for all at once (`Match`). Pushing a
task to a good agent that is busy is worse than any rule as soon as there is load.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
from anyio import to_thread

from arsenale_coordinator import lifecycle, rows
from arsenale_coordinator.lifecycle import Finish
from arsenale_coordinator.record import Agent, Profile, Task
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core import logs
from arsenale_core.errors import ArsenaleError
from arsenale_core.store import Connection

Match: TypeAlias = Callable[[Sequence[Task], Sequence[Agent]], list[tuple[int, int]]]
"""Says which agent (number) begins which task (number) now. No agent past its room."""

Changed: TypeAlias = Callable[[Sequence[str]], Awaitable[None]]
"""Is told that something changed, and about which agents."""

Waits: TypeAlias = Callable[[float, float], Awaitable[None]]
"""Is called while an agent waits: since how long, and how long at most, seconds."""

PROGRESS_S = 5.0
"""How often a call that waits reports progress: hosts give up on silence after 30 s and more."""

LOOKED_AT = 500
"""So many of the most urgent tasks are matched at a time."""

OLDEST = 50
"""And so many of the oldest: what is a little less urgent than all that comes gets its turn."""

POLL_S = 1.0
"""How often other processes' changes are looked for, while somebody waits or watches."""

GATHER_S = 0.003
"""Changes that come together are answered together."""


async def silently(waited_s: float, wait_s: float) -> None:
    """Report no progress: nobody asked for it."""
    del waited_s, wait_s


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for work; `gone` says that its agent paused or left meanwhile."""

    agent_id: int
    came: anyio.Event = field(default_factory=anyio.Event)
    tasks: list[Task] = field(default_factory=lambda: list[Task]())
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Tasks that were begun for agents that wait, and agents that take none any more."""

    given: list[Task] = field(default_factory=lambda: list[Task]())
    gone: frozenset[int] = frozenset()


class Desk:
    """Gives tasks to agents that wait; frees what silent agents had; tells what changed.

    One a process. Several processes on one database do not disturb one another: a claim is a
    transaction, and what one changes the others see within `POLL_S`.
    """

    def __init__(
        self,
        store: CoordinatorStore,
        match: Match,
        changed: Changed,
        watched: Callable[[], bool],
    ) -> None:
        self._store = store
        self._match = match
        self._changed = changed
        self._waiters: set[_Waiter] = set()
        self._nudged = anyio.Event()
        self._round = anyio.Lock()
        self._told_up_to: int | None = None
        self._overdue_from = 0
        self._watched = watched
        self._log = logs.get("arsenale.coordinator")

    def nudge(self) -> None:
        """Say that something changed, so that it is looked what follows."""
        self._nudged.set()

    async def serve(self, agent: Agent, wait_s: float, waits: Waits = silently) -> list[Task]:
        """Return what AGENT begins now: what was assigned to it, else what suits it best.

        Waits up to WAIT_S for a task to come; the agent's lease is renewed meanwhile. If the call
        is cancelled, what it was about to get goes back. WAITS is called meanwhile, so that a host
        does not take the call for dead.
        """
        waiter = _Waiter(agent.id)
        try:
            waiter.tasks += await to_thread.run_sync(self._assigned, agent)
            if not waiter.tasks and agent.room:
                self._waiters.add(waiter)
                self.nudge()  # from now on it looks what other processes change
                await self._serve_all()
                if wait_s > 0:
                    await self._wait(waiter, agent, wait_s, waits)
                await self._dismiss(waiter)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._dismiss(waiter)
                await self.give_back(agent, waiter.tasks)
            raise
        if waiter.tasks:
            self.nudge()
        return waiter.tasks

    async def give_back(self, agent: Agent, tasks: Sequence[Task]) -> None:
        """Take back what AGENT was given and never got to know of."""
        await to_thread.run_sync(self._give_back, agent, tasks)
        self.nudge()

    async def run(self) -> None:
        """Serve who waits, sweep, and tell what changed, for ever."""
        while True:
            try:
                if self._told_up_to is None:
                    self._told_up_to = await to_thread.run_sync(self._last_event)
                await self._until_something()
                await anyio.sleep(GATHER_S)
                self._nudged = anyio.Event()
                await self._serve_all()
                await self._tell()
            except ArsenaleError as exc:
                self._log.warning("the desk pauses", reason=str(exc))
                await anyio.sleep(POLL_S)

    async def _until_something(self) -> None:
        watched = bool(self._waiters) or self._watched()
        sweep_s = await to_thread.run_sync(self._until_sweep_s)
        timeout_s = min(POLL_S if watched else 3_600.0, sweep_s)
        with anyio.move_on_after(timeout_s):
            await self._nudged.wait()

    def _until_sweep_s(self) -> float:
        with self._store.reading() as db:
            end = self._store.next_sweep_ticks(db)
            if end is None:
                return 3_600.0
            return max((end - rows.ticks(db, self._store.clock)) / 1e6, 0.0) + 0.01

    async def _wait(self, waiter: _Waiter, agent: Agent, wait_s: float, waits: Waits) -> None:
        begun = renewed = anyio.current_time()
        with anyio.move_on_after(wait_s):
            while not waiter.came.is_set():
                await waits(anyio.current_time() - begun, wait_s)
                with anyio.move_on_after(min(PROGRESS_S, agent.heartbeat_s / 2)):
                    await waiter.came.wait()
                now = anyio.current_time()
                is_due = waiter.came.is_set() or now - renewed >= agent.heartbeat_s / 2
                if is_due and not waiter.gone:
                    await to_thread.run_sync(self._store.check_in, agent.name, Profile())
                    renewed = now

    async def _dismiss(self, waiter: _Waiter) -> None:
        """Let a waiter go, not while a round may be about to give it something."""
        if waiter in self._waiters:
            async with self._round:
                self._waiters.discard(waiter)

    def _assigned(self, agent: Agent) -> list[Task]:
        """Begin what is assigned to AGENT."""
        with self._store.reading() as db:
            mine = [task for task in rows.tasks_of(db, agent.id) if task.state == "reserved"]
        if not mine:
            return []
        return self._store.claim_pairs([(agent.id, task.id) for task in mine])

    async def _serve_all(self) -> None:
        """Match everybody who waits with every task that does."""
        async with self._round:
            wanted = {waiter.agent_id for waiter in self._waiters}
            found = await to_thread.run_sync(self._matched, wanted)
            given: dict[int | None, list[Task]] = {}
            for task in found.given:
                given.setdefault(task.agent_id, []).append(task)
            for waiter in list(self._waiters):
                waiter.tasks += given.pop(waiter.agent_id, ())
                waiter.gone = waiter.agent_id in found.gone
                if waiter.tasks or waiter.gone:
                    waiter.came.set()
                    self._waiters.discard(waiter)

    def _matched(self, wanted: set[int]) -> _Round:
        self._store.sweep()
        if not wanted:
            return _Round()
        with self._store.reading() as db:
            agents = [rows.agent(db, id) for id in sorted(wanted)]
            free = [agent for agent in agents if agent.state == "available"]
            pairs = [
                (agent.id, task.id)
                for agent in free
                if agent.load
                for task in rows.tasks_of(db, agent.id)
                if task.state == "reserved"
            ]
            served = {agent for agent, _ in pairs}
            idle = [agent for agent in free if agent.room and agent.id not in served]
            ready = self._open(db, idle) if idle else []
        if ready:
            pairs += self._match(ready, idle)
        gone = frozenset(agent.id for agent in agents if agent.state in ("paused", "left"))
        return _Round(given=self._store.claim_pairs(pairs) if pairs else [], gone=gone)

    def _open(self, db: Connection, idle: Sequence[Agent]) -> list[Task]:
        """Return what IDLE agents might begin: the most urgent, the oldest, and the forgotten."""
        found = rows.ready(db, LOOKED_AT)
        if len(found) == LOOKED_AT:  # what they can do may lie behind much that they cannot
            found += rows.oldest(db, OLDEST)
            found += [task for agent in idle for task in rows.candidates(db, agent, 5)]
        found += self._overdue(db)
        return list({task.id: task for task in found}.values())

    def _overdue(self, db: Connection) -> list[Task]:
        """Return what was assigned to agents that have not come; not looked for at every call."""
        if self._store.clock.ticks() < self._overdue_from:
            return []
        self._overdue_from = self._store.clock.ticks() + int(POLL_S * 1e6)
        at_ticks = rows.ticks(db, self._store.clock)
        return [
            task
            for task in rows.reserved(db, LOOKED_AT)
            if lifecycle.is_overdue(task, rows.agent(db, task.agent_id or 0), at_ticks)
        ]

    def _give_back(self, agent: Agent, tasks: Sequence[Task]) -> None:
        for task in tasks:
            reason = "its agent was gone before it got it"
            given = Finish(outcome="handed_over", fence=task.fence, reason=reason, body={})
            try:
                self._store.finish(agent, task.id, given)
            except ArsenaleError as exc:
                self._log.info("not given back", task=task.name, reason=str(exc))

    def _last_event(self) -> int:
        with self._store.reading() as db:
            return rows.last_event(db)

    async def _tell(self) -> None:
        def news() -> tuple[int, list[str]]:
            with self._store.reading() as db:
                last = rows.last_event(db)
                return last, rows.agents_in_events(db, since) if last > since else []

        since = self._told_up_to or 0
        last, agents = await to_thread.run_sync(news)
        if last > since:
            self._told_up_to = last
            await self._changed(agents)
