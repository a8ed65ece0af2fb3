"""The queries of telemetry: from the sums where they suffice, from calls and events elsewhere."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import sqlalchemy as sa

from arsenale_telemetry import tables as t
from arsenale_telemetry.histogram import EXACT_UP_TO, exact_quantile_us, quantile_us
from arsenale_telemetry.window import LAST_DAY, Window

Query: TypeAlias = sa.Select[*tuple[Any, ...]]


@dataclass(slots=True, kw_only=True)
class Group:
    """The sums of one tool or project over a window; durations in microseconds."""

    name: str
    calls: int
    errors: int
    interrupted: int
    timed: int
    total_us: int
    max_us: int
    input_bytes: int
    output_bytes: int
    buckets: dict[int, int] = field(default_factory=dict[int, int])
    durations_us: list[int] = field(default_factory=list[int])

    def quantile_us(self, q: float) -> float | None:
        """Return the Q-quantile: exact where all durations are known, and never above the longest.

        The middle of the last bucket may lie above all that fell into it.
        """
        if len(self.durations_us) == self.timed:
            return exact_quantile_us(self.durations_us, q)
        found = quantile_us(self.buckets, q)
        return None if found is None else min(found, float(self.max_us))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which calls a report is about: a window, and optionally one tool or one project."""

    window: Window
    tool: str | None = None
    project: str | None = None


_SUMS = ("calls", "errors", "interrupted", "timed", "total_us", "input_bytes", "output_bytes")


def groups(db: sa.Connection, scope: Scope, by: str, *, buckets: bool) -> list[Group]:
    """Return the sums by BY (`tool`, `project` or `period`), unordered; with latency BUCKETS."""
    key = {"tool": t.usage.c.tool_id, "project": t.usage.c.project_id, "period": t.usage.c.period}
    sums = [_sum(t.usage.c[name]).label(name) for name in _SUMS]
    query = (
        sa.select(key[by].label("id"), sa.func.max(t.usage.c.max_us).label("max_us"), *sums)
        .where(_in_scope(t.usage, scope))
        .group_by(key[by])
    )
    rows = db.execute(query).mappings().all()
    names = _names(db, by, [row["id"] for row in rows])
    found = {
        row["id"]: Group(name=names[row["id"]], **{k: v for k, v in row.items() if k != "id"})
        for row in rows
    }
    if buckets:
        _add_buckets(db, scope, by, found)
        _add_durations(db, scope, by, found)
    return list(found.values())


def _add_buckets(db: sa.Connection, scope: Scope, by: str, found: dict[Any, Group]) -> None:
    c = t.latency.c
    key = {"tool": c.tool_id, "project": c.project_id, "period": c.period}[by]
    n = _sum(c.n)
    query = sa.select(key, c.bucket, n).where(_in_scope(t.latency, scope)).group_by(key, c.bucket)
    for id, bucket, n in db.execute(query):
        if id in found:
            found[id].buckets[bucket] = n


def _add_durations(db: sa.Connection, scope: Scope, by: str, found: dict[Any, Group]) -> None:
    """Add the durations of groups that have few; calls past the retention are gone."""
    few = [id for id, group in found.items() if 0 < group.timed <= EXACT_UP_TO]
    keys = {"tool": t.call.c.tool_id, "project": t.call.c.project_id}
    if by not in keys or not few:
        return
    calls = _calls(scope).with_only_columns(keys[by], t.call.c.duration_us)
    query = calls.where(t.call.c.duration_us.is_not(None) & keys[by].in_(few))
    for id, duration_us in db.execute(query.order_by(t.call.c.duration_us)):
        found[id].durations_us.append(duration_us)


def _in_scope(table: sa.Table, scope: Scope) -> sa.ColumnElement[bool]:
    window = scope.window
    where = (table.c.grain == window.grain) & table.c.period.between(
        window.period, window.last_period
    )
    if scope.tool is not None:
        ids = sa.select(t.tool.c.id).where(t.tool.c.name == scope.tool)
        where &= table.c.tool_id.in_(ids)
    if scope.project is not None:
        ids = sa.select(t.project.c.id).where(t.project.c.path == scope.project)
        where &= table.c.project_id.in_(ids)
    return where


