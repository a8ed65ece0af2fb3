"""What compilers of today emit: harmless WASI calls, features that are off, sizes, and remedies."""

import base64
import struct
from typing import Any

import pytest
from tests.mesh.conftest import Run
from wasmtime import wat2wasm

from arsenale_core.errors import InvalidError
from arsenale_mesh.asking import Order, decoded, shape_of
from arsenale_mesh.receipts import Limits
from arsenale_mesh.sandbox import remedies
from arsenale_mesh.sandbox.binary import MAGIC, RefusedError
from arsenale_mesh.sandbox.engine import compile_module, make_engine
from arsenale_mesh.sandbox.imports import IMPORTS, PARAMETERS, WASI
from arsenale_mesh.sandbox.jobs import Job
from arsenale_mesh.sandbox.joining import JOINED_FROM, joined
from arsenale_mesh.sandbox.kinds import Kind
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.sandbox.scan import Bounds, scan

MEMORY = '(memory (export "memory") 1)'
KINDS = {"i": "i32", "I": "i64"}
LIMITS = Limits(memory_bytes=64 << 20, fuel=50_000_000, wall_ms=20_000, output_bytes=10_000)


def imported(*names: str) -> str:
    """Return the imports of WASI functions, each as `$name`."""
    lines: list[str] = []
    for name in names:
        parameters = " ".join(KINDS[one] for one in PARAMETERS[name])
        result = "" if name == "proc_exit" else "(result i32)"
        lines.append(f'(import "{WASI}" "{name}" (func ${name} (param {parameters}) {result}))')
    return "\n".join(lines)


def says(calls: list[str]) -> str:
    """Return a command that writes the errno of each of CALLS as a byte."""
    stores = "\n".join(
        f"(i32.store8 (i32.const {2048 + n}) {call})" for n, call in enumerate(calls)
    )
    return f"""{stores}
      (i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const {len(calls)}))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))"""


def call_of(name: str, fd: int) -> str:
    """Return a call whose every number is 0, but FD stands where the descriptor does."""
    place = 2 if name == "path_symlink" else 0
    values = [
        f"({KINDS[kind]}.const {fd if n == place else 64 if n else 0})"
        for n, kind in enumerate(PARAMETERS[name])
    ]
    return f"(call ${name} {' '.join(values)})"


STREAMS = {  # errno of the call on standard output, and on a descriptor that is not open
    "fd_fdstat_set_flags": (0, 8), "fd_sync": (0, 8), "fd_datasync": (0, 8),
    "fd_filestat_get": (0, 8), "fd_advise": (70, 8), "fd_allocate": (70, 8), "fd_tell": (70, 8),
    "fd_pread": (70, 8), "fd_pwrite": (70, 8), "fd_fdstat_set_rights": (58, 8),
    "fd_filestat_set_size": (58, 8), "fd_filestat_set_times": (58, 8), "fd_renumber": (58, 8),
    "fd_readdir": (54, 8),
    **{name: (54, 8) for name in PARAMETERS if name.startswith("path_")},
}  # fmt: skip


async def test_calls_for_files_answer_that_there_are_none(run: Run) -> None:
    calls = [call_of(name, fd) for name in STREAMS for fd in (1, 5)]
    text = f"""(module {imported("fd_write", *STREAMS)} {MEMORY}
      (func (export "_start") {says(calls)}))"""
    ended = await run(text)
    assert (ended.status, ended.detail) == ("ok", "")
    expected = [errno for pair in STREAMS.values() for errno in pair]
    assert list(ended.output) == expected


def escaped(data: bytes) -> str:
    """Return DATA as WAT has it in a text."""
    return "".join(f"\\{one:02x}" for one in data)


SUBSCRIPTIONS = struct.pack("<QB7xIxxxxQQH6x", 7, 0, 1, 10**9, 0, 0) + b"".join(
    struct.pack("<QB7xI28x", mark, kind, fd)
    for mark, kind, fd in ((8, 1, 0), (9, 2, 1), (10, 1, 9), (11, 7, 0))
)
POLLS = f"""(module {imported("poll_oneoff", "sched_yield", "fd_write")} {MEMORY}
  (data (i32.const 64) "{escaped(SUBSCRIPTIONS)}")
  (func (export "_start")
    (if (call $sched_yield) (then unreachable))
    (if (i32.ne (call $poll_oneoff (i32.const 64) (i32.const 512) (i32.const 0) (i32.const 32))
      (i32.const 28)) (then unreachable))
    (if (i32.ne (call $poll_oneoff (i32.const 64) (i32.const 70000) (i32.const 5) (i32.const 32))
      (i32.const 21)) (then unreachable))
    (if (call $poll_oneoff (i32.const 64) (i32.const 512) (i32.const 5) (i32.const 32))
      (then unreachable))
    (i32.store (i32.const 0) (i32.const 512)) (i32.store (i32.const 4) (i32.const 160))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"""


