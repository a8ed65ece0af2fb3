"""The MCP surface of memory. A tool parses, calls `Memory` once, and returns a value."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Resolve
from prometheus_client import Counter
from pydantic import Field

from arsenale_core.model_text import ModelText
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
from arsenale_memory.exchange import Exchange, Upkeep
from arsenale_memory.formats import Format
from arsenale_memory.models import (
    CheckpointReport,
    Detail,
    MaintainReport,
    NewMemory,
    ReadReport,
    RecallReport,
    ReflectReport,
    RememberReport,
    RestoreReport,
    RevisedMemory,
)
from arsenale_memory.opening import Services, open_services
from arsenale_memory.personas import Personas
from arsenale_memory.record import Mode, Source
from arsenale_memory.reflecting import AGENTS, Reflecting
from arsenale_memory.service import Memory, Query

INSTRUCTIONS = """\
What you know across sessions, and who you are. Call `recall` before you answer about people,
projects, preferences or past work; call `remember` when you learn something that will matter later:
decisions and why, preferences, facts, what was tried. One fact a memory, with names and dates.
When something is no longer so, `remember` the new with `supersedes`, or `revise` the old."""

RECALL_FIRST = """\
Before you begin: call `recall` with the people, projects and names in this task, then once more
with what could be known about how to do it. Say in a line what you found. Then do the task.

