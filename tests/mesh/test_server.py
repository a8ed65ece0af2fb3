"""The mesh as an assistant has it: its tools over a real gateway, its own node, real guests."""

import base64
import json
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated
from mcp.types import TextContent
from prometheus_client import CollectorRegistry, generate_latest
from wasmtime import wat2wasm

from arsenale_core.config import Settings
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_mesh.opening import Services
from arsenale_mesh.server import SERVER

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'
ECHO = """(module (memory (export "memory") 64)
  (func (export "alloc") (param i32) (result i32) (i32.const 65536))
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1)))))"""


class Opened:
    """A mesh, a client of it, and its metrics."""

    def __init__(self, services: Services, client: Client, runtime: Runtime) -> None:
        self.services = services
        self.client = client
        self.runtime = runtime

    async def call(self, tool: str, **arguments: Any) -> Any:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    async def missed(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        [said] = result.content
        assert isinstance(said, TextContent)
        return said.text.removeprefix(f"Error executing tool {tool}: ")


@pytest.fixture(scope="module")
async def mesh() -> AsyncGenerator[Opened]:
    with tempfile.TemporaryDirectory(prefix="arsenale-", ignore_cleanup_errors=True) as folder:
        env = {"ARSENALE_HOME": folder, "ARSENALE_MESH_IDLE_S": "3"}
        runtime = Runtime(settings=Settings.read(env))
        async with SERVER.open(runtime) as services:
            surface = SERVER.mount(services, runtime, CallMetrics(CollectorRegistry()))
            async with Client(surface, raise_exceptions=True) as client:
                yield Opened(services, client, runtime)


async def test_a_ready_made_module_runs_by_its_name(mesh: Opened) -> None:
    report = await mesh.call("run_task", module="sha256", input="abc")
    assert report["output"].startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
    assert (report["state"], report["status"]) == ("done", "ok")
    assert report["checked"] == "run here, by our own node"
    assert report["fuel"] > 1_000 and report["receipt"]


async def test_a_script_is_run_safely(mesh: Opened) -> None:
    fib = "fn fib(n) { if n < 2 { return n } return fib(n - 1) + fib(n - 2) } print fib(input(0))"
    report = await mesh.call("run_task", module="script", input=f"{fib}\n---\n15")
    assert report["output"] == "610\n"


async def test_text_and_wasm_run_without_being_submitted_and_are_one_module(mesh: Opened) -> None:
    by_text = await mesh.call("run_task", wat=ECHO, input="grüße")
    wasm = base64.b64encode(bytes(wat2wasm(ECHO))).decode()
    by_bytes = await mesh.call("run_task", wasm_base64=wasm, input="grüße")
    assert by_text["output"] == by_bytes["output"] == "grüße"
    assert by_text["module"] == by_bytes["module"]
    again = await mesh.call("run_task", module=by_text["module"], input="x")
    assert again["output"] == "x"


@pytest.mark.parametrize(
    ("body", "limits", "status"),
    [
        ("(unreachable)", {}, "trap"),
        ("(loop (br 0))", {"fuel": 5_000_000}, "out_of_fuel"),
        ("(loop (br 0))", {"wall_s": 0.2}, "timeout"),
        ("(call 0)", {}, "stack_overflow"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", {}, "trap"),
    ],
)
async def test_how_a_guest_ends_is_told_and_billed(
    mesh: Opened, body: str, limits: dict[str, Any], status: str
) -> None:
    wat = f'(module (memory (export "memory") 1) (func (export "_start") {body}))'
    report = await mesh.call("run_task", wat=wat, **limits)
    assert (report["state"], report["status"]) == ("done", status)
    assert report["fuel"] > 0 and report["detail"]


async def test_bytes_that_are_no_text_come_in_base64_and_in_parts(mesh: Opened) -> None:
    data = bytes(range(256)) * 40
    given = base64.b64encode(data).decode()
    report = await mesh.call("run_task", wat=ECHO, input_base64=given)
    assert (report["encoding"], report["output_bytes"]) == ("base64", len(data))
    got = base64.b64decode(report["output"])
    offset = report["next_offset"]
    while offset is not None:
        page = await mesh.call("check_task", task=report["task"], offset=offset)
        got += base64.b64decode(page["about"]["output"])
        offset = page["about"].get("next_offset")
    assert got == data


async def test_text_is_never_cut_within_a_character(mesh: Opened) -> None:
    text = "ä€😀" * 1_500
    report = await mesh.call("run_task", wat=ECHO, input=text)
    got, offset = report["output"], report["next_offset"]
    while offset is not None:
        page = (await mesh.call("check_task", task=report["task"], offset=offset))["about"]
        assert "encoding" not in page
        got, offset = got + page["output"], page.get("next_offset")
    assert got == text


async def test_the_same_key_is_the_same_task(mesh: Opened) -> None:
    first = await mesh.call("run_task", module="sha256", input="k", key="once")
    again = await mesh.call("run_task", module="sha256", input="k", key="once")
    assert again["task"] == first["task"]
    said = await mesh.missed("run_task", module="sha256", input="other", key="once")
    assert "runs something else: give another key" in said


SLOW = """(module (memory (export "memory") 1) (func (export "_start") (local f64)
  (loop (local.set 0 (f64.sqrt (f64.div (f64.sqrt (f64.div (f64.sqrt (f64.add (local.get 0)
    (f64.const 1.5))) (f64.const 3))) (f64.const 7)))) (br 0))))"""
"""Burns its fuel slowly: each root waits for the one before."""


async def test_a_long_task_is_begun_followed_and_cancelled(mesh: Opened) -> None:
    told: list[float] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        assert total == 10**10 and message
        told.append(progress)

    begun = await mesh.call("run_task", wat=SLOW, wait_s=0)
    assert begun["state"] in ("queued", "running") and begun["hint"]
    arguments = {"task": begun["task"], "wait_s": 2}  # the fuel lasts for ten
    await mesh.client.call_tool("check_task", arguments, progress_callback=progress)
    assert told and max(told) > 0
    cancelled = await mesh.call("check_task", task=begun["task"], action="cancel")
    assert cancelled["about"]["state"] == "cancelled"
    after = await mesh.call("run_task", module="sha256", input="next")
    assert after["status"] == "ok"
    said = await mesh.missed("check_task", task=begun["task"], action="cancel")
    assert "is cancelled: only what goes on is cancelled" in said


async def test_a_task_whose_caller_went_goes_on(mesh: Opened) -> None:
    with anyio.move_on_after(0.05):
        await mesh.call("run_task", module="sha256", input="gone", label="left alone")
    with anyio.fail_after(20):
        while True:
            listed = await mesh.call("check_task", limit=5)
            mine = [one for one in listed["tasks"] if one.get("label") == "left alone"]
            if mine and mine[0]["state"] == "done":
                return
            await anyio.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"module": "nope"}, "no module 'nope'"),
        ({}, "give one of module, wasm_base64 and wat"),
        ({"module": "sha256", "wat": LOOP}, "give one of module"),
        ({"wat": "(module"}, "the text is no module"),
        ({"wasm_base64": "AAAA"}, "invalid_module"),
        ({"wasm_base64": "?"}, "wasm_base64 is no base64"),
        ({"module": "sha256", "function": "nope"}, "it exports alloc, run"),
        ({"module": "sha256", "input": "a", "input_base64": "YQ=="}, "given twice"),
        ({"module": "sha256", "memory_mb": 4096}, "the setting mesh_max_memory_mb"),
        ({"module": "sha256", "fuel": 2**50}, "the setting mesh_max_fuel"),
        ({"module": "sha256", "input_sha256": "0" * 64}, "give the input itself"),
        ({"wat": '(module (import "env" "system" (func)) (func (export "_start")))'},
         "refused_import"),
    ],
)  # fmt: skip
async def test_what_cannot_run_is_said_at_once(
    mesh: Opened, arguments: dict[str, Any], says: str
) -> None:
    assert says in await mesh.missed("run_task", **arguments)


