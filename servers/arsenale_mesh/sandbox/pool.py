"""Guests for the server: a pool of jailed workers, kept warm; no guest can stop or slow who asks.

Modules are compiled in a worker that never runs a guest, so no guest can have a hand in machine
code that another worker loads. A worker that dies, hangs or talks nonsense is ended and replaced.
"""

import signal
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from types import TracebackType
from typing import Any, Final, TypeAlias, cast, get_args

import anyio
from anyio import to_thread

from arsenale_core.errors import InvalidError
from arsenale_mesh import merkle
from arsenale_mesh.receipts import Limits, Status
from arsenale_mesh.sandbox.abi import check
from arsenale_mesh.sandbox.binary import RefusedError
from arsenale_mesh.sandbox.codes import CodeFolder
from arsenale_mesh.sandbox.crew import Crew
from arsenale_mesh.sandbox.imports import IMPORTS
from arsenale_mesh.sandbox.jail import Layer, Layers
from arsenale_mesh.sandbox.jobs import COMPILE_FUEL_PER_BYTE, STDERR_BYTES, Job, Outcome
from arsenale_mesh.sandbox.joining import joined
from arsenale_mesh.sandbox.kinds import Kind, engine_id
from arsenale_mesh.sandbox.processes import GONE, WorkerProcess
from arsenale_mesh.sandbox.scan import Bounds, Shape, scan

MAX_SLICES: Final = 10_000
"""Commitments in one run: more would slow the guest to hashing."""

RUN_DATA_BYTES: Final = 1 << 30
"""Of memory in a worker: a guest's 512 MiB, an interpreter, code, input and output."""

COMPILE_DATA_BYTES: Final = 1 << 30
"""In a compiler: 10,000 functions take a tenth of it."""

INPUT_BYTES: Final = 64 << 20
NAME_CHARS: Final = 200
"""Of the name of a function that is called."""

_COMPILES: Final = 2
"""How often a module is compiled before it is given up, where somebody kills who does."""

_LEAF_BYTES: Final = 32
_CODE_BYTES: Final = 256 << 20
_STATUSES: Final = frozenset(get_args(Status))
_WAYS: Final = frozenset({"dirty_pages", "full_hashing", "nothing"})

Begun: TypeAlias = Callable[[Callable[[], int]], None]
"""Is told that a guest begins, with what says the fuel it has burnt."""


