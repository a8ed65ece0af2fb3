"""What costs time, found by rules over the sums; each finding carries its figures. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arsenale_telemetry.models import Bottleneck
from arsenale_telemetry.reading import Group

SINK_SHARE = 0.25
"""A tool is a time sink from this share of all tool time on."""

TAIL_RATIO = 10.0
TAIL_MIN_US = 1_000_000
TAIL_MIN_CALLS = 20
"""A slow tail: p95 at least 10 x the median and 1 s, over calls enough to have a p95."""

ERROR_RATE = 0.10
ERROR_MIN = 3
"""Error-prone: at least one call in ten and three in all."""

REPEATS = 3
"""The same input asked for so often in one session is worth a word. Another session has no answer
of this one to keep."""

WORTH_CACHING_US = 1_000_000
"""What the repeats took in all from which keeping the first answer pays: one turn of a model, which
it takes to say so, lasts seconds."""

LARGE_RESULT_BYTES = 50_000
"""A mean result of this size is about 12,000 tokens, half of what a host takes."""


def find(
    tools: Sequence[Group],
    repeated: Iterable[Mapping[str, Any]],
    unfinished: tuple[int, Sequence[Mapping[str, Any]]],
) -> list[Bottleneck]:
    """Apply every rule; the most costly finding first."""
    total_us = sum(tool.total_us for tool in tools)
    found = [
        *(b for tool in tools if (b := _time_sink(tool, total_us, len(tools)))),
        *(b for tool in tools if (b := _slow_tail(tool))),
        *(b for tool in tools if (b := _error_prone(tool))),
        *(b for tool in tools if (b := _large_results(tool))),
        *(b for row in repeated if (b := _repeated(row))),
        *_unfinished(*unfinished),
    ]
    return sorted(found, key=lambda b: -b.cost_ms)


def _time_sink(tool: Group, total_us: int, tools: int) -> Bottleneck | None:
    share = tool.total_us / total_us if total_us else 0.0
    if share < SINK_SHARE or tools < 2:
        return None
    return Bottleneck(
        kind="time_sink",
        what=tool.name,
        evidence=f"{share:.0%} of all tool time: {counted_calls(tool.calls)}, "
        f"{_ms(tool.total_us)} ms",
        cost_ms=_ms(tool.total_us),
        next=f"latency_report with tool={tool.name!r} shows its slowest calls",
    )


def _slow_tail(tool: Group) -> Bottleneck | None:
    p50, p95 = tool.quantile_us(0.5), tool.quantile_us(0.95)
    if p50 is None or p95 is None or tool.timed < TAIL_MIN_CALLS:
        return None
    if p95 < TAIL_MIN_US or p95 < TAIL_RATIO * p50:
        return None
    return Bottleneck(
        kind="slow_tail",
        what=tool.name,
        evidence=f"p95 {_ms(p95)} ms is {p95 / p50:.0f} x the median {_ms(p50)} ms "
        f"over {counted_calls(tool.timed)}",
        cost_ms=_ms((p95 - p50) * tool.timed * 0.05),
        next=f"latency_report with tool={tool.name!r} names the calls in the tail",
    )


def _error_prone(tool: Group) -> Bottleneck | None:
    if tool.errors < ERROR_MIN or tool.errors < ERROR_RATE * tool.calls:
        return None
    mean_us = tool.total_us / tool.timed if tool.timed else 0.0
    return Bottleneck(
        kind="error_prone",
        what=tool.name,
        evidence=f"{tool.errors} of {tool.calls} calls failed ({tool.errors / tool.calls:.0%})",
        cost_ms=_ms(mean_us * tool.errors),
        next=f"search_events with tool={tool.name!r} and status='error' shows why",
    )


def _large_results(tool: Group) -> Bottleneck | None:
    mean = tool.output_bytes / tool.calls if tool.calls else 0.0
    if mean < LARGE_RESULT_BYTES:
        return None
    return Bottleneck(
        kind="large_results",
        what=tool.name,
        evidence=f"a result has {mean:,.0f} bytes on average over {counted_calls(tool.calls)}, "
        f"about {mean / 4:,.0f} tokens each",
        cost_ms=0.0,
        next="ask the tool for less: a range of lines, a filter, a limit",
    )


def _repeated(row: Mapping[str, Any]) -> Bottleneck | None:
    calls, total_us = int(row["calls"]), int(row["total_us"])
    spared_us = total_us * (calls - 1) / calls if calls else 0.0
    if calls < REPEATS or spared_us < WORTH_CACHING_US:
        return None
    about = f" on {row['subject']}" if row["subject"] else ""
    return Bottleneck(
        kind="repeated_call",
        what=f"{row['tool']}{about}",
        evidence=f"the same input {calls} times in one session, {row['errors']} of them failed, "
        f"{_ms(total_us)} ms in all",
        cost_ms=_ms(spared_us),
        next="keep the first answer, or find out why it had to be asked again",
    )


def _unfinished(count: int, oldest: Sequence[Mapping[str, Any]]) -> list[Bottleneck]:
    if not count:
        return []
    named = ", ".join(sorted({str(row["tool"]) for row in oldest}))
    return [
        Bottleneck(
            kind="unfinished",
            what=named,
            evidence=f"{counted_calls(count)} began and no end was seen: running, refused, "
            "or cut off",
            cost_ms=0.0,
            next="session_timeline shows where they stand",
        )
    ]


def _ms(us: float) -> float:
    return round(us / 1e3, 1)


def counted_calls(count: int) -> str:
    """Return `1 call`, `2 calls`."""
    return f"{count:,} call" if count == 1 else f"{count:,} calls"
