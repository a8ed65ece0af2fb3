"""The mesh in Prometheus's terms, counted when it is scraped."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from arsenale_core.metrics import counters, gauge, gauges
from arsenale_mesh import books, reading, rows
from arsenale_mesh.record import ENDED
from arsenale_mesh.service import Mesh


class MeshCollector(Collector):
    """Renders store and gateway at scrape time. NOW gives seconds since the epoch."""

    def __init__(self, mesh: Mesh, now: Callable[[], float]) -> None:
        self._mesh = mesh
        self._now = now

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead: registration must not query the store."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        with self._mesh.store.reading() as db:
            nodes, tasks = rows.node_counts(db), rows.task_counts(db)
            waits, oldest_us = reading.waiting(db)
            events = books.note_counts(db)
            entries, credits = books.totals(db)
        yield gauges("mesh_nodes", "Nodes, by state.", "state", nodes)
        going = {state: n for state, n in tasks.items() if state not in ENDED}
        over = {state: n for state, n in tasks.items() if state in ENDED}
        yield gauges("mesh_tasks", "Tasks that are not over, by state.", "state", going)
        yield counters("mesh_tasks_ended", "Tasks that are over, by state.", "state", over)
        yield counters("mesh_events", "Noted in the audit trail, by kind.", "kind", events)
        yield gauge("mesh_tasks_waiting", "Tasks that wait for a node.", waits)
        age = 0.0 if oldest_us is None else max(self._now() - oldest_us / 1e6, 0.0)
        yield gauge("mesh_task_oldest_waiting_seconds", "Age of the oldest of them.", age)
        yield gauge("mesh_ledger_entries", "Entries of the ledger.", entries)
        yield gauge("mesh_ledger_credits", "Credits of all nodes.", credits)
        yield from self._of_nodes()

    def _of_nodes(self) -> Iterable[Metric]:
        sessions = list(self._mesh.gateway.sessions.values())
        named = {one.node.name: one for one in sessions}
        health = {name: one.health.score for name, one in named.items()}
        flight = {name: float(len(one.leases)) for name, one in named.items()}
        yield gauges("mesh_node_health", "Health of nodes that are here, 0..1.", "node", health)
        yield gauges("mesh_node_tasks", "Tasks that nodes have.", "node", flight)
        for name, unit, what in (
            ("mesh_node_latency_seconds", "latency_s", "Round trip to nodes, measured here."),
            ("mesh_node_watts", "watts", "Power of nodes, by their word."),
            ("mesh_node_celsius", "celsius", "Temperature of nodes, by their word."),
            ("mesh_node_carbon_grams_per_kwh", "carbon", "Carbon intensity, by their word."),
        ):
            values = {
                node: float(value)
                for node, one in named.items()
                if (value := getattr(one.telemetry, unit)) is not None
            }
            yield gauges(name, what, "node", values)
        counts = self._mesh.gateway.counts
        for name, value, what in (
            ("mesh_placed", counts.placed, "Tasks given to nodes since this process began."),
            ("mesh_results", counts.settled, "Results judged since this process began."),
            ("mesh_slowed", counts.slowed, "Messages read more slowly for a node's rate."),
            ("mesh_refused", counts.refused, "Nodes that were not admitted."),
        ):
            family = CounterMetricFamily(name, what)
            family.add_metric([], value)
            yield family
