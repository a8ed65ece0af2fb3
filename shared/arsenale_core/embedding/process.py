"""An embedder whose engine runs in a process of its own: started when needed, ended when idle."""

import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import anyio
from anyio.abc import Process, TaskGroup

from arsenale_core import logs
from arsenale_core.embedding.worker import LENGTH_BYTES, frame
from arsenale_core.errors import UnavailableError
from arsenale_core.tasks import background

if TYPE_CHECKING:
    from arsenale_core.embedding.vectors import Vectors

CHUNK_TEXTS = 16
"""Texts sent at once: someone who waits gets in between chunks of a long job (about 150 ms)."""
ANSWER_S = 60.0
"""How long a chunk may take, the start of the engine included."""


class ProcessEmbedder:
    """Embeds through a worker process, one chunk at a time, the urgent ones first.

    A worker that dies is started again and asked once more. While it is idle for `idle_s` it is
    ended: its memory goes back to the system.
    """

    def __init__(self, id: str, arguments: Sequence[str], *, idle_s: float) -> None:
        self._id = id
        self._command = [sys.executable, "-P", "-m", "arsenale_core.embedding.worker", *arguments]
        self._idle_s = idle_s
        self._process: Process | None = None
        self._turns = _Turns()
        self._used = 0
        self._tasks: TaskGroup | None = None
        self._log = logs.get("arsenale.embedding")

    @property
    def id(self) -> str:
        """Return the name of model and number format."""
        return self._id

    @property
    def pid(self) -> int | None:
        """Return the worker's process id; `None` while none runs."""
        return self._process.pid if self._process else None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator["ProcessEmbedder"]:
        """Allow the worker to be started; end it on the way out."""
        try:
            async with background() as self._tasks:
                yield self
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                await self._stop()

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> "Vectors":
        """Return a unit vector for each of TEXTS."""
        import numpy as np  # noqa: PLC0415  # 60 ms that a server without vectors does not need

        parts: list[Vectors] = []
        for start in range(0, len(texts), CHUNK_TEXTS):
            async with self._turns.take(urgent=urgent):
                body = await self._ask(texts[start : start + CHUNK_TEXTS])
            rows = len(texts[start : start + CHUNK_TEXTS])
            parts.append(np.frombuffer(body, "<f4").reshape(rows, -1).astype(np.float32))
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    async def _ask(self, texts: Sequence[str]) -> bytes:
        request = frame(json.dumps(list(texts)).encode())
        for attempt in (1, 2):
            try:
                with anyio.fail_after(ANSWER_S):
                    return await self._exchange(request)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._log.warning("the embedding process went", attempt=attempt)
                await self._stop()
            except BaseException:  # a half-read answer would be taken for the next one's
                with anyio.CancelScope(shield=True):
                    await self._stop()
                raise
        raise UnavailableError(
            f"the embedder {self._id} does not start or dies", hint="see `arsenale logs`"
        )

    async def _exchange(self, request: bytes) -> bytes:
        process = self._process or await self._start()
        assert process.stdin and process.stdout
        self._used += 1
        await process.stdin.send(request)
        head = json.loads(await _frame(process))
        if "error" in head:
            raise UnavailableError(f"the embedder {self._id} failed", hint=str(head["error"]))
        return await _frame(process)

    async def _start(self) -> Process:
        if self._tasks is None:
            raise UnavailableError(f"the embedder {self._id} is closed")
        self._process = await anyio.open_process(self._command, stderr=None)
        self._tasks.start_soon(self._end_when_idle, self._process)
        return self._process

    async def _end_when_idle(self, process: Process) -> None:
        while self._process is process:
            before = self._used
            await anyio.sleep(self._idle_s)
            if self._used == before and self._process is process:
                async with self._turns.take(urgent=False):
                    if self._used == before and self._process is process:
                        await self._stop()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()  # it holds nothing that could be lost
        await process.wait()
        await process.aclose()


class _Turns:
    """A lock that gives the next turn to whoever is urgent."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: list[tuple[bool, int, anyio.Event]] = []
        self._count = 0

    @asynccontextmanager
    async def take(self, *, urgent: bool) -> AsyncGenerator[None]:
        """Hold the turn."""
        if self._busy:
            event = anyio.Event()
            self._count += 1
            entry = (not urgent, self._count, event)
            heappush(self._waiting, entry)
            try:
                await event.wait()
            except BaseException:
                if event.is_set():
                    self._pass_on()
                else:
                    self._waiting.remove(entry)
                    self._waiting.sort()
                raise
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            heappop(self._waiting)[2].set()  # still busy: the turn is theirs
        else:
            self._busy = False


async def _frame(process: Process) -> bytes:
    head = await _exactly(process, LENGTH_BYTES)
    return await _exactly(process, int.from_bytes(head, "big"))


async def _exactly(process: Process, size: int) -> bytes:
    assert process.stdout
    parts: list[bytes] = []
    while size:
        part = await process.stdout.receive(size)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