Task: {task}"""

WRAP_UP = """\
This session is about to end. Go through it and call `remember` once with all that is worth
knowing next time: decisions and why, preferences the user showed, facts about the project, what
failed and how it was mended; one fact each, with names and dates, nothing that is in the code
anyway. Revise what proved wrong. Then call `checkpoint_memory` with the decisions and a summary of
two sentences."""


async def _memory(ctx: Context[Services]) -> Memory:
    return ctx.request_context.lifespan_context.memory


async def _personas(ctx: Context[Services]) -> Personas:
    return ctx.request_context.lifespan_context.personas


async def _exchange(ctx: Context[Services]) -> Exchange:
    return ctx.request_context.lifespan_context.exchange


async def _reflecting(ctx: Context[Services]) -> Reflecting:
    return ctx.request_context.lifespan_context.reflecting


async def _roots(ctx: Context[Services]) -> list[Path]:
    """Return where an assistant may read and write files through us."""
    home = ctx.request_context.lifespan_context.exchange.home
    project = await _project()
    return [home / "exports", Path.home() / ".claude", *([project] if project else [])]


async def _project() -> Path | None:
    peer = PEER.get()
    return Path(peer.project) if peer and peer.project else None


async def _source() -> Source:
    peer = PEER.get()
    return Source(via="tool", session=peer.session if peer else None)


async def _progress(ctx: Context[Services]) -> Callable[[int, int], Awaitable[None]]:
    async def told(done: int, total: int) -> None:
        await ctx.report_progress(done, total)

    return told


MemoryDep: TypeAlias = Annotated[Memory, Resolve(_memory)]
PersonasDep: TypeAlias = Annotated[Personas, Resolve(_personas)]
ProjectDep: TypeAlias = Annotated[Path | None, Resolve(_project)]
ExchangeDep: TypeAlias = Annotated[Exchange, Resolve(_exchange)]
ReflectingDep: TypeAlias = Annotated[Reflecting, Resolve(_reflecting)]
RootsDep: TypeAlias = Annotated[list[Path], Resolve(_roots)]
SourceDep: TypeAlias = Annotated[Source, Resolve(_source)]
ProgressDep: TypeAlias = Annotated[Callable[[int, int], Awaitable[None]], Resolve(_progress)]
Namespace: TypeAlias = Annotated[
    str | None, Field(max_length=400, description="Default: the user's own; * or a,b for several.")
]
Moment: TypeAlias = Annotated[
    str | None, Field(max_length=40, description="2026-11-20, 7d, today, ISO 8601")
]
Names: TypeAlias = Annotated[list[str] | None, Field(max_length=50)]
Texts: TypeAlias = Annotated[list[str] | None, Field(max_length=100)]
Persona: TypeAlias = Annotated[str, Field(min_length=1, max_length=60)]
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
    offset: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0,
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


async def checkpoint_memory(
    personas: PersonasDep,
    project: ProjectDep,
    source: SourceDep,
    decisions: Texts = None,
    conversations: Texts = None,
    relationships: Annotated[dict[str, str] | None, Field(max_length=50)] = None,
    reason: Annotated[str, Field(max_length=200)] = "asked for",
    persona: Persona = "default",
) -> CheckpointReport:
    """Take a snapshot of who you are and what you know; returns tomorrow's briefing.

    `decisions` and `conversations` (a summary each) become memories, `relationships` (who: what)
    are merged. Nothing is stored twice.
    """
    return await personas.checkpoint(
        persona,
        project,
        reason=reason,
        decisions=decisions or (),
        conversations=conversations or (),
        relationships=relationships,
        source=source,
    )


async def restore_identity(
    date: Annotated[str, Field(max_length=40, description="2026-11-20 (its end), 7d, ISO 8601")],
    personas: PersonasDep,
    project: ProjectDep,
    compare_with: Annotated[str | None, Field(max_length=40, description="Default: now.")] = None,
    apply: Annotated[bool, Field(description="Really go back; a snapshot is taken first.")] = False,
    persona: Persona = "default",
) -> RestoreReport:
    """How a persona stood on a date (global, project, local) and what differs from now.

    With `apply` files and memories are put back exactly, and that is verified.
    """
    return await personas.restore(persona, project, date, compare_with=compare_with, apply=apply)


async def reflect(
    question: Annotated[str, Field(min_length=3, max_length=2_000)],
    reflecting: ReflectingDep,
    progress: ProgressDep,
    agents: Annotated[list[str] | None, Field(max_length=6)] = None,
    samples: Annotated[int, Field(ge=1, le=5, description="Answers of each agent.")] = 1,
    keep: Annotated[bool, Field(description="Keep them as memories.")] = False,
    namespace: Namespace = None,
) -> ReflectReport:
    """Ask several views on a question: Engineer, Librarian, Philosopher, joined by Mycelium.

    Each answers from the memories that fit. `fracture` is 0 when they agree and 1 when they are
    opposed; confidence, coherence and fracture are computed. Takes a local or configured model.
    """
    return await reflecting.reflect(
        question,
        Query(namespace=namespace),
        agents=agents or AGENTS,
        samples=samples,
        keep=keep,
        progress=progress,
    )


async def maintain(
    exchange: ExchangeDep,
    roots: RootsDep,
    progress: ProgressDep,
    action: Upkeep = "stats",
    format: Annotated[
        Format, Field(description="claude: its memory files and transcripts, import only")
    ] = "jsonl",
    path: Annotated[str | None, Field(max_length=2_000)] = None,
    namespace: Namespace = None,
    tags: Names = None,
    since: Moment = None,
) -> MaintainReport:
    """How much memory holds and how its index is; reindex; erase the forgotten; import, export.

    Forms: jsonl and markdown (a folder of notes), both lossless; graph, the JSONL of the reference
    knowledge-graph server. Paths lie within the project, ~/.claude or Arsenale's exports.
    `research` lists experimental features; only the user can switch one on, by the command line.
    """
    return await exchange.upkeep(
        action,
        format,
        path,
        Query(namespace=namespace, tags=tags or (), since=since),
        roots=roots,
        progress=progress,
    )


@asynccontextmanager
async def open_memory(runtime: Runtime) -> AsyncGenerator[Services]:
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
        ) as services:
            yield services
    finally:
        runtime.registry.unregister(counter)


def build(services: Services) -> MCPServer[Services]:
    """Return the server over open SERVICES: its whole surface."""
    mcp = surface("memory", services, version="0.1.0", instructions=INSTRUCTIONS)
    memory, personas = services.memory, services.personas
    mcp.add_tool(tool(remember), annotations=WRITES)
    mcp.add_tool(tool(recall), annotations=READS)
    mcp.add_tool(tool(read), annotations=READS)
    mcp.add_tool(tool(revise), annotations=DESTROYS)
    mcp.add_tool(tool(checkpoint_memory), annotations=WRITES)
    mcp.add_tool(tool(restore_identity), annotations=DESTROYS)
    mcp.add_tool(tool(reflect), annotations=WRITES)
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

    @mcp.resource("memory://identity", mime_type="application/json")
    @resource
    async def identity() -> str:
        """Who the default persona is, and where each value comes from."""
        return (await personas.show("default", await _project())).model_dump_json()

    @mcp.resource("memory://briefing", mime_type="text/markdown")
    @resource
    async def briefing() -> str:
        """The morning briefing of the default persona."""
        return await personas.briefing("default", await _project())

    @mcp.prompt(name="recall-first")
    def recall_first(task: str) -> str:
        """Look up what is known before doing a task."""
        return RECALL_FIRST.format(task=task)

    @mcp.prompt(name="wrap-up-session")
    def wrap_up_session() -> str:
        """Keep what this session taught, and take a checkpoint."""
        return WRAP_UP

    del recent, namespaces, identity, briefing, recall_first, wrap_up_session
    return mcp


async def answer(services: Services, event: Mapping[str, object]) -> ModelText | None:
    """Return what the assistant is to be told at a hook's EVENT, or nothing."""
    return await services.injector.answer(event)


SERVER = ServerSpec(name="memory", open=open_memory, build=build, answer=answer)
