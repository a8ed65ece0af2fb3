"""Statements on agents, tasks and attempts, and what their rows mean; none decides anything."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from arsenale_coordinator.record import Agent, Attempt, Clock, NewTask, Outcome, Task
from arsenale_coordinator.states import TaskState
from arsenale_core.errors import NotFoundError
from arsenale_core.store import Connection, Sql

_AGENT = (
    "id, name, state, description, tags, capacity, load, heartbeat_s, until_ticks, seen_us,"
    " budget_musd, spent_musd, model, project, changed"
)
TASK_COLUMNS = (
    "id, title, state, project, priority, due_us, created_us, updated_us, created_by, needs,"
    " open_needs, agent_id, fence, reserved_ticks, attempts, strikes, max_attempts, estimate_s,"
    " progress, gate, evidence, done_key, body"
)
_AGENT_NAMES = tuple(_AGENT.replace(" ", "").split(","))
_TASK_NAMES = tuple(TASK_COLUMNS.replace(" ", "").split(","))


REGISTER = "`check_in` and `capabilities` or `description`"
"""How an agent registers, for hints."""


@dataclass(slots=True)
class Change:
    """A transaction that writes, and when it does."""

    db: Connection
    now_us: int
    ticks: int

    def event(
        self,
        kind: str,
        *,
        task: int | None = None,
        agent: int | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> int:
        """Note what is changed; return the number of the event."""
        text = orjson.dumps(body).decode() if body else None
        return _ADD_EVENT.value(
            self.db, at_us=self.now_us, kind=kind, task=task, agent=agent, body=text
        )


_ADD_EVENT = Sql(
    "INSERT INTO event (at_us, kind, task_id, agent_id, body)"
    " VALUES (:at_us, :kind, :task, :agent, :body) RETURNING id"
)
_LAST_EVENT = Sql("SELECT coalesce(max(id), 0) FROM event")
_AGENTS_IN_EVENTS = Sql(
    "SELECT DISTINCT agent.name FROM event JOIN agent ON agent.id = event.agent_id"
    " WHERE event.id > :since"
)
_DATABASE_TICKS = Sql("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)")


def change(db: Connection, clock: Clock) -> Change:
    """Begin a change; on a server that several machines share, its clock counts the ticks."""
    if db.dialect.name == "postgresql":
        return Change(db, clock.now_us(), _DATABASE_TICKS.value(db))
    return Change(db, clock.now_us(), clock.ticks())


def ticks(db: Connection, clock: Clock) -> int:
    """Return the time of the lease clock."""
    return change(db, clock).ticks


def last_event(db: Connection) -> int:
    """Return the number of the newest event; 0 before the first."""
    return _LAST_EVENT.value(db)


def agents_in_events(db: Connection, since: int) -> list[str]:
    """Return the names of the agents that events after SINCE are about."""
    return [name for (name,) in _AGENTS_IN_EVENTS.all(db, since=since)]


# Agents.

_AGENT_BY_NAME = Sql(f"SELECT {_AGENT} FROM agent WHERE name = :name")
_AGENT_BY_ID = Sql(f"SELECT {_AGENT} FROM agent WHERE id = :id")
_AGENTS_SINCE = Sql(f"SELECT {_AGENT} FROM agent WHERE changed > :since ORDER BY changed, id")
_ADD_AGENT = Sql(
    "INSERT INTO agent (name, state, description, tags, capacity, load, heartbeat_s, until_ticks,"
    " seen_us, budget_musd, spent_musd, model, project, changed, registered_us)"
    " VALUES (:name, :state, :description, :tags, :capacity, 0, :heartbeat_s, :until_ticks,"
    f" :seen_us, :budget_musd, 0, :model, :project, :changed, :seen_us) RETURNING {_AGENT}"
)
_SET_AGENT = Sql(
    "UPDATE agent SET state = :state, description = :description, tags = :tags,"
    " capacity = :capacity, heartbeat_s = :heartbeat_s, budget_musd = :budget_musd,"
    " model = :model, project = :project, changed = :changed WHERE id = :id"
)
_BEAT = Sql("UPDATE agent SET until_ticks = :until_ticks, seen_us = :seen_us WHERE id = :id")
_AGENT_STATE = Sql("UPDATE agent SET state = :state, changed = :changed WHERE id = :id")
_LOAD = Sql(
    "UPDATE agent SET load = load + :more, spent_musd = spent_musd + :spent, changed = :changed"
    " WHERE id = :id"
)
_NO_CAPABILITIES = Sql("DELETE FROM capability WHERE agent_id = :id")
_CAPABILITY = Sql("INSERT INTO capability (agent_id, tag) VALUES (:id, :tag)")
_SILENT = Sql(
    f"SELECT {_AGENT} FROM agent WHERE until_ticks < :ticks AND state IN ('available', 'paused')"
)
_NEXT_SILENCE = Sql("SELECT min(until_ticks) FROM agent WHERE state IN ('available', 'paused')")


def _agent(row: tuple[Any, ...]) -> Agent:
    values: dict[str, Any] = dict(zip(_AGENT_NAMES, row, strict=True))
    values["tags"] = _words(values["tags"])
    return Agent(**values)


def agent_named(db: Connection, name: str) -> Agent | None:
    """Return the agent of that name."""
    row = _AGENT_BY_NAME.first(db, name=name)
    return _agent(row) if row else None


def known_agent(db: Connection, name: str) -> Agent:
    """Return the agent of that name: every tool but `check_in` asks for one that is registered.

    Raises:
        NotFoundError: It never checked in.
    """
    found = agent_named(db, name)
    if found is None:
        hint = f"register it with {REGISTER}; `check_workforce` lists all agents"
        raise NotFoundError("agent", name, hint=hint)
    return found


def agent(db: Connection, id: int) -> Agent:
    """Return the agent with that number, which exists."""
    row = _AGENT_BY_ID.first(db, id=id)
    assert row is not None
    return _agent(row)


def agents_since(db: Connection, since: int) -> list[Agent]:
    """Return the agents that changed after the event SINCE."""
    return [_agent(row) for row in _AGENTS_SINCE.all(db, since=since)]


def silent_agents(db: Connection, at_ticks: int) -> list[Agent]:
    """Return the agents whose lease is over and who are thought to work."""
    return [_agent(row) for row in _SILENT.all(db, ticks=at_ticks)]


def next_silence(db: Connection) -> int | None:
    """Return when the next lease ends, ticks."""
    return _NEXT_SILENCE.value(db)


def add_agent(c: Change, values: Mapping[str, Any], tags: Sequence[str]) -> Agent:
    """Add an agent with VALUES for its columns."""
    row = _ADD_AGENT.first(c.db, **values, tags=" ".join(tags))
    assert row is not None
    made = _agent(row)
    _CAPABILITY.many(c.db, [{"id": made.id, "tag": tag} for tag in tags])
    return made


def set_agent(c: Change, id: int, values: Mapping[str, Any], tags: Sequence[str]) -> None:
    """Change what is known of an agent."""
    _SET_AGENT.run(c.db, id=id, **values, tags=" ".join(tags))
    _NO_CAPABILITIES.run(c.db, id=id)
    _CAPABILITY.many(c.db, [{"id": id, "tag": tag} for tag in tags])


def beat(c: Change, id: int, until_ticks: int) -> None:
    """Note that an agent lives, and until when it is thought to."""
    _BEAT.run(c.db, id=id, until_ticks=until_ticks, seen_us=c.now_us)


def set_agent_state(c: Change, id: int, state: str, changed: int) -> None:
    """Change the state of an agent."""
    _AGENT_STATE.run(c.db, id=id, state=state, changed=changed)


def add_load(c: Change, id: int, more: int, changed: int, spent_musd: int = 0) -> None:
    """Note that an agent has MORE tasks, or fewer, and what it spent."""
    _LOAD.run(c.db, id=id, more=more, changed=changed, spent=spent_musd)


_VECTORS = Sql("SELECT agent_id, text_sha, data FROM agent_vector WHERE embedder = :embedder")
_PUT_VECTOR = Sql(
    "INSERT INTO agent_vector (agent_id, embedder, text_sha, data)"
    " VALUES (:id, :embedder, :sha, :data) ON CONFLICT (agent_id, embedder)"
    " DO UPDATE SET text_sha = excluded.text_sha, data = excluded.data"
)


def agent_vectors(db: Connection, embedder: str) -> list[tuple[int, str, bytes]]:
    """Return the vectors of agents' texts: agent, SHA-256 of the text, float32 bytes."""
    return [(int(id), sha, bytes(data)) for id, sha, data in _VECTORS.all(db, embedder=embedder)]


