"""The queries of the research track: consents, named embeddings, metrics."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from arsenale_memory import tables as t
from arsenale_memory.reading import chunks


def consent(db: sa.Connection, feature: str) -> Any:
    """Return the newest consent to FEATURE, withdrawn or not; `None` when there was never one."""
    return db.execute(
        sa.select(t.consent)
        .where(t.consent.c.feature == feature)
        .order_by(t.consent.c.id.desc())
        .limit(1)
    ).first()


def metrics(db: sa.Connection, feature: str) -> dict[str, float]:
    """Return the mean of each metric of FEATURE, and how many values there are."""
    rows = db.execute(
        sa.select(t.metric.c.name, sa.func.avg(t.metric.c.value), sa.func.count())
        .where(t.metric.c.feature == feature)
        .group_by(t.metric.c.name)
    ).all()
    means = {str(name): round(float(mean), 4) for name, mean, _ in rows}
    return {**means, "uses": float(max(n for *_, n in rows))} if rows else {}


def spaces(db: sa.Connection) -> list[str]:
    """Return the names under which named embeddings are kept."""
    return list(db.scalars(sa.select(t.embedder.c.name).where(t.embedder.c.name.like("%#%"))))


def pending(
    db: sa.Connection, name: str, limit: int, after: int
) -> list[tuple[int, str, str, str]]:
    """Return parts (id, before, body, after) past the id AFTER without a vector called NAME."""
    known = sa.select(t.embedder.c.id).where(t.embedder.c.name == name).scalar_subquery()
    has = sa.select(t.vector.c.part_id).where(
        t.vector.c.embedder_id == known, t.vector.c.part_id == t.part.c.id
    )
    p = t.part.c
    statement = (
        sa.select(p.id, p.prev, p.body, p.next)
        .where(p.id > after, ~has.exists())
        .order_by(p.id)
        .limit(limit)
    )
    return [(row.id, row.prev, row.body, row.next) for row in db.execute(statement)]


def vectors_of_memories(
    db: sa.Connection, name: str, ids: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Return the vectors called NAME of the parts of memories, with the memories' row ids."""
    found: list[tuple[int, bytes]] = []
    for chunk in chunks(ids):
        rows = db.execute(
            sa.select(t.part.c.memory_id, t.vector.c.data)
            .join(t.vector, t.vector.c.part_id == t.part.c.id)
            .join(t.embedder, t.embedder.c.id == t.vector.c.embedder_id)
            .where(t.embedder.c.name == name, t.part.c.memory_id.in_(chunk))
        )
        found += [(int(id), bytes(data)) for id, data in rows]
    return found
