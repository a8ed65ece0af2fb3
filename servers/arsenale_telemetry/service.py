"""What the telemetry server does, apart from how it is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, tzinfo
from operator import itemgetter
from typing import Any

import orjson
from anyio import to_thread

from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_telemetry import bottlenecks, reading
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.histogram import EXACT_UP_TO, MAX_RELATIVE_ERROR
from arsenale_telemetry.models import (
    BottleneckReport,
    Detail,
    FoundEvent,
    FoundEvents,
    GroupBy,
    Health,
    HotArgument,
    LatencyReport,
    LatencyRow,
    SessionLine,
    SessionList,
    SessionTimeline,
    SlowCall,
    Span,
    TimelineItem,
    UsageReport,
    UsageRow,
)
from arsenale_telemetry.rollup import Days
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore
from arsenale_telemetry.tables import DAY
from arsenale_telemetry.window import Window, iso, parse

EMPTY_HINT = (
    "No events yet. Run `arsenale init` in the project, start a new session of the assistant, and "
    "call a tool; `arsenale doctor` says what is missing."
)
NOTHING_HINT = "Nothing fits in this span: widen `since` (7d, 30d, all) or drop a filter."

NEWS_AT_ONCE = 10_000
"""Events that a follower gets at most in one look; of more only the newest."""

REPEATS_AMONG = 20_000
"""Hot arguments are looked for among so many of the newest calls of the span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """The store, the drain that fills it, and the clock, held together."""

    store: TelemetryStore
    spool: Spool
    drain: Drain
    zone: tzinfo | None
    retention_days: int
    now: Callable[[], float]

    async def usage(
        self,
        since: str,
        group_by: GroupBy,
        *,
        tool: str | None,
        project: str | None,
        limit: int,
        offset: int,
    ) -> UsageReport:
        """Report how much was used, by GROUP_BY."""
        window = self._window(since)
        scope = reading.Scope(window=window, tool=tool, project=project)
        return await to_thread.run_sync(self._usage, scope, group_by, limit, offset)

    async def latency(
        self, since: str, *, by: str, tool: str | None, project: str | None, slowest: int
    ) -> LatencyReport:
        """Report how long calls took and how they failed, by tool or project."""
        scope = reading.Scope(window=self._window(since), tool=tool, project=project)
        return await to_thread.run_sync(self._latency, scope, by, slowest)

    async def bottlenecks(
        self, since: str, limit: int, project: str | None = None
    ) -> BottleneckReport:
        """Report what costs time, with the figures that show it."""
        scope = reading.Scope(window=self._window(since), project=project)
        return await to_thread.run_sync(self._bottlenecks, scope, limit)

    async def sessions(self, since: str, project: str | None, limit: int) -> SessionList:
        """List the sessions seen since then, newest first."""
        scope = reading.Scope(window=self._window(since), project=project)
        return await to_thread.run_sync(self._sessions, scope, limit)

    async def timeline(
        self, session: str, *, detail: Detail, limit: int, offset: int
    ) -> SessionTimeline:
        """Report one session in order of time; `latest`, a session id or its beginning.

        Raises:
            NotFoundError: No session begins so.
        """
        return await to_thread.run_sync(self._timeline, session, detail, limit, offset)

    async def search(
        self,
        *,
        since: str,
        text: str | None,
        kind: str | None,
        tool: str | None,
        status: str | None,
        session: str | None,
        before: str | None,
        detail: Detail,
        limit: int,
    ) -> FoundEvents:
        """Find stored events, newest first."""
        wanted = reading.EventFilter(
            window=self._window(since),
            text=text,
            kind=kind,
            tool=tool,
            status=status,
            session=session,
            before=_cursor(before) if before else None,
        )
        return await to_thread.run_sync(self._search, wanted, detail, limit)

    async def recent(
        self, since: str, wanted: reading.EventFilter, limit: int
    ) -> tuple[int, FoundEvents]:
        """Return a mark for `news`, and the newest LIMIT events before it that fit."""
        filter = replace(wanted, window=self._window(since))
        return await to_thread.run_sync(self._recent, filter, limit)

    async def news(self, mark: int, wanted: reading.EventFilter) -> tuple[int, list[FoundEvent]]:
        """Return a new mark, and the events stored between MARK and it that fit, oldest first."""
        return await to_thread.run_sync(self._news, mark, wanted)

    async def health(self) -> Health:
        """Report whether events arrive, and what was lost on the way."""
        return await to_thread.run_sync(self._health)

    async def forget_old(self) -> int:
        """Delete raw events and calls past the retention; return how many rows went."""
        before_us = int((self.now() - self.retention_days * 86_400) * 1e6)
        total = 0
        while gone := await to_thread.run_sync(self.store.forget_before, before_us):
            total += gone
        return total

    def _window(self, since: str) -> Window:
        return parse(since, self.now(), self.zone)

    def _span(self, window: Window) -> Span:
        return Span(start=iso(window.start_us), end=iso(window.end_us), label=window.label)

    def _usage(
        self, scope: reading.Scope, group_by: GroupBy, limit: int, offset: int
    ) -> UsageReport:
        with self.store.reading() as db:
            if group_by == "event":
                first = Days(self.zone)(scope.window.start_us)
                kinds = reading.kinds(db, first, scope.window.last_day)
                rows = [UsageRow(name=kind, calls=n) for kind, n in kinds.items()]
                found, more = rows[offset : offset + limit], max(0, len(rows) - offset - limit)
                total = UsageRow(name="all", calls=sum(row.calls for row in rows))
            elif group_by == "session":
                listed = reading.sessions(db, scope.window, limit, offset)
                found = [_session_row(row) for row in listed]
                more = max(0, reading.session_count(db, scope.window) - offset - limit)
                total = _total(reading.groups(db, scope, "tool", buckets=False))
            else:
                by = "period" if group_by == "day" else group_by
                groups = self._sorted(
                    reading.groups(db, _whole_days(scope, by, self), by, buckets=False), by
                )
                found = [_usage_row(group, by) for group in groups[offset : offset + limit]]
                more = max(0, len(groups) - offset - limit)
                total = _total(groups)
            hint = None if found else self._hint(db)
        return UsageReport(
            span=self._span(scope.window),
            group_by=group_by,
            rows=found,
            total=total,
            more=more,
            hint=hint,
        )

    @staticmethod
    def _sorted(groups: list[reading.Group], by: str) -> list[reading.Group]:
        if by == "period":
            return sorted(groups, key=lambda group: -int(group.name))
        return sorted(groups, key=lambda group: (-group.calls, group.name))

    def _latency(self, scope: reading.Scope, by: str, slowest: int) -> LatencyReport:
        with self.store.reading() as db:
            groups = reading.groups(db, scope, by, buckets=True)
            slow = reading.slowest(db, scope, slowest) if slowest else []
            hot = reading.repeated(db, scope, slowest, REPEATS_AMONG) if slowest else []
            unfinished, _ = reading.unfinished(db, scope, 0)
            hint = None if groups else self._hint(db)
        groups.sort(key=lambda group: (-group.total_us, group.name))
        return LatencyReport(
            span=self._span(scope.window),
            rows=[_latency_row(group) for group in groups],
            quantile_error=f"p50/p95/p99 are exact up to {EXACT_UP_TO} calls, else within"
            f" {MAX_RELATIVE_ERROR:.1%} of the exact value",
            slowest=[_slow_call(row) for row in slow],
            hot_arguments=[
                HotArgument(
                    tool=row["tool"],
                    subject=row["subject"],
                    calls=row["calls"],
                    errors=row["errors"],
                    total_ms=_ms(row["total_us"]),
                )
                for row in hot
            ],
            unfinished=unfinished,
            hint=hint,
        )

    def _bottlenecks(self, scope: reading.Scope, limit: int) -> BottleneckReport:
        with self.store.reading() as db:
            tools = reading.groups(db, scope, "tool", buckets=True)
            repeated = reading.repeated(db, scope, limit, REPEATS_AMONG, in_session=True)
            unfinished = reading.unfinished(db, scope, 20)
            hint = None if tools else self._hint(db)
        found = bottlenecks.find(tools, repeated, unfinished)[:limit]
        if tools and not found:
            hint = (
                "No rule fired: no tool dominates, fails often, repeats itself or has a slow tail."
            )
        return BottleneckReport(span=self._span(scope.window), bottlenecks=found, hint=hint)

    def _timeline(self, session: str, detail: Detail, limit: int, offset: int) -> SessionTimeline:
        with self.store.reading() as db:
            row = reading.find_session(db, session)
            recent = reading.recent_sessions(db, 6)
            if row is None:
                known = ", ".join(recent) if recent else EMPTY_HINT
                raise NotFoundError("session", session, hint=f"recent ones: {known}")
            total, items = reading.timeline(db, row["id"], limit, offset)
        return SessionTimeline(
            session=row["name"],
            host=row["host"],
            project=row["project"],
            started=iso(row["first_us"]),
            ended=iso(row["ended_us"]) if row["ended_us"] else None,
            last_seen=iso(row["last_us"]),
            calls=row["calls"],
            errors=row["errors"],
            prompts=row["prompts"],
            items=[_timeline_item(item, detail) for item in items],
            more=max(0, total - offset - limit),
            other_sessions=[name for name in recent if name != row["name"]],
        )

    def _search(self, wanted: reading.EventFilter, detail: Detail, limit: int) -> FoundEvents:
        with self.store.reading() as db:
            rows = reading.search(db, wanted, limit + 1)
            hint = None if rows else self._hint(db)
        page = rows[:limit]
        return FoundEvents(
            span=self._span(wanted.window),
            events=[_found_event(row, detail) for row in page],
            next_before=f"{page[-1]['at_us']}:{page[-1]['id']}" if len(rows) > limit else None,
            hint=hint,
        )

    def _sessions(self, scope: reading.Scope, limit: int) -> SessionList:
        with self.store.reading() as db:
            total, rows = reading.latest_sessions(db, scope, limit)
            hint = "" if rows else self._hint(db)
        return SessionList(
            span=self._span(scope.window),
            sessions=[_session_line(row) for row in rows],
            more=max(0, total - limit),
            hint=hint,
        )

    def _recent(self, wanted: reading.EventFilter, limit: int) -> tuple[int, FoundEvents]:
        with self.store.reading() as db:
            mark = reading.last_event_id(db)
            rows = reading.search(db, replace(wanted, until=mark), limit)
            hint = None if rows else self._hint(db)
        events = [_found_event(row, "concise") for row in rows]
        return mark, FoundEvents(span=self._span(wanted.window), events=events, hint=hint)

    def _news(self, mark: int, wanted: reading.EventFilter) -> tuple[int, list[FoundEvent]]:
        with self.store.reading() as db:
            rows = reading.search(db, replace(wanted, after=mark), NEWS_AT_ONCE)
        rows.sort(key=itemgetter("id"))
        newest = rows[-1]["id"] if rows else mark
        return newest, [_found_event(row, "concise") for row in rows]

    def _health(self) -> Health:
        files, size = self.spool.waiting()
        today = parse("today", self.now(), self.zone)
        with self.store.reading() as db:
            last = reading.last_event_us(db)
            events = sum(reading.kinds(db, today.last_day, today.last_day).values())
            counters = reading.counters(db)
        return Health(
            draining=self.drain.active and self.drain.error is None,
            error=self.drain.error,
            last_event=iso(last) if last else None,
            events_today=events,
            waiting_files=files,
            waiting_bytes=size,
            counters=counters,
        )

    def _hint(self, db: Any) -> str:
        return NOTHING_HINT if reading.last_event_us(db) else EMPTY_HINT


