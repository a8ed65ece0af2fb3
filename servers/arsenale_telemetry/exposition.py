"""Telemetry in Prometheus's terms, read from the store's sums: counters survive a restart."""

from collections.abc import Callable, Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from arsenale_telemetry import reading
from arsenale_telemetry.histogram import middle_us
from arsenale_telemetry.rollup import Days
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Upper bounds of the tool latency histogram, seconds: from a Glob to a build."""

ACTIVE_WITHIN_S = 300
"""A session counts as active so long after its last event, unless it has ended."""

MAX_TOOLS = 100
"""Tools that get a label of their own; the rest are summed under `other`."""


class TelemetryCollector(Collector):
    """Renders the store at scrape time; a day bound comes from DAYS, the time from NOW."""

    def __init__(
        self, store: TelemetryStore, spool: Spool, days: Days, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._spool = spool
        self._days = days
        self._now = now

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead: registration must not query the store."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        now_us = int(self._now() * 1e6)
        with self._store.reading() as db:
            totals = reading.totals_by_tool(db)
            buckets = reading.buckets_by_tool(db)
            counters = reading.counters(db)
            kinds = reading.kinds(db, 0)
            active = reading.active_sessions(db, now_us - ACTIVE_WITHIN_S * 1_000_000)
            last_us = reading.last_event_us(db)
        totals.sort(key=lambda row: -row[1])
        named = {name for name, *_ in totals[:MAX_TOOLS]}
        yield _calls(totals, named)
        yield _durations(totals, buckets, named)
        yield _counter("ai_hook_events", "Hook events stored, by kind.", "kind", kinds)
        lost = {name: counters.get(name, 0) for name in _LOSSES}
        yield _counter(
            "ai_events_dropped", "What did not become an event or lost its body.", "reason", lost
        )
        yield GaugeMetricFamily(
            "active_users", "Sessions with an event in the last 5 minutes.", value=active
        )
        files, size = self._spool.waiting()
        yield GaugeMetricFamily("ai_spool_files", "Events that wait to be stored.", value=files)
        yield GaugeMetricFamily("ai_spool_bytes", "Bytes that wait to be stored.", value=size)
        if last_us:
            yield GaugeMetricFamily(
                "ai_last_event_timestamp_seconds", "When the newest event happened.", last_us / 1e6
            )


_LOSSES = ("duplicates", "quarantined", "empty", "bodies_dropped")


def _calls(totals: list[tuple[str, int, int, int, int]], named: set[str]) -> Metric:
    family = CounterMetricFamily(
        "ai_tool_calls", "Ended tool calls, by tool and outcome.", labels=["tool", "status"]
    )
    sums: dict[tuple[str, str], int] = {}
    for name, calls, errors, interrupted, _ in totals:
        label = name if name in named else "other"
        ok = calls - errors - interrupted
        for status, n in (("ok", ok), ("error", errors), ("interrupted", interrupted)):
            sums[label, status] = sums.get((label, status), 0) + n
    for (label, status), n in sums.items():
        family.add_metric([label, status], n)
    return family


def _durations(
    totals: list[tuple[str, int, int, int, int]],
    buckets: dict[str, dict[int, int]],
    named: set[str],
) -> Metric:
    family = HistogramMetricFamily(
        "ai_tool_duration_seconds",
        "Execution time of tool calls (within 4.4 %: rebuilt from logarithmic buckets).",
        labels=["tool"],
    )
    merged: dict[str, tuple[dict[int, int], int]] = {}
    for name, *_, total_us in totals:
        label = name if name in named else "other"
        counts, sum_us = merged.get(label, ({}, 0))
        for index, n in buckets.get(name, {}).items():
            counts[index] = counts.get(index, 0) + n
        merged[label] = (counts, sum_us + total_us)
    for label, (counts, sum_us) in merged.items():
        family.add_metric([label], _cumulative(counts), sum_us / 1e6)
    return family


def _cumulative(counts: dict[int, int]) -> list[tuple[str, float]]:
    middles = [(middle_us(index) / 1e6, n) for index, n in counts.items()]
    rows: list[tuple[str, float]] = [
        (str(float(bound)), sum(n for middle, n in middles if middle <= bound))
        for bound in BOUNDS_S
    ]
    return [*rows, ("+Inf", sum(counts.values()))]


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, n in values.items():
        family.add_metric([value], n)
    return family
