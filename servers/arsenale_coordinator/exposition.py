"""The workforce in Prometheus's terms, counted when it is scraped."""

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from arsenale_coordinator import reading
from arsenale_coordinator.states import ENDED
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core.metrics import counters, gauge, gauges
from arsenale_core.store import Sql

_RUNS = Sql("SELECT state, count(*) FROM run GROUP BY state")
_ATTEMPTS = Sql(
    "SELECT outcome, count(*), coalesce(sum(duration_us), 0) FROM attempt"
    " WHERE outcome IS NOT NULL GROUP BY outcome"
)
_OVER = ("done", "failed", "cancelled")


class WorkforceCollector(Collector):
    """Renders the store at scrape time. NOW_US gives microseconds since the epoch."""

    def __init__(self, store: CoordinatorStore, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us

    def describe(self) -> Iterable[Metric]:
        """Name nothing ahead: registration must not query the store."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        with self._store.reading() as db:
            agents, tasks = reading.agent_counts(db), reading.counts(db, "")
            _, oldest_us = reading.queue(db)
            runs = {state: int(n) for state, n in _RUNS.all(db)}
            attempts = _ATTEMPTS.all(db)
        open_tasks = {state: n for state, n in tasks.items() if state not in ENDED}
        ended = {state: n for state, n in tasks.items() if state in ENDED}
        yield gauges("ai_agents", "Agents, by state.", "state", agents)
        yield gauges("ai_tasks", "Tasks that are not over, by state.", "state", open_tasks)
        yield counters("ai_tasks_ended", "Tasks that are over, by state.", "state", ended)
        waited_s = max(self._now_us() - oldest_us, 0) / 1e6 if tasks.get("ready") else 0.0
        yield gauge(
            "ai_task_oldest_ready_seconds", "Age of the oldest task that is ready.", waited_s
        )
        by_outcome = {outcome: int(n) for outcome, n, _ in attempts}
        yield counters("ai_task_attempts", "Attempts at tasks, by outcome.", "outcome", by_outcome)
        seconds = {outcome: float(total) / 1e6 for outcome, _, total in attempts}
        yield counters("ai_task_attempt_seconds", "Time of attempts.", "outcome", seconds)
        going = {state: n for state, n in runs.items() if state not in _OVER}
        yield gauges("ai_recipe_runs", "Runs that are not over, by state.", "state", going)
        over = {state: n for state, n in runs.items() if state in _OVER}
        yield counters("ai_recipe_runs_ended", "Runs that are over, by state.", "state", over)
