"""Reports over a million events.

Asked: usage and latency report p95 <= 250 ms, quantiles within 5 %, a scrape of /metrics <= 50 ms.
The floor beside it: one pass over the raw calls in SQLite that only counts and sums by tool.
"""

import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from measuring import machine, quantile, verdict
from prometheus_client import CollectorRegistry, generate_latest

from arsenale_core.events import HookEvent, Payload
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.exposition import TelemetryCollector
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.rollup import Days
from arsenale_telemetry.service import Telemetry
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore

EVENTS, DAYS, ROUNDS = 1_000_000, 90, 20
TOOLS = ("Bash", "Read", "Edit", "Grep", "Write", "Glob", "Agent", "WebFetch", "mcp__db__query",
         "mcp__memory__recall", "TodoWrite", "NotebookEdit")  # fmt: skip


def fill(store: TelemetryStore, now: float, exact: dict[str, list[int]]) -> None:
    """Store `EVENTS` events of 90 days, 5 projects and 12 tools; note the exact durations."""
    chance = random.Random(7)
    batch: list[HookEvent] = []
    for number in range(EVENTS // 2):
        tool = TOOLS[min(int(chance.expovariate(0.5)), len(TOOLS) - 1)]
        duration_us = int(chance.lognormvariate(11, 1.5))
        exact.setdefault(tool, []).append(duration_us)
        at_us = int((now - DAYS * 86_400 * (1 - number / (EVENTS / 2))) * 1e6)
        digest = hashlib.sha256(f"{tool}{number % 5_000}".encode()).digest()
        common: dict[str, Any] = {
            "host": "claude-code", "session": f"s{number // 300}", "tool": tool,
            "tool_use_id": f"t{number}", "cwd": f"/home/dev/project{number // 300 % 5}",
            "subject": f"src/module_{number % 5_000}.py",
            "input": Payload(size_bytes=120, sha256=digest),
        }  # fmt: skip
        for kind, phase in (("PreToolUse", "start"), ("PostToolUse", "end")):
            end = phase == "end"
            batch.append(
                HookEvent(
                    key=hashlib.blake2b(f"{number}{kind}".encode(), digest_size=16).digest(),
                    at_us=at_us + (duration_us if end else 0), kind=kind,
                    phase="end" if end else "start",
                    status=("error" if number % 29 == 0 else "ok") if end else None,
                    duration_us=duration_us if end else None,
                    output=Payload(size_bytes=900, sha256=digest) if end else None, **common,
                )
            )  # fmt: skip
        if len(batch) >= 2_000:
            store.add(batch)
            batch.clear()
    store.add(batch)


async def timed(call: Callable[[], Any]) -> float:
    """Return the p95 of `ROUNDS` calls, milliseconds."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - begun) * 1e3)
    return quantile(taken, 0.95)


async def measure(folder: Path) -> None:
    """Fill a store and ask it."""
    now = time.time()
    exact: dict[str, list[int]] = {}
    with TelemetryStore(folder) as store:
        begun = time.perf_counter()
        fill(store, now, exact)
        seconds = time.perf_counter() - begun
        size_mb = (folder / "telemetry.db").stat().st_size / 1e6
        print(f"  {EVENTS:,} events stored in {seconds:.0f} s, {size_mb:,.0f} MB")
        spool = Spool(folder / "spool")
        drain = Drain(spool, store, capture=Capture(), max_bytes=2**30, step_ms=5, now=time.time)
        telemetry = Telemetry(store=store, spool=spool, drain=drain, zone=None,
                              retention_days=90, now=time.time)  # fmt: skip

        async def usage() -> None:
            await telemetry.usage("all", "tool", tool=None, project=None, limit=20, offset=0)

        async def latency() -> None:
            await telemetry.latency("all", by="tool", tool=None, project=None, slowest=5)

        async def day() -> None:
            await telemetry.latency("24h", by="tool", tool=None, project=None, slowest=5)

        async def bottlenecks() -> None:
            await telemetry.bottlenecks("all", 10)

        def floor() -> None:
            with store.reading() as db:
                db.exec_driver_sql(
                    "SELECT tool_id, count(*), sum(duration_us) FROM call GROUP BY tool_id"
                ).fetchall()

        begun = time.perf_counter()
        floor()
        floor_ms = (time.perf_counter() - begun) * 1e3
        print(f"  floor: one pass over the raw calls, counting only: {floor_ms:.0f} ms")
        verdict("usage report over all, p95", await timed(usage), 250, " ms")
        verdict("latency report over all, p95", await timed(latency), 250, " ms")
        verdict("latency report of 24 h, p95", await timed(day), 250, " ms")
        verdict("bottlenecks over all, p95", await timed(bottlenecks), 250, " ms")
        report = await telemetry.latency("all", by="tool", tool=None, project=None, slowest=0)
        worst = max(
            abs(found * 1e3 - true) / true
            for row in report.rows
            for q, found in ((0.5, row.p50_ms), (0.95, row.p95_ms), (0.99, row.p99_ms))
            if found and (true := quantile(exact[row.name], q)) > 10_000
        )
        verdict("worst error of a quantile", worst * 100, 5, " %")
        registry = CollectorRegistry()
        registry.register(TelemetryCollector(store, spool, Days(None), time.time))

        async def scrape() -> None:
            generate_latest(registry)

        verdict("/metrics scrape, p95", await timed(scrape), 50, " ms")


def main() -> None:
    """Measure and print."""
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(measure, Path(folder))


if __name__ == "__main__":
    main()