def _whole_days(scope: reading.Scope, by: str, telemetry: Telemetry) -> reading.Scope:
    """Return SCOPE, by the sums of whole days where the report is by day."""
    window = scope.window
    if by != "period":
        return scope
    day = Days(telemetry.zone)(window.start_us)
    daily = replace(window, grain=DAY, period=day, last_period=window.last_day)
    return reading.Scope(window=daily, tool=scope.tool, project=scope.project)


def _usage_row(group: reading.Group, by: str) -> UsageRow:
    name = date.fromordinal(int(group.name)).isoformat() if by == "period" else group.name
    return UsageRow(
        name=name,
        calls=group.calls,
        errors=group.errors,
        error_rate=_rate(group.errors, group.calls),
        total_ms=_ms(group.total_us),
        mean_ms=_ms(group.total_us / group.timed) if group.timed else None,
        max_ms=_ms(group.max_us),
        input_bytes=group.input_bytes,
        output_bytes=group.output_bytes,
    )


def _session_row(row: Mapping[str, Any]) -> UsageRow:
    calls = row["calls"]
    return UsageRow(
        name=row["name"],
        calls=calls,
        errors=row["errors"],
        error_rate=_rate(row["errors"], calls),
        total_ms=_ms(row["total_us"] or 0),
        mean_ms=_ms((row["total_us"] or 0) / calls) if calls else None,
        max_ms=_ms(row["max_us"] or 0),
    )


