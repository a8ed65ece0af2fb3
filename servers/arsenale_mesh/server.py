"""The MCP surface of the mesh. A tool parses, makes one call, and returns a value."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeAlias

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Resolve
from pydantic import Field

from arsenale_core import boot
from arsenale_core.surface import (
    PEER,
    READS,
    WRITES,
    Runtime,
    ServerSpec,
    resource,
    surface,
    tool,
)
from arsenale_mesh.asking import Order
from arsenale_mesh.exposition import MeshCollector
from arsenale_mesh.gateway import Clock
from arsenale_mesh.models import (
    Detail,
    LedgerReport,
    MeshReport,
    Method,
    ModuleReport,
    TaskReport,
    TasksReport,
    VerifyReport,
    View,
)
from arsenale_mesh.opening import STATUS, Services, open_services
from arsenale_mesh.record import Assurance, Carbon
from arsenale_mesh.service import Mesh, TaskAction, Told

INSTRUCTIONS = """\
Run WebAssembly in a sandbox: no files, no network, metered, the same result everywhere, with a
signed receipt. `run_task` runs a ready-made module (search, csv, json, sha256, script, matmul),
your own wasm, or WAT text; `check_mesh` with view=modules says what input each takes."""


async def _mesh(ctx: Context[Services]) -> Mesh:
    return ctx.request_context.lifespan_context.mesh


async def _told(ctx: Context[Services]) -> Told:
    async def told(done: float, total: float, text: str) -> None:
        await ctx.report_progress(done, total, text)

    return told


async def _project() -> str:
    peer = PEER.get()
    return (peer.project if peer else None) or ""


MeshDep: TypeAlias = Annotated[Mesh, Resolve(_mesh)]
ToldDep: TypeAlias = Annotated[Told, Resolve(_told)]
ProjectDep: TypeAlias = Annotated[str, Resolve(_project)]
Line: TypeAlias = Annotated[str, Field(max_length=400)]
Module: TypeAlias = Annotated[str, Field(max_length=100, description="name or SHA-256")]
Wasm: TypeAlias = str
"""Without a bound in the schema: `asking` refuses what is too large in words, not with the text."""
Wat: TypeAlias = Annotated[str, Field(max_length=1_000_000)]


async def run_task(
    mesh: MeshDep,
    told: ToldDep,
    project: ProjectDep,
    module: Module = "",
    wat: Wat = "",
    wasm_base64: Wasm = "",
    function: Line = "",
    input: str = "",
    input_base64: str = "",
    input_sha256: Line = "",
    memory_mb: Annotated[int | None, Field(ge=1)] = None,
    fuel: Annotated[int | None, Field(ge=1, lt=2**53)] = None,
    wall_s: Annotated[float | None, Field(gt=0)] = None,
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0,
    assurance: Assurance = "verified",
    carbon: Carbon = "off",
    here: Annotated[bool, Field(description="our own node only")] = False,
    label: Line = "",
    key: Annotated[str | None, Field(max_length=200)] = None,
    wait_s: Annotated[float, Field(ge=0, le=600)] = 20,
) -> TaskReport:
    """Run a module (a name, WAT or wasm) on an input, and return its output and receipt.

    Calls `run` (see ABI) or `_start`: stdin to stdout. At most 512 MB, 30 s, 1e10 fuel. Traps and
    limits come back as `status`. provisional: a trusted node's word, unchecked. A `key` runs once.
    """
    return await mesh.run(
        Order(
            module=module, wasm_base64=wasm_base64, wat=wat, function=function, input=input,
            input_base64=input_base64, input_sha256=input_sha256, memory_mb=memory_mb, fuel=fuel,
            wall_s=wall_s, seed=seed, assurance=assurance, carbon=carbon, here=here, label=label,
            key=key, project=project, wait_s=wait_s,
        ),
        told,
    )  # fmt: skip


async def check_task(
    mesh: MeshDep,
    told: ToldDep,
    project: ProjectDep,
    task: Annotated[str, Field(max_length=40, description="as m12; none lists all")] = "",
    action: TaskAction = "status",
    wait_s: Annotated[float, Field(ge=0, le=600)] = 0,
    state: Annotated[str, Field(max_length=20)] = "",
    everywhere: Annotated[bool, Field(description="all projects")] = False,
    detail: Detail = "concise",
    limit: Annotated[int, Field(ge=1, le=200)] = 20,
    offset: Annotated[int, Field(ge=0, description="of a task: bytes of output")] = 0,
) -> TasksReport:
    """Show a task and its output, wait for it, cancel it; or list tasks, newest first."""
    return await mesh.look(
        task, action, wait_s=wait_s, state=state, detail=detail,
        project="" if everywhere else project, limit=limit, offset=offset, told=told,
    )  # fmt: skip


async def submit_module(
    name: Annotated[str, Field(min_length=1, max_length=60)],
    mesh: MeshDep,
    wat: Wat = "",
    wasm_base64: Wasm = "",
    description: Line = "",
) -> ModuleReport:
    """Keep a module under a name, to be run by it.

    It is checked at once; imports but WASI's streams, clock and random are refused.
    """
    return await mesh.submit(name, wasm_base64, wat, description)


async def check_mesh(
    mesh: MeshDep,
    view: View = "nodes",
    node: Line = "",
    text: Line = "",
    detail: Detail = "concise",
    limit: Annotated[int, Field(ge=1, le=200)] = 20,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> MeshReport:
    """Show nodes (health, reputation, energy), one node (why), modules, or the audit trail."""
    return await mesh.show(view, node=node, text=text, detail=detail, limit=limit, offset=offset)


async def verify_receipt(
    mesh: MeshDep,
    receipt: Annotated[
        str | dict[str, Any], Field(description="a task (m12), a receipt's id, or exported JSON")
    ],
    method: Method = "rerun",
    detail: Detail = "concise",
) -> VerifyReport:
    """Say whether a receipt holds: by signature, a random slice, or running it again.

    interpreter: by a second engine, slower; finds miscompilation. detail=full exports it.
    """
    return await mesh.verify(receipt, method, detail)


async def read_ledger(
    mesh: MeshDep,
    node: Line = "",
    task: Line = "",
    check_all: Annotated[bool, Field(description="the chain, not its newest part only")] = False,
    limit: Annotated[int, Field(ge=1, le=200)] = 20,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> LedgerReport:
    """Show credits that nodes earned and lost, newest first, and whether the chain is whole."""
    return await mesh.ledger(node, task, limit, offset, whole=check_all)


@asynccontextmanager
async def open_mesh(runtime: Runtime) -> AsyncGenerator[Services]:
    """Open the mesh with the process's settings and clocks."""
    clock = Clock(ticks_us=boot.ticks, now_us=lambda: int(runtime.now() * 1e6))
    async with open_services(runtime.settings, clock) as services:
        collector = MeshCollector(services.mesh, time.time)

        def is_awake() -> bool:
            return services.dispatches and services.mesh.gateway.is_busy

        with runtime.showing(collector, is_awake):
            yield services


def build(services: Services) -> MCPServer[Services]:
    """Return the server over open SERVICES: its whole surface."""
    mcp = surface("mesh", services, version="0.1.0", instructions=INSTRUCTIONS, news=services.news)
    mcp.add_tool(tool(run_task), annotations=WRITES)
    mcp.add_tool(tool(check_task), annotations=WRITES)
    mcp.add_tool(tool(submit_module), annotations=WRITES)
    mcp.add_tool(tool(check_mesh), annotations=READS)
    mcp.add_tool(tool(verify_receipt), annotations=READS)
    mcp.add_tool(tool(read_ledger), annotations=READS)

    @mcp.resource(STATUS, mime_type="application/json")
    @resource
    async def status() -> str:
        """Nodes, tasks, and what needs attention; changes are notified."""
        return (await services.mesh.status()).model_dump_json()

    @mcp.resource("mesh://tasks/{task}", mime_type="application/json")
    @resource
    async def task(task: str) -> str:
        """A task and its output; changes are notified."""
        return (await services.mesh.report(task)).model_dump_json()

    del status, task
    return mcp


SERVER = ServerSpec(name="mesh", open=open_mesh, build=build)
