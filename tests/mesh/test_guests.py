"""What guests do to their host: bombs, loops, traps and prying; each has one named end."""

import os
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from tests.mesh.conftest import Run, Wat

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh.sandbox import jail
from arsenale_mesh.sandbox.jobs import Job, limits
from arsenale_mesh.sandbox.kinds import TICK_FUEL
from arsenale_mesh.sandbox.pool import Pool, Sizes

LOOP = '(module (func (export "_start") (loop br 0)))'
ECHO = """(module (memory (export "memory") 2)
  (func (export "alloc") (param i32) (result i32) i32.const 1024)
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1)))))"""
BURN = """(local i32) (loop (local.set 0 (i32.add (local.get 0) (i32.const 1)))
  (br_if 0 (i32.lt_u (local.get 0) (i32.const 20000000))))"""

BURN_LOCAL = """(loop (local.set 2 (i32.add (local.get 2) (i32.const 1)))
  (br_if 0 (i32.lt_u (local.get 2) (i32.const 20000000))))"""


def start(body: str, rest: str = "") -> str:
    return f'(module (memory (export "memory") 1) {rest} (func (export "_start") {body}))'


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (LOOP, "out_of_fuel"),
        ('(module (func $s (loop br 0)) (start $s) (func (export "_start")))', "out_of_fuel"),
        ('(module (func $f (export "_start") (call $f)))', "stack_overflow"),
        (start("(drop (i32.load (i32.const -1)))"), "trap"),
        (start("(i32.store8 (i32.const 65536) (i32.const 1))"), "trap"),
        (start("(drop (i32.div_s (i32.const 1) (i32.const 0)))"), "trap"),
        (start("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))"), "trap"),
        (start("(drop (i64.rem_u (i64.const 1) (i64.const 0)))"), "trap"),
        (start("(drop (i32.trunc_f64_s (f64.const nan)))"), "trap"),
        (start("(drop (i32.trunc_f32_u (f32.const 1e30)))"), "trap"),
        (start("unreachable"), "trap"),
        (start("(call_indirect (i32.const 0))", "(table 1 funcref)"), "trap"),
        (start("(call_indirect (i32.const 9))", "(table 1 funcref)"), "trap"),
        (
            start("(drop (call_indirect (result i32) (i32.const 0)))",
                  "(table 1 funcref) (elem (i32.const 0) $n) (func $n)"),
            "trap",
        ),
        (start("(memory.fill (i32.const 0) (i32.const 1) (i32.const 65537))"), "trap"),
        (start("(memory.copy (i32.const 0) (i32.const 1) (i32.const 65536))"), "trap"),
        (start("(table.set (i32.const 5) (ref.null func))", "(table 1 funcref)"), "trap"),
        (start("(drop (v128.load (i32.const 65535)))"), "trap"),
        ('(module (memory 10000) (func (export "_start")))', "memory_limit"),
        ('(module (table 10000000 funcref) (func (export "_start")))', "memory_limit"),
        ('(module (func (export "other")))', "no_function"),
        ('(module (func (export "_start") (result i32) (i32.const 1)))', "bad_abi"),
        ('(module (memory 1) (func (export "_start")))', "bad_abi"),
        (start("", '(memory (;second;) 1)'), "too_large"),
        ('(module (type (struct (field i32))) (func (export "_start")))', "invalid_module"),
        ('(module (tag) (func (export "_start")))', "invalid_module"),
        ('(module (memory 1 2 shared) (func (export "_start")))', "invalid_module"),
        ('(module (memory i64 1) (func (export "_start")))', "invalid_module"),
        (start("(drop (f32x4.relaxed_madd (v128.const i64x2 0 0) (v128.const i64x2 0 0)"
               "(v128.const i64x2 0 0)))"), "invalid_module"),
        ('(module (func $f (export "_start") (return_call $f)))', "invalid_module"),
        (start("loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) br 0 end"),
         "out_of_fuel"),
        (start("loop (table.fill (i32.const 0) (ref.null func) (i32.const 9999)) br 0 end",
               "(table 9999 funcref)"), "out_of_fuel"),
    ],
)  # fmt: skip
async def test_a_guest_ends_in_one_named_way(run: Run, text: str, status: str) -> None:
    ended = await run(text)
    assert (ended.status, ended.output) == (status, b""), ended.detail