@pytest.mark.parametrize("backend", ["cranelift", "pulley64"])
async def test_a_wait_ends_at_once_and_is_the_same_on_every_engine(
    pool: Pool, backend: Any
) -> None:
    job = Job(
        module=bytes(wat2wasm(POLLS)), function="_start", input=b"abc", limits=LIMITS,
        slice_fuel=50_000_000, backend=backend,
    )  # fmt: skip
    first, second = await pool.run(job), await pool.run(job)
    assert (first.status, first.output, first.fuel, first.trace) == (
        "ok", second.output, second.fuel, second.trace,
    )  # fmt: skip
    events = list(struct.iter_unpack("<QHB5xQH6x", first.output))
    assert events == [
        (7, 0, 0, 0, 0), (8, 0, 1, 3, 0), (9, 0, 2, 1, 0), (10, 8, 1, 0, 0), (11, 28, 7, 0, 0),
    ]  # fmt: skip


GO_IMPORTS = (
    "sched_yield", "proc_exit", "args_get", "args_sizes_get", "clock_time_get", "environ_get",
    "environ_sizes_get", "fd_write", "random_get", "poll_oneoff", "fd_close", "fd_read",
    "fd_fdstat_get", "fd_fdstat_set_flags", "fd_prestat_get", "fd_prestat_dir_name",
)  # fmt: skip
GO = f"""(module {imported(*GO_IMPORTS)} {MEMORY}
  (data (i32.const 64) "{escaped(SUBSCRIPTIONS[:48])}")
  (func (export "_start") (local $at i32)
    (drop (call $sched_yield))
    (if (call $fd_fdstat_set_flags (i32.const 0) (i32.const 4)) (then unreachable))
    (if (call $poll_oneoff (i32.const 64) (i32.const 512) (i32.const 1) (i32.const 32))
      (then unreachable))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 100))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
    (loop $next
      (i32.store8 (i32.add (local.get $at) (i32.const 1024))
        (i32.and (i32.load8_u (i32.add (local.get $at) (i32.const 1024))) (i32.const 0xdf)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (i32.load (i32.const 4)))))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (call $proc_exit (i32.const 0))))"""


async def test_what_go_s_plainest_program_asks_of_its_host_is_there(pool: Pool) -> None:
    job = Job(
        module=bytes(wat2wasm(GO)), function="_start", input=b"hellowideworld", limits=LIMITS,
        slice_fuel=50_000_000,
    )  # fmt: skip
    ended = await pool.run(job)
    assert (ended.status, ended.output) == ("ok", b"HELLOWIDEWORLD")


def many(count: int, step: int = 2, first: int = 100) -> bytes:
    """Return a command that prints what lies at the end of COUNT data segments."""
    places = [first + step * n for n in range(count)]
    places[-2:] = reversed(places[-2:])
    data = "".join(f'(data (i32.const {at}) "{chr(97 + at % 26)}")' for at in places)
    return bytes(
        wat2wasm(f"""(module {imported("fd_write")} {MEMORY} {data}
          (func (export "_start")
            (i32.store (i32.const 0) (i32.const {max(places) - 3}))
            (i32.store (i32.const 4) (i32.const 4))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))""")
    )


async def test_a_module_of_very_many_data_segments_runs_as_go_s_linker_makes_it(pool: Pool) -> None:
    module = many(JOINED_FROM + 1)
    assert len(joined(module)) < len(module)
    job = Job(module=module, function="_start", limits=LIMITS, slice_fuel=50_000_000)
    ended = await pool.run(job)
    last = 100 + 2 * JOINED_FROM
    expected = bytes([0, 97 + (last - 2) % 26, 0, 97 + last % 26])
    assert (ended.status, ended.output) == ("ok", expected)


def test_segments_stay_as_they_are_where_joining_them_would_change_something() -> None:
    few = many(JOINED_FROM)
    assert joined(few) == few
    twice = '(data (i32.const 9) "xy")' * (JOINED_FROM + 1)
    overlapping = bytes(wat2wasm(f"(module {MEMORY} {twice})"))
    assert joined(overlapping) == overlapping
    beyond = "".join(f'(data (i32.const {60_000 + n}) "x")' for n in range(JOINED_FROM + 1))
    outside = bytes(wat2wasm(f"(module {MEMORY} {beyond})"))
    assert joined(outside) == outside
    for noise in (b"", MAGIC, MAGIC + b"\x0b\x05\xff\xff\x7f\0\0"):
        assert joined(noise) == noise


# Refusals.


def refusal(wat: str) -> str:
    with pytest.raises(InvalidError) as caught:
        shape_of(bytes(wat2wasm(wat)))
    return str(caught.value)


def wanting(*names: str) -> str:
    lines = "".join('(import "{}" "{}" (func))'.format(*name.split(" ")) for name in names)
    return f'(module {lines} {MEMORY} (func (export "_start")))'


def test_all_missing_imports_are_named_at_once() -> None:
    names = ("env open", "env close", f"{WASI} sock_send", "js log")
    text = refusal(wanting(*names, "env open"))
    assert "imports env.open, env.close, wasi_snapshot_preview1.sock_send, js.log" in text
    assert "there is no network" in text
    lots = refusal(wanting(*(f"env f{n}" for n in range(60))))
    assert "env.f19 and 40 more" in lots
    kinds = """(module (import "env" "table" (table 0 funcref)) (import "env" "memory" (memory 1))
      (import "env" "base" (global i32)) (import "env" "f" (func)))"""
    text = refusal(kinds)
    assert "env.table (a table), env.memory (a memory), env.base (a global), env.f" in text


