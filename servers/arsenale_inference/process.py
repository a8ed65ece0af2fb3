"""A model worker as the sidecar sees it: started, asked, heard, ended."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import orjson
from anyio.abc import Process

from arsenale_core import logs
from arsenale_core.err_files import bound
from arsenale_core.errors import UnavailableError
from arsenale_inference import err_files, exits
from arsenale_inference.messages import Event, Failed, Ready, Request, decode, encode, error_of

LOAD_S = 600.0
"""A large model comes from a slow disk, and layers are measured once."""

DEATH_S = 1.0
"""How long a process that closed its output may take to end: a core dump is written first."""

LINE_BYTES = 1 << 20


class WorkerProcess:
    """One process; what it says goes to `hear`, in order, until it ends."""

    def __init__(self, options: dict[str, Any], err_file: Path) -> None:
        self._options, self._err_file = options, err_file
        self._process: Process | None = None
        self._buffer = b""
        self._killed = self._closed = False
        self._status: int | None = None
        self._writing = anyio.Lock()
        self._log = logs.get("arsenale.inference")

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> Ready:
        """Start it and wait until its model is loaded.

        Raises:
            InvalidError: The model cannot be loaded.
            UnavailableError: It does not start.
        """
        command = [sys.executable, "-P", "-m", "arsenale_inference.worker"]
        try:
            with os.fdopen(err_files.opened(self._err_file), "ab") as err:
                self._process = await anyio.open_process(
                    [*command, orjson.dumps(self._options).decode()], stderr=err
                )
        except OSError as exc:
            raise UnavailableError(
                f"the model worker does not start ({exc.strerror})", hint="end other processes"
            ) from exc
        try:
            with anyio.fail_after(LOAD_S):
                event = await self._event()
        except (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError, ValueError) as exc:
            await self.end()
            ended = self.how_it_ended() or "does not start"
            raise UnavailableError(
                f"the model worker {ended} while it loaded the model", hint=self.remedy()
            ) from exc
        if isinstance(event, Failed):
            await self.end()
            raise error_of(event)
        assert isinstance(event, Ready)
        return event

    async def hear(self, heard: Callable[[Event], None]) -> None:
        """Pass on what it says, until it ends."""
        try:
            while True:
                heard(await self._event())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        except ValueError as exc:
            self._log.error("a worker speaks another language", reason=str(exc))

    async def send(self, *requests: Request) -> None:
        """Hand REQUESTS to it, nothing between them; one that is gone says so by ending."""
        process = self._process
        if process is None or process.stdin is None or not requests:
            return
        try:
            async with self._writing:
                await process.stdin.send(b"".join(encode(request) for request in requests))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, RuntimeError):
            return

    def bound_err(self) -> None:
        """Keep what it says on stderr from growing without end."""
        bound(self._err_file)

    def how_it_ended(self) -> str | None:
        """Return what ended it, as `was killed by SIGILL (illegal instruction)`.

        None while it runs, and where the sidecar itself ended it.
        """
        return None if self._killed or self._status is None else exits.describe(self._status)

    def remedy(self) -> str:
        """Return what a person can do about how it ended."""
        known = None if self._killed or self._status is None else exits.remedy(self._status)
        return known or f"the reason is in {self._err_file}"

    def kill(self) -> None:
        """End it at once: it hangs."""
        if self._process is not None and self._process.returncode is None:
            self._killed = True
            self._process.kill()

    async def end(self) -> None:
        """End it and wait until it is gone; it holds nothing that could be lost."""
        process, self._process = self._process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            await self._wait_for_its_own_end(process)
            if process.returncode is None:
                self._killed = True
                process.kill()
            self._status = await process.wait()
            await process.aclose()
        err_files.closed(self._err_file)

    async def _wait_for_its_own_end(self, process: Process) -> None:
        """Give a process that closed its output the moment that its exit status takes."""
        if self._closed and process.returncode is None:
            with anyio.move_on_after(DEATH_S):
                await process.wait()

    async def _event(self) -> Event:
        process = self._process
        if process is None or process.stdout is None:  # it was ended between two events
            raise anyio.ClosedResourceError
        while b"\n" not in self._buffer:
            try:
                self._buffer += await process.stdout.receive(LINE_BYTES)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                self._closed = True
                raise
        line, _, self._buffer = self._buffer.partition(b"\n")
        return decode(line)