async def test_memory_and_tables_grow_to_their_limits_and_no_further(run: Run) -> None:
    memory = start(
        "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1024)) (i32.const -1))))"
        "(if (i32.ne (memory.size) (i32.const 7169)) (then unreachable))"
    )
    assert (await run(memory)).status == "ok"
    table = start(
        "(if (i32.ne (table.grow (ref.null func) (i32.const 1000000)) (i32.const -1))"
        "(then unreachable))",
        "(table 1 funcref)",
    )
    assert (await run(table)).status == "ok"


async def test_what_a_trap_burnt_is_billed(run: Run) -> None:
    returns = await run(start(BURN))
    traps = await run(start(f"{BURN} (drop (i32.load (i32.const -1)))"))
    assert traps.status == "trap"
    assert 0.99 * returns.fuel <= traps.fuel <= returns.fuel + TICK_FUEL


@pytest.mark.parametrize(
    "imported",
    ["env.getenv", "wasi_snapshot_preview1.path_open", "wasi_snapshot_preview1.sock_send",
     "wasi_snapshot_preview1.poll_oneoff", "wasi_snapshot_preview1.sched_yield",
     "wasi_unstable.fd_write"],
)  # fmt: skip
async def test_files_network_and_sleep_are_refused_by_name(run: Run, imported: str) -> None:
    module, name = imported.split(".")
    ended = await run(f'(module (import "{module}" "{name}" (func)) (func (export "_start")))')
    assert ended.status == "refused_import"
    assert imported in ended.detail


WASI = """(import "wasi_snapshot_preview1" "{0}" (func $f (param {1}) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))"""
SAY = """(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 16))
  (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))"""


async def test_clock_random_and_environment_tell_nothing_of_the_host(pool: Pool, wat: Wat) -> None:
    clock = start(
        f"(drop (call $f (i32.const 0) (i64.const 0) (i32.const 64))) {SAY}",
        WASI.format("clock_time_get", "i32 i64 i32"),
    )
    job = Job(module=wat(_imports_first(clock)), clock_us=1_234_567)
    assert (await pool.run(job)).output[:8] == (1_234_567_000).to_bytes(8, "little")
    random_bytes = _imports_first(
        start(
            f"(drop (call $f (i32.const 64) (i32.const 16))) {SAY}",
            WASI.format("random_get", "i32 i32"),
        )
    )
    first, again, other = [
        (await pool.run(Job(module=wat(random_bytes), seed=seed))).output for seed in (1, 1, 2)
    ]
    assert first == again != other
    environ = start(
        f"(drop (call $f (i32.const 64) (i32.const 72))) {SAY}",
        WASI.format("environ_sizes_get", "i32 i32"),
    )
    assert (await pool.run(Job(module=wat(_imports_first(environ))))).output == bytes(16)


def _imports_first(text: str) -> str:
    memory = '(memory (export "memory") 1)'
    head, imports = text.split(memory)
    at = imports.index('(func (export "_start")')
    return f"{head}{imports[:at]}{memory}{imports[at:]}"


@pytest.mark.parametrize("at", ["-1", "65535", "2147483647"])
async def test_a_pointer_out_of_memory_is_an_error_of_the_guest(run: Run, at: str) -> None:
    text = start(
        f"(if (i32.ne (call $w (i32.const 1) (i32.const {at}) (i32.const 1) (i32.const 8))"
        "(i32.const 21)) (then unreachable))",
        WASI.format("random_get", "i32 i32"),
    )
    assert (await run(_imports_first(text))).status == "ok"


async def test_output_is_bounded(run: Run) -> None:
    text = start(
        "(i32.store (i32.const 4) (i32.const 600)) loop (drop (call $w (i32.const 1)"
        "(i32.const 0) (i32.const 1) (i32.const 8))) br 0 end",
        WASI.format("random_get", "i32 i32"),
    )
    assert (await run(_imports_first(text))).status == "output_too_large"


async def test_a_function_gets_its_input_and_gives_its_output(pool: Pool, wat: Wat) -> None:
    echoed = await pool.run(Job(module=wat(ECHO), function="run", input=b"hello"))
    assert (echoed.status, echoed.output) == ("ok", b"hello")
    far = wat(ECHO.replace("(local.get 0)", "(i32.const -8)"))
    assert (await pool.run(Job(module=far, function="run", input=b"x"))).status == "bad_abi"
    big = wat(ECHO.replace("(local.get 1)", "(i32.const -1)"))
    assert (await pool.run(Job(module=big, function="run"))).status == "output_too_large"
    nowhere = wat(ECHO.replace("i32.const 1024", "i32.const -1"))
    assert (await pool.run(Job(module=nowhere, function="run", input=b"x"))).status == "bad_abi"


