"""Statements on reservations and messages; each runs in a transaction of the store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from arsenale_coordinator.repository import globs
from arsenale_coordinator.rows import Change
from arsenale_core.store import Connection, Sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Who holds which paths, until when."""

    id: int
    agent: str
    pattern: str
    exclusive: bool
    reason: str
    session: str
    made_us: int
    until_ticks: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A path glob that an agent wants to hold."""

    project: str
    agent: str
    pattern: str
    exclusive: bool
    reason: str
    session: str


_COLUMNS = "id, agent, pattern, exclusive, reason, session, made_us, until_ticks, until_us"
_LIVE = (
    f"SELECT {_COLUMNS} FROM reservation WHERE project = :project AND released_us IS NULL"
    " AND until_ticks > :ticks"
)
_AT = Sql(f"{_LIVE} AND prefix = :prefix")
_BELOW = Sql(f"{_LIVE} AND substr(prefix, 1, :n) = :low")
_ALL = Sql(f"{_LIVE} ORDER BY until_ticks, id LIMIT :limit")
_HOLD = Sql(
    "INSERT INTO reservation (project, agent, pattern, prefix, exclusive, reason, session,"
    " made_us, until_ticks, until_us) VALUES (:project, :agent, :pattern, :prefix, :exclusive,"
    " :reason, :session, :now, :until_ticks, :until_us)"
    " ON CONFLICT (project, agent, pattern) DO UPDATE SET exclusive = excluded.exclusive,"
    " reason = excluded.reason, session = excluded.session,"
    " until_ticks = CASE WHEN reservation.released_us IS NULL AND"
    " reservation.until_ticks > excluded.until_ticks THEN reservation.until_ticks"
    " ELSE excluded.until_ticks END,"
    " until_us = CASE WHEN reservation.released_us IS NULL AND"
    " reservation.until_ticks > excluded.until_ticks THEN reservation.until_us"
    " ELSE excluded.until_us END, made_us = excluded.made_us, released_us = NULL"
)
_END_LATE = Sql(
    "UPDATE reservation SET released_us = until_us"
    " WHERE released_us IS NULL AND until_ticks <= :ticks"
)
_RELEASE = Sql(
    "UPDATE reservation SET released_us = :now WHERE project = :project AND agent = :agent"
    " AND pattern = :pattern AND released_us IS NULL RETURNING pattern"
)
_RELEASE_ALL = Sql(
    "UPDATE reservation SET released_us = :now WHERE project = :project AND agent = :agent"
    " AND released_us IS NULL RETURNING pattern"
)


def meeting(db: Connection, project: str, pattern: str, at_ticks: int) -> list[Reservation]:
    """Return the live reservations that can protect a path which PATTERN protects."""
    mine = globs.prefix(pattern)
    low = mine if mine.endswith("/") or not mine else f"{mine}/"
    found: dict[int, Reservation] = {}
    rows: list[tuple[Any, ...]] = []
    for above in globs.above(mine):
        rows += _AT.all(db, project=project, ticks=at_ticks, prefix=above)
    rows += _BELOW.all(db, project=project, ticks=at_ticks, low=low, n=len(low))
    may_meet = globs.meets(globs.covering(pattern))
    for row in rows:
        held = row[2]
        if row[0] not in found and (
            may_meet(held)
            or (globs.is_literal(held) and may_meet(globs.covering(held)))
            or held.startswith(f"{pattern}/")
            or pattern.startswith(f"{held}/")
        ):
            found[row[0]] = _reservation(row)
    return sorted(found.values(), key=lambda one: one.id)


def holding(
    db: Connection, project: str, paths: Iterable[str], at_ticks: int
) -> list[tuple[str, Reservation]]:
    """Return the live reservations that protect each of PATHS, the path beside it.

    A path is a name and no pattern; a pattern that is spelt as the path matches it, so that
    `app/[id]/page.tsx` holds the file of that name, and `app/[id]` what is in that folder.
    """
    known: dict[str, list[Reservation]] = {}

    def at(prefix: str) -> list[Reservation]:
        if prefix not in known:
            rows = _AT.all(db, project=project, ticks=at_ticks, prefix=prefix)
            known[prefix] = [_reservation(row) for row in rows]
        return known[prefix]

    return [
        (path, one)
        for path in paths
        for above in globs.above(path)
        for one in at(above)
        if f"{path}/".startswith(f"{one.pattern}/")
        or globs.matches(globs.covering(one.pattern), path)
    ]


def live(db: Connection, project: str, at_ticks: int, limit: int) -> list[Reservation]:
    """Return the live reservations of a project, the first to end first."""
    rows = _ALL.all(db, project=project, ticks=at_ticks, limit=limit)
    return [_reservation(row) for row in rows]


def hold(c: Change, wanted: Iterable[Wanted], for_us: int) -> None:
    """Hold paths for so many microseconds; what is held longer already stays so."""
    _END_LATE.run(c.db, ticks=c.ticks)
    for one in wanted:
        _HOLD.run(
            c.db, project=one.project, agent=one.agent, pattern=one.pattern,
            prefix=globs.prefix(one.pattern), exclusive=int(one.exclusive), reason=one.reason,
            session=one.session, now=c.now_us, until_ticks=c.ticks + for_us,
            until_us=c.now_us + for_us,
        )  # fmt: skip


def release(c: Change, project: str, agent: str, patterns: Sequence[str]) -> list[str]:
    """Let go of patterns, or of all where none is named; return those that were held."""
    who = {"project": project, "agent": agent, "now": c.now_us}
    if not patterns:
        return [pattern for (pattern,) in _RELEASE_ALL.all(c.db, **who)]
    rows = (row for one in patterns for row in _RELEASE.all(c.db, **who, pattern=one))
    return [pattern for (pattern,) in rows]


def _reservation(row: tuple[Any, ...]) -> Reservation:
    id, agent, pattern, exclusive, reason, session, made, ticks, until = row
    return Reservation(
        id=id, agent=agent, pattern=pattern, exclusive=bool(exclusive), reason=reason,
        session=session, made_us=made, until_ticks=ticks, until_us=until,
    )  # fmt: skip


# Messages.


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message as one of its readers has it."""

    id: int
    thread: int
    sender: str
    subject: str
    body: str
    at_us: int
    needs_ack: bool
    read_us: int | None
    acked_us: int | None


