"""Processes of one kind that wait for work: lent, given back, replaced when they die."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.errors import UnavailableError
from arsenale_mesh.sandbox import processes
from arsenale_mesh.sandbox.jail import Layer, Layers
from arsenale_mesh.sandbox.kinds import Kind
from arsenale_mesh.sandbox.processes import WorkerProcess

_STARTS: Final = 3
"""How often a start is tried before those who wait are told."""


@dataclass(eq=False)
class Crew:
    """Processes of one kind: those that wait, and how to get more."""

    require: tuple[Layer, ...]
    data_bytes: int
    idle: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    layers: Layers | None = None
    _all: set[WorkerProcess] = field(default_factory=set[WorkerProcess])
    _changed: anyio.Condition = field(default_factory=anyio.Condition)
    _broken: UnavailableError | None = None
    _tasks: TaskGroup | None = None

    def hire(self, tasks: TaskGroup, count: int) -> None:
        """Start COUNT processes in TASKS."""
        self._tasks = tasks
        for _ in range(count):
            tasks.start_soon(self._start)

    @asynccontextmanager
    async def take(self, having: tuple[Kind, str] | None = None) -> AsyncGenerator[WorkerProcess]:
        """Lend a process, one that has the module HAVING if any waits.

        Raises:
            UnavailableError: None can be started.
        """
        worker = await self._alive(having)
        try:
            yield worker
        except BaseException:  # a half-read answer would be taken for the next one's
            if worker in self._all:
                await self.replace(worker)
            raise
        if worker in self._all:
            with anyio.CancelScope(shield=True):
                async with self._changed:
                    self.idle.append(worker)
                    self._changed.notify()

    async def replace(self, worker: WorkerProcess) -> int:
        """End WORKER, start another, and return its exit code."""
        self._all.discard(worker)
        code = await worker.end()
        if self._tasks:
            self._tasks.start_soon(self._start)
        return code

    @property
    def lent(self) -> list[WorkerProcess]:
        """Those that do not wait."""
        return [one for one in self._all if one not in self.idle]

    async def dismiss(self) -> None:
        """End all of them and start none any more."""
        self._tasks = None
        for worker in tuple(self._all):
            self._all.discard(worker)
            await worker.end()
        self.idle.clear()

    async def _next(self, having: tuple[Kind, str] | None) -> WorkerProcess:
        async with self._changed:
            while not self.idle:
                if self._broken and self._tasks:
                    self._tasks.start_soon(self._start)  # it may be better the next time
                    failure, self._broken = self._broken, None
                    raise failure
                await self._changed.wait()
            for place, worker in enumerate(self.idle):
                if having in worker.modules:
                    return self.idle.pop(place)
            return self.idle.pop()

    async def _alive(self, having: tuple[Kind, str] | None) -> WorkerProcess:
        """Return the next that did not die while it waited."""
        while (worker := await self._next(having)).process.returncode is not None:
            await self.replace(worker)
        return worker

    async def _start(self) -> None:
        try:
            worker = await self._started()
        except UnavailableError as exc:
            await self._tell(exc)
            return
        if self._tasks is None:
            await worker.end()
            return
        self.layers = worker.layers
        if missing := worker.layers.missing(self.require):
            await worker.end()
            said = "; ".join(f"{name}: {why}" for name, why in missing.items())
            await self._tell(
                UnavailableError(f"the jail lacks {said}", hint="allow running without them")
            )
            return
        self._all.add(worker)
        async with self._changed:
            self._broken = None
            self.idle.append(worker)
            self._changed.notify()

    async def _started(self) -> WorkerProcess:
        for attempt in range(1, _STARTS):
            try:
                return await _begun(self.data_bytes)
            except UnavailableError:
                _log().warning("a sandbox worker does not start", attempt=attempt)
        return await _begun(self.data_bytes)

    async def _tell(self, failure: UnavailableError) -> None:
        async with self._changed:
            self._broken = failure
            self._changed.notify_all()


async def _begun(data_bytes: int) -> WorkerProcess:
    """Start a process, to the end also where nobody waits any more: it would be left behind."""
    begun: list[WorkerProcess] = []
    with anyio.CancelScope(shield=True):
        begun.append(await processes.start(data_bytes))
    [worker] = begun
    return worker


def _log() -> Any:
    return logs.get("arsenale.mesh.sandbox")