async def test_wall_time_ends_a_guest_that_has_fuel_left(run: Run) -> None:
    ended = await run(LOOP, fuel=9_000_000_000_000_000 // 100_000, wall_ms=300)
    assert ended.status == "timeout"
    assert ended.fuel > 1_000_000


async def test_a_guest_that_does_not_come_back_is_killed_and_billed(wat: Wat) -> None:
    fills = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 536870911))"
    text = f'(module (memory (export "memory") 8192) (func (export "_start") {fills * 3}))'
    async with Pool(Sizes(workers=1, spares=1, compilers=1, grace_ms=5)) as pool:
        echo = Job(module=wat(ECHO), function="run", input=b"x")
        await pool.run(echo)
        begun = anyio.current_time()
        ended = await pool.run(Job(module=wat(text), limits=limits(wall_ms=5), trace=False))
        assert (ended.status, "exit code -9" in ended.detail) == ("timeout", True)
        assert anyio.current_time() - begun < 3
        assert (await pool.run(echo)).status == "ok"


async def test_a_worker_that_is_killed_is_named_and_replaced(wat: Wat) -> None:
    async with Pool(Sizes(workers=1, spares=0, compilers=1)) as pool:
        echo = Job(module=wat(ECHO), function="run", input=b"x")
        assert (await pool.run(echo)).status == "ok"
        [pid] = pool.pids
        endless = Job(module=wat(LOOP), limits=limits(fuel=2**40), slice_fuel=2**34)
        async with anyio.create_task_group() as tasks:

            async def killed() -> None:
                ended = await pool.run(endless)
                assert ended.status == "worker_died"
                assert ended.fuel > 0

            tasks.start_soon(killed)
            with anyio.fail_after(10):
                while not pool.burning.get(pid):  # noqa: ASYNC110  # nobody tells when it burns
                    await anyio.sleep(0.01)
            os.kill(pid, signal.SIGKILL)
        assert (await pool.run(echo)).status == "ok"
        pids = pool.pids
        assert pid not in pids
    for gone in (pid, *pids):
        with pytest.raises(ProcessLookupError):
            os.kill(gone, 0)  # no zombie either


async def test_a_worker_that_dies_while_it_waits_costs_nobody_a_task(wat: Wat) -> None:
    async with Pool(Sizes(workers=1, spares=0, compilers=1)) as pool:
        echo = Job(module=wat(ECHO), function="run", input=b"x")
        await pool.run(echo)
        [pid] = pool.pids
        os.kill(pid, signal.SIGKILL)  # nobody has been told yet
        assert (await pool.run(echo)).status == "ok"
        [pid] = pool.pids
        os.kill(pid, signal.SIGKILL)
        await anyio.sleep(0.5)  # now it is known
        assert (await pool.run(echo)).status == "ok"


@pytest.mark.slow
async def test_workers_that_are_killed_at_random_lose_no_outcome(wat: Wat) -> None:
    rolls, ends = random.Random(3), list[str]()
    work = wat(ECHO.replace("(i64.or (i64.shl", f"(local i32) {BURN_LOCAL} (i64.or (i64.shl"))
    async with Pool(Sizes(workers=2, spares=2, compilers=1)) as pool:
        seen = set(pool.pids)

        async def ask() -> None:
            for _ in range(25):
                job = Job(module=work, function="run", input=b"x", limits=limits(fuel=10**9))
                ended = await pool.run(job)
                assert ended.status != "ok" or ended.output == b"x"
                ends.append(ended.status)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            while len(ends) < 65:
                await anyio.sleep(0.03)
                if pids := [*pool.pids, *pool.burning]:
                    seen.update(pids)
                    with suppress(ProcessLookupError):
                        os.kill(rolls.choice(pids), signal.SIGKILL)
    assert len(ends) == 75
    assert set(ends) == {"ok", "worker_died"}
    for pid in seen:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp and /proc are Linux's")
async def test_a_worker_has_one_thread_for_the_filter_to_hold(pool: Pool, wat: Wat) -> None:
    await pool.run(Job(module=wat(ECHO), function="run", input=b"x"))
    for pid in pool.pids:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        assert "\nThreads:\t1\n" in status
        assert "\nSeccomp:\t2\n" in status
        assert "\nNoNewPrivs:\t1\n" in status


async def test_a_caller_who_gives_up_leaves_no_half_answer(wat: Wat) -> None:
    async with Pool(Sizes(workers=1, spares=1, compilers=1)) as pool:
        endless = Job(module=wat(LOOP), limits=limits(fuel=2**40), slice_fuel=2**34)
        with anyio.move_on_after(0.5):
            await pool.run(endless)
        echo = Job(module=wat(ECHO), function="run", input=b"mine")
        assert (await pool.run(echo)).output == b"mine"