def _names(db: sa.Connection, by: str, ids: list[Any]) -> dict[Any, str]:
    if by == "period":
        return {id: str(id) for id in ids}
    table, column = (t.tool, t.tool.c.name) if by == "tool" else (t.project, t.project.c.path)
    return dict(_pairs(db, sa.select(table.c.id, column)))


def sessions(db: sa.Connection, window: Window, limit: int, offset: int) -> list[dict[str, Any]]:
    """Return the sessions seen in WINDOW, busiest first; their figures are of the whole session."""
    c = t.session.c
    busiest = (
        sa.select(t.session)
        .where((c.last_us >= window.start_us) & (c.first_us < window.until_us))
        .order_by(c.calls.desc(), c.last_us.desc())
        .limit(limit)
        .offset(offset)
    )
    rows = _rows(db, busiest)
    for row in rows:
        mine = t.call.c.session_id == row["id"]
        totals = sa.select(_sum(t.call.c.duration_us), sa.func.max(t.call.c.duration_us))
        row["total_us"], row["max_us"] = db.execute(totals.where(mine)).one()
    return rows


def latest_sessions(
    db: sa.Connection, scope: Scope, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many sessions were seen in SCOPE, and the LIMIT newest, with their projects."""
    c = t.session.c
    query = (
        sa.select(t.session, t.project.c.path.label("project"))
        .join(t.project, t.project.c.id == c.project_id)
        .where(c.last_us >= scope.window.start_us)
    )
    if scope.project is not None:
        query = query.where(t.project.c.path == scope.project)
    total = sa.select(sa.func.count()).select_from(query.subquery())
    newest = query.order_by(c.first_us.desc(), c.id.desc()).limit(limit)
    return db.execute(total).scalar_one(), _rows(db, newest)


def session_count(db: sa.Connection, window: Window) -> int:
    """Return how many sessions were seen in WINDOW."""
    c = t.session.c
    seen = (c.last_us >= window.start_us) & (c.first_us < window.until_us)
    return db.execute(sa.select(sa.func.count()).select_from(t.session).where(seen)).scalar_one()


def kinds(db: sa.Connection, first_day: int, last_day: int = LAST_DAY) -> dict[str, int]:
    """Return how many events of each kind came from FIRST_DAY to LAST_DAY, most first."""
    n = _sum(t.kinds.c.n)
    days = t.kinds.c.day.between(first_day, last_day)
    query = sa.select(t.kinds.c.kind, n).where(days).group_by(t.kinds.c.kind)
    return dict(_pairs(db, query.order_by(n.desc())))


def counters(db: sa.Connection) -> dict[str, int]:
    """Return every counter by name."""
    return dict(_pairs(db, sa.select(t.counter.c.name, t.counter.c.n)))


def slowest(db: sa.Connection, scope: Scope, limit: int) -> list[dict[str, Any]]:
    """Return the LIMIT slowest calls, slowest first."""
    c = t.call.c
    query = _calls(scope).where(c.duration_us.is_not(None))
    return _rows(db, query.order_by(c.duration_us.desc()).limit(limit))


def repeated(
    db: sa.Connection, scope: Scope, limit: int, newest: int, *, in_session: bool = False
) -> list[dict[str, Any]]:
    """Return the inputs asked for most often among the NEWEST calls of the scope, most first.

    With IN_SESSION only calls of one session count together, and the most costly come first.
    """
    recent = _calls(scope).order_by(t.call.c.ended_us.desc()).limit(newest).subquery()
    n = sa.func.count().label("calls")
    query = (
        sa.select(
            recent.c.tool,
            sa.func.max(recent.c.subject).label("subject"),
            n,
            _sum(sa.case((recent.c.status == "error", 1), else_=0)).label("errors"),
            sa.func.coalesce(_sum(recent.c.duration_us), 0).label("total_us"),
        )
        .where(recent.c.input_sha.is_not(None))
        .group_by(recent.c.tool, recent.c.input_sha, *([recent.c.session] if in_session else []))
        .having(n > 1)
        .order_by(*([] if in_session else [n.desc()]), sa.text("total_us DESC"))
        .limit(limit)
    )
    return _rows(db, query)


def unfinished(db: sa.Connection, scope: Scope, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many calls began in SCOPE without an end, and the oldest LIMIT of them."""
    started_us = t.call.c.started_us
    inside = (started_us >= scope.window.start_us) & (started_us < scope.window.until_us)
    open_calls = t.call.c.status.is_(None) & inside
    if scope.tool is not None:
        tools = sa.select(t.tool.c.id).where(t.tool.c.name == scope.tool)
        open_calls &= t.call.c.tool_id.in_(tools)
    if scope.project is not None:
        projects = sa.select(t.project.c.id).where(t.project.c.path == scope.project)
        open_calls &= t.call.c.project_id.in_(projects)
    n = db.execute(sa.select(sa.func.count()).select_from(t.call).where(open_calls)).scalar_one()
    query = (
        sa.select(t.call.c.started_us, t.call.c.subject, t.tool.c.name.label("tool"))
        .join(t.tool, t.tool.c.id == t.call.c.tool_id)
        .where(open_calls)
        .order_by(t.call.c.started_us)
        .limit(limit)
    )
    return n, _rows(db, query)


def _calls(scope: Scope) -> Query:
    """Return a query for the ended calls of SCOPE with their tool's and session's names."""
    query = (
        sa.select(
            t.call.c.duration_us, t.call.c.ended_us, t.call.c.status, t.call.c.subject,
            t.call.c.input_sha, t.tool.c.name.label("tool"), t.session.c.name.label("session"),
        )
        .join(t.tool, t.tool.c.id == t.call.c.tool_id)
        .join(t.session, t.session.c.id == t.call.c.session_id)
        .where(t.call.c.ended_us >= scope.window.start_us)
        .where(t.call.c.ended_us < scope.window.until_us)
    )  # fmt: skip
    if scope.tool is not None:
        query = query.where(t.tool.c.name == scope.tool)
    if scope.project is not None:
        project = sa.select(t.project.c.id).where(t.project.c.path == scope.project)
        query = query.where(t.call.c.project_id.in_(project))
    return query


def find_session(db: sa.Connection, name: str) -> dict[str, Any] | None:
    """Return the session called NAME or beginning so; `latest` is the one last seen."""
    query = sa.select(t.session, t.project.c.path.label("project")).join(
        t.project, t.project.c.id == t.session.c.project_id
    )
    if name != "latest":
        query = query.where(t.session.c.name.startswith(name, autoescape=True))
    row = db.execute(query.order_by(t.session.c.last_us.desc()).limit(1)).mappings().first()
    return dict(row) if row else None


def recent_sessions(db: sa.Connection, limit: int) -> list[str]:
    """Return the names of the sessions last seen, newest first."""
    query = sa.select(t.session.c.name).order_by(t.session.c.last_us.desc()).limit(limit)
    return list(db.execute(query).scalars())


def timeline(
    db: sa.Connection, session_id: int, limit: int, offset: int
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many items a session has and a page of them: its calls, and its other events."""
    c, e = t.call.c, t.event.c
    calls = (
        sa.select(
            sa.func.coalesce(c.started_us, c.ended_us - sa.func.coalesce(c.duration_us, 0)).label(
                "at_us"
            ),
            t.tool.c.name.label("what"), c.subject, c.status, c.duration_us, c.agent_id, c.error,
            sa.literal(1).label("is_call"),
        )
        .join(t.tool, t.tool.c.id == c.tool_id)
        .where(c.session_id == session_id)
    )  # fmt: skip
    points = sa.select(
        e.at_us, e.kind.label("what"), e.subject, e.status, e.duration_us, e.agent_id, e.error,
        sa.literal(0).label("is_call"),
    ).where((e.session_id == session_id) & e.kind.not_in(_CALL_KINDS))  # fmt: skip
    items = sa.union_all(calls, points).subquery()
    total = db.execute(sa.select(sa.func.count()).select_from(items)).scalar_one()
    page = sa.select(items).order_by(items.c.at_us, items.c.is_call).limit(limit).offset(offset)
    return total, _rows(db, page)


_CALL_KINDS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")


EVERYTHING = Window(
    label="all", grain=t.EVER, period=0, start_us=0, end_us=0, last_period=0, last_day=LAST_DAY,
    until_us=2**63 - 1,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What a search asks for; `None` asks nothing."""

    window: Window = EVERYTHING
    text: str | None = None
    kind: str | None = None
    tool: str | None = None
    status: str | None = None
    session: str | None = None
    before: tuple[int, int] | None = None
    after: int | None = None
    until: int | None = None
    """Only events whose ids, which count in the order of storing, lie above `after`, up to this."""


def search(db: sa.Connection, wanted: EventFilter, limit: int) -> list[dict[str, Any]]:
    """Return at most LIMIT events that fit, newest first."""
    c = t.event.c
    query = (
        sa.select(
            c.id, c.at_us, c.kind, c.status, c.duration_us, c.subject, c.error, c.body,
            t.tool.c.name.label("tool"), t.session.c.name.label("session"),
        )
        .outerjoin(t.tool, t.tool.c.id == c.tool_id)
        .join(t.session, t.session.c.id == c.session_id)
        .where((c.at_us >= wanted.window.start_us) & (c.at_us < wanted.window.until_us))
    )  # fmt: skip
    if wanted.text:
        fits = [
            column.icontains(wanted.text, autoescape=True)
            for column in (c.subject, c.error, c.body)
        ]
        query = query.where(sa.or_(*fits))
    if wanted.before is not None:
        query = query.where(sa.tuple_(c.at_us, c.id) < wanted.before)
    if wanted.after is not None:
        query = query.where(c.id > wanted.after)
    if wanted.until is not None:
        query = query.where(c.id <= wanted.until)
    for column, value in ((c.kind, wanted.kind), (c.status, wanted.status)):
        query = query if value is None else query.where(column == value)
    if wanted.tool:
        query = query.where(t.tool.c.name == wanted.tool)
    if wanted.session:
        query = query.where(t.session.c.name.startswith(wanted.session, autoescape=True))
    return _rows(db, query.order_by(c.at_us.desc(), c.id.desc()).limit(limit))


def last_event_id(db: sa.Connection) -> int:
    """Return the id of the event stored last; 0 in an empty store."""
    return db.execute(sa.select(sa.func.coalesce(sa.func.max(t.event.c.id), 0))).scalar_one()


def last_event_us(db: sa.Connection) -> int | None:
    """Return when the newest event happened; `None` in an empty store."""
    return db.execute(sa.select(sa.func.max(t.event.c.at_us))).scalar()


def totals_by_tool(db: sa.Connection) -> list[tuple[str, int, int, int, int]]:
    """Return `(tool, calls, errors, interrupted, total_us)` over all time, for the counters."""
    c = t.usage.c
    sums = [_sum(x) for x in (c.calls, c.errors, c.interrupted, c.total_us)]
    query = (
        sa.select(t.tool.c.name, *sums)
        .join(t.tool, t.tool.c.id == c.tool_id)
        .where(c.grain == t.EVER)
        .group_by(t.tool.c.name)
    )
    rows = cast("Sequence[Sequence[Any]]", db.execute(query).all())
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


def buckets_by_tool(db: sa.Connection) -> dict[str, dict[int, int]]:
    """Return how many durations each bucket holds over all time, by tool."""
    c = t.latency.c
    query = (
        sa.select(t.tool.c.name, c.bucket, _sum(c.n))
        .join(t.tool, t.tool.c.id == c.tool_id)
        .where(c.grain == t.EVER)
        .group_by(t.tool.c.name, c.bucket)
    )
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for name, bucket, n in db.execute(query):
        found[name][bucket] = n
    return found


def active_sessions(db: sa.Connection, since_us: int) -> int:
    """Return how many sessions had an event since SINCE_US and have not ended."""
    c = t.session.c
    alive = (c.last_us >= since_us) & c.ended_us.is_(None)
    return db.execute(sa.select(sa.func.count()).select_from(t.session).where(alive)).scalar_one()


def _pairs(db: sa.Connection, query: Query) -> list[tuple[Any, Any]]:
    return [(row[0], row[1]) for row in db.execute(query)]


def _sum(column: Any) -> sa.ColumnElement[int]:
    """Return the sum of COLUMN as an integer: PostgreSQL makes a sum of integers a decimal."""
    return sa.cast(sa.func.sum(column), sa.BigInteger)


def _rows(db: sa.Connection, query: Query) -> list[dict[str, Any]]:
    return [dict(row) for row in db.execute(query).mappings()]
