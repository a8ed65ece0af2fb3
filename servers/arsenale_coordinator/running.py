"""The process that runs recipes: one for each database, started when there is something to run.

It holds `run/recipes.lock` (on PostgreSQL also an advisory lock, for all machines), goes on with
what an earlier one left, and ends when nothing is left to do but to wait for people or for long.
"""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from arsenale_coordinator import relaying
from arsenale_coordinator.recipes import rows
from arsenale_coordinator.record import Clock
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core import boot, logs
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_core.files import make_private
from arsenale_core.store import Sql
from arsenale_core.tasks import background

if TYPE_CHECKING:
    from arsenale_coordinator.recipes.engine import Activity, Engine

ALREADY_RUNS = 3

POLL_S = 0.25
"""How often it is looked for new runs and for wishes."""

_ONE_ENGINE = Sql("SELECT pg_try_advisory_lock(hashtext('arsenale_recipes'))")


def lock_file(home: Path) -> Path:
    """Return the file that the process holds locked."""
    return home / "run" / "recipes.lock"


def main() -> int:
    """Run what is to run; return the exit status."""
    settings = Settings.read()
    logs.configure(
        settings.log_level,
        file=settings.home / "logs" / "recipes.log",
        max_bytes=settings.log_max_bytes,
        backups=settings.log_backups,
        stderr_level="ERROR",
    )
    make_private(lock_file(settings.home).parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(lock_file(settings.home), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return ALREADY_RUNS
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    status = anyio.run(_serve, settings)
    # DBOS waits at exit for workflows that wait for people: what they do is written down.
    logs.get("arsenale.recipes").info("ended", status=status)
    os._exit(status)


async def _serve(settings: Settings) -> int:
    clock = Clock(now=time.time, ticks=boot.ticks, boot=boot.boot_id())
    log = logs.get("arsenale.recipes")
    where = settings.database_url or settings.home
    with CoordinatorStore(where, clock) as store, store.reading() as held:
        if store.dialect == "postgresql" and not _ONE_ENGINE.value(held):
            return ALREADY_RUNS
        held.commit()  # the lock is the connection's, and stays
        async with background() as tasks:
            from arsenale_coordinator.recipes.engine import Engine  # noqa: PLC0415  # 1 s

            peers = relaying.peers(settings.home, tasks)
            engine = Engine(store, peers)
            # What was cancelled while nobody ran it must not go on for a step first.
            for run in await to_thread.run_sync(_unfinished, store):
                if run.wanted == "cancel":
                    engine.cancel(run.id)
                if run.state != "queued":
                    engine.activity.running.add(run.id)
            await to_thread.run_sync(engine.launch, settings.database_url)
            log.info("up", pid=os.getpid())
            with (
                anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
                anyio.CancelScope() as end,
            ):
                tasks.start_soon(_look_after, store, engine, settings.recipes_idle_s, end)
                async for _ in signals:
                    break
    return 0


def _unfinished(store: CoordinatorStore) -> list[rows.Run]:
    with store.reading() as db:
        return rows.unfinished(db)


async def _look_after(
    store: CoordinatorStore, engine: "Engine", idle_s: float, end: anyio.CancelScope
) -> None:
    """Begin what is queued, cancel what is not wanted, say what waits; end when all is done."""
    told: dict[str, tuple[str, int | None]] = {}
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < idle_s and not engine.activity.broken:
        for run in await to_thread.run_sync(_unfinished, store):
            if run.wanted == "cancel":
                engine.cancel(run.id)
            if run.state == "queued" and run.id not in engine.activity.running:
                await engine.begin(run)
            elif run.state != "queued":
                said = _state(engine.activity, run.id)
                if told.get(run.id, (run.state, run.wake_us)) != said:
                    await to_thread.run_sync(_tell, store, run.id, *said)
                told[run.id] = said
        if not engine.activity.is_idle(store.clock.now_us()):
            idle_since = time.monotonic()
        await anyio.sleep(POLL_S)
    end.cancel()


def _state(activity: "Activity", run: str) -> tuple[rows.RunState, int | None]:
    ends = [end for (waiting, _), end in list(activity.waits.items()) if waiting == run]
    if not ends:
        return "running", None
    return "waiting", min((end for end in ends if end is not None), default=None)


def _tell(store: CoordinatorStore, run: str, state: rows.RunState, wake_us: int | None) -> None:
    try:
        with store.changing() as c:
            rows.set_state(c, run, state, wake_us)
    except ArsenaleError as exc:
        logs.get("arsenale.recipes").warning("not told", run=run, reason=str(exc))


if __name__ == "__main__":
    sys.exit(main())