def put_agent_vector(c: Change, id: int, embedder: str, sha: str, data: bytes) -> None:
    """Keep the vector of an agent's text, in place of what is there."""
    _PUT_VECTOR.run(c.db, id=id, embedder=embedder, sha=sha, data=data)


# Tasks.

_TASK_BY_ID = Sql(f"SELECT {TASK_COLUMNS} FROM task WHERE id = :id")
_TASK_BY_KEY = Sql(f"SELECT {TASK_COLUMNS} FROM task WHERE key = :key")
_TASKS_OF = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE agent_id = :agent AND state IN ('reserved', 'running')"
    " ORDER BY state DESC, priority DESC, due_us, id"
)
_ADD_TASK = Sql(
    "INSERT INTO task (title, state, project, priority, due_us, created_us, updated_us, created_by,"
    " needs, open_needs, fence, reserved_ticks, attempts, strikes, max_attempts, estimate_s,"
    " progress, gate, evidence, body, key) VALUES (:title, :state, :project, :priority, :due_us,"
    " :now, :now, :created_by, :needs, 0, 0, 0, 0, 0, :max_attempts, :estimate_s, 0, :gate,"
    f" :evidence, :body, :key) RETURNING {TASK_COLUMNS}"
)
_SET_TASK = Sql(
    "UPDATE task SET state = :state, agent_id = :agent_id, fence = :fence,"
    " reserved_ticks = :reserved_ticks, attempts = :attempts, strikes = :strikes,"
    " progress = :progress, done_key = :done_key, body = :body, priority = :priority,"
    " due_us = :due_us, title = :title, max_attempts = :max_attempts, open_needs = :open_needs,"
    " updated_us = :updated_us WHERE id = :id"
)
_ADD_NEED = Sql("INSERT INTO need (task_id, tag) VALUES (:task, :tag)")
_ADD_DEPENDENCY = Sql(
    "INSERT INTO dependency (task_id, needs_id) VALUES (:task, :needs) ON CONFLICT DO NOTHING"
)
_CANDIDATES = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE state = 'ready'"
    " AND (project = '' OR :project = '' OR project = :project)"
    " AND NOT EXISTS (SELECT 1 FROM need WHERE need.task_id = task.id AND need.tag NOT IN"
    " (SELECT tag FROM capability WHERE agent_id = :agent))"
    " ORDER BY priority DESC, due_us, id LIMIT :limit"
)
_READY = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE state = 'ready' ORDER BY priority DESC, due_us, id"
    " LIMIT :limit"
)
_OLDEST = Sql(f"SELECT {TASK_COLUMNS} FROM task WHERE state = 'ready' ORDER BY id LIMIT :limit")
_LATE_RESERVATIONS = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE state = 'reserved' AND reserved_ticks < :ticks"
)
_RESERVED = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE state = 'reserved' ORDER BY priority DESC, due_us, id"
    " LIMIT :limit"
)
_NEXT_RESERVATION = Sql("SELECT min(reserved_ticks) FROM task WHERE state = 'reserved'")
_UNBLOCKED = Sql(
    "UPDATE task SET open_needs = open_needs - 1 WHERE id IN"
    f" (SELECT task_id FROM dependency WHERE needs_id = :id) RETURNING {TASK_COLUMNS}"
)
_NEEDS_OF = Sql("SELECT task_id, needs_id FROM dependency WHERE task_id = :id")
_ALL_NEEDS = Sql(
    "WITH RECURSIVE up (task_id, needs_id) AS ("
    "SELECT task_id, needs_id FROM dependency WHERE task_id = :id UNION"
    " SELECT d.task_id, d.needs_id FROM dependency d JOIN up ON d.task_id = up.needs_id)"
    " SELECT task_id, needs_id FROM up"
)


