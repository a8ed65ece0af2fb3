"""The hook: what it costs beside starting Python, and that nothing is lost or torn.

Asked: CPU <= 0.15 x `python -I -S -c pass`; with 48 writers at once, payloads of 1 MB, writers
killed at random and no daemon running, every event whose hook ended is stored once, none torn.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import children_cpu_s, machine, quantile, verdict

from arsenale_core.assets import asset_dir
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.reading import counters, totals_by_tool
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore

HOOK = str(asset_dir("hooks") / "log_event.sh")
CHUNKS, ROUNDS, WRITERS, EVENTS = 12, 30, 48, 1_200


def cpu_ms(command: list[str]) -> float:
    """Return the CPU time of one run of COMMAND with 2 KB on stdin, milliseconds."""
    payload = json.dumps({"tool_name": "Bash", "x": "y" * 2_000}).encode() + b"\n"
    before = children_cpu_s()
    for _ in range(ROUNDS):
        subprocess.run(command, input=payload, check=True, capture_output=True)
    return (children_cpu_s() - before) / ROUNDS * 1e3


def event(number: int) -> bytes:
    """Return one event; every 40th has 1 MB."""
    size = 1_000_000 if number % 40 == 0 else 3_000
    said = {
        "hook_event_name": "PostToolUse", "session_id": "bench", "tool_name": "Bash",
        "tool_use_id": f"toolu_{number}", "tool_input": {"command": f"echo {number}"},
        "tool_response": {"stdout": "x" * size}, "duration_ms": 1,
    }  # fmt: skip
    return json.dumps(said).encode() + b"\n"


def write(spool: Path) -> tuple[set[int], int]:
    """Run the hooks, killing some; return the events whose hook ended, and how many were killed."""
    chance = random.Random(1)
    doomed = set(chance.sample(range(EVENTS), EVENTS // 10))
    ended: set[int] = set()
    lock = threading.Lock()

    def one(number: int) -> None:
        process = subprocess.Popen(["/bin/sh", HOOK, str(spool)], stdin=subprocess.PIPE,
                                   start_new_session=True)  # fmt: skip
        assert process.stdin
        body = event(number)
        try:
            process.stdin.write(body[: len(body) // 2])
            process.stdin.flush()
            if number in doomed:
                time.sleep(random.random() * 0.005)
                os.killpg(process.pid, signal.SIGKILL)
            process.stdin.write(body[len(body) // 2 :])
            process.stdin.close()
        except OSError:
            pass
        if process.wait() == 0:
            with lock:
                ended.add(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(one, range(EVENTS)))
    return ended, EVENTS - len(ended)


def main() -> None:
    """Measure and print."""
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        hook = ["/bin/sh", HOOK, f"{folder}/cost"]
        python = [sys.executable, "-I", "-S", "-c", "pass"]
        # Interleaved, so that a busy moment meets both; the median chunk of each.
        pairs = [(cpu_ms(hook), cpu_ms(python)) for _ in range(CHUNKS)]
        hook_ms, python_ms = (quantile(side, 0.5) for side in zip(*pairs, strict=True))
        print(f"  hook {hook_ms:.3f} ms of CPU, python -I -S -c pass {python_ms:.3f} ms")
        verdict("CPU of the hook / starting Python", hook_ms / python_ms, 0.15, " x")

        spool = Spool(Path(folder) / "spool")
        begun = time.perf_counter()
        ended, killed = write(spool.folder)
        seconds = time.perf_counter() - begun
        print(f"  {EVENTS} hooks, {WRITERS} at a time, {killed} killed, in {seconds:.1f} s")
        with TelemetryStore(Path(folder)) as store:
            drain = Drain(spool, store, capture=Capture(), max_bytes=2**30, step_ms=5,
                          now=time.time)  # fmt: skip
            stored = 1
            while stored:
                stored, _ = drain.once()
            with store.reading() as db:
                rows = {name: n for name, n, *_ in totals_by_tool(db)}
                lost = counters(db)
        count = rows.get("Bash", 0)
        torn, empty = lost.get("quarantined", 0), lost.get("empty", 0)
        print(f"  stored {count}; of the killed, {torn} cut off and set aside, {empty} never wrote")
        verdict("events of hooks that ended, not stored", len(ended) - count, 0)


if __name__ == "__main__":
    main()
