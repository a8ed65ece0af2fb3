"""Samples of how nodes are, kept for a while."""

from typing import Any

import orjson

from arsenale_core.store import Connection, Sql
from arsenale_mesh import rows
from arsenale_mesh.rows import Change
from arsenale_mesh.sessions import Session

KEPT_US = 7 * 86_400 * 1_000_000

_ADD = Sql(
    "INSERT INTO telemetry (node_id, at_us, health, body) VALUES (:node, :at_us, :health, :body)"
)
_DROP = Sql("DELETE FROM telemetry WHERE node_id = :node AND at_us < :before")
_OF = Sql(
    "SELECT at_us, health, body FROM telemetry WHERE node_id = :node ORDER BY at_us DESC"
    " LIMIT :limit"
)


def keep_sample(c: Change, *, session: Session) -> None:
    """Keep how a node is now, and drop what is a week old."""
    node = session.node.id
    seen = {
        **session.said, "latency_s": session.latency_s, "bandwidth": session.bandwidth,
        "tasks": len(session.leases),
    }  # fmt: skip
    body = orjson.dumps(seen).decode()
    _ADD.run(c.db, node=node, at_us=c.now_us, health=session.health.score, body=body)
    _DROP.run(c.db, node=node, before=c.now_us - KEPT_US)
    rows.seen(c, [node])


def samples(db: Connection, node: int, limit: int) -> list[tuple[int, float, dict[str, Any]]]:
    """Return when, health and the rest, newest first."""
    return [
        (int(at_us), float(health), orjson.loads(body))
        for at_us, health, body in _OF.all(db, node=node, limit=limit)
    ]
