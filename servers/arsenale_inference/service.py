"""The sidecar's service: requests in, a queue, workers that are started, watched and replaced."""

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.tasks import background
from arsenale_inference.catalogue import Catalogue
from arsenale_inference.err_files import err_file
from arsenale_inference.layer_cache import LayerCache
from arsenale_inference.messages import (
    Cancel,
    Embed,
    Embedded,
    Event,
    Failed,
    Finished,
    Generate,
    LayerReady,
    Pieces,
    Ping,
    Pong,
    Started,
    encode,
    error_of,
)
from arsenale_inference.options import Options
from arsenale_inference.process import WorkerProcess
from arsenale_inference.queueing import Queue, Waiting, too_late
from arsenale_inference.served import (
    LAYER_ID,
    Call,
    Served,
    Told,
    Worker,
    file_bytes,
    gone,
    layer_file,
)
from arsenale_inference.upstream import Upstreams

PING_S = 2.0
"""How often a worker is asked whether it lives."""

MOST_ATTEMPTS = 2
"""A request is given to so many workers when they die before they said anything."""

RESTARTS, RESTARTS_S = 3, 60.0
"""A model whose workers die so often in so long is not started again until that time is over."""


@dataclass(slots=True, eq=False)
class Inference:
    """Everything that answers; one a sidecar."""

    catalogue: Catalogue
    options: Options
    now: Callable[[], float]
    logs_folder: Path
    tasks: TaskGroup
    served: dict[str, Served] = field(default_factory=lambda: dict[str, Served]())
    leaving: list[Served] = field(default_factory=lambda: list[Served]())
    queue: Queue[Call] = field(init=False)
    requests: int = 0
    latency_s: float = 0.0
    _log: Any = field(default_factory=lambda: logs.get("arsenale.inference"))
    _upstreams: Upstreams = field(init=False)
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Make the queue, and what asks engines elsewhere."""
        self.queue = Queue(self.options.queue)
        self._upstreams = Upstreams(
            self.catalogue, self.tasks, key=self.options.upstream_key, now=self.now
        )

    # ------------------------------------------------------------ requests
    async def ask(
        self, model: str, request: Generate | Embed, *, wait_s: float | None = None
    ) -> AsyncGenerator[Told]:
        """Give what is said to REQUEST by MODEL; closing the generator cancels it.

        Args:
            model: See `catalogue`.
            request: Its id and stack are set here.
            wait_s: How long it may wait for a worker; by default as the options say.

        Raises:
            NotFoundError, InvalidError: MODEL or the request cannot be answered.
            QueueFullError: Too many wait.
            UnavailableError: It waited too long, or its worker died while it spoke.
        """
        now_s = self.now()
        base, stack = self.catalogue.resolve(model)
        if self.catalogue.names.bases[base].url is not None:
            self.requests += 1
            async with aclosing(self._upstreams.of(base).ask(request, stack)) as said:
                async for each in said:
                    yield each
            self.latency_s += self.now() - now_s
            return
        call = self._call(model, request)
        waits_s = self.options.wait_s if wait_s is None else wait_s
        self.queue.push(
            Waiting(
                item=call,
                priority=call.priority,
                since_s=now_s,
                until_s=now_s + waits_s,
                lane=call.base,
            )
        )
        self.requests += 1
        self.wake()
        try:
            async for told in call.told:
                if isinstance(told, ArsenaleError):
                    raise told
                yield told
                if isinstance(told, Finished | Embedded):
                    self.latency_s += self.now() - now_s
                    return
            raise UnavailableError("the answer was not read", hint="read it as it comes")
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave(call)

    def _call(self, model: str, request: Generate | Embed) -> Call:
        base, stack = self.catalogue.resolve(model)
        if isinstance(request, Embed) and stack:
            raise InvalidError("embeddings are of base models", hint=f"ask for {base!r}")
        files = self.catalogue.names.layers
        found = {name: layer_file(name, files[name].path) for name, weight in stack if weight}
        id = f"r{next(self._ids)}"
        if isinstance(request, Generate):
            weights = tuple((found[name][0], weight) for name, weight in stack if weight)
            request = replace(request, id=id, stack=weights)
        else:
            request = replace(request, id=id)
        try:
            encode(request)
        except TypeError as exc:
            raise InvalidError(
                f"the request has a value that cannot be passed on ({exc})",
                hint="numbers have 64 bits, texts are Unicode",
            ) from exc
        self._model(base)
        return Call.of(base, request, dict(found.values()), self.now())

    async def _leave(self, call: Call) -> None:
        """Cancel what is left of CALL: its client is gone, or it is done."""
        call.close()
        ended, call.ended = call.ended, True
        if self.queue.remove(call) or ended or call.worker is None:
            return
        if call.sent:
            await call.worker.process.send(Cancel(id=call.request.id))
        else:
            call.worker.release(call)
            self.wake()

    async def embed(self, model: str, inputs: tuple[str | tuple[int, ...], ...]) -> Embedded:
        """Return the embeddings of INPUTS by the base MODEL."""
        async with aclosing(self.ask(model, Embed(id="", inputs=inputs))) as told:
            async for each in told:
                if isinstance(each, Embedded):
                    return each
        raise UnavailableError("the worker gave no embeddings", hint="try again")

    # ------------------------------------------------------------ models
    def _model(self, base: str) -> Served:
        entry = self.catalogue.names.bases[base]
        assert entry.path is not None  # what is elsewhere is never loaded here
        served = self.served.get(base)
        if served is not None and not served.is_of(entry.path):
            self.leaving.append(served)
            served = None
        if served is None:
            served = self.served[base] = Served(
                name=base, path=entry.path, tasks=self.tasks, options=self._worker_options
            )
        served.used_s = self.now()
        return served

    def _end_leaving(self) -> None:
        """End the workers of models whose files are others by now, once they have answered."""
        for served in [each for each in self.leaving if not each.busy]:
            self.leaving.remove(served)
            self.tasks.start_soon(served.end)

    def _worker_options(self, path: Path) -> dict[str, Any]:
        return {**self.options.worker, "model": str(path)}

    async def load(self, base: str) -> Served:
        """Load the model BASE; return when it answers.

        Raises:
            NotFoundError: There is no such model.
            InvalidError, UnavailableError: It cannot be loaded.
        """
        base = self._here(base)
        served = self._model(base)
        self._start(served)
        await served.started.wait()
        if served.broken is not None:
            raise served.broken
        return served

    async def unload(self, base: str) -> None:
        """Unload the model BASE; what it is answering fails.

        Raises:
            NotFoundError: There is no such model.
        """
        served = self.served.pop(base, None)
        if served is None:
            self._here(base)
            return
        await served.end()

    def _here(self, model: str) -> str:
        base, _ = self.catalogue.resolve(model)
        if self.catalogue.names.bases[base].url is not None:
            raise InvalidError(f"{base} is served elsewhere", hint="load it there")
        return base

    def _start(self, served: Served) -> None:
        if not served.starting and len(served.workers) < self.options.workers:
            served.starting, served.broken, served.started = True, None, anyio.Event()
            self.tasks.start_soon(self._start_workers, served)

    async def _start_workers(self, served: Served) -> None:
        try:
            while len(served.workers) < self.options.workers:
                await self._start_worker(served)
        except OSError as exc:
            served.broken = UnavailableError(f"a worker cannot be started ({exc})")
            self._fail_waiting(served, served.broken)
        except ArsenaleError as exc:
            served.broken = exc
            if served not in self.leaving:
                self._fail_waiting(served, exc)
        finally:
            served.starting = False
            served.started.set()
            self.wake()

    async def _start_worker(self, served: Served) -> None:
        number = next(self._numbers)
        await self._make_room(served)
        process = WorkerProcess(served.options(served.path), err_file(self.logs_folder, number))
        started_s = self.now()
        ready = await process.start()
        if self.served.get(served.name) is not served:
            await process.end()
            raise gone(served.name)
        cache = LayerCache(self.options.layers, self.options.layers_bytes)
        worker = Worker(
            number=number, process=process, ready=ready, cache=cache, heard_s=self.now()
        )
        served.workers.append(worker)
        self._log.info(
            "model loaded", model=served.name, seconds=round(self.now() - started_s, 2),
            layers_by=ready.composer,
        )  # fmt: skip
        self.tasks.start_soon(self._watch, served, worker)
        self.tasks.start_soon(self._ping, worker)
        self.wake()

    async def _make_room(self, wanted: Served) -> None:
        """Unload idle models, the longest idle first, until WANTED fits into the memory limit."""
        size = file_bytes(wanted.path)
        if size > self.options.memory_bytes:
            raise UnavailableError(
                f"{wanted.name} needs {size / 1e9:.1f} GB and "
                f"{self.options.memory_bytes / 1e9:.1f} GB are allowed",
                hint="raise `inference_memory_mb`, or use a smaller quantisation",
            )
        while self.memory_bytes(but=wanted) + size > self.options.memory_bytes:
            others = (each for each in self.served.values() if each is not wanted)
            idle = [each for each in others if each.workers and not each.busy]
            if not idle:
                raise UnavailableError(
                    f"no memory for {wanted.name} beside the models that are answering",
                    hint="ask again when they are done, or raise `inference_memory_mb`",
                )
            await self.unload(min(idle, key=lambda s: s.used_s).name)

    def memory_bytes(self, but: Served | None = None) -> int:
        """Return what the workers take, as they last said, and what those that start will take.

        Args:
            but: A model whose start does not count.
        """
        starting = (s for s in self.served.values() if s.starting and s is not but)
        return sum(file_bytes(served.path) for served in starting) + sum(
            max(worker.rss_bytes, file_bytes(served.path))
            for served in (*self.served.values(), *self.leaving)
            for worker in served.workers
        )

    def _fail_waiting(self, served: Served, error: ArsenaleError) -> None:
        while True:
            waiting = self.queue.take(self.now(), lambda call: call.base == served.name)
            if waiting is None:
                return
            waiting.item.tell(error)

    # ------------------------------------------------------------ workers
    async def _watch(self, served: Served, worker: Worker) -> None:
        """Hear WORKER until it ends; then give its requests to another, or fail them."""
        await worker.process.hear(lambda event: self._heard(worker, event))
        await worker.process.end()
        if worker in served.workers:
            served.workers.remove(worker)
        now_s = self.now()
        served.restarts = [at for at in served.restarts if now_s - at < RESTARTS_S] + [now_s]
        unloaded = self.served.get(served.name) is not served
        for call in worker.lost():
            self._again(call, never=unloaded)
        if unloaded:
            self.wake()
            return
        ended = worker.process.how_it_ended() or "was ended"
        self._log.warning(
            "a model worker ended", model=served.name, worker=worker.number, how=ended
        )
        if len(served.restarts) > RESTARTS:
            served.broken = UnavailableError(
                f"the workers of {served.name} died {len(served.restarts)} times in a minute; "
                f"the last one {ended}",
                hint=worker.process.remedy(),
            )
            self._fail_waiting(served, served.broken)
        elif served.used_s > now_s - self.options.idle_s:
            self._start(served)
        self.wake()

    def _again(self, call: Call, *, never: bool) -> None:
        call.worker = None
        if call.ended:
            return
        if never or call.said or call.attempts >= MOST_ATTEMPTS:
            call.tell(gone(call.base))
            return
        waiting = Waiting(
            item=call, priority=call.priority, since_s=call.since_s,
            until_s=self.now() + self.options.wait_s, lane=call.base,
        )  # fmt: skip
        self.queue.push(waiting, again=True)

    def _heard(self, worker: Worker, event: Event) -> None:
        worker.heard_s = self.now()
        match event:
            case Pieces():
                for piece in event.pieces:
                    self._tell(worker, piece.id, piece)
            case Started():
                self._tell(worker, event.id, event)
            case Finished() | Embedded():
                self._done(worker, event.id, event)
            case Failed():
                self._done(worker, event.id, error_of(event))
            case LayerReady() if event.id.startswith(LAYER_ID):
                worker.layer_done(event.name, event)
                self.wake()
            case Pong():
                worker.pong = event
            case _:
                pass

    def _tell(self, worker: Worker, id: str, told: Told) -> None:
        call = worker.calls.get(id)
        if call is not None and not call.tell(told):
            self.tasks.start_soon(worker.process.send, Cancel(id=id))

    def _done(self, worker: Worker, id: str, told: Finished | Embedded | ArsenaleError) -> None:
        if id.startswith(LAYER_ID) and isinstance(told, ArsenaleError):
            worker.layer_done(id.removeprefix(LAYER_ID), told)
        elif (call := worker.calls.get(id)) is not None:
            worker.finish(call, told)
        self.wake()

    async def _ping(self, worker: Worker) -> None:
        """Ask WORKER now and then; end it when it does not answer."""
        while worker.process.pid is not None:
            asked_s = self.now()
            with anyio.move_on_after(PING_S):  # the pipe of one that hangs may be full
                await worker.process.send(Ping(id="ping"))
            await anyio.sleep(PING_S)
            worker.process.bound_err()
            if worker.heard_s < asked_s and self.now() - worker.heard_s > self.options.hang_s:
                self._log.error("a model worker hangs and is replaced", worker=worker.number)
                worker.process.kill()
                return

    # ------------------------------------------------------------ who is next
    def wake(self) -> None:
        """Look whether somebody who waits can start."""
        self._wake.set()

    async def dispatch(self) -> None:
        """Start those who wait as workers have room; until cancelled."""
        while True:
            self._wake = anyio.Event()
            self._end_leaving()
            now_s = self.now()
            for late in self.queue.expired(now_s):
                if self._is_starting(late.item):  # that is no wait for others
                    longer = replace(late, until_s=now_s + self.options.wait_s)
                    self.queue.push(longer, again=True)
                else:
                    late.item.tell(too_late(now_s - late.since_s, len(self.queue)))
            while (waiting := self.queue.take(now_s, self._fits)) is not None:
                self._begin(waiting.item)
            next_s = self.queue.next_expiry_s()
            with anyio.move_on_after(None if next_s is None else max(0.0, next_s - self.now())):
                await self._wake.wait()

    def _is_starting(self, call: Call) -> bool:
        served = self.served.get(call.base)
        return served is not None and served.starting and not served.workers

    def _fits(self, call: Call) -> bool:
        if call.ended:
            return True
        if call.base not in self.catalogue.names.bases:
            call.tell(gone(call.base))
            return True
        served = self._model(call.base)
        if not served.workers and not served.starting:
            served.restarts = [at for at in served.restarts if self.now() - at < RESTARTS_S]
            if len(served.restarts) > RESTARTS and served.broken is not None:
                call.tell(served.broken)
                return True
            self._start(served)
        return served.worker_for(call) is not None

    def _begin(self, call: Call) -> None:
        if call.ended:
            return
        worker = self.served[call.base].worker_for(call)
        assert worker is not None
        self.tasks.start_soon(worker.go, call, worker.take(call))

    async def unload_idle(self) -> None:
        """Unload what nobody asks for; until cancelled."""
        while True:
            await anyio.sleep(min(30.0, self.options.idle_s))
            for served in list(self.served.values()):
                if (
                    served.workers
                    and not served.busy
                    and self.now() - served.used_s > self.options.idle_s
                ):
                    self._log.info("model unloaded: nobody asked", model=served.name)
                    await self.unload(served.name)

    async def end(self) -> None:
        """End all workers and connections; none is started again."""
        await self._upstreams.close()
        ended, self.served = [*self.served.values(), *self.leaving], {}
        for served in ended:
            await served.end()


@asynccontextmanager
async def open_inference(
    catalogue: Catalogue, options: Options, now: Callable[[], float], logs_folder: Path
) -> AsyncGenerator[Inference]:
    """Open the service; its workers end with it."""
    async with background() as tasks:
        inference = Inference(catalogue, options, now, logs_folder, tasks)
        tasks.start_soon(inference.dispatch)
        tasks.start_soon(inference.unload_idle)
        try:
            yield inference
        finally:
            with anyio.CancelScope(shield=True):
                await inference.end()
