"""Agents, tasks and their leases in one database.

What is promised: when a method has returned, what it changed survives a kill -9 of any process.
Each is one transaction, and writers come one after the other, in all processes: a task has one
agent at a time, a lease never ends before its time, and every change is a row of `event`.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from arsenale_coordinator import lifecycle, rows, tables
from arsenale_coordinator.lifecycle import Finish
from arsenale_coordinator.record import BEATS, Agent, Clock, NewTask, Profile, Task
from arsenale_coordinator.rows import Change
from arsenale_coordinator.states import TaskEvent
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.store import Connection, Sql, Store

DEFAULT_HEARTBEAT_S = 300
"""An assistant calls between its steps, and a step may take minutes."""

_ONE_WRITER = Sql("SELECT pg_advisory_xact_lock(hashtext('arsenale_coordinator'))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep found: agents that fell silent, tasks that are free or given up."""

    silent: tuple[str, ...]
    freed: tuple[Task, ...]

    def __bool__(self) -> bool:
        return bool(self.silent or self.freed)


class CoordinatorStore(Store):
    """Every write on agents and tasks; `reading.py` has the reports.

    Args:
        where: See `Store`.
        clock: What time it is; on PostgreSQL the server's clock counts the leases.
    """

    NAME: ClassVar[str] = "coordinator"
    MIGRATIONS: ClassVar = tables.MIGRATIONS

    def __init__(self, where: Path | str, clock: Clock) -> None:
        super().__init__(where)
        self.clock = clock
        if self.dialect == "sqlite":
            with self.changing() as c:
                if rows.begin_boot(c, clock.boot):
                    c.event("boot")

    @contextmanager
    def changing(self) -> Generator[Change]:
        """Give a transaction that writes; the only one of all processes at that moment."""
        with self.writing() as db:
            if self.dialect == "postgresql":
                _ONE_WRITER.run(db)
            yield rows.change(db, self.clock)

    # Agents.

    def check_in(self, name: str, profile: Profile, *, state: str | None = None) -> Agent:
        """Register NAME or renew its lease; STATE is available, paused or left.

        Who leaves gives its tasks back; who pauses, those that it has not begun.

        Raises:
            NotFoundError: It is new and does not describe itself.
        """
        with self.changing() as c:
            known = rows.agent_named(c.db, name)
            if known is None:
                return _registered(c, name, profile, state)
            return _renewed(c, known, profile, state)

    def sweep(self) -> Swept:
        """Take tasks from agents whose lease is over, and assignments that nobody began."""
        with self.reading() as db:
            due = self.next_sweep_ticks(db)
            if due is None or due >= rows.ticks(db, self.clock):
                return Swept(silent=(), freed=())
        with self.changing() as c:
            silent = rows.silent_agents(c.db, c.ticks)
            freed: list[Task] = []
            for agent in silent:
                event = c.event("agent.silent", agent=agent.id)
                rows.set_agent_state(c, agent.id, "silent", event)
                freed += [
                    lifecycle.let_go(c, task, "lost") for task in rows.tasks_of(c.db, agent.id)
                ]
            for task in rows.late_reservations(c.db, c.ticks):
                freed.append(lifecycle.let_go(c, task, "lost"))
            return Swept(silent=tuple(a.name for a in silent), freed=tuple(freed))

    def next_sweep_ticks(self, db: Connection) -> int | None:
        """Return when the next lease or assignment ends; `None` when there is none."""
        ends = (rows.next_silence(db), rows.next_reservation(db))
        return min((end for end in ends if end is not None), default=None)

    # Tasks.

    def add(self, new: Sequence[NewTask]) -> list[Task]:
        """Add tasks, all or none. One whose key is known is the one that has it.

        Raises:
            InvalidError: A `ref` or a key is given twice, or tasks would wait for one another.
            NotFoundError: `after` names no task.
        """
        refs = [task.ref for task in new if task.ref]
        if len(set(refs)) < len(refs):
            twice = next(ref for ref in refs if refs.count(ref) > 1)
            raise InvalidError(f"ref {twice!r} is given twice", hint="give each task its own")
        lifecycle.no_cycle({task.ref: task.after for task in new if task.ref})
        keys = [task.key for task in new if task.key]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidError(f"key {twice!r} is given twice", hint="give each task its own")
        with self.changing() as c:
            made = [lifecycle.known_or_added(c, task) for task in new]
            ids = {task.ref: one.id for task, (one, _) in zip(new, made, strict=True) if task.ref}
            return [
                lifecycle.connected(c, one, lifecycle.resolved(c, task.after, ids))
                if fresh
                else one
                for task, (one, fresh) in zip(new, made, strict=True)
            ]

    def claim(self, agent_id: int, task: int) -> Task:
        """Let an agent begin a task; what it has already it gets again, under the same fence.

        Raises:
            ConflictError: Another has it, or it cannot be begun; it says who and why.
        """
        with self.changing() as c:
            return lifecycle.claimed(c, rows.agent(c.db, agent_id), lifecycle.must(c, task))

    def claim_pairs(self, pairs: Sequence[tuple[int, int]]) -> list[Task]:
        """Claim for each agent a task, as far as it still can be; return those that were."""
        with self.changing() as c:
            return [task for pair in pairs if (task := _taken(c, *pair)) is not None]

    def reserve(self, pairs: Sequence[tuple[int, int, int]]) -> list[Task]:
        """Assign tasks to agents (task, agent, for how long in microseconds).

        What can no longer be assigned so is left as it is.
        """
        with self.changing() as c:
            done: list[Task] = []
            for wanted, agent_id, for_us in pairs:
                agent, task = rows.agent(c.db, agent_id), lifecycle.must(c, wanted)
                if task.state == "ready" and agent.state == "available" and agent.room:
                    done.append(lifecycle.reserved(c, task, agent, c.ticks + for_us))
            return done

    def finish(self, agent: Agent, task: int, finish: Finish) -> Task:
        """End an agent's work on a task. Said twice, by the same key or fence, it is one.

        Raises:
            ConflictError: The lease is another's now, or the task is over; it says whose.
        """
        with self.changing() as c:
            found = lifecycle.must(c, task)
            if lifecycle.is_repeated(c, found, agent, finish):
                return found
            lifecycle.must_hold(c, found, agent, finish.fence)
            return lifecycle.finished(c, found, agent, finish)

    def progress(
        self,
        agent: Agent,
        task: int,
        fence: int | None,
        done: float | None,
        body: Mapping[str, Any],
    ) -> Task:
        """Note how far a task is; the agent's lease is renewed by its call already.

        Raises:
            ConflictError: The lease is another's now.
        """
        with self.changing() as c:
            found = lifecycle.must(c, task)
            lifecycle.must_hold(c, found, agent, fence)
            c.event("task.progress", task=task, agent=agent.id, body={"progress": done, **body})
            changed = replace(
                found,
                progress=found.progress if done is None else done,
                body={**found.body, **body},
            )
            rows.set_task(c, changed)
            return changed

    def decide(self, task: int, event: TaskEvent, by: str, body: Mapping[str, Any]) -> Task:
        """Let a person or a lead approve, reject, cancel or retry a task.

        Raises:
            ConflictError: A task in its state does not take that.
        """
        with self.changing() as c:
            return lifecycle.decided(c, lifecycle.must(c, task), event, by, body)

    def edit(self, task: int, by: str, after: Sequence[str], values: Mapping[str, Any]) -> Task:
        """Change what is said of a task, or let it wait for others.

        Raises:
            InvalidError: Tasks would wait for one another; it names the cycle.
            ConflictError: It is running or over, so that it can no longer wait.
        """
        with self.changing() as c:
            found = lifecycle.must(c, task)
            note = values.get("body", {})
            changed = replace(found, **{**values, "body": {**found.body, **note}})
            if after:
                changed = lifecycle.made_to_wait(c, changed, lifecycle.resolved(c, after, {}))
            c.event("task.edited", task=task, body={"by": by, "after": list(after)})
            rows.set_task(c, changed)
            return changed


