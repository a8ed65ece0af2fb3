"""What the tools of telemetry answer. Times are milliseconds, moments ISO 8601 in UTC.

What is absent is left out: a timeline of nulls costs a model a quarter of its tokens.
"""

from typing import Literal, TypeAlias

from pydantic import Field

from arsenale_core.lean import Lean

GroupBy: TypeAlias = Literal["tool", "session", "project", "day", "event"]
Detail: TypeAlias = Literal["concise", "full"]


class Span(Lean):
    """The time a report covers: whole hours up to two days back, whole local days beyond."""

    start: str
    end: str
    label: str


class UsageRow(Lean):
    """How much one tool, session, project, day or kind of event was used."""

    name: str
    calls: int = Field(description="Ended calls; for group_by=event the number of events.")
    errors: int = 0
    error_rate: float = Field(default=0.0, description="0..1")
    total_ms: float | None = None
    mean_ms: float | None = None
    max_ms: float | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None


class UsageReport(Lean):
    """Usage, most used first (days: newest first)."""

    span: Span
    group_by: GroupBy
    rows: list[UsageRow]
    total: UsageRow
    more: int = Field(
        default=0, description="Rows left out; raise `limit` or `offset` to see them."
    )
    hint: str | None = None


class LatencyRow(Lean):
    """How long the calls of one tool or project took, and how often they failed."""

    name: str
    calls: int
    errors: int
    interrupted: int
    error_rate: float = Field(description="0..1")
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class SlowCall(Lean):
    """One call, with what it was about."""

    tool: str
    subject: str | None = None
    duration_ms: float
    status: str
    at: str
    session: str


class HotArgument(Lean):
    """One input that was asked for again and again."""

    tool: str
    subject: str | None = None
    calls: int
    errors: int
    total_ms: float


class LatencyReport(Lean):
    """Latency and errors, the tool that took most time first."""

    span: Span
    rows: list[LatencyRow]
    quantile_error: str
    slowest: list[SlowCall] = Field(default_factory=lambda: list[SlowCall]())
    hot_arguments: list[HotArgument] = Field(default_factory=lambda: list[HotArgument]())
    unfinished: int = Field(
        default=0, description="Calls whose end was never seen (running or lost)."
    )
    hint: str | None = None


class Bottleneck(Lean):
    """Something that costs time, with the figures that show it."""

    kind: Literal[
        "time_sink", "slow_tail", "error_prone", "repeated_call", "large_results", "unfinished"
    ]
    what: str
    evidence: str
    cost_ms: float = Field(description="Time that it took in the span; the list is sorted by it.")
    next: str


class BottleneckReport(Lean):
    """What to look at, most costly first."""

    span: Span
    bottlenecks: list[Bottleneck]
    hint: str | None = None


class TimelineItem(Lean):
    """One event or call of a session."""

    at: str
    what: str
    subject: str | None = None
    status: str | None = None
    duration_ms: float | None = None
    agent: str | None = None
    error: str | None = None


class SessionTimeline(Lean):
    """A session in order of time."""

    session: str
    host: str
    project: str
    started: str
    ended: str | None = None
    last_seen: str
    calls: int
    errors: int
    prompts: int
    items: list[TimelineItem]
    more: int = Field(default=0, description="Items left out; raise `offset` to see them.")
    other_sessions: list[str] = Field(default=[], description="Recent sessions, newest first.")
    hint: str | None = None


class FoundEvent(Lean):
    """One stored event."""

    at: str
    kind: str
    tool: str | None = None
    session: str
    status: str | None = None
    duration_ms: float | None = None
    subject: str | None = None
    error: str | None = None
    body: dict[str, object] | None = None


class FoundEvents(Lean):
    """Events that fit, newest first."""

    span: Span
    events: list[FoundEvent]
    next_before: str | None = Field(default=None, description="Pass as `before` for the next page.")
    hint: str | None = None


class Health(Lean):
    """Whether events arrive, and what was lost on the way."""

    draining: bool = Field(description="False: another process drains, or the drain is failing.")
    error: str | None = None
    last_event: str | None = None
    events_today: int
    waiting_files: int
    waiting_bytes: int
    counters: dict[str, int]


class SessionLine(Lean):
    """One session in a list; its figures are of the whole session."""

    session: str
    host: str
    project: str
    started: str
    last_seen: str
    seconds: float = Field(description="From its first event to its last one.")
    calls: int
    errors: int
    prompts: int


class SessionList(Lean):
    """Sessions seen in a span, newest first."""

    span: Span
    sessions: list[SessionLine]
    more: int = 0
    hint: str = ""
