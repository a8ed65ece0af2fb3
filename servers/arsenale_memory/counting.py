"""The sums of memory: how much there is of what."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from arsenale_memory import tables as t


def namespaces(db: sa.Connection) -> list[Any]:
    """Return (name, memories, newest) of each namespace, the fullest first."""
    n = sa.func.count(t.memory.c.id).label("n")
    statement = (
        sa.select(t.namespace.c.name, n, sa.func.max(t.memory.c.written_us).label("newest"))
        .outerjoin(
            t.memory,
            sa.and_(t.memory.c.namespace_id == t.namespace.c.id, t.memory.c.ended_us.is_(None)),
        )
        .group_by(t.namespace.c.name)
        .order_by(n.desc(), t.namespace.c.name)
    )
    return list(db.execute(statement))


def totals(db: sa.Connection) -> dict[str, int]:
    """Return how many rows there are of each sort."""
    counts = {
        "memories": sa.select(sa.func.count(t.memory.c.id)).where(t.memory.c.ended_us.is_(None)),
        "versions": sa.select(sa.func.count(t.memory.c.id)),
        "forgotten": sa.select(sa.func.count(t.memory.c.id)).where(t.memory.c.ended == "forgotten"),
        "parts": sa.select(sa.func.count(t.part.c.id)),
        "links": sa.select(sa.func.count()).select_from(t.link),
        "turns": sa.select(sa.func.count()).where(t.part.c.n == 0, t.part.c.prev != ""),
    }
    return {name: int(db.scalar(statement) or 0) for name, statement in counts.items()}


def vector_counts(db: sa.Connection) -> dict[str, int]:
    """Return how many vectors there are of each embedder."""
    statement = (
        sa.select(t.embedder.c.name, sa.func.count(t.vector.c.part_id))
        .outerjoin(t.vector, t.vector.c.embedder_id == t.embedder.c.id)
        .group_by(t.embedder.c.name)
    )
    return {name: int(n) for name, n in db.execute(statement)}


def label_counts(
    db: sa.Connection, kind: str, namespaces: Sequence[str], limit: int
) -> list[tuple[str, int]]:
    """Return the labels of KIND that are used most, with how often."""
    n = sa.func.count().label("n")
    statement = (
        sa.select(t.label.c.value, n)
        .join(t.memory, t.memory.c.id == t.label.c.memory_id)
        .join(t.namespace, t.namespace.c.id == t.memory.c.namespace_id)
        .where(t.label.c.kind == kind, t.memory.c.ended_us.is_(None))
        .group_by(t.label.c.value)
        .order_by(n.desc(), t.label.c.value)
        .limit(limit)
    )
    if namespaces:
        statement = statement.where(t.namespace.c.name.in_(namespaces))
    return [(value, int(n)) for value, n in db.execute(statement)]