async def test_a_module_is_kept_under_a_name(mesh: Opened) -> None:
    kept = await mesh.call("submit_module", name="echo", wat=ECHO, description="says it again")
    assert kept["module"]["functions"] == ["alloc", "run"]
    assert (await mesh.call("run_task", module="echo", input="hi"))["output"] == "hi"
    short = kept["module"]["sha256"][:10]
    assert (await mesh.call("run_task", module=short, input="ho"))["output"] == "ho"
    listed = await mesh.call("check_mesh", view="modules", text="again")
    assert [one["name"] for one in listed["modules"]] == ["echo"]
    assert "is another module" in await mesh.missed("submit_module", name="echo", wat=LOOP)
    assert "no name of a module" in await mesh.missed("submit_module", name="a b", wat=LOOP)


async def test_a_node_says_why_it_scores_as_it_does(mesh: Opened) -> None:
    await mesh.call("run_task", module="sha256", input="awake")
    [line] = (await mesh.call("check_mesh"))["nodes"]
    assert (line["ours"], line["state"], line["kind"]) == (True, "online", "pc")
    [one] = (await mesh.call("check_mesh", node=line["name"]))["nodes"]
    weights = {term["name"]: term["weight"] for term in one["terms"]}
    assert weights == {"bandwidth": 0.4, "latency": 0.3, "efficiency": 0.2, "reputation": 0.1}
    total = sum(term["weight"] * term["value"] for term in one["terms"])
    assert abs(total - one["health"]) < 0.01
    assert one["did"].startswith("did:key:z6Mk")
    assert "no node 'nobody'" in await mesh.missed("check_mesh", node="nobody")


@pytest.mark.parametrize("method", ["signature", "slice", "rerun", "interpreter"])
async def test_a_receipt_holds_by_every_method(mesh: Opened, method: str) -> None:
    task = await mesh.call("run_task", module="json", input='.a\n{"a": 1}')
    report = await mesh.call("verify_receipt", receipt=task["task"], method=method)
    assert report["holds"] is True, report
    assert report["says"] and report["node"]