def test_a_function_of_wasi_with_other_parameters_is_named() -> None:
    text = refusal(wanting(f"{WASI} fd_write"))
    assert "wasi_snapshot_preview1.fd_write (with other parameters than WASI's)" in text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("env abort", "--use abort="),
        ("gojs runtime.wasmExit", "GOOS=wasip1"),
        ("go runtime.wasmWrite", "GOOS=wasip1"),
        ("wbg __wbindgen_throw", "wasm32-wasip1 without wasm-bindgen"),
        ("wasi_unstable fd_write", "a draft of WASI"),
        ("wasi:cli/stdout@0.2.0 get-stdout", "not a component"),
        ("extism:host/env input_length", "not with Extism's"),
        ("env emscripten_resize_heap", "-sSTANDALONE_WASM"),
        ("a a", "-sSTANDALONE_WASM"),
        (f"{WASI} sock_accept", "there is no network"),
        ("wasi thread-spawn", "without threads"),
        ("something else", "lists what may be run"),
    ],
)
def test_a_missing_import_says_how_to_compile_without_it(name: str, hint: str) -> None:
    text = refusal(wanting(name))
    assert hint in text
    assert str(remedies.ABI_FILE) in text
    assert remedies.ABI_FILE.is_file()


@pytest.mark.parametrize(
    ("wat", "feature"),
    [
        ('(module (memory (export "memory") i64 1) (func (export "_start")))', "memory64"),
        ("(module (memory 1 2 shared))", "threads (shared memory)"),
        ("(module (memory 1) (memory 1))", "multiple memories"),
        ("(module (type (struct (field i32))))", "garbage collection (GC)"),
        ("(module (type (array i8)))", "garbage collection (GC)"),
        ("(module (rec (type (func)) (type (func))))", "garbage collection (GC)"),
        ("(module (func (param (ref null any))))", "garbage collection (GC)"),
        ("(module (func (local anyref)))", "garbage collection (GC)"),
        ("(module (tag (param i32)))", "exceptions"),
        ('(module (import "env" "t" (tag)))', "exceptions"),
        ("(component)", "the component model"),
    ],
)
def test_a_feature_that_is_off_is_named_and_the_module_is_not_called_malformed(
    wat: str, feature: str
) -> None:
    text = refusal(wat)
    assert f"the module uses {feature}" in text
    assert "not supported" in text
    assert "malformed" not in text


@pytest.mark.parametrize(
    ("body", "feature"),
    [
        ("(return_call $f)", "tail calls"),
        ("(drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0)))",
         "relaxed SIMD"),
        ("(drop (i32.atomic.load (i32.const 0)))", "threads"),
        ("(drop (ref.i31 (i32.const 1)))", "garbage collection (GC)"),
    ],
)  # fmt: skip
def test_an_instruction_of_a_feature_that_is_off_names_it(body: str, feature: str) -> None:
    module = bytes(wat2wasm(f"(module {MEMORY} (func $f {body}))"))
    with pytest.raises(RefusedError) as caught:
        scan(module, IMPORTS)
        compile_module(make_engine(Kind()), module)
    assert caught.value.what == f"the module uses {feature}, which is not supported"


def custom(size: int) -> bytes:
    """Return a custom section of SIZE bytes of content, 5 bytes of name included."""
    body = b"\5debug" + bytes(size - 6)
    length = len(body)
    low = [(length >> shift & 0x7F) | 0x80 for shift in (0, 7, 14)]
    return bytes([0, *low, length >> 21]) + body


def test_a_module_that_is_too_large_for_its_debug_information_is_to_be_stripped() -> None:
    module = bytes(wat2wasm(f'(module {MEMORY} (func (export "_start")))'))
    with pytest.raises(InvalidError) as caught:
        shape_of(module + custom(5 << 20))
    text = str(caught.value)
    assert f"the module has {len(module) + (5 << 20) + 5:,} bytes, at most 4,194,304" in text
    assert f"strip it: {(5 << 20) + 5:,} bytes are debug information" in text
    assert f"{len(module):,} remain" in text


def test_a_module_that_is_too_large_without_any_is_to_be_compiled_for_size() -> None:
    with pytest.raises(InvalidError, match=r"too_large: .*compile for size"):
        shape_of(MAGIC + b"\x0b\x84\x80\x80\x02" + bytes(Bounds().size_bytes + 4))


def test_base64_of_a_module_beyond_any_limit_is_refused_in_a_line() -> None:
    text = base64.b64encode(MAGIC + custom(7 << 20)).decode()
    with pytest.raises(InvalidError) as caught:
        shape_of(decoded(text, "wasm_base64"))
    said = str(caught.value)
    assert "strip it" in said and len(said) < 500 and "pydantic" not in said
    assert Order(wasm_base64=text).wasm_base64