async def test_a_layer_that_is_required_and_missing_refuses_to_run(wat: Wat) -> None:
    layers = jail.Layers(
        rlimits=jail.ON, no_new_privs=jail.ON, dies_with_parent=jail.ON, not_dumpable=jail.ON,
        landlock="no such kernel", seccomp=jail.ON,
    )  # fmt: skip
    assert layers.missing(("seccomp", "landlock")) == {"landlock": "no such kernel"}
    async with Pool(Sizes(workers=1, spares=0, compilers=1), require=("pages",)) as pool:
        try:
            ended = await pool.run(Job(module=wat(ECHO), function="run", input=b"x"))
        except UnavailableError as exc:
            assert "pages" in str(exc)
        else:
            assert ended.traced_by == "dirty_pages"


async def test_numbers_that_make_no_sense_are_refused(pool: Pool) -> None:
    for job in (
        Job(module=b"", limits=limits(fuel=0)),
        Job(module=b"", limits=limits(memory_bytes=1 << 40)),
        Job(module=b"", slice_fuel=1),
        Job(module=b"", seed=-1),
        Job(module=b"", function="f" * 1000),
    ):
        with pytest.raises(InvalidError):
            await pool.run(job)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _section(id: int, body: bytes) -> bytes:
    return bytes([id]) + _number(len(body)) + body


def _program(bodies: list[bytes]) -> bytes:
    code = _number(len(bodies)) + b"".join(_number(len(one)) + one for one in bodies)
    return (
        b"\0asm\1\0\0\0"
        + _section(1, b"\1\x60\0\0")
        + _section(3, _number(len(bodies)) + b"\0" * len(bodies))
        + _section(7, b"\1\6_start\0\0")
        + _section(10, code)
    )


def _bombs() -> dict[str, bytes]:
    most = 999
    steps = [
        b"\x20\0\x04\x40\x20" + _number(1 + i % most) + b"\x41\1\x6a\x21"
        + _number(1 + i * 7 % most) + b"\x0b"
        for i in range(60_000)
    ]  # fmt: skip
    table = b"\x02\x40\x41\0\x0e" + _number(5000) + b"\0" * 5001 + b"\x0b"
    locals_ = b"\1" + _number(most + 1) + b"\x7f"
    return {
        "locals across blocks": _program([locals_ + b"".join(steps) + b"\x0b"]),
        "nested blocks": _program([b"\0" + b"\x02\x40" * 200_000 + b"\x0b" * 200_001]),
        "ladder of ifs": _program([b"\1\1\x7f" + b"\x20\0\x04\x40\x0b" * 300_000 + b"\x0b"]),
        "tables of branches": _program([b"\0" + table * 300 + b"\x0b"]),
        "functions": _program([b"\0\x0b"] * 10_000),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_bombs()))
async def test_a_module_that_takes_long_to_compile_is_ended_and_holds_up_nobody(
    wat: Wat, name: str
) -> None:
    async with Pool(Sizes(workers=1, spares=0, compilers=2, compile_s=1)) as pool:
        await pool.run(Job(module=wat(ECHO), function="run", input=b"x"))
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def bomb() -> None:
                    ended = await pool.run(Job(module=_bombs()[name]))
                    assert ended.status in ("ok", "too_large", "invalid_module"), ended.detail

                tasks.start_soon(bomb)
                other = wat(ECHO.replace("1024", "2048"))
                ended = await pool.run(Job(module=other, function="run", input=b"y"))
                assert ended.output == b"y"
        assert (await pool.run(Job(module=wat(ECHO), function="run", input=b"z"))).status == "ok"


@pytest.mark.slow
async def test_no_mutation_of_a_module_hangs_or_stops_the_pool(pool: Pool, wat: Wat) -> None:
    sample = wat(_imports_first(start(BURN, WASI.format("random_get", "i32 i32"))))
    rolls = random.Random(7)
    bounded = limits(fuel=1_000_000, wall_ms=2_000)
    for _ in range(200):
        module = bytearray(sample)
        for _ in range(rolls.randrange(1, 5)):
            module[rolls.randrange(8, len(module))] = rolls.randrange(256)
        cut = module[: rolls.randrange(8, len(module))] if rolls.random() < 0.2 else module
        ended = await pool.run(Job(module=bytes(cut), limits=bounded, slice_fuel=1_000_000))
        assert ended.status not in ("worker_died", "timeout"), ended.detail
