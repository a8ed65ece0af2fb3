"""Figures that a person checks by eye: percentiles, repeated calls, results without nulls."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from arsenale_core.events import HookEvent, Payload
from arsenale_telemetry import bottlenecks
from arsenale_telemetry.histogram import EXACT_UP_TO, MAX_RELATIVE_ERROR, bucket
from arsenale_telemetry.reading import Group
from arsenale_telemetry.service import Telemetry

NOON_US = 1_795_262_400_000_000
Make = Callable[..., HookEvent]

DURATIONS = st.lists(st.integers(0, 10**10), min_size=1, max_size=60)


def exact(durations: Sequence[int], q: float) -> int:
    return sorted(durations)[max(1, math.ceil(q * len(durations))) - 1]


def group(durations: Sequence[int], *, known: bool) -> Group:
    buckets: dict[int, int] = {}
    for one in durations:
        buckets[bucket(one)] = buckets.get(bucket(one), 0) + 1
    return Group(
        name="t", calls=len(durations), errors=0, interrupted=0, timed=len(durations),
        total_us=sum(durations), max_us=max(durations), input_bytes=0, output_bytes=0,
        buckets=buckets, durations_us=sorted(durations) if known else [],
    )  # fmt: skip


@given(DURATIONS, st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_no_percentile_is_above_the_longest_call(durations: list[int], q: float) -> None:
    counted = group(durations, known=False).quantile_us(q)
    assert counted is not None
    assert counted <= max(durations)
    close = exact(durations, q)
    assert abs(counted - close) <= MAX_RELATIVE_ERROR * close + 2
    assert group(durations, known=True).quantile_us(q) == close


def add(telemetry: Telemetry, event: Make, durations_us: Sequence[int], **more: Any) -> None:
    """Store calls of these durations; `session` and `input` tell them apart."""
    name = more.get("session", "s1")
    events: list[HookEvent] = []
    for n, duration_us in enumerate(durations_us):
        at = NOON_US - 3_000_000_000 + n * 1_000_000
        call = f"{name}-{more.get('subject', '')}-{n}"
        events.append(event(call=call, at_us=at, **more))
        events.append(event("PostToolUse", call, at_us=at + 9, duration_us=duration_us, **more))
    telemetry.store.add(events)


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


@pytest.mark.parametrize(
    "durations",
    [
        (80_000, 9_300, 9_100), (5_000, 5_000), (1_000_000,), (7,),
        (2_562_000, 2_500_000, 900_000), (287_000, 280_000, 3_000, 3_100),
        tuple(range(10_000, 210_000, 10_000)), tuple(range(1_000, 50_000, 1_000)),
    ],
)  # fmt: skip
async def test_the_report_s_percentiles_are_exact_for_few_calls_and_below_the_maximum(
    telemetry: Telemetry, client: Client, event: Make, durations: Sequence[int]
) -> None:
    add(telemetry, event, durations)
    for since, by in (("24h", "tool"), ("7d", "project"), ("all", "tool")):
        report = await ask(client, "latency_report", since=since, by=by)
        [row] = report["rows"]
        for name, q in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
            assert row[name] <= row["max_ms"]
            if len(durations) <= EXACT_UP_TO:
                assert row[name] == round(exact(durations, q) / 1e3, 1)
        assert "exact up to 20 calls" in report["quantile_error"]


def repeats(report: dict[str, Any]) -> list[tuple[str, float]]:
    return [
        (one["what"], one["cost_ms"])
        for one in report["bottlenecks"]
        if one["kind"] == "repeated_call"
    ]


async def test_the_same_call_in_several_sessions_is_not_a_repeated_one(
    telemetry: Telemetry, client: Client, event: Make
) -> None:
    for session in ("s1", "s2", "s3", "s4"):
        add(telemetry, event, [2_000_000, 2_000_000], session=session)
    assert repeats(await ask(client, "find_bottlenecks", since="24h")) == []
    add(telemetry, event, [2_000_000] * 3, session="s5")
    assert repeats(await ask(client, "find_bottlenecks", since="24h")) == [
        ("Bash on make test", 4_000.0)
    ]


@pytest.mark.parametrize(
    ("durations_us", "found"),
    [
        ([7_000] * 3, False), ([100_000] * 9, False), ([400_000] * 3, False),
        ([500_000] * 3, True), ([34_000] * 100, True), ([3_000_000] * 2, False),
    ],
)  # fmt: skip
async def test_repeated_calls_that_took_no_time_worth_caching_are_not_named(
    telemetry: Telemetry, client: Client, event: Make, durations_us: list[int], found: bool
) -> None:
    add(telemetry, event, durations_us)
    assert bool(repeats(await ask(client, "find_bottlenecks", since="24h"))) is found
    assert bottlenecks.WORTH_CACHING_US == 1_000_000


async def test_cheap_repeats_do_not_push_a_costly_one_out(
    telemetry: Telemetry, client: Client, event: Make
) -> None:
    for n in range(15):
        named = {"subject": f"ls {n}", "input": Payload(size_bytes=2, sha256=bytes([n]) * 32)}
        add(telemetry, event, [1_000] * 9, **named)
    add(telemetry, event, [2_000_000] * 3, session="s2")
    report = await ask(client, "find_bottlenecks", since="24h", limit=5)
    assert repeats(report) == [("Bash on make test", 4_000.0)]


def nulls(value: Any) -> int:
    if isinstance(value, dict):
        return sum(nulls(one) for one in value.values())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return sum(nulls(one) for one in value)  # pyright: ignore[reportUnknownVariableType]
    return value is None


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("usage_report", {}), ("usage_report", {"group_by": "event"}),
        ("usage_report", {"group_by": "session"}), ("usage_report", {"group_by": "day"}),
        ("latency_report", {"slowest": 5}), ("latency_report", {"by": "project"}),
        ("find_bottlenecks", {}), ("session_timeline", {}),
        ("session_timeline", {"detail": "full"}), ("search_events", {}),
        ("search_events", {"detail": "full"}), ("search_events", {"text": "no such thing"}),
    ],
)  # fmt: skip
async def test_a_result_leaves_out_what_is_absent(
    telemetry: Telemetry, client: Client, event: Make, tool: str, arguments: dict[str, Any]
) -> None:
    start = NOON_US - 3_600_000_000
    telemetry.store.add(
        [event("SessionStart", at_us=start), event("UserPromptSubmit", at_us=start + 1)]
    )
    add(telemetry, event, [500_000] * 4)
    telemetry.store.add([event(call="open", at_us=NOON_US - 60_000_000, subject=None)])
    answer = await client.call_tool(tool, arguments)
    assert answer.structured_content is not None
    assert nulls(answer.structured_content) == 0
    assert "null" not in getattr(answer.content[0], "text", "")


async def test_a_timeline_without_nulls_is_a_sixth_smaller(
    telemetry: Telemetry, client: Client, event: Make
) -> None:
    add(telemetry, event, [500_000] * 20)
    report = await ask(client, "session_timeline", limit=50)
    fields = ("at", "what", "subject", "status", "duration_ms", "agent", "error")
    padded = {**report, "items": [{f: one.get(f) for f in fields} for one in report["items"]]}
    assert len(json.dumps(report)) <= 5 / 6 * len(json.dumps(padded))
