"""A base model that is served: its workers, what each of them does, and which is asked next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from arsenale_core.errors import ArsenaleError
from arsenale_inference.layer_cache import LayerCache
from arsenale_inference.messages import (
    AddLayer,
    DropLayer,
    Embed,
    Embedded,
    Finished,
    Generate,
    LayerReady,
    Piece,
    Pong,
    Ready,
    Started,
)
from arsenale_inference.process import WorkerProcess

Told = Started | Piece | Finished | Embedded | ArsenaleError
"""What a call hears; the last is `Finished`, `Embedded` or an error."""

UNREAD = 100_000
"""So many events wait for a client that reads slowly; one that never reads is cancelled."""


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """A request on its way.

    Attributes:
        layers: The files of its layers, by name.
        attempts: How many workers it was given.
        said: Whether its client was sent anything of the answer.
    """

    base: str
    request: Generate | Embed
    layers: Mapping[str, Path]
    since_s: float
    out: MemoryObjectSendStream[Told]
    told: MemoryObjectReceiveStream[Told]
    attempts: int = 0
    said: bool = False
    ended: bool = False
    worker: "Worker | None" = None

    @classmethod
    def of(
        cls, base: str, request: Generate | Embed, layers: Mapping[str, Path], since_s: float
    ) -> "Call":
        """Make a call that nobody has yet."""
        out, told = anyio.create_memory_object_stream[Told](UNREAD)
        return cls(base=base, request=request, layers=layers, since_s=since_s, out=out, told=told)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of its layers, each once."""
        return tuple(self.layers)

    def tell(self, event: Told) -> bool:
        """Pass EVENT on; false when its client has not read for too long."""
        if self.ended:
            return True
        self.said = self.said or isinstance(event, Piece)
        self.ended = isinstance(event, Finished | Embedded | ArsenaleError)
        try:
            self.out.send_nowait(event)
        except anyio.WouldBlock:
            return False
        except anyio.BrokenResourceError:
            return True
        return True


@dataclass(slots=True, eq=False, kw_only=True)
class Worker:
    """One worker process and what it does."""

    number: int
    process: WorkerProcess
    ready: Ready
    cache: LayerCache
    calls: dict[str, Call] = field(default_factory=lambda: dict[str, Call]())
    loading: dict[str, anyio.Event] = field(default_factory=lambda: dict[str, anyio.Event]())
    failed: dict[str, ArsenaleError] = field(default_factory=lambda: dict[str, ArsenaleError]())
    pong: Pong | None = None
    heard_s: float = 0.0
    served: int = 0
    busy_s: float = 0.0
    last_stack: tuple[str, ...] = ()

    def fits(self, call: Call) -> bool:
        """Say whether CALL can start here now."""
        if len(self.calls) >= self.ready.sequences:
            return False
        return self.cache.plan(call.names, self.cache.sizes) is not None

    def score(self, call: Call) -> float:
        """Return how well CALL goes here: free places, and layers that are loaded already."""
        free = 1 - len(self.calls) / self.ready.sequences
        known = sum(name in self.cache.sizes for name in call.names) / max(len(call.names), 1)
        return free + 0.5 * known + 0.1 * (call.names == self.last_stack)

    async def begin(self, call: Call) -> None:
        """Load what CALL needs, then hand it to the worker."""
        sizes = {name: _size(path) for name, path in call.layers.items()}
        change = self.cache.plan(call.names, sizes)
        assert change is not None
        self.cache.apply(change, sizes)
        self.cache.use(call.names, change)
        self.last_stack = call.names
        for name in change.drop:
            await self.process.send(DropLayer(id=f"layer:{name}", name=name))
        for name in change.load:
            self.loading[name] = anyio.Event()
            self.failed.pop(name, None)
            path = str(call.layers[name])
            await self.process.send(AddLayer(id=f"layer:{name}", name=name, path=path))

    async def go(self, call: Call) -> None:
        """Wait for the layers of CALL, then let it start; an error of one is its own."""
        for name in call.names:
            if name in self.loading:
                await self.loading[name].wait()
            if name in self.failed:
                self.finish(call, self.failed[name])
                return
        if call.request.id in self.calls:
            await self.process.send(call.request)

    def layer_done(self, name: str, event: LayerReady | ArsenaleError) -> None:
        """Note that a layer is loaded, or why it is not."""
        if isinstance(event, ArsenaleError):
            self.failed[name] = event
            self.cache.lost(name)
        else:
            self.cache.measured(name, event.size_bytes)
        if name in self.loading:
            self.loading.pop(name).set()

    def finish(self, call: Call, told: Told) -> None:
        """End CALL with TOLD and let go of what it used."""
        if self.calls.pop(call.request.id, None) is not None:
            self.cache.release(call.names)
            self.served += 1
            if isinstance(told, Finished):
                self.busy_s += told.prefill_s + told.decode_s
        call.worker = None
        call.tell(told)


@dataclass(slots=True, eq=False, kw_only=True)
class Served:
    """A base model with its workers; `broken` says why it has none.

    Attributes:
        starting: Whether workers are being started; `started` is set when that is over.
        used_s: When it was last asked.
        restarts: When workers died lately.
    """

    name: str
    path: Path
    tasks: TaskGroup
    options: Callable[[Path], dict[str, Any]]
    workers: list[Worker] = field(default_factory=lambda: list[Worker]())
    starting: bool = False
    started: anyio.Event = field(default_factory=anyio.Event)
    broken: ArsenaleError | None = None
    used_s: float = 0.0
    restarts: list[float] = field(default_factory=lambda: list[float]())

    @property
    def busy(self) -> bool:
        """Say whether it starts or answers."""
        return self.starting or any(worker.calls for worker in self.workers)

    def worker_for(self, call: Call) -> Worker | None:
        """Return the worker on which CALL starts best, if it can start at all."""
        able = [worker for worker in self.workers if worker.fits(call)]
        return max(able, key=lambda worker: worker.score(call), default=None)


def _size(path: Path) -> int:
    """Return about how many bytes a layer takes: its file is of 16 or 32 bits a number."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
