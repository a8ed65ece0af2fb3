"""What a guest may ask of its host: functions of WASI preview 1, all of them deterministic.

The clock stands still, random numbers come from a seed, there are no arguments, no environment and
no files; 0 is the input, 1 and 2 are captured. What else a module imports is refused.
"""

import ctypes
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from wasmtime import Engine

from arsenale_mesh.receipts import Status
from arsenale_mesh.sandbox.capi import ffi, pointer
from arsenale_mesh.sandbox.imports import PARAMETERS, WASI
from arsenale_mesh.sandbox.jobs import STDERR_BYTES

SUCCESS, BADF, FAULT, INVAL, NOTDIR, NOTSUP, SPIPE = 0, 8, 21, 28, 54, 58, 70
"""Error numbers of WASI preview 1 (`errno`)."""

_STREAM = 2
"""File type of a character device: what a C library takes for a terminal or a pipe."""

MAX_VECTORS: Final = 1_024
"""Buffers in one read or write (IOV_MAX of Linux)."""

_CLOCK, _FD_READ, _FD_WRITE = 0, 1, 2
"""What a subscription of `poll_oneoff` waits for."""

_SUBSCRIPTION: Final = struct.Struct("<QB7xI28x")
_EVENT: Final = struct.Struct("<QHB5xQH6x")

MAX_RANDOM_BYTES: Final = 1 << 20
"""In one call; a guest that wants more asks again, and pays for asking."""


@dataclass(slots=True)
class Memory:
    """A guest's linear memory while it stands still. Every access is checked."""

    base: int
    size: int

    def read(self, at: int, size: int) -> bytes | None:
        """Return SIZE bytes; `None` where they are not all there."""
        if at < 0 or size < 0 or at + size > self.size:
            return None
        return ctypes.string_at(self.base + at, size)

    def write(self, at: int, data: bytes) -> bool:
        """Write DATA; say whether there was room."""
        if at < 0 or at + len(data) > self.size:
            return False
        ctypes.memmove(self.base + at, data, len(data))
        return True


