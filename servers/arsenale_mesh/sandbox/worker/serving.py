"""What a worker does with a frame: run a guest, compile or assemble a module; one at a time."""

import mmap
import os
import resource
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from wasmtime import Engine, Module, WasmtimeError, wat2wasm

from arsenale_mesh.receipts import Limits
from arsenale_mesh.sandbox import frames, guest
from arsenale_mesh.sandbox.abi import NOTHING
from arsenale_mesh.sandbox.binary import RefusedError
from arsenale_mesh.sandbox.engine import compile_module, make_engine, revive
from arsenale_mesh.sandbox.host import Imports
from arsenale_mesh.sandbox.jail import budget_cpu
from arsenale_mesh.sandbox.kinds import Kind
from arsenale_mesh.sandbox.scan import Shape
from arsenale_mesh.sandbox.trace import Pages

KEPT: Final = 32
"""Modules that a worker keeps ready."""

PROGRESS: Final = struct.Struct("<Q")
"""What the shared page holds: the fuel burnt so far, for the bill should this process end."""


class Worker:
    """Engines, modules, and the page that says how far the guest is."""

    def __init__(
        self, *, pages: Pages | None, progress: mmap.mmap | None, now: Callable[[], float]
    ) -> None:
        """Make all engines now: later nothing can be opened."""
        self._pages = pages
        self._progress = progress
        self._now = now
        self._engines: dict[Kind, tuple[Engine, Imports]] = {}
        for backend in ("cranelift", "pulley64"):
            for canonical in (False, True):
                kind = Kind(backend=backend, canonical_nan=canonical)
                engine = make_engine(kind)
                self._engines[kind] = engine, Imports(engine)
        self._modules: OrderedDict[tuple[Kind, str], Module] = OrderedDict()

    @property
    def engines(self) -> list[tuple[Engine, Imports]]:
        """All of them, with what their guests may import."""
        return list(self._engines.values())

    def answer(self, head: dict[str, Any], blobs: list[bytes]) -> bytes:
        """Return the frame that answers one."""
        if head["op"] == "assemble":
            return _assemble(blobs[0], head["cpu_s"])
        kind = Kind(backend=head["backend"], canonical_nan=head["canonical_nan"])
        if head["op"] == "compile":
            return self._compile(kind, blobs[0], head["cpu_s"])
        return self._run(kind, head, *blobs)

    def _compile(self, kind: Kind, module: bytes, cpu_s: int) -> bytes:
        engine, _ = self._engines[kind]
        budget_cpu(cpu_s)
        start = _cpu_ms()
        try:
            code = bytes(compile_module(engine, module).serialize())
        except RefusedError as exc:
            said = {"status": exc.status, "detail": exc.what, "ms": _cpu_ms() - start}
            return frames.pack(said)
        finally:
            budget_cpu(0)
        return frames.pack({"status": "ok", "ms": _cpu_ms() - start}, (code,))

    def _run(self, kind: Kind, head: dict[str, Any], code: bytes, input: bytes) -> bytes:
        module = self._module(kind, head["module"], code)
        if module is None:
            return frames.pack({"status": "unknown"})
        call = guest.Call(
            function=head["function"],
            input=input,
            limits=Limits(**head["limits"]),
            seed=head["seed"],
            clock_us=head["clock_us"],
            slice_fuel=head["slice_fuel"],
            trace=head["trace"],
        )
        self._told(0)
        start = self._now()
        shape = _shape(head["function"], memory=head["memory"], initialize=head["initialize"])
        ran = guest.run(
            module, self._engines[kind][1], shape, call,
            now=self._now, pages=self._pages, on_tick=self._told,
        )  # fmt: skip
        said = {
            "status": ran.status, "detail": ran.detail, "fuel": ran.fuel, "slices": ran.slices,
            "traced_by": ran.traced_by, "exit_code": ran.exit_code,
            "wall_ms": 1000 * (self._now() - start),
        }  # fmt: skip
        leaves = bytes.fromhex("".join(ran.leaves))
        return frames.pack(said, (ran.output, ran.stderr, leaves))

    def _module(self, kind: Kind, name: str, code: bytes) -> Module | None:
        found = self._modules.pop((kind, name), None)
        if found is None and code:
            found = revive(self._engines[kind][0], code)
        if found is not None:
            self._modules[kind, name] = found
        while len(self._modules) > KEPT:
            self._modules.popitem(last=False)
        return found

    def _told(self, fuel: int) -> None:
        if self._progress is not None:
            PROGRESS.pack_into(self._progress, 0, fuel)


def _assemble(text: bytes, cpu_s: int) -> bytes:
    budget_cpu(cpu_s)
    try:
        module = bytes(wat2wasm(text.decode()))
    except (WasmtimeError, ValueError) as exc:
        return frames.pack({"status": "invalid_module", "detail": str(exc)[:300]})
    finally:
        budget_cpu(0)
    return frames.pack({"status": "ok"}, (module,))


def _shape(function: str, *, memory: bool, initialize: bool) -> Shape:
    names = [function, *(["_initialize"] if initialize else [])]
    return Shape(
        exports=dict.fromkeys(names, NOTHING),
        memory=memory,
        exports_memory=memory,
        memory_bytes=0,
        floats=True,
        code_bytes=0,
    )


def _cpu_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * (used.ru_utime + used.ru_stime)


def read_exactly(fd: int, size: int) -> bytes:
    """Read SIZE bytes from FD.

    Raises:
        EOFError: The other side is gone.
    """
    parts = list[bytes]()
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write all of DATA to FD."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
