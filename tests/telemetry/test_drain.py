"""From hook to row: with real hooks, real kills, a full disk and damaged files."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from arsenale_core.assets import asset_dir
from arsenale_telemetry import reading, tables
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore

HOOK = str(asset_dir("hooks") / "log_event.sh")


def raw(number: int, kind: str = "PostToolUse", size: int = 100) -> bytes:
    said: dict[str, Any] = {
        "hook_event_name": kind, "session_id": "s", "tool_name": "Bash", "prompt_id": "p",
        "tool_use_id": f"toolu_{number}", "tool_input": {"command": f"echo {number}"},
        "duration_ms": 3,
    }  # fmt: skip
    if kind == "PostToolUse":
        said["tool_response"] = {"stdout": "x" * size}
    return json.dumps(said).encode() + b"\n"


def drain_of(spool: Spool, store: TelemetryStore, max_bytes: int = 2**26) -> Drain:
    return Drain(spool, store, capture=Capture(), max_bytes=max_bytes, step_ms=5, now=time.time)


def drain_all(drain: Drain) -> None:
    stored, busy = drain.once()
    while stored or busy:
        stored, busy = drain.once()


def stored(store: TelemetryStore) -> tuple[int, dict[str, int]]:
    with store.reading() as db:
        n = db.execute(sa.select(sa.func.count()).select_from(tables.event)).scalar_one()
        return n, reading.counters(db)


@pytest.mark.slow
async def test_events_are_stored_while_many_hooks_write_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    count, writers = 400, 16
    with TelemetryStore(tmp_path) as store:
        drain = drain_of(spool, store)

        def hook(number: int) -> None:
            size = 1_000_000 if number % 40 == 0 else 2_000
            done = subprocess.run(
                ["/bin/sh", HOOK, str(spool.folder)], input=raw(number, size=size), check=False,
                capture_output=True,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

        def write() -> None:
            with ThreadPoolExecutor(writers) as pool:
                list(pool.map(hook, range(count)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain.run)
            await anyio.to_thread.run_sync(write)
            with anyio.fail_after(20):
                while stored(store)[0] < count:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert stored(store) == (count, {})
        assert spool.waiting() == (0, 0)
        with store.reading() as db:
            largest = db.execute(sa.select(sa.func.max(tables.call.c.output_bytes))).scalar_one()
        assert largest > 1_000_000


DRAIN_PROCESS = """
import sys, time
from pathlib import Path
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore
import arsenale_telemetry.drain as module
module.BATCH_FILES = 7
home = Path(sys.argv[1])
with TelemetryStore(home) as store:
    drain = Drain(Spool(home / "spool"), store, capture=Capture(), max_bytes=2**26, step_ms=5,
                  now=time.time)
    print("ready", flush=True)
    while True:
        drain.once()
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_a_drain_killed_at_random_moments_loses_nothing_and_counts_nothing_twice(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    spool = Spool(tmp_path / "spool")
    total = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", DRAIN_PROCESS, str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            process.stdout.readline()
            deadline = time.monotonic() + chance.uniform(0.01, 0.25)
            while time.monotonic() < deadline:
                for kind in ("PreToolUse", "PostToolUse"):
                    fresh = spool.folder / f"{total}-{kind}.tmp"
                    fresh.write_bytes(raw(total, kind))
                    fresh.rename(fresh.with_suffix(".json"))
                total += 1
            os.kill(process.pid, signal.SIGKILL)
    with TelemetryStore(tmp_path) as store:
        drain_all(drain_of(spool, store))
        assert stored(store)[0] == 2 * total
        with store.reading() as db:
            [(_, calls, errors, _, total_us)] = reading.totals_by_tool(db)
        assert (calls, errors, total_us) == (total, 0, total * 3_000)
    assert spool.waiting() == (0, 0)


async def test_a_spool_that_is_cleared_while_it_is_drained_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arsenale_telemetry.drain.WATCHED_S", 0.05)
    spool = Spool(tmp_path / "spool")
    with TelemetryStore(tmp_path) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain_of(spool, store).run)
            await anyio.sleep(0.2)
            shutil.rmtree(spool.folder)
            subprocess.run(["/bin/sh", HOOK, str(spool.folder)], input=raw(1), check=True)  # noqa: ASYNC221
            with anyio.fail_after(10):
                while stored(store)[0] < 1:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()


async def test_a_drain_that_ends_gives_the_right_to_drain_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with TelemetryStore(tmp_path) as store:
        for _ in range(2):
            drain = drain_of(spool, store)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(drain.run)
                with anyio.fail_after(5):
                    while not drain.active:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            assert not drain.active


def test_damaged_files_are_set_aside_counted_and_hold_nobody_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    (spool.folder / "1.1.json").write_bytes(raw(1)[:40])  # cut off: what can be read counts
    (spool.folder / "2.1.json").write_bytes(raw(2))
    (spool.folder / "3.1.json").write_bytes(b"\x00\xff garbage \n" + raw(3))
    (spool.folder / "4.1.json").write_bytes(b"")
    with TelemetryStore(tmp_path) as store:
        drain_all(drain_of(spool, store))
        assert stored(store) == (3, {"quarantined": 1, "empty": 1})
    assert len(list((spool.folder / "quarantine").iterdir())) == 1


def test_an_event_that_the_database_refuses_is_set_aside_and_the_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    for number in range(5):
        (spool.folder / f"{number}.1.json").write_bytes(raw(number))
    with TelemetryStore(tmp_path) as store:
        add: Callable[..., int] = store.add

        def refuse(events: Any, counts: Any = None) -> int:
            if any(event.tool_use_id == "toolu_3" for event in events):
                raise ValueError("no such thing fits")
            return add(events, counts)

        monkeypatch.setattr(store, "add", refuse)
        drain_all(drain_of(spool, store))
        assert stored(store) == (4, {"quarantined": 1})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs to mount a tmpfs")
def test_a_full_disk_keeps_events_in_the_spool_until_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        anyio.run(_full_disk, disk, tmp_path)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def _full_disk(disk: Path, elsewhere: Path) -> None:
    spool = Spool(elsewhere / "spool")
    with TelemetryStore(disk) as store:
        drain = drain_of(spool, store)
        filler = disk / "filler"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain.run)
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    pass
            for number in range(300):
                (spool.folder / f"{number}.1.json").write_bytes(raw(number))
            with anyio.fail_after(15):
                while drain.error is None:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            assert "does not answer" in drain.error
            assert spool.waiting()[0] > 0
            filler.unlink()
            with anyio.fail_after(15):
                while stored(store)[0] < 300:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            assert stored(store)[0] == 300
            tasks.cancel_scope.cancel()
