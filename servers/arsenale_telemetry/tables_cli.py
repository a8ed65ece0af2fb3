"""Reports of telemetry as people read them: tables and lines of 80 columns, local times. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from arsenale_telemetry.bottlenecks import counted_calls
from arsenale_telemetry.models import (
    Bottleneck,
    BottleneckReport,
    FoundEvent,
    LatencyReport,
    SessionLine,
    UsageReport,
)

FINDINGS = {
    "time_sink": ("takes the most time", "arsenale telemetry events --tool {tool}"),
    "slow_tail": ("is sometimes far slower", "arsenale telemetry events --tool {tool}"),
    "error_prone": ("fails often", "arsenale telemetry events --tool {tool} --status error"),
    "repeated_call": ("is asked again and again", ""),
    "large_results": ("returns large results", ""),
    "unfinished": ("did not end", "arsenale telemetry events --kind PreToolUse"),
}
"""By kind of bottleneck: what it means, and the command that shows more."""

SUBJECT_CHARS = 300
SLOW_SUBJECT_CHARS = 60


def local(at: str, zone: str | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """Return the moment AT, ISO 8601 in UTC, as local time in ZONE (none: the system's)."""
    moment = datetime.fromisoformat(at.replace("Z", "+00:00"))
    return moment.astimezone(ZoneInfo(zone) if zone else None).strftime(form)


def duration(ms: float | None) -> str:
    """Return a duration in the unit that suits it: `45 ms`, `2.9 s`, `12 min`, `1.5 h`."""
    if ms is None:
        return ""
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= size:
            return f"{ms / size:.1f} {unit}" if ms < 10 * size else f"{ms / size:,.0f} {unit}"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def plain(text: str | None) -> str:
    """Return TEXT on one line, without what a terminal obeys."""
    line = " ".join((text or "").split())
    return "".join(one if one.isprintable() else "\ufffd" for one in line)


def report(
    usage: UsageReport, latency: LatencyReport, found: BottleneckReport, zone: str | None
) -> Iterator[Table | Text]:
    """Yield the parts of a report."""
    total = usage.total
    start = "the beginning" if usage.span.label == "all" else local(usage.span.start, zone)
    yield Text(
        f"Since {start}: {counted_calls(total.calls)} took {duration(total.total_ms)}, "
        f"{total.errors:,} failed ({total.error_rate:.0%})."
    )
    yield _tools(usage, latency)
    if usage.more:
        yield Text(f"{usage.more} more tools: --limit shows them.")
    if latency.slowest:
        yield Text()
        yield _slowest(latency, zone)
    if found.bottlenecks:
        yield Text("\nWhat to look at:")
    for one in found.bottlenecks:
        yield _finding(one)
    if latency.unfinished:
        have = "has" if latency.unfinished == 1 else "have"
        yield Text(
            f"{counted_calls(latency.unfinished)} {have} no end yet: still running, or cut off."
        )


def _table(*headings: str) -> Table:
    """Return a table without lines: 80 columns hold more of it."""
    return Table(*headings, box=None, padding=(0, 2, 0, 0), header_style="bold")


def _tools(usage: UsageReport, latency: LatencyReport) -> Table:
    times = {row.name: row for row in latency.rows}
    made = _table("tool")
    made.columns[0].overflow = "fold"
    for heading in ("total", "calls", "errors", "median", "p95", "longest"):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in sorted(usage.rows, key=lambda row: -(row.total_ms or 0)):
        time = times.get(row.name)
        made.add_row(
            escape(plain(row.name)), duration(row.total_ms), f"{row.calls:,}",
            f"{row.errors:,}" if row.errors else "", duration(time.p50_ms if time else None),
            duration(time.p95_ms if time else None), duration(row.max_ms),
        )  # fmt: skip
    return made


def _slowest(latency: LatencyReport, zone: str | None) -> Table:
    made = _table("slowest", "when", "tool", "about")
    made.columns[0].no_wrap = made.columns[1].no_wrap = True
    for column in made.columns[2:]:
        column.overflow = "fold"
    for call in latency.slowest:
        about = plain(call.subject)
        if len(about) > SLOW_SUBJECT_CHARS:
            about = f"{about[:SLOW_SUBJECT_CHARS]} ..."
        made.add_row(duration(call.duration_ms), local(call.at, zone, "%m-%d %H:%M"),
                     escape(plain(call.tool)), escape(about))  # fmt: skip
    return made


def _finding(one: Bottleneck) -> Text:
    meaning, command = FINDINGS[one.kind]
    more = f"\n    {command.format(tool=_quoted(one.what))}" if command else ""
    return Text(f"- {plain(one.what)} {meaning}: {one.evidence}.{more}")


def _quoted(tool: str) -> str:
    return tool if tool.replace("_", "").replace("-", "").isalnum() else f"'{plain(tool)}'"


def sessions(lines: Sequence[SessionLine], zone: str | None, user_home: str) -> Table:
    """Return sessions as a table; USER_HOME is shown as `~`."""
    made = _table("began", "session", "project")
    made.columns[0].no_wrap = made.columns[1].no_wrap = True
    made.columns[2].overflow = "fold"
    for heading in ("calls", "errors", "duration"):
        made.add_column(heading, justify="right", no_wrap=True)
    for one in lines:
        project = plain(one.project)
        if project == user_home or project.startswith(f"{user_home}/"):
            project = "~" + project[len(user_home) :]
        made.add_row(
            local(one.started, zone), escape(plain(one.session)[:8]), escape(project),
            f"{one.calls:,}", f"{one.errors:,}" if one.errors else "",
            duration(one.seconds * 1e3),
        )  # fmt: skip
    return made


def event_line(event: FoundEvent, zone: str | None) -> str:
    """Return an event as a line of markup: when, session, what, how it ended, about what."""
    took = duration(event.duration_ms)
    status = {"ok": "ok", None: ""}.get(event.status, f"[red]{event.status}[/]")
    what = f"{event.kind} {event.tool}" if event.tool else event.kind
    parts = [local(event.at, zone, "%m-%d %H:%M:%S"), f"[dim]{escape(plain(event.session)[:8])}[/]",
             f"[bold]{escape(plain(what))}[/]", status, took,
             escape(plain(event.subject)[:SUBJECT_CHARS])]  # fmt: skip
    if event.error:
        last = [line for line in event.error.splitlines() if line.strip()][-1:]
        parts.append(f"[red]{escape(plain(''.join(last))[:SUBJECT_CHARS])}[/]")
    return " ".join(part for part in parts if part)