async def test_an_exported_receipt_holds_and_a_changed_one_does_not(mesh: Opened) -> None:
    task = await mesh.call("run_task", module="sha256", input="exported")
    full = await mesh.call("verify_receipt", receipt=task["receipt"], detail="full")
    exported = full["exported"]
    again = await mesh.call("verify_receipt", receipt=json.dumps(exported))
    assert again["holds"] is True
    exported["receipt"]["fuel"] += 1
    changed = await mesh.call("verify_receipt", receipt=exported)
    assert (changed["holds"], changed["problems"]) == (False, ["signature"])
    assert "no receipt" in await mesh.missed("verify_receipt", receipt="abcdef123456")
    assert "no task 'm999999'" in await mesh.missed("verify_receipt", receipt="m999999")


async def test_work_is_paid_once_in_a_chain_that_is_whole(mesh: Opened) -> None:
    task = await mesh.call("run_task", module="sha256", input="paid")
    ledger = await mesh.call("read_ledger", task=task["task"])
    [entry] = ledger["entries"]
    assert (entry["what"], entry["credits"]) == ("reward", 2) and ledger["whole"]
    [line] = (await mesh.call("check_mesh"))["nodes"]
    [balance] = (await mesh.call("read_ledger", node=line["name"]))["balances"]
    assert balance["credits"] == line["credits"] > 0


async def test_the_status_is_a_resource_whose_changes_are_told(mesh: Opened) -> None:
    status = await mesh.client.read_resource("mesh://status")
    assert "nodes here" in json.loads(getattr(status.contents[0], "text", ""))["summary"]
    task = await mesh.call("run_task", module="sha256", input="resource")
    one = await mesh.client.read_resource(f"mesh://tasks/{task['task']}")
    assert json.loads(getattr(one.contents[0], "text", ""))["state"] == "done"


async def test_who_listens_is_told_of_a_task_to_its_end(mesh: Opened) -> None:
    begun = await mesh.call("run_task", wat=LOOP, wait_s=0)
    uris = {"mesh://status", f"mesh://tasks/{begun['task']}"}
    seen: set[str] = set()
    with anyio.fail_after(20):
        async with mesh.client.listen(resource_subscriptions=list(uris)) as events:
            await mesh.call("check_task", task=begun["task"], action="cancel")
            async for event in events:
                assert isinstance(event, ResourceUpdated)
                seen.add(str(event.uri))
                if seen == uris:
                    break


async def test_metrics_count_what_happened(mesh: Opened) -> None:
    await mesh.call("run_task", module="sha256", input="metrics")
    text = generate_latest(mesh.runtime.registry).decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['mesh_nodes{state="online"}']) == 1
    assert float(lines['mesh_tasks_ended_total{state="done"}']) >= 1
    assert any(name.startswith("mesh_node_health{") for name in lines)


async def test_our_own_node_goes_to_rest_and_comes_back(mesh: Opened) -> None:
    await mesh.call("run_task", module="sha256", input="before")
    gateway = mesh.services.mesh.gateway
    with anyio.fail_after(20):
        while gateway.sessions:  # noqa: ASYNC110  # it ends by itself
            await anyio.sleep(0.1)
    assert (await mesh.call("run_task", module="sha256", input="after"))["status"] == "ok"


async def test_a_second_process_of_the_same_home_lets_the_first_dispatch(mesh: Opened) -> None:
    async with SERVER.open(Runtime(settings=mesh.runtime.settings)) as other:
        assert not other.dispatches
        surface = SERVER.mount(other, mesh.runtime, CallMetrics(CollectorRegistry()))
        async with Client(surface, raise_exceptions=True) as client:
            arguments = {"module": "sha256", "input": "from elsewhere"}
            result = await client.call_tool("run_task", arguments)
            assert result.structured_content and result.structured_content["status"] == "ok"


async def test_who_came_second_dispatches_when_the_first_has_gone(tmp_path: Path) -> None:
    runtime = Runtime(settings=Settings.read({"ARSENALE_HOME": str(tmp_path)}))
    end = anyio.Event()

    async def hold(*, task_status: TaskStatus[None]) -> None:
        async with SERVER.open(runtime) as one:
            assert one.dispatches
            task_status.started()
            await end.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(hold)
        async with SERVER.open(Runtime(settings=runtime.settings)) as other:
            assert not other.dispatches
            end.set()
            surface = SERVER.mount(other, runtime, CallMetrics(CollectorRegistry()))
            async with Client(surface, raise_exceptions=True) as client:
                arguments = {"module": "sha256", "input": "later"}
                result = await client.call_tool("run_task", arguments)
            assert result.structured_content and result.structured_content["status"] == "ok"
            assert other.dispatches


def test_the_list_of_tools_is_short() -> None:
    readme = Path(__file__).parents[2] / "servers" / "arsenale_mesh" / "README.md"
    assert readme.read_text(encoding="utf-8").count("### `") == 6
