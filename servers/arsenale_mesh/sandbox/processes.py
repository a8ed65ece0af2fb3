"""One worker process as the server sees it: started, asked, ended. It may be in a guest's hands."""

import mmap
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Final

import anyio
from anyio.abc import Process

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh.exactly import Reader
from arsenale_mesh.sandbox import frames
from arsenale_mesh.sandbox.jail import Layers
from arsenale_mesh.sandbox.kinds import Kind

START_S: Final = 60.0
"""How long a worker may take to be ready, on a machine that is busy."""

_PROGRESS_BYTES: Final = 8

GONE: Final = (
    anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError,
    InvalidError, OSError,
)  # fmt: skip
"""What asking a worker raises that died or talks nonsense."""


@dataclass(slots=True, kw_only=True, eq=False)
class WorkerProcess:
    """A process with its doors closed."""

    process: Process
    answers: Reader
    progress: mmap.mmap
    layers: Layers
    modules: set[tuple[Kind, str]] = field(default_factory=set[tuple[Kind, str]])
    """What it should have ready; it says so where it has not."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def burnt(self) -> int:
        """What its guest had burnt when it last came back."""
        return int.from_bytes(self.progress[:_PROGRESS_BYTES], "little")

    async def ask(
        self, head: dict[str, Any], blobs: tuple[bytes, ...], most: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a frame and return the answer, of at most MOST bytes of blobs.

        Raises:
            Exception: One of `GONE`: the worker has to be ended.
        """
        assert self.process.stdin
        await self.process.stdin.send(frames.pack(head, blobs))
        return await frames.receive(self.answers.exactly, most)

    def forget(self) -> None:
        """Reset what it told of progress."""
        self.progress[:_PROGRESS_BYTES] = bytes(_PROGRESS_BYTES)

    async def end(self) -> int:
        """Kill it, wait until it is gone, and return its exit code."""
        code = await _end(self.process)
        self.progress.close()
        return code


async def start(data_bytes: int) -> WorkerProcess:
    """Start a worker with DATA_BYTES of memory to write to and wait until it is ready.

    Raises:
        UnavailableError: It does not get there.
    """
    shared = _shared_page()
    # -P: the current folder is a project's, and what lies there is not ours to import
    command = [sys.executable, "-P", "-m", "arsenale_mesh.sandbox.worker"]
    try:
        process = await anyio.open_process(
            [*command, str(os.getpid()), str(shared), str(data_bytes)],
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C.UTF-8"},
            pass_fds=(shared,),
            start_new_session=True,
        )
        progress = mmap.mmap(shared, mmap.PAGESIZE)
    finally:
        os.close(shared)
    assert process.stdout
    answers = Reader(process.stdout)
    try:
        with anyio.fail_after(START_S):
            said, _ = await frames.receive(answers.exactly, 0)
        layers = Layers(**{one.name: str(said[one.name]) for one in fields(Layers)})
    except BaseException as exc:
        await _end(process)
        progress.close()
        if isinstance(exc, (*GONE, TimeoutError, KeyError)):
            raise UnavailableError("a sandbox worker does not start", hint="see doctor") from exc
        raise
    return WorkerProcess(process=process, answers=answers, progress=progress, layers=layers)


async def _end(process: Process) -> int:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            _kill(process)
        await process.wait()
        await process.aclose()
    return process.returncode if process.returncode is not None else -1


def _kill(process: Process) -> None:
    """Kill it without reaping it: that is asyncio's, which `Process.kill` gets ahead of."""
    if sys.platform != "linux":
        process.kill()
        return
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            if process.returncode is None:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _shared_page() -> int:
    if sys.platform == "linux":
        fd = os.memfd_create("arsenale-mesh")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, mmap.PAGESIZE)
    return fd