def _task(row: tuple[Any, ...]) -> Task:
    values: dict[str, Any] = dict(zip(_TASK_NAMES, row, strict=True))
    values["needs"] = _words(values["needs"])
    values["body"] = orjson.loads(values["body"])
    return Task(**values)


def tasks(found: Iterable[tuple[Any, ...]]) -> list[Task]:
    """Return the tasks that rows of `TASK_COLUMNS` are."""
    return [_task(row) for row in found]


def task(db: Connection, id: int) -> Task | None:
    """Return the task with that number."""
    row = _TASK_BY_ID.first(db, id=id)
    return _task(row) if row else None


def task_by_key(db: Connection, key: str) -> Task | None:
    """Return the task that was made under KEY."""
    row = _TASK_BY_KEY.first(db, key=key)
    return _task(row) if row else None


def tasks_of(db: Connection, agent_id: int) -> list[Task]:
    """Return what an agent has: running tasks, then reserved ones, the most urgent first."""
    return tasks(_TASKS_OF.all(db, agent=agent_id))


def add_task(c: Change, new: NewTask, state: TaskState) -> Task:
    """Add a task."""
    row = _ADD_TASK.first(
        c.db, title=new.title, state=state, project=new.project, priority=new.priority,
        due_us=new.due_us, now=c.now_us, created_by=new.created_by, needs=" ".join(new.needs),
        max_attempts=new.max_attempts, estimate_s=new.estimate_s, gate=new.gate,
        evidence=new.evidence, key=new.key,
        body=orjson.dumps({"description": new.description} if new.description else {}).decode(),
    )  # fmt: skip
    assert row is not None
    made = _task(row)
    _ADD_NEED.many(c.db, [{"task": made.id, "tag": tag} for tag in new.needs])
    return made


