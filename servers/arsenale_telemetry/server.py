"""The MCP surface of telemetry. A tool parses, calls `Telemetry` once, and returns a value."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeAlias

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Resolve
from pydantic import Field

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError
from arsenale_core.surface import READS, Runtime, ServerSpec, resource, surface, tool
from arsenale_telemetry.exposition import TelemetryCollector
from arsenale_telemetry.models import (
    BottleneckReport,
    Detail,
    FoundEvents,
    GroupBy,
    LatencyReport,
    SessionTimeline,
    UsageReport,
)
from arsenale_telemetry.opening import opened
from arsenale_telemetry.rollup import Days
from arsenale_telemetry.service import Telemetry

INSTRUCTIONS = """\
What the assistant's own tool calls cost, from hooks: usage, latency, errors, bottlenecks, sessions.
Start with `find_bottlenecks`; `usage_report` and `latency_report` give the sums behind it;
`session_timeline` and `search_events` show single events. Spans: 24h, 7d, today, all, 2026-11-20.
Secrets are masked before they are stored; bodies are absent unless the user asked for them."""

RETENTION_EVERY_S = 6 * 3600
"""How often old events are looked for."""


async def _telemetry(ctx: Context[Telemetry]) -> Telemetry:
    return ctx.request_context.lifespan_context


TelemetryDep: TypeAlias = Annotated[Telemetry, Resolve(_telemetry)]
Since: TypeAlias = Annotated[
    str, Field(description="24h, 7d, 4w, 90m, today, all, or an ISO date", max_length=40)
]
Name: TypeAlias = Annotated[str | None, Field(max_length=400)]
Limit: TypeAlias = Annotated[int, Field(ge=1, le=200)]
Offset: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000)]


async def usage_report(
    telemetry: TelemetryDep,
    since: Since = "7d",
    group_by: GroupBy = "tool",
    tool: Name = None,
    project: Name = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> UsageReport:
    """How much was used: calls, errors, time, bytes; by tool, session, project, day, event kind.

    Most used first. `tool` and `project` (a directory) narrow tool, project and day reports.
    """
    return await telemetry.usage(
        since, group_by, tool=tool, project=project, limit=limit, offset=offset
    )


async def latency_report(
    telemetry: TelemetryDep,
    since: Since = "7d",
    by: Literal["tool", "project"] = "tool",
    tool: Name = None,
    project: Name = None,
    slowest: Annotated[int, Field(ge=0, le=50)] = 5,
) -> LatencyReport:
    """How long calls took (p50/p95/p99, ms) and how often they failed, by tool or project.

    Lists the `slowest` calls, the inputs asked for most often, and how many calls never ended.
    """
    return await telemetry.latency(since, by=by, tool=tool, project=project, slowest=slowest)


async def find_bottlenecks(
    telemetry: TelemetryDep, since: Since = "7d", limit: Annotated[int, Field(ge=1, le=50)] = 10
) -> BottleneckReport:
    """What costs time, most costly first, each with its evidence and where to look next.

    Rules: time sinks, slow tails, failing tools, repeated calls, large results, unfinished calls.
    """
    return await telemetry.bottlenecks(since, limit)


async def session_timeline(
    telemetry: TelemetryDep,
    session: Annotated[str, Field(max_length=200)] = "latest",
    detail: Detail = "concise",
    limit: Limit = 50,
    offset: Offset = 0,
) -> SessionTimeline:
    """One session in order of time: calls, prompts, subagents, compactions, errors.

    `session` is an id, its first characters, or `latest`. `full` adds agents and all error texts.
    """
    return await telemetry.timeline(session, detail=detail, limit=limit, offset=offset)


async def search_events(
    telemetry: TelemetryDep,
    since: Since = "7d",
    text: Annotated[str | None, Field(max_length=200)] = None,
    kind: Name = None,
    tool: Name = None,
    status: Literal["ok", "error", "interrupted"] | None = None,
    session: Name = None,
    before: Annotated[str | None, Field(max_length=60)] = None,
    detail: Detail = "concise",
    limit: Limit = 20,
) -> FoundEvents:
    """Stored events, newest first, that hold `text` (paths, commands, errors) and fit the filters.

    `kind` is an event name such as PostToolUseFailure. `before` is the last page's `next_before`.
    `full` adds arguments, sizes and hashes.
    """
    return await telemetry.search(
        since=since,
        text=text,
        kind=kind,
        tool=tool,
        status=status,
        session=session,
        before=before,
        detail=detail,
        limit=limit,
    )


@asynccontextmanager
async def open_telemetry(runtime: Runtime) -> AsyncGenerator[Telemetry]:
    """Open the store and the spool, and drain while they are open."""
    with opened(runtime.settings, runtime.now) as telemetry:
        days = Days(telemetry.zone)
        collector = TelemetryCollector(telemetry.store, telemetry.spool, days, runtime.now)
        runtime.registry.register(collector)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(telemetry.drain.run)
                tasks.start_soon(_keep_retention, telemetry)
                yield telemetry
                tasks.cancel_scope.cancel()
        finally:
            runtime.registry.unregister(collector)


async def _keep_retention(telemetry: Telemetry) -> None:
    log = logs.get("arsenale.telemetry")
    while True:
        await anyio.sleep(RETENTION_EVERY_S)
        try:
            gone = await telemetry.forget_old()
            log.info("old events deleted", rows=gone)
        except ArsenaleError as exc:
            log.warning("old events stay for now", reason=str(exc))


def build(telemetry: Telemetry) -> MCPServer[Telemetry]:
    """Return the server over an open TELEMETRY: its whole surface."""
    mcp = surface("telemetry", telemetry, version="0.1.0", instructions=INSTRUCTIONS)
    mcp.add_tool(tool(find_bottlenecks), annotations=READS)
    mcp.add_tool(tool(usage_report), annotations=READS)
    mcp.add_tool(tool(latency_report), annotations=READS)
    mcp.add_tool(tool(session_timeline), annotations=READS)
    mcp.add_tool(tool(search_events), annotations=READS)

    @mcp.resource("telemetry://summary", mime_type="application/json")
    @resource
    async def summary() -> str:
        """Today's usage by tool."""
        report = await telemetry.usage("today", "tool", tool=None, project=None, limit=20, offset=0)
        return report.model_dump_json()

    @mcp.resource("telemetry://health", mime_type="application/json")
    @resource
    async def health() -> str:
        """Whether events arrive, and what was lost on the way."""
        return (await telemetry.health()).model_dump_json()

    del summary, health
    return mcp


SERVER = ServerSpec(name="telemetry", open=open_telemetry, build=build)
