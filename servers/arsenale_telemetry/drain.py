"""From spool to store: each event exactly once, whoever is killed at whatever moment."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio import to_thread
from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType]

from arsenale_core import logs
from arsenale_core.errors import UnavailableError
from arsenale_core.events import HookEvent
from arsenale_telemetry.normalise import Capture, normalise
from arsenale_telemetry.spool import Claimed, Spool, documents
from arsenale_telemetry.store import TelemetryStore

BATCH_FILES = 1_000
BATCH_BYTES = 32 * 2**20
"""What one transaction takes at most: bounded memory, and a commit's cost shared by many."""

BUSY_RETRY_S = 0.005
"""How soon to look again at a file whose hook is still writing."""

FAILING_RETRY_S = 1.0
"""How soon to try again when the store refuses: the disk is full, the server is away."""

WATCHED_S, UNWATCHED_S = 5.0, 0.1
"""How often to look though no notice came: a cleared folder loses its watch; and without one."""

LOCK_RETRY_S = 1.0
"""How often to ask whether the process that drains has ended."""


class Drain:
    """Moves events from SPOOL to STORE. `once()` is the whole promise; `run()` repeats it.

    Attributes:
        active: Whether this process is the one that drains.
        error: Why the last attempt failed; `None` while all is well.
    """

    def __init__(
        self,
        spool: Spool,
        store: TelemetryStore,
        *,
        capture: Capture,
        max_bytes: int,
        step_ms: int,
        now: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._store = store
        self._capture = capture
        self._max_bytes = max_bytes
        self._step_ms = step_ms
        self._now = now
        self._log = logs.get("arsenale.drain")
        self._changed = anyio.Event()
        self._look_every_s = WATCHED_S
        self.active = False
        self.error: str | None = None

    def once(self) -> tuple[int, bool]:
        """Store one batch: read, commit, and only then unlink.

        Returns:
            How many files were stored, and whether others were still being written.

        Raises:
            UnavailableError: The store refused; the files wait.
        """
        files, busy = self._spool.claim(BATCH_FILES, BATCH_BYTES, self._now())
        if files:
            self._store_files(files)
        return len(files), busy

    def catch_up(self) -> None:
        """Store what waits, unless another process drains: then it does.

        Raises:
            UnavailableError: The store refused; the files wait.
        """
        lock = self._spool.lock()
        if lock is None:
            return
        try:
            while self.once()[0]:
                pass
        finally:
            os.close(lock)

    def _store_files(self, files: list[Claimed]) -> None:
        events, counts = self._parse(files)
        try:
            self._store.add(events, counts)
        except UnavailableError:
            raise
        except Exception:  # noqa: BLE001  # the edge of the worker loop
            # One event that the database will not take must not hold up the others.
            if len(files) == 1:
                self._log.exception("an event cannot be stored", file=files[0].origin)
                self._spool.quarantine(files[0], files[0].content)
                self._store.count("quarantined")
                self._spool.let_go(files)
                return
            middle = len(files) // 2
            self._store_files(files[:middle])
            self._store_files(files[middle:])
            return
        self._spool.let_go(files)

    def _parse(self, files: list[Claimed]) -> tuple[list[HookEvent], dict[str, int]]:
        events: list[HookEvent] = []
        counts: Counter[str] = Counter()
        for file in files:
            found, damaged = documents(file.content)
            for number, raw in enumerate(found):
                origin = f"{file.origin}:{number}"
                events.append(
                    normalise(raw, at_us=file.at_us, origin=origin, capture=self._capture)
                )
            if damaged:
                self._spool.quarantine(file, b"\n".join(damaged) + b"\n")
                counts["quarantined"] += len(damaged)
            if not file.content:
                counts["empty"] += 1
        return events, dict(counts)

    async def run(self) -> None:
        """Drain for ever: at once when the folder changes, and after whatever failed."""
        while (lock := await to_thread.run_sync(self._spool.lock)) is None:  # noqa: ASYNC110
            await anyio.sleep(LOCK_RETRY_S)
        self.active = True
        try:
            await self._drain_and_watch()
        finally:
            self.active = False
            os.close(lock)

    async def _drain_and_watch(self) -> None:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, stop)
            try:
                while True:
                    self._changed = anyio.Event()
                    pause_s = await self._drain_all()
                    with anyio.move_on_after(pause_s):
                        await self._changed.wait()
            finally:
                stop.set()  # before the group waits for the watcher, whose thread looks for it

    async def _watch(self, stop: anyio.Event) -> None:
        """Set `_changed` when a file comes; without a watcher the drain looks by itself."""
        try:
            async for _ in awatch(
                self._spool.folder,
                watch_filter=_is_new_event,
                debounce=self._step_ms,
                step=self._step_ms,
                recursive=False,
                stop_event=stop,
            ):
                self._changed.set()
        except (OSError, RuntimeError) as exc:  # as a rule: no more inotify watches to be had
            self._look_every_s = UNWATCHED_S
            self._log.warning("the spool cannot be watched, so it is polled", reason=str(exc))

    async def _drain_all(self) -> float:
        """Store until the spool is empty; return how long to sleep unless it changes, seconds."""
        try:
            stored, busy = 1, False
            while stored:
                stored, busy = await to_thread.run_sync(self.once)
            if self.error is not None:
                self._log.info("the store takes events again")
                await to_thread.run_sync(self._spool.bound, self._max_bytes)
            self.error = None
        except (UnavailableError, OSError) as exc:
            if self.error is None:
                self._log.error("events wait in the spool", reason=str(exc))
            self.error = str(exc)
            await to_thread.run_sync(self._hold_back)
            return FAILING_RETRY_S
        return BUSY_RETRY_S if busy else self._look_every_s

    def _hold_back(self) -> None:
        try:
            dropped = self._spool.bound(self._max_bytes)
            if dropped:
                self._store.count("bodies_dropped", dropped)
        except (UnavailableError, OSError) as exc:
            self._log.warning("the spool cannot be bounded", reason=str(exc))


def _is_new_event(change: Change, path: str) -> bool:
    return (
        change is not Change.deleted
        and path.endswith(".json")
        and Path(path).parent.name != "claimed"
    )
