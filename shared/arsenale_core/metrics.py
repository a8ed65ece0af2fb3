"""What every server of the suite measures of itself, in Prometheus's terms.

A registry is a value that one process makes and passes on; nothing here is global.
"""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the latency histograms, seconds: a warm call takes about 1 ms."""


class CallMetrics:
    """Counts and times the MCP tool calls that a process serves; `called` is called after each."""

    def __init__(
        self, registry: CollectorRegistry, called: Callable[[], None] = lambda: None
    ) -> None:
        self._called = called
        self._calls = Counter(
            "arsenale_mcp_calls",
            "MCP tool calls served, by server, tool and outcome.",
            ["server", "tool", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "arsenale_mcp_call_duration_seconds",
            "Time from request to result inside the server.",
            ["server", "tool"],
            buckets=BUCKETS_S,
            registry=registry,
        )

    def observe(self, *, server: str, tool: str, status: str, seconds: float) -> None:
        """Record one call. TOOL is a name the server knows, so that labels stay few."""
        self._calls.labels(server, tool, status).inc()
        self._seconds.labels(server, tool).observe(seconds)
        self._called()


def gauges(name: str, said: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Return a gauge for each of VALUES, under LABEL."""
    family = GaugeMetricFamily(name, said, labels=[label])
    for key in sorted(values):
        family.add_metric([key], values[key])
    return family


def counters(name: str, said: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    """Return a counter for each of VALUES, under LABEL."""
    family = CounterMetricFamily(name, said, labels=[label])
    for key in sorted(values):
        family.add_metric([key], values[key])
    return family


def gauge(name: str, said: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without a label."""
    family = GaugeMetricFamily(name, said)
    family.add_metric([], value)
    return family