def set_task(c: Change, task: Task) -> None:
    """Write a task as it stands now."""
    _SET_TASK.run(
        c.db, id=task.id, state=task.state, agent_id=task.agent_id, fence=task.fence,
        reserved_ticks=task.reserved_ticks, attempts=task.attempts, strikes=task.strikes,
        progress=task.progress, done_key=task.done_key, body=orjson.dumps(task.body).decode(),
        priority=task.priority, due_us=task.due_us, title=task.title,
        max_attempts=task.max_attempts, open_needs=task.open_needs, updated_us=c.now_us,
    )  # fmt: skip


def add_dependencies(c: Change, pairs: Iterable[tuple[int, int]]) -> None:
    """Let tasks (the first of each pair) wait for others (the second)."""
    _ADD_DEPENDENCY.many(c.db, [{"task": task, "needs": needs} for task, needs in pairs])


def needs_of(db: Connection, id: int) -> list[int]:
    """Return the tasks that a task waits for, done or not."""
    return [int(needs) for _, needs in _NEEDS_OF.all(db, id=id)]


def all_needs(db: Connection, id: int) -> dict[int, list[int]]:
    """Return what a task waits for, what these wait for, and so on."""
    found: dict[int, list[int]] = {}
    for waiting, needs in _ALL_NEEDS.all(db, id=id):
        found.setdefault(int(waiting), []).append(int(needs))
    return found


def unblock(c: Change, id: int) -> list[Task]:
    """Take a done task off what others wait for; return those as they are now."""
    return tasks(_UNBLOCKED.all(c.db, id=id))


def candidates(db: Connection, agent: Agent, limit: int) -> list[Task]:
    """Return ready tasks that AGENT may take, the most urgent first."""
    return tasks(_CANDIDATES.all(db, project=agent.project, agent=agent.id, limit=limit))


def ready(db: Connection, limit: int) -> list[Task]:
    """Return ready tasks, the most urgent first."""
    return tasks(_READY.all(db, limit=limit))


def oldest(db: Connection, limit: int) -> list[Task]:
    """Return ready tasks, those that have been there longest first."""
    return tasks(_OLDEST.all(db, limit=limit))


def reserved(db: Connection, limit: int) -> list[Task]:
    """Return reserved tasks, the most urgent first."""
    return tasks(_RESERVED.all(db, limit=limit))


def late_reservations(db: Connection, at_ticks: int) -> list[Task]:
    """Return tasks that were assigned and not begun in time."""
    return tasks(_LATE_RESERVATIONS.all(db, ticks=at_ticks))


def next_reservation(db: Connection) -> int | None:
    """Return when the next reservation ends, ticks."""
    return _NEXT_RESERVATION.value(db)


# Attempts.

