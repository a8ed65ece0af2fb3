"""What reports read of the mesh's database."""

from dataclasses import dataclass
from typing import Any

from arsenale_core.store import Connection, Sql
from arsenale_mesh import rows
from arsenale_mesh.record import Module, Task

_TASKS = Sql(
    f"SELECT {rows.TASK_COLUMNS} FROM task WHERE (:project = '' OR project = :project)"
    " AND (:state = '' OR state = :state)"
    " ORDER BY id DESC LIMIT :limit OFFSET :offset"
)
_WAITS = Sql("SELECT count(*), min(created_us) FROM task WHERE wants > 0 AND state <> 'done'")
_TRIES = Sql(
    "SELECT attempt.task_id, node.name, node.house, attempt.role, attempt.state, attempt.status"
    " FROM attempt JOIN node ON node.id = attempt.node_id WHERE attempt.task_id = :task"
    " ORDER BY attempt.id"
)
_NAMES = Sql("SELECT did, name FROM node")
_BALANCES = Sql(
    "SELECT name, credits, score, correct, wrong FROM node WHERE credits <> 0 OR house = 0"
    " ORDER BY credits DESC, name LIMIT :limit"
)
_DONE_BY = Sql(
    "SELECT node.name, attempt.state, count(*) FROM attempt JOIN node"
    " ON node.id = attempt.node_id GROUP BY node.name, attempt.state"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One node's attempt, with names."""

    node: str
    house: bool
    role: str
    state: str
    status: str | None


def tasks(db: Connection, project: str, state: str, limit: int, offset: int) -> list[Task]:
    """Return tasks, newest first; of a project and in a state, where given."""
    found = _TASKS.all(db, project=project, state=state, limit=limit, offset=offset)
    return [rows.as_task(row) for row in found]


def waiting(db: Connection) -> tuple[int, int | None]:
    """Return how many tasks wait for a node, and since when the oldest does."""
    count, oldest = _WAITS.first(db) or (0, None)
    return int(count), oldest


def tries(db: Connection, task: int) -> list[Try]:
    """Return the attempts at a task."""
    return [
        Try(node=node, house=bool(house), role=role, state=state, status=status)
        for _, node, house, role, state, status in _TRIES.all(db, task=task)
    ]


def names(db: Connection) -> dict[str, str]:
    """Return the names of nodes by their did."""
    return dict[str, str]((did, name) for did, name in _NAMES.all(db))


def balances(db: Connection, limit: int) -> list[tuple[Any, ...]]:
    """Return name, credits, score, right and wrong results of nodes, richest first."""
    return _BALANCES.all(db, limit=limit)


def attempts_by_state(db: Connection) -> list[tuple[str, str, int]]:
    """Return how many attempts nodes made, by how they ended."""
    return [(name, state, int(count)) for name, state, count in _DONE_BY.all(db)]


def module_of(db: Connection, sha: str) -> Module | None:
    """Return the module with that SHA-256."""
    found = rows.modules_beginning(db, sha)
    return found[0] if found else None
