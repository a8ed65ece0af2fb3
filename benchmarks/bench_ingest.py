"""From hook to row, and from a backlog to the store.

Asked: hook write to committed row p95 <= 25 ms; a backlog drains at >= 10,000 events/s. The floor
beside it: reading, parsing and unlinking the same files without storing them.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import orjson
from measuring import machine, quantile, verdict

from arsenale_core.assets import asset_dir
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.reading import last_event_us
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore

HOOK = str(asset_dir("hooks") / "log_event.sh")
SINGLE, BACKLOG = 200, 40_000


def event(number: int, kind: str) -> bytes:
    """Return a start or an end of call NUMBER, 600 bytes or so as hosts send them."""
    said: dict[str, Any] = {
        "session_id": f"3fc088c2-2063-4c30-9dfc-{number // 500:012d}",
        "transcript_path": "/home/dev/.claude/projects/-home-dev-inventory/x.jsonl",
        "cwd": "/home/dev/inventory", "prompt_id": "c998cd65-a5ae-42db-9b8d-be2eae67c061",
        "permission_mode": "default", "effort": {"level": "medium"}, "hook_event_name": kind,
        "tool_name": ("Bash", "Read", "Edit", "Grep")[number % 4],
        "tool_input": {"command": f"python3 -m pytest tests/test_{number % 90}.py -q"},
        "tool_use_id": f"toolu_{number:012d}",
    }  # fmt: skip
    if kind == "PostToolUse":
        said["duration_ms"] = 3 + number % 700
        said["tool_response"] = {"stdout": "ok\n" * 40, "stderr": "", "interrupted": False}
    return json.dumps(said).encode() + b"\n"


async def single(folder: Path) -> list[float]:
    """Run hooks one by one beside a running drain; return the milliseconds from write to commit."""
    taken: list[float] = []
    spool = Spool(folder / "spool")
    with TelemetryStore(folder) as store:
        drain = Drain(spool, store, capture=Capture(), max_bytes=2**30, step_ms=5, now=time.time)

        def newest() -> int | None:
            with store.reading() as db:
                return last_event_us(db)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain.run)
            await anyio.sleep(0.3)
            for number in range(SINGLE):
                before = newest()
                await anyio.run_process(["/bin/sh", HOOK, str(spool.folder)],
                                        input=event(number, "PreToolUse"))  # fmt: skip
                begun = time.perf_counter()
                while newest() == before:  # noqa: ASYNC110
                    await anyio.sleep(0.0005)
                taken.append((time.perf_counter() - begun) * 1e3)
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    return taken


def backlog(folder: Path) -> tuple[float, float]:
    """Drain a backlog, one event a file; return the events/s of the drain and of the floor."""
    spool = Spool(folder / "spool")

    def fill() -> None:
        for number in range(BACKLOG // 2):
            for kind in ("PreToolUse", "PostToolUse"):
                path = spool.folder / f"{number}.{kind}.json"
                path.write_bytes(event(number, kind))

    fill()
    begun = time.perf_counter()
    for path in spool.folder.glob("*.json"):
        orjson.loads(path.read_bytes())
        path.unlink()
    floor = BACKLOG / (time.perf_counter() - begun)
    fill()
    with TelemetryStore(folder) as store:
        drain = Drain(spool, store, capture=Capture(), max_bytes=2**30, step_ms=5, now=time.time)
        begun = time.perf_counter()
        while drain.once()[0]:
            pass
        return BACKLOG / (time.perf_counter() - begun), floor


def main() -> None:
    """Measure and print."""
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        taken = anyio.run(single, Path(folder))
    print(f"  hook ended to row seen: median {quantile(taken, 0.5):.1f} ms, "
          f"p99 {quantile(taken, 0.99):.1f} ms")  # fmt: skip
    verdict("hook write to committed row, p95", quantile(taken, 0.95), 25, " ms")
    with tempfile.TemporaryDirectory() as folder:
        rate, floor = backlog(Path(folder))
    print(f"  floor (read, parse, unlink): {floor:,.0f} events/s, {floor / rate:.1f} x ours")
    verdict("backlog", rate, 10_000, " events/s", at_least=True)


if __name__ == "__main__":
    sys.exit(main())