@dataclass(slots=True, kw_only=True)
class Host:
    """What one guest sees of the world, and what it said."""

    input: bytes = b""
    seed: int = 0
    clock_us: int = 0
    output_bytes: int = 1 << 20
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    exit_code: int | None = None
    refused: tuple[Status, str] | None = None
    """Why the host ended the guest."""
    _read: int = 0
    _drawn: int = 0

    def args_sizes_get(self, memory: Memory, count: int, size: int) -> int:
        """Say that there are no arguments, or no environment."""
        zero = bytes(4)
        return SUCCESS if memory.write(count, zero) and memory.write(size, zero) else FAULT

    def args_get(self, _memory: Memory, _pointers: int, _data: int) -> int:
        """Give none."""
        return SUCCESS

    def clock_time_get(self, memory: Memory, _clock: int, _precision: int, at: int) -> int:
        """Give the one time there is, whichever clock is asked, in nanoseconds."""
        return SUCCESS if memory.write(at, struct.pack("<Q", self.clock_us * 1000)) else FAULT

    def clock_res_get(self, memory: Memory, _clock: int, at: int) -> int:
        """Give a microsecond."""
        return SUCCESS if memory.write(at, struct.pack("<Q", 1000)) else FAULT

    def random_get(self, memory: Memory, at: int, size: int) -> int:
        """Give the next bytes of SHA-256 over seed and counter, little-endian."""
        if size > MAX_RANDOM_BYTES:
            return INVAL
        drawn = bytearray()
        while len(drawn) < size:
            block = struct.pack("<QQ", self.seed, self._drawn)
            drawn += hashlib.sha256(b"arsenale-mesh-random-v1\0" + block).digest()
            self._drawn += 1
        return SUCCESS if memory.write(at, bytes(drawn[:size])) else FAULT

    def fd_write(self, memory: Memory, fd: int, vectors: int, count: int, wrote: int) -> int:
        """Keep what is written to 1 or 2."""
        if fd not in (1, 2):
            return BADF
        spans = _spans(memory, vectors, count)
        if spans is None:
            return FAULT
        total = 0
        for at, size in spans:
            if fd == 1 and len(self.stdout) + size > self.output_bytes:
                self.refused = "output_too_large", f"more than {self.output_bytes:,} bytes"
                raise StoppedError
            data = memory.read(at, size)
            if data is None:
                return FAULT
            if fd == 1:
                self.stdout += data
            else:
                self.stderr += data[: max(0, STDERR_BYTES - len(self.stderr))]
            total += size
        return SUCCESS if memory.write(wrote, struct.pack("<I", total)) else FAULT

    def fd_read(self, memory: Memory, fd: int, vectors: int, count: int, got: int) -> int:
        """Give the next of the input."""
        if fd != 0:
            return BADF
        spans = _spans(memory, vectors, count)
        if spans is None:
            return FAULT
        total = 0
        for at, size in spans:
            part = self.input[self._read : self._read + size]
            if not memory.write(at, part):
                return FAULT
            self._read += len(part)
            total += len(part)
        return SUCCESS if memory.write(got, struct.pack("<I", total)) else FAULT

    def fd_close(self, _memory: Memory, fd: int) -> int:
        """Do nothing."""
        return SUCCESS if fd in (0, 1, 2) else BADF

    def fd_seek(self, _memory: Memory, fd: int, _offset: int, _whence: int, _at: int) -> int:
        """Say that a stream has no places."""
        return SPIPE if fd in (0, 1, 2) else BADF

    def fd_fdstat_get(self, memory: Memory, fd: int, at: int) -> int:
        """Say that 0 can be read, and 1 and 2 written."""
        if fd not in (0, 1, 2):
            return BADF
        rights = 1 << 1 if fd == 0 else 1 << 6
        said = struct.pack("<BxHxxxxQQ", _STREAM, 0, rights, 0)
        return SUCCESS if memory.write(at, said) else FAULT

    def fd_fdstat_set_flags(self, _memory: Memory, fd: int, _flags: int) -> int:
        """Take any flags: a stream neither waits nor appends."""
        return SUCCESS if fd in (0, 1, 2) else BADF

    def fd_filestat_get(self, memory: Memory, fd: int, at: int) -> int:
        """Say that a stream is a character device without a size and a time."""
        if fd not in (0, 1, 2):
            return BADF
        said = struct.pack("<QQB7xQQQQQ", 0, 0, _STREAM, 1, 0, 0, 0, 0)
        return SUCCESS if memory.write(at, said) else FAULT

    def fd_sync(self, _memory: Memory, fd: int) -> int:
        """Do nothing: what is written is kept already."""
        return SUCCESS if fd in (0, 1, 2) else BADF

    def no_place(self, _memory: Memory, fd: int, *_given: int) -> int:
        """Say that a stream has no places to read, write or stand at."""
        return SPIPE if fd in (0, 1, 2) else BADF

    def no_change(self, _memory: Memory, fd: int, *_given: int) -> int:
        """Say that a stream cannot be changed so."""
        return NOTSUP if fd in (0, 1, 2) else BADF

    def no_folder(self, _memory: Memory, fd: int, *_given: int) -> int:
        """Say that there are no folders, so that no path leads anywhere."""
        return NOTDIR if fd in (0, 1, 2) else BADF

    def path_symlink(self, memory: Memory, _old: int, _size: int, fd: int, *given: int) -> int:
        """Say so again; its folder stands elsewhere."""
        return self.no_folder(memory, fd, *given)

    def sched_yield(self, _memory: Memory) -> int:
        """Do nothing: there is one thread."""
        return SUCCESS

    def poll_oneoff(self, memory: Memory, waits: int, events: int, count: int, got: int) -> int:
        """Report each event at once: streams are ready, and the clock stands still."""
        if not 0 < count <= MAX_VECTORS:
            return INVAL
        data = memory.read(waits, _SUBSCRIPTION.size * count)
        if data is None:
            return FAULT
        said = b"".join(self._event(*one) for one in _SUBSCRIPTION.iter_unpack(data))
        written = memory.write(events, said) and memory.write(got, struct.pack("<I", count))
        return SUCCESS if written else FAULT

    def _event(self, mark: int, kind: int, fd: int) -> bytes:
        if kind == _CLOCK:
            return _EVENT.pack(mark, SUCCESS, kind, 0, 0)
        if kind not in (_FD_READ, _FD_WRITE):
            return _EVENT.pack(mark, INVAL, kind, 0, 0)
        if fd not in ((0,) if kind == _FD_READ else (1, 2)):
            return _EVENT.pack(mark, BADF, kind, 0, 0)
        left = len(self.input) - self._read if kind == _FD_READ else 1
        return _EVENT.pack(mark, SUCCESS, kind, left, int(left == 0))

    def fd_prestat_get(self, _memory: Memory, _fd: int, _at: int) -> int:
        """Say that there are no folders."""
        return BADF

    def fd_prestat_dir_name(self, _memory: Memory, _fd: int, _at: int, _size: int) -> int:
        """Say so again."""
        return BADF

    def proc_exit(self, _memory: Memory, code: int) -> int:
        """End."""
        self.exit_code = code
        raise StoppedError