def _session_line(row: Mapping[str, Any]) -> SessionLine:
    return SessionLine(
        session=row["name"],
        host=row["host"],
        project=row["project"],
        started=iso(row["first_us"]),
        last_seen=iso(row["last_us"]),
        seconds=round((row["last_us"] - row["first_us"]) / 1e6, 1),
        calls=row["calls"],
        errors=row["errors"],
        prompts=row["prompts"],
    )


def _total(groups: Sequence[reading.Group]) -> UsageRow:
    calls, errors = sum(g.calls for g in groups), sum(g.errors for g in groups)
    timed, total_us = sum(g.timed for g in groups), sum(g.total_us for g in groups)
    return UsageRow(
        name="all",
        calls=calls,
        errors=errors,
        error_rate=_rate(errors, calls),
        total_ms=_ms(total_us),
        mean_ms=_ms(total_us / timed) if timed else None,
        max_ms=_ms(max((g.max_us for g in groups), default=0)),
        input_bytes=sum(g.input_bytes for g in groups),
        output_bytes=sum(g.output_bytes for g in groups),
    )


def _latency_row(group: reading.Group) -> LatencyRow:
    p50, p95, p99 = (group.quantile_us(q) for q in (0.5, 0.95, 0.99))
    return LatencyRow(
        name=group.name,
        calls=group.calls,
        errors=group.errors,
        interrupted=group.interrupted,
        error_rate=_rate(group.errors, group.calls),
        p50_ms=_ms(p50),
        p95_ms=_ms(p95),
        p99_ms=_ms(p99),
        max_ms=_ms(group.max_us) if group.timed else None,
    )