CODE_BYTES_A_S = 100_000
"""Of code that a busy machine compiles in a second of CPU at least: Go's 1.5 MB take 9 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a pool holds.

    Attributes:
        workers: Guests that run at once.
        spares: Processes more that are kept ready, for when one has to be killed.
        grace_ms: After its wall time, until a guest that does not come back is killed.
        compilers: Modules that are compiled at once.
        compile_s: CPU time a module may take to compile, and a second more for each CODE_BYTES_A_S
            of its code, which it is billed for.
        code_bytes: Of machine code kept in memory.
    """

    workers: int = 2
    spares: int = 1
    grace_ms: int = 500
    compilers: int = 2
    compile_s: int = 3
    code_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A module that can be run: or why it cannot."""

    digest: str
    kind: Kind
    shape: Shape
    code: bytes
    compile_ms: float


class Pool:
    """Runs jobs. `async with Pool() as pool: outcome = await pool.run(Job(module=...))`."""

    def __init__(
        self,
        sizes: Sizes | None = None,
        *,
        require: Iterable[Layer] = (),
        folder: CodeFolder | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            sizes: What to hold.
            require: Layers of the jail without which nothing is run.
            folder: Where machine code outlives the pool.
        """
        self._sizes = sizes or Sizes()
        self._require = tuple(require)
        self._folder = folder
        self._workers = Crew(self._require, RUN_DATA_BYTES)
        self._compilers = Crew(self._require, COMPILE_DATA_BYTES)
        self._slots = anyio.Semaphore(self._sizes.workers)
        self._compiling = anyio.Semaphore(self._sizes.compilers)
        self._kept: OrderedDict[tuple[Kind, str], _Ready] = OrderedDict()
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._open: Any = None

    async def __aenter__(self) -> "Pool":
        self._open = self._running()
        return await self._open.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    @property
    def pids(self) -> list[int]:
        """The processes that wait for a guest now."""
        return [one.pid for one in self._workers.idle]

    @property
    def burning(self) -> dict[int, int]:
        """Fuel burnt so far by the guests that run now, by process; a millisecond old at most."""
        return {one.pid: one.burnt for one in self._workers.lent}

    @property
    def compiling(self) -> list[int]:
        """The processes that compile a module now."""
        return [one.pid for one in self._compilers.lent]

    @property
    def layers(self) -> Layers | None:
        """What holds the guests; `None` before the first worker was ready."""
        return self._workers.layers

    async def run(self, job: Job, begun: Begun | None = None) -> Outcome:
        """Run JOB to whatever end it comes; a guest's fault is an outcome, never an error.

        BEGUN is called when a worker takes it, with what tells the fuel burnt so far.

        Raises:
            InvalidError: The job's own numbers make no sense.
            UnavailableError: No worker can be started, or a layer that is required is missing.
        """
        _check(job)
        try:
            ready = await self._ready(job)
        except RefusedError as exc:
            return _refused(job, exc)
        async with self._slots:
            return await self._run(job, ready, begun)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator["Pool"]:
        crews = (self._workers, self._compilers)
        async with anyio.create_task_group() as tasks:
            try:
                self._compilers.hire(tasks, self._sizes.compilers)
                self._workers.hire(tasks, self._sizes.workers + self._sizes.spares)
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    for crew in crews:
                        await crew.dismiss()
                tasks.cancel_scope.cancel()

    async def _ready(self, job: Job) -> _Ready:
        """Return JOB's module compiled.

        Raises:
            RefusedError: It may not be, or cannot be called as JOB wants.
        """
        digest = sha256(job.module).hexdigest()
        found = self._remembered(job, digest)
        if found is None:
            async with self._compiling:
                found = self._remembered(job, digest) or await self._made(job, digest)
        check(found.shape, job.function)
        if found.shape.memory_bytes > job.limits.memory_bytes:
            size = found.shape.memory_bytes
            raise RefusedError("memory_limit", f"the memory begins with {size:,} bytes")
        return found

    def _remembered(self, job: Job, digest: str) -> _Ready | None:
        kind = self._kinds.get((job.backend, digest))
        if kind is None or (kind, digest) not in self._kept:
            return None
        self._kept.move_to_end((kind, digest))
        return self._kept[kind, digest]

    async def _made(self, job: Job, digest: str) -> _Ready:
        shape = await to_thread.run_sync(scan, job.module, IMPORTS, Bounds())
        kind = Kind(backend=job.backend, canonical_nan=shape.floats)
        check(shape, job.function)  # before the price of compiling
        budget_s = self._sizes.compile_s + shape.code_bytes // CODE_BYTES_A_S
        code, ms = await self._code(kind, digest, job.module, budget_s)
        made = _Ready(digest=digest, kind=kind, shape=shape, code=code, compile_ms=ms)
        self._remember(replace(made, compile_ms=0.0))
        return made

    def _remember(self, made: _Ready) -> None:
        self._kinds[made.kind.backend, made.digest] = made.kind
        self._kept[made.kind, made.digest] = made
        while sum(len(one.code) for one in self._kept.values()) > self._sizes.code_bytes:
            (kind, digest), _ = self._kept.popitem(last=False)
            self._kinds.pop((kind.backend, digest), None)

    async def _code(
        self, kind: Kind, digest: str, module: bytes, budget_s: int
    ) -> tuple[bytes, float]:
        engine = f"{engine_id(kind.backend)}/{kind.canonical_nan}"
        if self._folder and (found := await to_thread.run_sync(self._folder.get, engine, digest)):
            return found, 0.0
        code, ms = await self._compile(kind, joined(module), budget_s)
        if self._folder:
            await to_thread.run_sync(self._folder.put, engine, digest, code)
        return code, ms

    async def _compile(self, kind: Kind, module: bytes, budget_s: int) -> tuple[bytes, float]:
        for _ in range(_COMPILES):
            found = await self._try_compiling(kind, module, budget_s)
            if found is not None:
                return found
        raise RefusedError("worker_died", "whoever compiled it was killed, time and again")

    async def _try_compiling(
        self, kind: Kind, module: bytes, budget_s: int
    ) -> tuple[bytes, float] | None:
        """Return the code, or nothing where somebody killed the compiler: that is not its fault."""
        code = 0
        head = {"op": "compile", "cpu_s": budget_s, **_plain(kind)}
        async with self._compilers.take() as worker:
            with anyio.move_on_after(4 * budget_s + 1):
                try:
                    said, blobs = await worker.ask(head, (module,), _CODE_BYTES)
                except GONE:
                    code = await self._compilers.replace(worker)
                else:
                    return _compiled(said, blobs)
            if not code:
                await self._compilers.replace(worker)
        if code == -signal.SIGKILL:  # over its budget it ends by SIGXCPU, without memory by SIGABRT
            return None
        raise RefusedError(
            "too_large", f"compiling takes more than {budget_s} s of CPU, or too much memory"
        )

    async def _run(self, job: Job, ready: _Ready, begun: Begun | None) -> Outcome:
        ended = await self._run_once(job, ready, begun)
        if ended.status == "worker_died" and not ended.fuel:  # most likely while it still waited
            return await self._run_once(job, ready, begun)
        return ended

    async def _run_once(self, job: Job, ready: _Ready, begun: Begun | None) -> Outcome:
        async with self._workers.take((ready.kind, ready.digest)) as worker:
            worker.forget()
            if begun:
                begun(lambda: worker.burnt)
            wall_s = (job.limits.wall_ms + self._sizes.grace_ms) / 1000
            with anyio.move_on_after(wall_s):
                try:
                    said, blobs = await _asked(worker, job, ready)
                    return _outcome(job, ready, said, blobs)
                except GONE:
                    return await self._died(worker, job, ready, "worker_died")
            return await self._died(worker, job, ready, "timeout")

    async def _died(
        self, worker: WorkerProcess, job: Job, ready: _Ready, status: Status
    ) -> Outcome:
        """Replace WORKER; bill what it had told last."""
        fuel = min(worker.burnt, job.limits.fuel)
        code = await self._workers.replace(worker)
        return Outcome(
            status=status,
            detail=f"the worker was ended (exit code {code})",
            fuel=fuel,
            trace=merkle.EMPTY.hex(),
            compile_fuel=_price(ready.shape),
            compile_ms=ready.compile_ms,
            wall_ms=float(job.limits.wall_ms if status == "timeout" else 0),
            engine=engine_id(job.backend),
        )


