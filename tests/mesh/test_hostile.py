"""Whatever a caller gives to be run, the mesh answers, and goes on answering others meanwhile."""

import base64
import random
import tempfile
import time
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from mcp import Client
from prometheus_client import CollectorRegistry
from wasmtime import wat2wasm

from arsenale_core.config import Settings
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_mesh import guests
from arsenale_mesh.server import SERVER

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]

ANSWER_S = 3.0
"""How long anybody else's call may take meanwhile, on a machine that is busy with the guests."""

MEMORY = '(memory (export "memory") 1)'
BOMBS = {
    "start loop": f'(module {MEMORY} (func $s (loop (br 0))) (start $s) (func (export "_start")))',
    "grow": f'(module {MEMORY} (func (export "_start") (loop (drop (memory.grow (i32.const 100)))'
    " (br 0))))",
    "fill": '(module (memory (export "memory") 8192) (func (export "_start") (loop'
    " (memory.fill (i32.const 0) (i32.const 1) (i32.const 536870912)) (br 0))))",
    "table": f'(module {MEMORY} (table 1 10000000 funcref) (func (export "_start") (loop'
    " (drop (table.grow (ref.null func) (i32.const 100000))) (br 0))))",
    "huge memory": '(module (memory (export "memory") 65536) (func (export "_start")))',
    "recursion": f'(module {MEMORY} (func $f (export "_start") (call $f)))',
    "output": '(module (import "wasi_snapshot_preview1" "fd_write"'
    f" (func $w (param i32 i32 i32 i32)"
    f' (result i32))) {MEMORY} (data (i32.const 0) "\\10\\00\\00\\00\\00\\f0\\00\\00")'
    ' (func (export "_start") (loop (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1)'
    " (i32.const 8))) (br 0))))",
    "files": '(module (import "wasi_snapshot_preview1" "path_open" (func $o (param i32 i32 i32 i32'
    f' i32 i64 i64 i32 i32) (result i32))) {MEMORY} (data (i32.const 64) "/etc/passwd")'
    ' (func (export "_start") (local $fd i32) (loop $next (if (i32.eqz (call $o (local.get $fd)'
    " (i32.const 0) (i32.const 64) (i32.const 11) (i32.const 0) (i64.const -1) (i64.const -1)"
    " (i32.const 0) (i32.const 0))) (then unreachable)) (local.set $fd (i32.add (local.get $fd)"
    " (i32.const 1))) (br_if $next (i32.lt_u (local.get $fd) (i32.const 100))))))",
    "sockets": '(module (import "wasi_snapshot_preview1" "sock_send" (func (param i32 i32 i32 i32'
    f' i32) (result i32))) {MEMORY} (func (export "_start")))',
    "deep text": f'(module {MEMORY} (func (export "_start") {"(block " * 20_000}{")" * 20_000}))',
    "no text": "(" * 500_000,
}
CALM = {"fuel": 2_000_000_000, "wall_s": 4, "wait_s": 60}


@pytest.fixture(scope="module")
async def client() -> AsyncGenerator[Client]:
    with tempfile.TemporaryDirectory(prefix="arsenale-", ignore_cleanup_errors=True) as folder:
        runtime = Runtime(settings=Settings.read({"ARSENALE_HOME": folder}))
        async with SERVER.open(runtime) as services:
            surface = SERVER.mount(services, runtime, CallMetrics(CollectorRegistry()))
            async with Client(surface, raise_exceptions=True) as opened:
                yield opened


async def ended(client: Client, **arguments: Any) -> str:
    """Return how a task ended: its status, or what the tool says against it."""
    result = await client.call_tool("run_task", arguments)
    if result.is_error:
        return "refused"
    report: Any = result.structured_content
    assert report["state"] == "done", report
    return str(report["status"])


async def slowest(client: Client, until: anyio.Event) -> float:
    """Ask the mesh how it is, again and again, and return the longest it took to answer."""
    worst = 0.0
    while not until.is_set():
        begun = time.monotonic()
        result = await client.call_tool("check_mesh", {})
        assert not result.is_error
        worst = max(worst, time.monotonic() - begun)
        with anyio.move_on_after(0.05):
            await until.wait()
    return worst


async def test_bombs_end_one_way_or_another_and_slow_nobody(client: Client) -> None:
    found: dict[str, str] = {}
    worst = 0.0
    over = anyio.Event()

    async def watch() -> None:
        nonlocal worst
        worst = await slowest(client, over)

    async def run(name: str) -> None:
        found[name] = await ended(client, wat=BOMBS[name], **CALM)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        async with anyio.create_task_group() as bombs:
            for name in BOMBS:
                bombs.start_soon(run, name)
        over.set()
    assert found.keys() == BOMBS.keys()
    assert found["start loop"] == found["grow"] == "out_of_fuel"
    assert found["recursion"] == "stack_overflow"
    assert found["output"] == "output_too_large"
    assert found["files"] == "ok"  # it asked a hundred times, and none was opened
    assert found["huge memory"] == found["sockets"] == found["no text"] == "refused"
    assert worst < ANSWER_S, worst
    assert await ended(client, module="sha256", input="still here") == "ok"


async def test_mutated_modules_run_or_are_refused_and_nothing_else_happens(client: Client) -> None:
    chance = random.Random(20261121)
    seeds = [guests.module(one.name) for one in guests.READY_MADE]
    endings: dict[str, int] = {}
    limiter = anyio.CapacityLimiter(4)

    async def run(data: bytes) -> None:
        async with limiter:
            given = base64.b64encode(data).decode()
            small = {"fuel": 50_000_000, "wall_s": 2, "memory_mb": 64, "wait_s": 60}
            how = await ended(client, wasm_base64=given, input="x\ny", **small)
            endings[how] = endings.get(how, 0) + 1

    with anyio.fail_after(240):
        async with anyio.create_task_group() as tasks:
            for _ in range(150):
                tasks.start_soon(run, mutated(chance, seeds))
    assert sum(endings.values()) == 150
    assert endings.get("refused", 0) > 20 and len(endings) > 2, endings
    assert await ended(client, module="sha256", input="still here") == "ok"


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return a module with a few bytes changed, taken out, doubled, or cut off."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(8, max(len(data), 9))
        size = chance.randint(1, 16)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at : at + size] = bytes(chance.randrange(256) for _ in range(size))
            case _:
                data[at : at + 1] = bytes([data[at % len(data)] ^ 1 << chance.randrange(8)])
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


async def test_a_flood_of_tasks_is_worked_off(client: Client) -> None:
    wasm = base64.b64encode(bytes(wat2wasm(f'(module {MEMORY} (func (export "_start")))'))).decode()
    async with anyio.create_task_group() as tasks:
        for number in range(200):
            arguments = {"wasm_base64": wasm, "input": str(number), "wait_s": 60}
            tasks.start_soon(client.call_tool, "run_task", arguments)
    listed = await client.call_tool("check_task", {"state": "done", "limit": 200})
    report: Any = listed.structured_content
    assert len(report["tasks"]) == 200