def _slow_call(row: Mapping[str, Any]) -> SlowCall:
    return SlowCall(
        tool=row["tool"],
        subject=row["subject"],
        duration_ms=row["duration_us"] / 1e3,
        status=row["status"],
        at=iso(row["ended_us"]),
        session=row["session"],
    )


def _timeline_item(item: Mapping[str, Any], detail: Detail) -> TimelineItem:
    full = detail == "full"
    status = item["status"] or ("unfinished" if item["is_call"] else None)
    return TimelineItem(
        at=iso(item["at_us"]),
        what=item["what"],
        subject=item["subject"],
        status=status,
        duration_ms=_ms(item["duration_us"]),
        agent=item["agent_id"] if full else None,
        error=item["error"] if full or status == "error" else None,
    )


def _found_event(row: Mapping[str, Any], detail: Detail) -> FoundEvent:
    body = orjson.loads(row["body"]) if detail == "full" and row["body"] else None
    return FoundEvent(
        at=iso(row["at_us"]),
        kind=row["kind"],
        tool=row["tool"],
        session=row["session"],
        status=row["status"],
        duration_ms=_ms(row["duration_us"]),
        subject=row["subject"],
        error=row["error"],
        body=body,
    )


def _cursor(before: str) -> tuple[int, int]:
    at_us, _, id = before.partition(":")
    if not (at_us.isdigit() and id.isdigit()):
        raise InvalidError(
            f"before={before!r} is no page mark", hint="pass the `next_before` of the last page"
        )
    return int(at_us), int(id)


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _ms(us: float | None) -> Any:
    return None if us is None else round(us / 1e3, 1)