_LETTER = (
    "m.id, coalesce(m.thread, m.id), m.sender, m.subject, m.body, m.at_us, m.needs_ack, r.read_us,"
    " r.acked_us"
)
_KNOWN_KEY = Sql("SELECT id FROM message WHERE key = :key")
_SEND = Sql(
    "INSERT INTO message (project, thread, sender, subject, body, at_us, needs_ack, key)"
    " VALUES (:project, :thread, :sender, :subject, :body, :now, :needs_ack, :key) RETURNING id"
)
_ADDRESS = Sql("INSERT INTO recipient (message_id, agent) VALUES (:message, :agent)")
_INBOX = Sql(
    f"SELECT {_LETTER} FROM recipient r JOIN message m ON m.id = r.message_id"
    " WHERE r.agent = :agent AND (:unread = 0 OR r.read_us IS NULL)"
    " ORDER BY m.id DESC LIMIT :limit OFFSET :offset"
)
_THREAD = Sql(
    f"SELECT {_LETTER} FROM message m LEFT JOIN recipient r ON r.message_id = m.id"
    " AND r.agent = :agent WHERE (m.id = :thread OR m.thread = :thread)"
    " AND (m.sender = :agent OR EXISTS (SELECT 1 FROM recipient x JOIN message y"
    " ON y.id = x.message_id WHERE (y.id = :thread OR y.thread = :thread)"
    " AND (x.agent = :agent OR y.sender = :agent))) ORDER BY m.id LIMIT :limit OFFSET :offset"
)
_READ = Sql(
    "UPDATE recipient SET read_us = :now WHERE message_id = :id AND agent = :agent"
    " AND read_us IS NULL"
)
_ACK = Sql(
    "UPDATE recipient SET acked_us = coalesce(acked_us, :now), read_us = coalesce(read_us, :now)"
    " WHERE message_id = :id AND agent = :agent RETURNING message_id"
)
_UNREAD = Sql("SELECT count(*) FROM recipient WHERE agent = :agent AND read_us IS NULL")
_SENT = Sql(
    "SELECT m.id, m.subject, r.agent, r.read_us, r.acked_us FROM message m JOIN recipient r"
    " ON r.message_id = m.id WHERE m.sender = :agent AND m.needs_ack = 1 AND r.acked_us IS NULL"
    " ORDER BY m.id DESC LIMIT :limit"
)
_ORIGIN = Sql("SELECT id, coalesce(thread, id), sender, subject FROM message WHERE id = :id")
_PARTIES = Sql(
    "SELECT sender FROM message WHERE id = :thread OR thread = :thread UNION"
    " SELECT r.agent FROM recipient r JOIN message m ON m.id = r.message_id"
    " WHERE m.id = :thread OR m.thread = :thread"
)


