"""The MCP surface of memory. A tool parses, calls `Memory` once, and returns a value."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeAlias

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Resolve
from prometheus_client import Counter
from pydantic import Field

from arsenale_core.surface import (
    DESTROYS,
    PEER,
    READS,
    WRITES,
    Runtime,
    ServerSpec,
    resource,
    surface,
    tool,
)
from arsenale_memory.answers import Changes
from arsenale_memory.models import (
    Detail,
    MaintainReport,
    NewMemory,
    ReadReport,
    RecallReport,
    RememberReport,
    RevisedMemory,
)
from arsenale_memory.opening import open_services
from arsenale_memory.record import Mode, Source
from arsenale_memory.service import Memory, Query

INSTRUCTIONS = """\
What you know across sessions, and who you are. Call `recall` before you answer about people,
projects, preferences or past work; call `remember` when you learn something that will matter later:
decisions and why, preferences, facts, what was tried. One fact a memory, with names and dates.
When something is no longer so, `remember` the new with `supersedes`, or `revise` the old."""


async def _memory(ctx: Context[Memory]) -> Memory:
    return ctx.request_context.lifespan_context


async def _source() -> Source:
    peer = PEER.get()
    return Source(via="tool", session=peer.session if peer else None)


async def _progress(ctx: Context[Memory]) -> Callable[[int, int], Awaitable[None]]:
    async def told(done: int, total: int) -> None:
        await ctx.report_progress(done, total)

    return told


MemoryDep: TypeAlias = Annotated[Memory, Resolve(_memory)]
SourceDep: TypeAlias = Annotated[Source, Resolve(_source)]
ProgressDep: TypeAlias = Annotated[Callable[[int, int], Awaitable[None]], Resolve(_progress)]
Namespace: TypeAlias = Annotated[
    str | None, Field(max_length=400, description="Default: the user's own; * or a,b for several.")
]
Moment: TypeAlias = Annotated[
    str | None, Field(max_length=40, description="2026-11-20, 7d, today, ISO 8601")
]
Names: TypeAlias = Annotated[list[str] | None, Field(max_length=50)]
Ids: TypeAlias = Annotated[list[str] | None, Field(max_length=50)]


async def remember(
    memories: Annotated[list[NewMemory], Field(min_length=1, max_length=10_000)],
    memory: MemoryDep,
    source: SourceDep,
    progress: ProgressDep,
    namespace: Namespace = None,
) -> RememberReport:
    """Keep one or many memories for later sessions. Duplicates and repetitions are recognised.

    Tells which older memories are near or contradict. What fails is reported by item.
    """
    return await memory.remember(memories, namespace=namespace, source=source, progress=progress)


async def recall(
    question: Annotated[str, Field(max_length=4_000)],
    memory: MemoryDep,
    limit: Annotated[int, Field(ge=1, le=50)] = 8,
    budget_tokens: Annotated[int, Field(ge=50, le=20_000)] = 2_000,
    namespace: Namespace = None,
    tags: Names = None,
    domains: Names = None,
    since: Moment = None,
    until: Moment = None,
    as_of: Annotated[str | None, Field(max_length=40, description="As it was known then.")] = None,
    min_importance: Annotated[float, Field(ge=0, le=1)] = 0,
    session: Annotated[str | None, Field(max_length=200)] = None,
    mode: Mode = "hybrid",
    detail: Detail = "concise",
) -> RecallReport:
    """Find the memories that best answer a question, by meaning and by words, best first.

    `detail=full` explains each score. Empty when nothing fits.
    """
    return await memory.recall(
        question,
        Query(
            namespace=namespace, tags=tags or (), domains=domains or (), session=session,
            since=since, until=until, as_of=as_of, min_importance=min_importance,
        ),
        limit=limit,
        budget_tokens=budget_tokens,
        mode=mode,
        detail=detail,
    )  # fmt: skip


async def read(
    memory: MemoryDep,
    ids: Ids = None,
    neighbours: Annotated[int, Field(ge=0, le=20)] = 0,
    start: Annotated[int, Field(ge=0, description="First character of long content.")] = 0,
    namespace: Namespace = None,
    tags: Names = None,
    session: Annotated[str | None, Field(max_length=200)] = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> ReadReport:
    """Memories whole, by id: history, source, links, neighbours in their session.

    Without ids: a page of those that fit the filters, newest first.
    """
    return await memory.browse(
        ids or (),
        Query(namespace=namespace, tags=tags or (), session=session, since=since, until=until),
        neighbours=neighbours,
        start=start,
        limit=limit,
        offset=offset,
    )


async def revise(
    ids: Annotated[list[str], Field(min_length=1, max_length=50)],
    memory: MemoryDep,
    action: Literal["change", "forget", "undo"] = "change",
    content: str | None = None,
    subject: Annotated[str | None, Field(max_length=200)] = None,
    tags: Names = None,
    importance: Annotated[float | None, Field(ge=0, le=1)] = None,
    valid_to: Moment = None,
) -> list[RevisedMemory]:
    """Correct memories, say until when they held (`valid_to`), forget them, or undo forgetting.

    The former version stays in the history; what is forgotten can come back for some days.
    """
    return await memory.change(
        action,
        ids,
        Changes(
            content=content, subject=subject, tags=tags, importance=importance, valid_to=valid_to
        ),
    )


async def maintain(
    memory: MemoryDep,
    progress: ProgressDep,
    action: Literal["stats", "reindex", "purge"] = "stats",
) -> MaintainReport:
    """How much memory holds and in what state its index is; reindex; erase what was forgotten."""
    return await memory.maintain(action, progress)


@asynccontextmanager
async def open_memory(runtime: Runtime) -> AsyncGenerator[Memory]:
    """Open the services with counters in the process's registry."""
    counter = Counter(
        "memory_operations",
        "Operations on memory, by name.",
        ["operation"],
        registry=runtime.registry,
    )
    try:
        async with open_services(
            runtime.settings, runtime.now, lambda name: counter.labels(name).inc()
        ) as memory:
            yield memory
    finally:
        runtime.registry.unregister(counter)


def build(memory: Memory) -> MCPServer[Memory]:
    """Return the server over an open MEMORY: its whole surface."""
    mcp = surface("memory", memory, version="0.1.0", instructions=INSTRUCTIONS)
    mcp.add_tool(tool(remember), annotations=WRITES)
    mcp.add_tool(tool(recall), annotations=READS)
    mcp.add_tool(tool(read), annotations=READS)
    mcp.add_tool(tool(revise), annotations=DESTROYS)
    mcp.add_tool(tool(maintain), annotations=WRITES)

    @mcp.resource("memory://recent", mime_type="application/json")
    @resource
    async def recent() -> str:
        """The newest memories."""
        return (await memory.listed(Query(namespace="*"), limit=20, offset=0)).model_dump_json(
            exclude_none=True
        )

    @mcp.resource("memory://namespaces", mime_type="application/json")
    @resource
    async def namespaces() -> str:
        """Every namespace with how many memories it has."""
        return (await memory.stats()).model_dump_json(include={"namespaces"})

    del recent, namespaces
    return mcp


SERVER = ServerSpec(name="memory", open=open_memory, build=build)
