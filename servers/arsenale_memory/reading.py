"""The queries of memory. Each takes an open connection; rules live elsewhere."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from arsenale_memory import codec
from arsenale_memory import tables as t
from arsenale_memory.record import Filter, Link, Version

CHUNK = 500
"""Values in one `IN (...)`."""

_VERSION = [column for column in t.memory.c if column.name != "sha"]


def day_words(at_us: int) -> str:
    """Return the day of AT_US in the words that people look for it with."""
    day = datetime.fromtimestamp(at_us / 1e6, UTC)
    return f"{day.day} {day:%B %Y}"


# Memories.


def current(db: sa.Connection, uid: str) -> Version | None:
    """Return the current version of UID."""
    found = [version for version in versions(db, uids=[uid]) if version.ended_us is None]
    return found[0] if found else None


def history(db: sa.Connection, uid: str) -> list[Version]:
    """Return all versions of UID, the newest first."""
    return sorted(versions(db, uids=[uid]), key=lambda version: -version.number)


def numbers(db: sa.Connection, uids: Sequence[str]) -> set[tuple[str, int]]:
    """Return which versions (uid, number) there are of UIDS."""
    found: set[tuple[str, int]] = set()
    for chunk in chunks(uids):
        rows = db.execute(
            sa.select(t.memory.c.uid, t.memory.c.number).where(t.memory.c.uid.in_(chunk))
        )
        found |= {(row.uid, row.number) for row in rows}
    return found


def resolve(db: sa.Connection, handle: str) -> list[str]:
    """Return the uids that HANDLE may mean: a uid, or its last characters."""
    pattern = handle.lower().replace("%", "").replace("_", "")
    statement = sa.select(t.memory.c.uid).distinct().where(t.memory.c.uid.like(f"%{pattern}"))
    return list(db.scalars(statement.limit(3)))


def versions(
    db: sa.Connection, *, ids: Sequence[int] = (), uids: Sequence[str] = ()
) -> list[Version]:
    """Return versions by row id or by uid, in no order."""
    wanted: Sequence[int | str] = ids or uids
    column = t.memory.c.id if ids else t.memory.c.uid
    found: list[Version] = []
    for values in chunks(wanted):  # none for no values
        statement = sa.select(*_VERSION, t.namespace.c.name.label("namespace")).join(
            t.namespace, t.namespace.c.id == t.memory.c.namespace_id
        )
        rows = db.execute(statement.where(column.in_(values)))
        found += [codec.version(row, row.namespace) for row in rows]
    return found


def versions_by_id(db: sa.Connection, ids: Sequence[int]) -> dict[int, Version]:
    """Return versions by their row ids."""
    found: dict[int, Version] = {}
    for values in chunks(ids):
        statement = sa.select(*_VERSION, t.namespace.c.name.label("namespace")).join(
            t.namespace, t.namespace.c.id == t.memory.c.namespace_id
        )
        for row in db.execute(statement.where(t.memory.c.id.in_(values))):
            found[row.id] = codec.version(row, row.namespace)
    return found


def listed(
    db: sa.Connection, wanted: Filter, *, limit: int, offset: int = 0, by: str = "written"
) -> list[Version]:
    """Return versions that fit WANTED; the newest, the most important or the oldest first."""
    order = {
        "written": [t.memory.c.written_us.desc(), t.memory.c.id.desc()],
        "importance": [t.memory.c.importance.desc(), t.memory.c.id.desc()],
        "happened": [t.memory.c.valid_from_us, t.memory.c.id],
        "id": [t.memory.c.id],
    }[by]
    statement = (
        sa.select(*_VERSION, t.namespace.c.name.label("namespace"))
        .join(t.namespace, t.namespace.c.id == t.memory.c.namespace_id)
        .where(*conditions(wanted))
        .order_by(*order)
        .limit(limit)
        .offset(offset)
    )
    return [codec.version(row, row.namespace) for row in db.execute(statement)]


def count(db: sa.Connection, wanted: Filter) -> int:
    """Return how many versions fit WANTED."""
    statement = (
        sa.select(sa.func.count())
        .select_from(t.memory)
        .join(t.namespace, t.namespace.c.id == t.memory.c.namespace_id)
    )
    return int(db.scalar(statement.where(*conditions(wanted))) or 0)


def conditions(wanted: Filter) -> list[Any]:
    """Return WANTED as conditions on `memory` joined with `namespace`."""
    m = t.memory.c
    found: list[Any] = []
    if wanted.as_of_us is None:
        found.append(m.ended_us.is_(None))
    else:
        at = wanted.as_of_us
        found += [
            m.written_us <= at,
            sa.or_(m.ended_us.is_(None), m.ended_us > at),
            m.valid_from_us <= at,
            sa.or_(m.valid_to_us.is_(None), m.valid_to_us > at),
        ]
    if wanted.namespaces:
        found.append(t.namespace.c.name.in_(wanted.namespaces))
    for column, value in ((m.owner, wanted.owner), (m.session, wanted.session)):
        if value is not None:
            found.append(column == value)
    if wanted.kinds:
        found.append(m.kind.in_(wanted.kinds))
    if wanted.since_us is not None:
        found.append(m.valid_from_us >= wanted.since_us)
    if wanted.until_us is not None:
        found.append(m.valid_from_us < wanted.until_us)
    if wanted.min_importance:
        found.append(m.importance >= wanted.min_importance)
    if not wanted.include_recalled:
        found.append(m.recalled == 0)
    return found + _label_conditions(wanted)


def _label_conditions(wanted: Filter) -> list[Any]:
    kinds = (("tag", wanted.tags), ("domain", wanted.domains), ("entity", wanted.entities))
    return [
        t.memory.c.id.in_(
            sa.select(t.label.c.memory_id).where(
                t.label.c.kind == kind, t.label.c.value.in_([value.lower() for value in values])
            )
        )
        for kind, values in kinds
        if values
    ]


def matching_ids(db: sa.Connection, wanted: Filter) -> list[int]:
    """Return the row ids of all versions that fit WANTED, rising."""
    statement = (
        sa.select(t.memory.c.id)
        .join(t.namespace, t.namespace.c.id == t.memory.c.namespace_id)
        .where(*conditions(wanted))
        .order_by(t.memory.c.id)
    )
    return [int(id) for id in db.scalars(statement)]


def neighbours(db: sa.Connection, version: Version, n: int) -> tuple[list[Version], list[Version]]:
    """Return up to N memories before and N after VERSION in its session, in order."""
    if version.session is None:
        return [], []
    namespace_id = sa.select(t.namespace.c.id).where(t.namespace.c.name == version.namespace)
    first = t.memory.alias()
    place = sa.select(sa.func.min(first.c.id)).where(first.c.uid == version.uid).scalar_subquery()
    base = sa.select(t.memory.c.uid, sa.func.min(t.memory.c.id).label("place")).where(
        t.memory.c.namespace_id.in_(namespace_id), t.memory.c.session == version.session
    )
    places = base.group_by(t.memory.c.uid).subquery()
    before = sa.select(places.c.uid).where(places.c.place < place)
    after = sa.select(places.c.uid).where(places.c.place > place)
    sides = (
        list(db.scalars(before.order_by(places.c.place.desc()).limit(n)))[::-1],
        list(db.scalars(after.order_by(places.c.place).limit(n))),
    )
    known = versions(db, uids=[uid for side in sides for uid in side])
    found = {v.uid: v for v in known if v.ended_us is None}
    left, right = ([found[uid] for uid in side if uid in found] for side in sides)
    return left, right


def links(db: sa.Connection, uid: str) -> list[Link]:
    """Return the links from and to UID."""
    rows = db.execute(
        sa.select(t.link).where(sa.or_(t.link.c.source == uid, t.link.c.target == uid))
    )
    return [Link(source=r.source, target=r.target, kind=r.kind, score=r.score) for r in rows]


# Parts.


def last_part(db: sa.Connection, namespace_id: int, session: str) -> dict[str, Any] | None:
    """Return the part with which SESSION ends for now."""
    return _one_part(
        db,
        t.memory.c.namespace_id == namespace_id,
        t.memory.c.session == session,
        t.memory.c.ended_us.is_(None),
    )


def part_before(db: sa.Connection, namespace_id: int, version: Version) -> dict[str, Any] | None:
    """Return the part before the first version of the memory that VERSION revises."""
    place = sa.select(sa.func.min(t.memory.c.id)).where(t.memory.c.uid == version.uid)
    return _one_part(
        db,
        t.memory.c.namespace_id == namespace_id,
        t.memory.c.session == version.session,
        t.memory.c.ended_us.is_(None),
        t.memory.c.id < place.scalar_subquery(),
    )


def _one_part(db: sa.Connection, *where: Any) -> dict[str, Any] | None:
    memory = sa.select(t.memory.c.id).where(*where).order_by(t.memory.c.id.desc()).limit(1)
    row = db.execute(
        sa.select(t.part.c.id, t.part.c.body)
        .where(t.part.c.memory_id == memory.scalar_subquery())
        .order_by(t.part.c.n.desc())
        .limit(1)
    ).first()
    return {"id": row.id, "body": row.body} if row else None


@dataclass(frozen=True, slots=True)
class PartText:
    """What the full-text index knows of one part."""

    memory_id: int
    start: int
    body: str
    prev: str
    next: str
    subject: str


def texts(db: sa.Connection, part_ids: Sequence[int]) -> dict[int, PartText]:
    """Return the texts of parts by their ids."""
    p = t.part.c
    columns = (p.id, p.memory_id, p.start, p.body, p.prev, p.next, p.subject)
    found: dict[int, PartText] = {}
    for ids in chunks(part_ids):
        for row in db.execute(sa.select(*columns).where(p.id.in_(ids))).all():
            found[row[0]] = PartText(*row[1:])
    return found


def keyword(
    db: sa.Connection, query: str, weights: Sequence[float], limit: int, ids: Sequence[int] = ()
) -> list[tuple[int, float]]:
    """Return the LIMIT parts (id, score) that the full-text QUERY finds, best first.

    QUERY is in the language of FTS5 or of `to_tsquery`; `words.py` makes both. WEIGHTS are one for
    each of `tables.COLUMNS`, for BM25. When IDS are given, only these parts are looked at.
    """
    if db.dialect.name == "sqlite":
        numbers = ", ".join(str(float(weight)) for weight in weights)
        only = " AND rowid IN (SELECT value FROM json_each(:ids))" if ids else ""
        sql = (
            f"SELECT rowid, -bm25(part_fts, {numbers}) AS score FROM part_fts"
            f" WHERE part_fts MATCH :query{only} ORDER BY score DESC LIMIT :limit"
        )
        given: dict[str, Any] = {"query": query, "limit": limit}
        if ids:
            given["ids"] = "[" + ",".join(map(str, ids)) + "]"
        return [(id, score) for id, score in db.execute(sa.text(sql), given).all()]
    spaces, _, words = query.partition("\n")
    only = " AND id = ANY(:ids)" if ids else ""
    sql = (
        "SELECT id, ts_rank_cd('{0.1, 0.5, 0.9, 1.0}', words, q, 1) AS score"
        " FROM part, to_tsquery('english', :words) AS q"
        f" WHERE words @@ q AND space = ANY(:spaces){only} ORDER BY score DESC, id LIMIT :limit"
    )
    given = {"words": words, "spaces": spaces.split(), "limit": limit}
    if ids:
        given["ids"] = list(ids)
    return [(int(id), float(score)) for id, score in db.execute(sa.text(sql), given)]


def frequency(db: sa.Connection, query: str, limit: int) -> int:
    """Return how many parts the full-text QUERY matches; it stops counting past LIMIT."""
    if db.dialect.name == "sqlite":
        sql = "SELECT 1 FROM part_fts WHERE part_fts MATCH :query LIMIT :most"
        given: dict[str, Any] = {"query": query, "most": limit + 1}
    else:
        spaces, _, words = query.partition("\n")
        sql = "SELECT 1 FROM part WHERE words @@ to_tsquery('english', :words)"
        sql += " AND space = ANY(:spaces) LIMIT :most"
        given = {"words": words, "spaces": spaces.split(), "most": limit + 1}
    return int(db.scalar(sa.text(f"SELECT count(*) FROM ({sql}) AS found"), given) or 0)


# What followers read.


SHELF_COLUMNS = (
    t.part.c.id, t.part.c.memory_id, t.part.c.n, sa.func.length(t.part.c.body),
    t.memory.c.session, t.memory.c.subject, t.memory.c.importance, t.memory.c.written_us,
    t.memory.c.ended_us, t.memory.c.valid_from_us, t.memory.c.valid_to_us, t.memory.c.recalled,
)  # fmt: skip


def shelf(
    db: sa.Connection, namespace_id: int, memory_ids: Sequence[int] | None = None
) -> list[Any]:
    """Return the parts of a namespace, or of MEMORY_IDS, as `SHELF_COLUMNS`, by rising id."""
    statement = sa.select(*SHELF_COLUMNS).join(t.memory, t.memory.c.id == t.part.c.memory_id)
    if memory_ids is None:
        inside = t.part.c.namespace_id == namespace_id
        return list(db.execute(statement.where(inside).order_by(t.part.c.id)))
    rows: list[Any] = []  # without the namespace: SQLite would go through all of it
    for ids in chunks(sorted(memory_ids)):
        rows += db.execute(statement.where(t.part.c.memory_id.in_(ids)))
    return sorted(rows, key=lambda row: row[0])


def vectors(
    db: sa.Connection, embedder: str, namespace_id: int, memory_ids: Sequence[int] | None = None
) -> list[tuple[int, bytes]]:
    """Return the vectors (part id, float16 bytes) of a namespace, or of MEMORY_IDS."""
    if memory_ids is None:
        statement = (
            sa.select(t.vector.c.part_id, t.vector.c.data)
            .join(t.part, t.part.c.id == t.vector.c.part_id)
            .join(t.embedder, t.embedder.c.id == t.vector.c.embedder_id)
            .where(t.embedder.c.name == embedder, t.part.c.namespace_id == namespace_id)
        )
        return [(int(id), bytes(data)) for id, data in db.execute(statement)]
    parts: list[int] = []  # by their keys: in one statement SQLite goes through the embedder's
    for ids in chunks(sorted(memory_ids)):
        parts += db.scalars(sa.select(t.part.c.id).where(t.part.c.memory_id.in_(ids)))
    return list(vectors_of(db, embedder, parts).items())


def vectors_of(db: sa.Connection, embedder: str, part_ids: Sequence[int]) -> dict[int, bytes]:
    """Return the vectors of parts by their ids."""
    wanted = sa.select(t.embedder.c.id).where(t.embedder.c.name == embedder).scalar_subquery()
    found: dict[int, bytes] = {}
    for ids in chunks(part_ids):
        statement = sa.select(t.vector.c.part_id, t.vector.c.data).where(
            t.vector.c.embedder_id == wanted, t.vector.c.part_id.in_(ids)
        )
        found.update({int(id): bytes(data) for id, data in db.execute(statement)})
    return found


def changes(db: sa.Connection, since: int) -> tuple[int, list[tuple[int, int]] | None]:
    """Return the newest change and what changed after SINCE (namespace id, memory id).

    `None` for what changed when it is not known that far back.
    """
    last, first = (
        sa.select(end(t.change.c.seq)).scalar_subquery() for end in (sa.func.max, sa.func.min)
    )  # each by itself: both in one go read the whole table
    newest, oldest = db.execute(sa.select(last, first)).one()
    if newest is None or newest == since:
        return newest or 0, []
    if since + 1 < oldest or newest < since:
        return newest, None
    rows = db.execute(
        sa.select(t.change.c.namespace_id, t.change.c.memory_id).where(t.change.c.seq > since)
    )
    return newest, sorted({(row.namespace_id, row.memory_id) for row in rows})


def pending(db: sa.Connection, embedder: str, limit: int, after: int = 0) -> list[tuple[int, str]]:
    """Return parts (id, body) past the id AFTER that have no vector of EMBEDDER, by rising id."""
    known = sa.select(t.embedder.c.id).where(t.embedder.c.name == embedder).scalar_subquery()
    has = sa.select(t.vector.c.part_id).where(
        t.vector.c.embedder_id == known, t.vector.c.part_id == t.part.c.id
    )
    statement = (
        sa.select(t.part.c.id, t.part.c.body)
        .where(t.part.c.id > after, ~has.exists())
        .order_by(t.part.c.id)
        .limit(limit)
    )
    return [(row.id, row.body) for row in db.execute(statement)]


def newest_part(db: sa.Connection) -> int:
    """Return the highest id of a part; 0 when there is none."""
    return int(db.scalar(sa.select(sa.func.max(t.part.c.id))) or 0)


def pending_replies(
    db: sa.Connection, space: str, limit: int, after: int = 0
) -> list[tuple[int, str, str]]:
    """Return parts (id, before, body) that follow another in a session and have no vector of SPACE.

    They have ids past AFTER and come by rising id.
    """
    known = sa.select(t.embedder.c.id).where(t.embedder.c.name == space).scalar_subquery()
    has = sa.select(t.vector.c.part_id).where(
        t.vector.c.embedder_id == known, t.vector.c.part_id == t.part.c.id
    )
    p = t.part.c
    statement = (
        sa.select(p.id, p.prev, p.body)
        .where(p.id > after, p.n == 0, p.prev != "", ~has.exists())
        .order_by(p.id)
        .limit(limit)
    )
    return [(row.id, row.prev, row.body) for row in db.execute(statement)]


def namespace_ids(db: sa.Connection, names: Iterable[str] = ()) -> dict[str, int]:
    """Return the ids of namespaces by name; of all when no NAMES are given."""
    statement = sa.select(t.namespace.c.name, t.namespace.c.id)
    wanted = list(names)
    if wanted:
        statement = statement.where(t.namespace.c.name.in_(wanted))
    return {row.name: row.id for row in db.execute(statement)}


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Give VALUES in stretches that fit into one `IN (...)`."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