def known_key(db: Connection, key: str) -> int | None:
    """Return the message that was sent under KEY."""
    return _KNOWN_KEY.value(db, key=key)


def send(
    c: Change, *, project: str, thread: int | None, sender: str, to: Sequence[str], subject: str,
    body: str, needs_ack: bool, key: str | None,
) -> int:  # fmt: skip
    """Send a message; return its number."""
    id = _SEND.value(
        c.db, project=project, thread=thread, sender=sender, subject=subject, body=body,
        now=c.now_us, needs_ack=int(needs_ack), key=key,
    )  # fmt: skip
    _ADDRESS.many(c.db, [{"message": id, "agent": agent} for agent in to])
    return id


def inbox(db: Connection, agent: str, limit: int, offset: int, *, unread: bool) -> list[Letter]:
    """Return what was sent to an agent, the newest first."""
    rows = _INBOX.all(db, agent=agent, unread=int(unread), limit=limit, offset=offset)
    return [_letter(row) for row in rows]


def thread(db: Connection, agent: str, id: int, limit: int, offset: int) -> list[Letter]:
    """Return a thread that an agent takes part in, from its beginning; empty for others."""
    rows = _THREAD.all(db, agent=agent, thread=id, limit=limit, offset=offset)
    return [_letter(row) for row in rows]


def read(c: Change, agent: str, ids: Iterable[int]) -> None:
    """Note that an agent has read messages."""
    for id in ids:
        _READ.run(c.db, id=id, agent=agent, now=c.now_us)


def acknowledge(c: Change, agent: str, id: int) -> bool:
    """Note that an agent has acknowledged a message; say whether it has it."""
    return _ACK.value(c.db, id=id, agent=agent, now=c.now_us) is not None


def unread(db: Connection, agent: str) -> int:
    """Return how many messages an agent has not read."""
    return int(_UNREAD.value(db, agent=agent))


def unacknowledged(db: Connection, agent: str, limit: int) -> list[tuple[int, str, str, bool]]:
    """Return what an agent waits to have acknowledged: message, subject, by whom, whether read."""
    rows = _SENT.all(db, agent=agent, limit=limit)
    return [(id, subject, by, read_us is not None) for id, subject, by, read_us, _ in rows]


def origin(db: Connection, id: int) -> tuple[int, str, str] | None:
    """Return the thread, the sender and the subject of a message."""
    row = _ORIGIN.first(db, id=id)
    return (int(row[1]), row[2], row[3]) if row else None


def parties(db: Connection, thread: int) -> list[str]:
    """Return everybody who wrote or got a message of a thread."""
    return sorted(name for (name,) in _PARTIES.all(db, thread=thread))


def _letter(row: tuple[Any, ...]) -> Letter:
    id, thread, sender, subject, body, at, needs_ack, read_us, acked_us = row
    return Letter(
        id=id, thread=thread, sender=sender, subject=subject, body=body, at_us=at,
        needs_ack=bool(needs_ack), read_us=read_us, acked_us=acked_us,
    )  # fmt: skip
