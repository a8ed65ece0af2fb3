"""Tasks that are long over go, and what only they needed; the books stay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from arsenale_core.store import Connection, Sql
from arsenale_mesh.rows import Change
from arsenale_mesh.store import MeshStore

AT_ONCE: Final = 200
"""Tasks, or blobs, that go in one transaction: others who write wait for it."""

_OVER = Sql(
    "SELECT id FROM task WHERE state IN ('done', 'failed', 'cancelled') AND ended_us < :before"
    " AND wants = 0 AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.task_id = task.id"
    " AND attempt.state = 'leased') ORDER BY ended_us LIMIT :limit"
)
_DROP_RECEIPTS = Sql("DELETE FROM receipt WHERE task_id = :id")
_DROP_ATTEMPTS = Sql("DELETE FROM attempt WHERE task_id = :id")
_DROP_TASK = Sql("DELETE FROM task WHERE id = :id")
_UNNAMED = Sql(
    "SELECT sha, size FROM blob WHERE at_us < :before AND sha NOT IN (SELECT sha FROM module)"
    " AND sha NOT IN (SELECT module FROM task) AND sha NOT IN (SELECT input FROM task)"
    " AND sha NOT IN (SELECT output FROM task WHERE output IS NOT NULL)"
)
_BODIES = Sql("SELECT id, body FROM receipt WHERE id > :after ORDER BY id LIMIT 1000")
_DROP_BLOB = Sql("DELETE FROM blob WHERE sha = :sha")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went: tasks and receipts, blobs and their bytes."""

    tasks: int = 0
    receipts: int = 0
    blobs: int = 0
    size_bytes: int = 0


def prune(store: MeshStore, before_us: int) -> Pruned:
    """Delete tasks that were over before BEFORE_US (UTC), with all that nothing else refers to.

    Nodes, modules, ledger and audit trail stay. So does a task that is over and is checked now.
    """
    tasks = receipts = 0
    while True:
        with store.changing() as c:
            found = [int(id) for (id,) in _OVER.all(c.db, before=before_us, limit=AT_ONCE)]
            receipts += _drop_tasks(c, found)
        tasks += len(found)
        if len(found) < AT_ONCE:
            break
    with store.changing() as c:
        gone = _drop_blobs(c, before_us)
    return Pruned(
        tasks=tasks, receipts=receipts, blobs=len(gone), size_bytes=sum(size for _, size in gone)
    )


def _drop_tasks(c: Change, ids: Sequence[int]) -> int:
    """Delete tasks; return how many receipts went with them."""
    receipts = sum(_DROP_RECEIPTS.count(c.db, id=id) for id in ids)
    which = [{"id": id} for id in ids]
    _DROP_ATTEMPTS.many(c.db, which)
    _DROP_TASK.many(c.db, which)
    return receipts


def _drop_blobs(c: Change, before_us: int) -> list[tuple[Any, ...]]:
    """Delete blobs that nothing refers to; receipts name outputs that no task may have."""
    unnamed = _UNNAMED.all(c.db, before=before_us)
    named = _outputs(c.db) if unnamed else frozenset[str]()
    gone = [row for row in unnamed if row[0] not in named]
    _DROP_BLOB.many(c.db, [{"sha": sha} for sha, _ in gone])
    return gone


def _outputs(db: Connection) -> frozenset[str]:
    found, after = set[str](), ""
    while page := _BODIES.all(db, after=after):
        found.update(orjson.loads(body)["output"] for _, body in page)
        after = page[-1][0]
    return frozenset(found)