def _taken(c: Change, agent_id: int, wanted: int) -> Task | None:
    """Let an agent begin a task, if it still may."""
    agent, task = rows.agent(c.db, agent_id), lifecycle.must(c, wanted)
    mine = task.state == "reserved" and task.agent_id == agent_id
    if task.state == "reserved" and not mine:
        holder = rows.agent(c.db, task.agent_id or 0)
        if not lifecycle.is_overdue(task, holder, c.ticks) or not lifecycle.may_begin(agent, task):
            return None
        task = lifecycle.let_go(c, task, "cancelled")
    able = agent.state == "available" if mine else lifecycle.may_begin(agent, task)
    if not able or task.state not in ("ready", "reserved"):
        return None
    return lifecycle.claimed(c, agent, task)


def _registered(c: Change, name: str, profile: Profile, state: str | None) -> Agent:
    if profile.tags is None and profile.description is None:
        raise NotFoundError("agent", name, hint=f"register it with {rows.REGISTER}")
    heartbeat_s = profile.heartbeat_s or DEFAULT_HEARTBEAT_S
    values = {
        "name": name, "state": state or "available", "description": profile.description or "",
        "capacity": profile.capacity or 1, "heartbeat_s": heartbeat_s,
        "until_ticks": c.ticks + BEATS * heartbeat_s * 1_000_000, "seen_us": c.now_us,
        "budget_musd": _musd(profile.budget_usd), "model": profile.model or "",
        "project": profile.project or "", "changed": c.event("agent.registered"),
    }  # fmt: skip
    return rows.add_agent(c, values, profile.tags or ())


def _renewed(c: Change, known: Agent, profile: Profile, state: str | None) -> Agent:
    heartbeat_s = profile.heartbeat_s or known.heartbeat_s
    # A shorter heartbeat holds from the next call on: a lease never ends before what was said.
    until = max(known.until_ticks, c.ticks + BEATS * heartbeat_s * 1_000_000)
    wanted = state or ("available" if known.state == "silent" else known.state)
    told = {
        "description": _or(profile.description, known.description),
        "capacity": _or(profile.capacity, known.capacity),
        "heartbeat_s": heartbeat_s,
        "budget_musd": _or(_musd(profile.budget_usd), known.budget_musd),
        "model": _or(profile.model, known.model),
        "project": _or(profile.project, known.project),
    }
    tags = _or(profile.tags, known.tags)
    rows.beat(c, known.id, until)
    same = all(getattr(known, name) == value for name, value in told.items())
    if same and tags == known.tags and wanted == known.state:
        return replace(known, until_ticks=until, seen_us=c.now_us)
    event = c.event(f"agent.{wanted}", agent=known.id)
    rows.set_agent(c, known.id, {**told, "state": wanted, "changed": event}, tags)
    for task in rows.tasks_of(c.db, known.id):
        if wanted == "left" or (wanted == "paused" and task.state == "reserved"):
            lifecycle.let_go(c, task, "handed_over")
    return rows.agent(c.db, known.id)


def _or(said: Any, known: Any) -> Any:
    return known if said is None else said


def _musd(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 1e6)
