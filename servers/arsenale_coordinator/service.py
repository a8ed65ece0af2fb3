"""The use cases of the workforce: agents check in, tasks are assigned, worked on and looked at."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from anyio import CancelScope, to_thread

from arsenale_coordinator import moments, reading, rows, views
from arsenale_coordinator.crew import Choice, Crew
from arsenale_coordinator.desk import Changed, Desk, Waits, silently
from arsenale_coordinator.lifecycle import Finish, lease_us
from arsenale_coordinator.likeness import Likeness
from arsenale_coordinator.models import (
    AssignReport,
    CheckInReport,
    Detail,
    Evidence,
    Handoff,
    TaskToAssign,
    UpdateReport,
    WorkforceReport,
)
from arsenale_coordinator.reading import Filter
from arsenale_coordinator.record import (
    NEVER_US,
    Agent,
    NewTask,
    Outcome,
    Profile,
    Task,
    task_id,
)
from arsenale_coordinator.states import STATES, TaskEvent
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.store import Connection

if TYPE_CHECKING:
    from arsenale_coordinator.routing.experience import Column
    from arsenale_core.embedding.vectors import Vectors

Status: TypeAlias = Literal["available", "paused", "leaving"]
View: TypeAlias = Literal["agents", "tasks", "task"]
Action: TypeAlias = Literal[
    "progress", "complete", "fail", "hand_over", "cancel", "retry", "approve", "reject"
]

_DECISIONS: dict[str, TaskEvent] = {
    "cancel": "cancel", "retry": "retry", "approve": "approve", "reject": "reject",
}  # fmt: skip

MOST_AT_ONCE = 200
"""Tasks of one call of `assign_task`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What is said of a task by who works on it or decides about it."""

    action: Action
    agent: str = ""
    fence: int | None = None
    note: str = ""
    progress: float | None = None
    result: str = ""
    artifacts: Sequence[str] = ()
    evidence: Evidence | None = None
    handoff: Handoff | None = None
    cost_usd: float = 0.0
    key: str | None = None


class Coordinator:
    """Agents and their tasks.

    Args:
        store: Where they are.
        unread: Says how many messages an agent has not read.
        likeness: Says how near tasks are to what agents say of themselves.
        changed: Is told what changed.
        watched: Says whether anybody listens to changes.
    """

    def __init__(
        self,
        store: CoordinatorStore,
        changed: Changed,
        watched: Callable[[], bool],
        unread: Callable[[str], int],
        likeness: Likeness | None = None,
    ) -> None:
        self.store = store
        self._clock = store.clock
        self._crew = Crew()
        self._crew_lock = threading.Lock()
        self._unread = unread
        self._likeness = likeness
        self.desk = Desk(store, self._pairs, changed, watched)

    async def check_in(
        self, name: str, profile: Profile, *, status: Status, take: bool, wait_s: float,
        waits: Waits = silently,
    ) -> CheckInReport:  # fmt: skip
        """Register or renew an agent, and give it the next task when it has room.

        Args:
            name: Of the agent.
            profile: What it says of itself.
            status: Whether it works.
            take: Whether it takes a task.
            wait_s: So long it waits for one.
            waits: Is called while it waits.

        Raises:
            NotFoundError: The agent is new and does not describe itself.
        """
        state = "left" if status == "leaving" else status
        agent = await to_thread.run_sync(partial(self.store.check_in, name, profile, state=state))
        if self._likeness and profile.description is not None:
            self._likeness.nudge()
        fresh: list[Task] = []
        if take and agent.state == "available":
            fresh = await self.desk.serve(agent, wait_s, waits)
        self.desk.nudge()
        try:
            return await to_thread.run_sync(self._checked_in, agent.id, fresh)
        except BaseException:
            with CancelScope(shield=True):
                await self.desk.give_back(agent, fresh)
            raise

    async def assign(
        self, wanted: Sequence[TaskToAssign], *, project: str, by: str, assign: bool
    ) -> AssignReport:
        """Make tasks, and say who does each; bound only when the agent begins.

        Raises:
            InvalidError: A task has no title, or tasks would wait for one another.
            NotFoundError: A name in `after` or `task` is of no task.
        """
        new = [self._new(one, project, by) for one in wanted if one.task is None]
        made = iter(await to_thread.run_sync(self.store.add, new) if new else [])
        ids = [
            await to_thread.run_sync(self._edited, one, by) if one.task else next(made).id
            for one in wanted
        ]
        tasks = await to_thread.run_sync(self._read, ids)
        vectors = await self._likeness.of(tasks) if self._likeness else {}
        report = await to_thread.run_sync(self._assigned, ids, assign, vectors)
        self.desk.nudge()
        return report

    async def update(self, name: str, update: Update) -> UpdateReport:
        """Note progress, an end, or a decision.

        Raises:
            ConflictError: The task is another's, or not in a state that takes it.
            InvalidError: Evidence is asked for and not given.
        """
        report = await to_thread.run_sync(self._updated, task_id(name), update)
        self.desk.nudge()
        return report

    async def look(
        self,
        view: View,
        *,
        task: str | None,
        agent: str | None,
        states: Sequence[str],
        text: str,
        project: str,
        detail: Detail,
        limit: int,
        offset: int,
    ) -> WorkforceReport:
        """Report on agents, tasks, or one task.

        Raises:
            NotFoundError: There is no such task or agent.
        """
        if view == "task" or task:
            if not task:
                raise InvalidError("view=task needs `task`", hint="as task=t12")
            return await to_thread.run_sync(self._task_report, task_id(task), detail)
        unknown = sorted(set(states) - set(STATES))
        if unknown and view == "tasks":
            raise InvalidError(f"no state {unknown[0]!r}", hint=f"one of {', '.join(STATES)}")
        if view == "tasks":
            wanted = Filter(states=tuple(states), project=project, text=text)
            return await to_thread.run_sync(self._tasks_report, wanted, agent, limit, offset)
        if agent:
            await to_thread.run_sync(self._must_know, agent)
        wanted = Filter(states=tuple(states), project=project, text=text or agent or "")
        return await to_thread.run_sync(self._agents_report, wanted, detail, limit, offset)

    async def status(self) -> WorkforceReport:
        """Return what `workforce://status` shows: everybody, in short."""
        wanted = Filter()
        return await to_thread.run_sync(self._agents_report, wanted, "concise", 200, 0)

    async def tasks_of(self, agent: str) -> WorkforceReport:
        """Return what `tasks://AGENT` shows.

        Raises:
            NotFoundError: There is no such agent.
        """
        wanted = Filter(states=("running", "reserved"))
        return await to_thread.run_sync(self._tasks_report, wanted, agent, 200, 0)

    def _must_know(self, agent: str) -> None:
        with self.store.reading() as db:
            rows.known_agent(db, agent)

    # In a worker thread; what uses the crew, one at a time.

    def _checked_in(self, id: int, fresh: Sequence[Task]) -> CheckInReport:
        with self.store.reading() as db:
            agent = rows.agent(db, id)
            mine = rows.tasks_of(db, id)
            new = {task.id for task in fresh}
            mine.sort(key=lambda task: task.id not in new)
            until_us = self._clock.now_us() + agent.until_ticks - rows.ticks(db, self._clock)
            running = [task for task in mine if task.state == "running"]
            work = views.works(db, running, until_us)
            unread = self._unread(agent.name)
            idle = not work and agent.state == "available"
            waiting = reading.waiting(db) if idle else 0
        return CheckInReport(
            agent=agent.name, state=agent.state, work=work, unread_messages=unread or None,
            call_again_within_s=agent.heartbeat_s, hint=_hint(agent, work, waiting),
        )  # fmt: skip

    def _pairs(self, tasks: Sequence[Task], agents: Sequence[Agent]) -> list[tuple[int, int]]:
        with self._crew_lock, self.store.reading() as db:
            self._crew.refresh(db)
            return self._crew.pairs(tasks, agents, self._clock.now())

    def _new(self, one: TaskToAssign, project: str, by: str) -> NewTask:
        if not one.title.strip():
            raise InvalidError("a task has no title", hint="give `title`, or `task` as t12")
        return NewTask(
            title=one.title.strip(), description=one.description, ref=one.ref,
            after=tuple(one.after), needs=views.tags(one.needs), priority=one.priority,
            due_us=moments.asked(one.deadline, self._clock.now_us()) if one.deadline else NEVER_US,
            estimate_s=round(one.estimate_minutes * 60) if one.estimate_minutes else None,
            max_attempts=one.max_attempts, gate=one.gate, evidence=one.evidence, key=one.key,
            project=project, created_by=by,
        )  # fmt: skip

    def _read(self, ids: Sequence[int]) -> list[Task]:
        with self.store.reading() as db:
            return [self._must(db, id) for id in dict.fromkeys(ids)]

    def _assigned(
        self, ids: Sequence[int], assign: bool, vectors: "Mapping[int, Vectors]"
    ) -> AssignReport:
        with self._crew_lock:
            with self.store.reading() as db:
                self._crew.refresh(db)
                tasks = {id: self._must(db, id) for id in ids}
            at, choices = self._clock.now(), dict[int, Choice]()
            chosen: dict[int, Agent] = {}
            order = sorted(tasks.values(), key=lambda task: (-task.priority, task.due_us, task.id))
            for task in order:
                choices[task.id] = choice = self._crew.choose(task, at, self._like(vectors, task))
                if choice.agent and assign and task.state == "ready":
                    chosen[task.id] = agent = self._crew.agents[choice.agent]
                    self._crew.loaded(agent.name, 1)
            if chosen:
                pairs = [(id, agent.id, lease_us(agent)) for id, agent in chosen.items()]
                done = {task.id for task in self.store.reserve(pairs)}
                for id in chosen.keys() - done:  # another process was faster
                    self._crew.loaded(chosen[id].name, -1)
        with self.store.reading() as db:
            brief = len(ids) > views.BRIEF_FROM
            lines = [
                views.assigned(db, tasks[id], choices[id], at, assign=assign, brief=brief)
                for id in ids
            ]
        return AssignReport(tasks=lines)

    def _like(self, vectors: "Mapping[int, Vectors]", task: Task) -> "Column | None":
        vector = vectors.get(task.id)
        if vector is None or self._likeness is None:
            return None
        return self._likeness.column(vector, self._crew.order)

    def _updated(self, id: int, update: Update) -> UpdateReport:
        with self.store.reading() as db:
            before = self._must(db, id)
            if update.agent:
                rows.known_agent(db, update.agent)
        if update.action in _DECISIONS:
            body = {"note": update.note} if update.note else {}
            event = _DECISIONS[update.action]
            task = self.store.decide(id, event, update.agent or "a person", body)
        else:
            task = self._worked_on(before, update)
        with self.store.reading() as db:
            report = views.updated(db, task)
        if update.action == "fail" and task.state == "ready":
            return report.model_copy(update={"next": self._stronger(task)})
        return report

    def _stronger(self, task: Task) -> str:
        """Say who is thought to do best what another failed at; who failed comes last."""
        with self._crew_lock, self.store.reading() as db:
            self._crew.refresh(db)
            choice = self._crew.choose(task, self._clock.now())
        if not choice.scored:
            return f"it waits: {choice.why_not}"
        best = choice.scored[0]
        return f"{best.agent} is thought to do it best now (success {best.terms.success:.2f})"

    def _edited(self, one: TaskToAssign, by: str) -> int:
        """Change what is said of a task that is there, as far as ONE says something."""
        id = task_id(one.task or "")
        said = one.model_fields_set - {"task", "after", "ref"}
        fixed = sorted(said - {"title", "description", "priority", "deadline", "max_attempts"})
        if fixed:
            raise InvalidError(
                f"{fixed[0]} of t{id} cannot be changed", hint="cancel it and make another"
            )
        values: dict[str, Any] = {
            name: getattr(one, name) for name in said & {"title", "priority", "max_attempts"}
        }
        if one.deadline:
            values["due_us"] = moments.asked(one.deadline, self._clock.now_us())
        if "description" in said:
            values["body"] = {"description": one.description}
        if values or one.after:
            self.store.edit(id, by, one.after, values)
        return id

    def _worked_on(self, task: Task, update: Update) -> Task:
        if not update.agent:
            raise InvalidError(f"{update.action} needs `agent`", hint="the name you check in with")
        agent = self.store.check_in(update.agent, Profile())
        body = views.body(update.note, update.result, update.artifacts, update.handoff)
        if update.action == "progress":
            return self.store.progress(agent, task.id, update.fence, update.progress, body)
        outcomes: dict[str, Outcome] = {
            "complete": "done", "fail": "failed", "hand_over": "handed_over",
        }  # fmt: skip
        if update.action == "complete" and task.evidence:
            body["evidence"] = _proved(task, update.evidence)
        elif update.evidence:
            body["evidence"] = update.evidence.model_dump()
        finish = Finish(
            outcome=outcomes[update.action], fence=update.fence, key=update.key, body=body,
            reason=update.note, cost_musd=round(update.cost_usd * 1e6),
        )  # fmt: skip
        return self.store.finish(agent, task.id, finish)

    @staticmethod
    def _must(db: Connection, id: int) -> Task:
        found = rows.task(db, id)
        if found is None:
            hint = "`check_workforce` with view=tasks lists them"
            raise NotFoundError("task", f"t{id}", hint=hint)
        return found

    def _task_report(self, id: int, detail: Detail) -> WorkforceReport:
        with self.store.reading() as db:
            task = self._must(db, id)
            return WorkforceReport(
                summary=f"{task.name} is {task.state}", task=views.detailed(db, task, detail)
            )

    def _tasks_report(
        self, wanted: Filter, agent: str | None, limit: int, offset: int
    ) -> WorkforceReport:
        with self.store.reading() as db:
            if agent:
                wanted = replace(wanted, agent_id=rows.known_agent(db, agent).id)
            found = reading.tasks(db, wanted, limit + 1, offset)
            lines = [views.line(db, task) for task in found[:limit]]
            summary = views.task_summary(reading.counts(db, wanted.project))
        more = offset + limit if len(found) > limit else None
        hint = "" if lines else "none fits; `assign_task` makes some"
        return WorkforceReport(summary=summary, tasks=lines, next_offset=more, hint=hint)

    def _agents_report(
        self, wanted: Filter, detail: Detail, limit: int, offset: int
    ) -> WorkforceReport:
        with self._crew_lock, self.store.reading() as db:
            self._crew.refresh(db)
            agents = [a for a in self._crew.agents.values() if views.fits(a, wanted)]
            agents.sort(key=views.rank)
            shown = [rows.agent(db, agent.id) for agent in agents[offset : offset + limit]]
            lines = views.agents(db, shown, detail)
            counts, tasks = reading.agent_counts(db), reading.counts(db, wanted.project)
        more = offset + limit if len(agents) > offset + limit else None
        hint = "" if lines else "none fits; an agent registers with `check_in`"
        summary = f"{views.agent_summary(counts)}; {views.task_summary(tasks)}"
        return WorkforceReport(summary=summary, agents=lines, next_offset=more, hint=hint)


def _proved(task: Task, evidence: Evidence | None) -> dict[str, Any]:
    """Return the evidence that TASK asks for.

    Raises:
        InvalidError: It is missing, of another command, or of a run that failed.
    """
    hint = "run it, then give evidence={command, exit_code, output}; or action=fail"
    if evidence is None:
        raise InvalidError(f"{task.name} is done when `{task.evidence}` ran green", hint=hint)
    if not _is_run_of(task.evidence.split(), evidence.command.split()):
        raise InvalidError(
            f"{task.name} asks for a run of `{task.evidence}`, not `{evidence.command}`", hint=hint
        )
    if evidence.exit_code != 0:
        raise InvalidError(
            f"`{evidence.command}` ended with {evidence.exit_code}, not 0",
            hint="mend what is wrong, or action=fail with a note",
        )
    return evidence.model_dump()


def _is_run_of(asked: Sequence[str], ran: Sequence[str]) -> bool:
    """Say whether the words ASKED stand in the command that RAN, and its exit code is theirs."""
    places = range(len(ran) - len(asked) + 1)
    end = next((i + len(asked) for i in places if list(ran[i : i + len(asked)]) == [*asked]), None)
    return end is not None and not any(word.startswith(("|", ";")) for word in ran[end:])


def _hint(agent: Agent, work: Sequence[object], waiting: int) -> str:
    if work or agent.state != "available":
        return ""
    if agent.broke:
        return "your budget is spent: nothing is given to you"
    if waiting:
        return f"none of the {waiting} waiting tasks fits what you can do"
    return "nothing to do now; `wait_s` waits for work"