async def _asked(
    worker: WorkerProcess, job: Job, ready: _Ready
) -> tuple[dict[str, Any], list[bytes]]:
    """Send JOB, its code only where the worker has it not."""
    name = (ready.kind, ready.digest)
    head = {
        "op": "run", "module": ready.digest, "function": job.function, "seed": job.seed,
        "clock_us": job.clock_us, "slice_fuel": job.slice_fuel, "trace": job.trace,
        "limits": _limits(job.limits), "memory": ready.shape.memory,
        "initialize": "_initialize" in ready.shape.exports, **_plain(ready.kind),
    }  # fmt: skip
    most = job.limits.output_bytes + STDERR_BYTES + _LEAF_BYTES * (MAX_SLICES + 2)
    code = b"" if name in worker.modules else ready.code
    said, blobs = await worker.ask(head, (code, job.input), most)
    if said.get("status") == "unknown":
        said, blobs = await worker.ask(head, (ready.code, job.input), most)
    worker.modules.add(name)
    return said, blobs


def _outcome(job: Job, ready: _Ready, said: dict[str, Any], blobs: list[bytes]) -> Outcome:
    """Return what a worker said, if it makes sense.

    Raises:
        InvalidError: It does not.
    """
    numbers = [said.get("fuel"), said.get("slices")]
    exit_code = said.get("exit_code")
    if (
        len(blobs) != 3
        or said.get("status") not in _STATUSES
        or said.get("traced_by") not in _WAYS
        or any(type(one) is not int or one < 0 for one in numbers)
        or cast("int", said["fuel"]) > job.limits.fuel
        or not (exit_code is None or type(exit_code) is int)
        or type(said.get("wall_ms")) is not float
    ):
        raise InvalidError("a worker talks nonsense", hint="it is ended")
    output, stderr, packed = blobs
    leaves = [packed[at : at + _LEAF_BYTES] for at in range(0, len(packed), _LEAF_BYTES)]
    return Outcome(
        status=said["status"],
        detail=str(said.get("detail", ""))[:300],
        output=output,
        stderr=stderr,
        fuel=said["fuel"],
        slices=said["slices"],
        trace=merkle.root(leaves).hex(),
        leaves=tuple(leaf.hex() for leaf in leaves),
        traced_by=said["traced_by"],
        compile_fuel=_price(ready.shape),
        compile_ms=ready.compile_ms,
        wall_ms=said["wall_ms"],
        engine=engine_id(job.backend),
        exit_code=exit_code,
    )


def _compiled(said: dict[str, Any], blobs: list[bytes]) -> tuple[bytes, float]:
    if said.get("status") != "ok" or len(blobs) != 1:
        raise RefusedError("invalid_module", str(said.get("detail", "it does not compile"))[:300])
    return blobs[0], float(said.get("ms", 0.0))


def _refused(job: Job, exc: RefusedError) -> Outcome:
    return Outcome(
        status=exc.status,
        detail=exc.what,
        trace=merkle.EMPTY.hex(),
        engine=engine_id(job.backend),
    )


def _check(job: Job) -> None:
    limits = job.limits
    if min(limits.fuel, limits.wall_ms, limits.output_bytes, job.slice_fuel) < 1:
        raise InvalidError("a limit is below 1", hint="give positive limits")
    if limits.memory_bytes > Bounds().memory_bytes or limits.memory_bytes < 0:
        raise InvalidError("a guest has 512 MiB at most", hint="lower memory_bytes")
    if limits.fuel >= 2**53 or not 0 <= job.seed < 2**53 or not 0 <= job.clock_us < 2**53:
        raise InvalidError("a number is no integer of 0 to 2**53", hint="lower it")
    if len(job.input) > INPUT_BYTES or len(job.function) > NAME_CHARS:
        raise InvalidError("the input or the function's name is too long", hint="64 MiB at most")
    if limits.fuel // job.slice_fuel > MAX_SLICES:
        raise InvalidError(f"more than {MAX_SLICES:,} slices", hint="raise slice_fuel")


def _price(shape: Shape) -> int:
    return COMPILE_FUEL_PER_BYTE * shape.code_bytes


def _plain(kind: Kind) -> dict[str, Any]:
    return {"backend": kind.backend, "canonical_nan": kind.canonical_nan}


def _limits(limits: Limits) -> dict[str, int]:
    return {
        "memory_bytes": limits.memory_bytes,
        "fuel": limits.fuel,
        "wall_ms": limits.wall_ms,
        "output_bytes": limits.output_bytes,
    }
