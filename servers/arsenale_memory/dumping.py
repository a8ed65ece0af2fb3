"""The queries of snapshots: whole namespaces as rows, and which snapshots there are."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from arsenale_memory import tables as t
from arsenale_memory.reading import chunks


def dumped(db: sa.Connection, namespace_id: int) -> Iterable[dict[str, Any]]:
    """Give every version of a namespace with its parts and vectors, by rising row id."""
    ids = list(
        db.scalars(
            sa.select(t.memory.c.id)
            .where(t.memory.c.namespace_id == namespace_id)
            .order_by(t.memory.c.id)
        )
    )
    for chunk in chunks(ids):
        memories = db.execute(
            sa.select(t.memory).where(t.memory.c.id.in_(chunk)).order_by(t.memory.c.id)
        ).mappings()
        parts: dict[int, list[dict[str, Any]]] = {}
        columns = sa.select(t.part).where(t.part.c.memory_id.in_(chunk)).order_by(t.part.c.id)
        for part in db.execute(columns).mappings():
            parts.setdefault(part["memory_id"], []).append(_plain(part))
        vectors = _vectors_by_part(db, [p["id"] for found in parts.values() for p in found])
        for row in memories:
            yield {
                "memory": {**_plain(row), "sha": bytes(row["sha"]).hex()},
                "parts": [
                    {**part, "vectors": vectors.get(part["id"], {})}
                    for part in parts.get(row["id"], [])
                ],
            }


def _plain(row: Any) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


def _vectors_by_part(db: sa.Connection, part_ids: Sequence[int]) -> dict[int, dict[str, bytes]]:
    found: dict[int, dict[str, bytes]] = {}
    for ids in chunks(part_ids):
        rows = db.execute(
            sa.select(t.vector.c.part_id, t.embedder.c.name, t.vector.c.data)
            .join(t.embedder, t.embedder.c.id == t.vector.c.embedder_id)
            .where(t.vector.c.part_id.in_(ids), ~t.embedder.c.name.like("%#%"))
            .where(~t.embedder.c.name.like("%~reply"))
        )
        for part_id, name, data in rows:
            found.setdefault(part_id, {})[name] = bytes(data)
    return found


def links_within(db: sa.Connection, uids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the links that begin at UIDS."""
    found: list[dict[str, Any]] = []
    for chunk in chunks(uids):
        rows = db.execute(sa.select(t.link).where(t.link.c.source.in_(chunk))).mappings()
        found += [_plain(row) for row in rows]
    return sorted(found, key=lambda row: (row["source"], row["target"], row["kind"]))


def checkpoints(
    db: sa.Connection, persona: str, *, until_us: int | None = None, limit: int = 50
) -> list[Any]:
    """Return the checkpoints (sha, at_us, reason, previous) of PERSONA, the newest first."""
    c = t.checkpoint.c
    statement = (
        sa.select(c.sha, c.at_us, c.reason, c.previous)
        .where(c.persona == persona)
        .order_by(c.at_us.desc())
        .limit(limit)
    )
    if until_us is not None:
        statement = statement.where(c.at_us <= until_us)
    return list(db.execute(statement))