class StoppedError(Exception):
    """The guest ends here; the host knows why."""


_SAME: Final = {
    "environ_get": "args_get", "environ_sizes_get": "args_sizes_get", "fd_datasync": "fd_sync",
    "fd_advise": "no_place", "fd_allocate": "no_place", "fd_pread": "no_place",
    "fd_pwrite": "no_place", "fd_tell": "no_place", "fd_fdstat_set_rights": "no_change",
    "fd_filestat_set_size": "no_change", "fd_filestat_set_times": "no_change",
    "fd_renumber": "no_change", "fd_readdir": "no_folder",
} | {
    name: "no_folder"
    for name in PARAMETERS
    if name.startswith("path_") and name != "path_symlink"
}  # fmt: skip
"""What is answered alike. There are as many variables as arguments, and as many folders: none."""


def _spans(memory: Memory, vectors: int, count: int) -> list[tuple[int, int]] | None:
    if count > MAX_VECTORS:
        return None
    data = memory.read(vectors, 8 * count)
    return None if data is None else list(struct.iter_unpack("<II", data))


_FUNCTIONS: Final[dict[str, Callable[..., int]]] = {
    name: getattr(Host, _SAME.get(name, name)) for name in PARAMETERS
}


class Imports:
    """The functions as a linker has them, for all guests of an engine, one at a time."""

    def __init__(self, engine: Engine) -> None:
        """Define them in a new linker of ENGINE."""
        self.engine = engine
        raw: Any = engine.ptr()
        self.linker: Any = ffi.wasmtime_linker_new(raw)
        self.host = Host()
        self._kept = [self._define(name, what) for name, what in PARAMETERS.items()]

    def _define(self, name: str, parameters: str) -> Any:
        kept = ffi.wasmtime_func_unchecked_callback_t(self._wrapped(name, parameters))
        error = ffi.wasmtime_linker_define_func_unchecked(
            self.linker, *_text(WASI), *_text(name), _type(name, parameters), kept, None, _NOTHING
        )
        assert not error
        return kept

    def _wrapped(self, name: str, parameters: str) -> Callable[[Any, Any, Any, int], int]:
        function, returns = _FUNCTIONS[name], name != "proc_exit"

        def call(_env: Any, caller: Any, values: Any, _count: int) -> int:
            try:
                given = [
                    values[place].i64 if kind == "I" else values[place].i32 & 0xFFFFFFFF
                    for place, kind in enumerate(parameters)
                ]
                said = function(self.host, _memory_of(caller), *given)
                if returns:
                    values[0].i64 = said
            except StoppedError:
                return _trap("stopped by the host")
            except BaseException as exc:  # noqa: BLE001  # nothing may pass through native frames
                self.host.refused = "trap", f"{name} failed: {exc!r}"
                return _trap("the host failed")
            return 0

        return call


_NOTHING: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)()
"""No finalizer: what is defined is kept here."""


def _memory_of(caller: Any) -> Memory:
    found = ffi.wasmtime_extern_t()
    if not ffi.wasmtime_caller_export_get(caller, *_text("memory"), ctypes.byref(found)):
        return Memory(0, 0)
    if found.kind != ffi.WASMTIME_EXTERN_MEMORY.value:
        return Memory(0, 0)
    return memory_of(ffi.wasmtime_caller_context(caller), found)


def memory_of(context: Any, extern: Any) -> Memory:
    """Return the memory that EXTERN, a `wasmtime_extern_t`, is."""
    memory = ctypes.byref(extern.of.memory)
    base = ctypes.cast(ffi.wasmtime_memory_data(context, memory), ctypes.c_void_p).value
    return Memory(base or 0, ffi.wasmtime_memory_data_size(context, memory))


def _trap(text: str) -> int:
    return ctypes.cast(ffi.wasmtime_trap_new(*_text(text)), ctypes.c_void_p).value or 0


def _text(text: str) -> tuple[Any, int]:
    data = text.encode()
    return ctypes.create_string_buffer(data), len(data)


def _type(name: str, parameters: str) -> Any:
    results = "" if name == "proc_exit" else "i"
    return ffi.wasm_functype_new(ctypes.byref(_values(parameters)), ctypes.byref(_values(results)))


def _values(kinds: str) -> Any:
    items = [ffi.wasm_valtype_new(1 if kind == "I" else 0) for kind in kinds]
    array: Any = (pointer(ffi.wasm_valtype_t) * max(1, len(items)))(*items)
    vector = ffi.wasm_valtype_vec_t()
    ffi.wasm_valtype_vec_new(ctypes.byref(vector), len(items), array)
    return vector