_ADD_ATTEMPT = Sql(
    "INSERT INTO attempt (task_id, agent_id, needs, project, started_us, started_ticks)"
    " VALUES (:task, :agent, :needs, :project, :now, :ticks) RETURNING id"
)
_END_ATTEMPT = Sql(
    "UPDATE attempt SET ended_us = :now, ended_event = :event, outcome = :outcome,"
    " duration_us = :ticks - started_ticks, reason = :reason, cost_musd = :cost WHERE id = :id"
)
_END_OF = Sql("SELECT task_id, agent_id, outcome FROM attempt WHERE id = :id")
_ATTEMPT_OUTCOME = Sql(
    "UPDATE attempt SET outcome = :outcome, reason = :reason, ended_event = :event WHERE id = :id"
)
_NEWEST_ATTEMPTS = Sql(
    "SELECT ended_event FROM attempt WHERE ended_event > 0 ORDER BY ended_event DESC"
    " LIMIT 1 OFFSET :n"
)
_ATTEMPTS_SINCE = Sql(
    "SELECT a.id, a.agent_id, a.needs, a.project, a.outcome, a.duration_us, a.ended_us,"
    " a.ended_event, t.estimate_s FROM attempt a JOIN task t ON t.id = a.task_id"
    " WHERE a.ended_event > :since ORDER BY a.ended_event LIMIT :limit"
)


def add_attempt(c: Change, task: Task, agent_id: int) -> int:
    """Note that an agent begins a task; return the number, which is the fence of its lease."""
    return _ADD_ATTEMPT.value(
        c.db, task=task.id, agent=agent_id, needs=" ".join(task.needs), project=task.project,
        now=c.now_us, ticks=c.ticks,
    )  # fmt: skip


def end_attempt(
    c: Change,
    fence: int,
    event: int,
    outcome: Outcome,
    reason: str = "",
    cost_musd: int | None = None,
) -> None:
    """Note how an attempt ended, and the event that says so."""
    _END_ATTEMPT.run(
        c.db, id=fence, now=c.now_us, ticks=c.ticks, event=event, outcome=outcome, reason=reason,
        cost=cost_musd,
    )  # fmt: skip


def end_of(db: Connection, fence: int) -> tuple[int, int, str | None] | None:
    """Return the task and the agent of an attempt, and how it ended."""
    row = _END_OF.first(db, id=fence)
    return (row[0], row[1], row[2]) if row else None


def set_outcome(c: Change, fence: int, event: int, outcome: Outcome, reason: str) -> None:
    """Change how an attempt is said to have ended: a person rejected what was called done."""
    _ATTEMPT_OUTCOME.run(c.db, id=fence, event=event, outcome=outcome, reason=reason)


def before_newest_attempts(db: Connection, n: int) -> int:
    """Return the event after which N attempts have ended; 0 where there are fewer."""
    return int(_NEWEST_ATTEMPTS.value(db, n=n) or 0)


def attempts_since(db: Connection, since: int, limit: int) -> list[Attempt]:
    """Return attempts that ended after the event SINCE, the oldest first."""
    return [
        Attempt(
            id=id, agent_id=agent_id, needs=_words(needs), project=project, outcome=outcome,
            seconds=max(int(took), 0) / 1e6, ended_us=ended, ended_event=event, estimate_s=estimate,
        )
        for id, agent_id, needs, project, outcome, took, ended, event, estimate in (
            _ATTEMPTS_SINCE.all(db, since=since, limit=limit)
        )
    ]  # fmt: skip


# The boot that ticks count from.

_BOOT = Sql("SELECT value FROM meta WHERE name = 'boot'")
_SET_BOOT = Sql(
    "INSERT INTO meta (name, value) VALUES ('boot', :boot)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_FORGET_TICKS = (
    Sql("UPDATE agent SET until_ticks = 0"),
    Sql("UPDATE task SET reserved_ticks = 0 WHERE state = 'reserved'"),
    Sql("UPDATE attempt SET started_ticks = :ticks WHERE ended_us IS NULL"),
    Sql("UPDATE reservation SET until_ticks = 0, released_us = :now WHERE released_us IS NULL"),
)


def begin_boot(c: Change, boot: str) -> bool:
    """End every lease when the machine was started anew; say whether it was."""
    known = _BOOT.value(c.db)
    if known == boot:
        return False
    _SET_BOOT.run(c.db, boot=boot)
    if known is None:
        return False
    _FORGET_TICKS[0].run(c.db)
    _FORGET_TICKS[1].run(c.db)
    _FORGET_TICKS[2].run(c.db, ticks=c.ticks)
    _FORGET_TICKS[3].run(c.db, now=c.now_us)
    return True


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())
