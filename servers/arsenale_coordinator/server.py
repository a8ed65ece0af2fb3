"""The MCP surface of the coordinator. A tool parses, makes one call, and returns a value."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeAlias

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Resolve
from pydantic import Field

from arsenale_coordinator import views
from arsenale_coordinator.desk import Waits
from arsenale_coordinator.exposition import WorkforceCollector
from arsenale_coordinator.models import (
    AssignReport,
    CheckInReport,
    Detail,
    Evidence,
    Handoff,
    Tag,
    TaskName,
    TaskToAssign,
    UpdateReport,
    WorkforceReport,
)
from arsenale_coordinator.opening import RECIPES, STATUS, Services, open_services
from arsenale_coordinator.projects import project_of
from arsenale_coordinator.recipes.kitchen import Kitchen, Order, RecipeAction
from arsenale_coordinator.recipes.models import RecipeReport
from arsenale_coordinator.recipes.runs import Told
from arsenale_coordinator.record import Clock, Profile
from arsenale_coordinator.repository.models import MailReport, ReservationReport
from arsenale_coordinator.repository.sharing import (
    FileAction,
    Mail,
    MailAction,
    Repository,
    Reserve,
)
from arsenale_coordinator.service import Action, Coordinator, Status, Update, View
from arsenale_coordinator.thinking.models import ThinkingReport
from arsenale_coordinator.thinking.optimiser import Optimiser
from arsenale_core import boot
from arsenale_core.model_text import ModelText, quote
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

INSTRUCTIONS = """\
Share work with other agents. To work: `check_in` with your name and capabilities, do the task
that you get, `update_task` with action=complete under its fence, and again. To lead: `assign_task`
with all tasks and what each comes `after`; `check_workforce` to look."""


async def _coordinator(ctx: Context[Services]) -> Coordinator:
    return ctx.request_context.lifespan_context.coordinator


async def _repository(ctx: Context[Services]) -> Repository:
    return ctx.request_context.lifespan_context.repository


async def _optimiser(ctx: Context[Services]) -> Optimiser:
    return ctx.request_context.lifespan_context.optimiser


async def _kitchen(ctx: Context[Services]) -> Kitchen:
    return ctx.request_context.lifespan_context.kitchen


async def _told(ctx: Context[Services]) -> Told:
    async def told(done: int, total: int, text: str) -> None:
        await ctx.report_progress(done, total, text)

    return told


async def _waits(ctx: Context[Services]) -> Waits:
    async def waits(waited_s: float, wait_s: float) -> None:
        await ctx.report_progress(waited_s, wait_s, "waiting for a task")

    return waits


async def _session() -> str:
    peer = PEER.get()
    return (peer.session if peer else None) or ""


async def _project() -> str:
    peer = PEER.get()
    return project_of(peer.project) if peer else ""


async def _folder() -> str:
    peer = PEER.get()
    return (peer.project if peer else None) or ""


CoordinatorDep: TypeAlias = Annotated[Coordinator, Resolve(_coordinator)]
RepositoryDep: TypeAlias = Annotated[Repository, Resolve(_repository)]
OptimiserDep: TypeAlias = Annotated[Optimiser, Resolve(_optimiser)]
ProjectDep: TypeAlias = Annotated[str, Resolve(_project)]
FolderDep: TypeAlias = Annotated[str, Resolve(_folder)]
KitchenDep: TypeAlias = Annotated[Kitchen, Resolve(_kitchen)]
WaitsDep: TypeAlias = Annotated[Waits, Resolve(_waits)]
ToldDep: TypeAlias = Annotated[Told, Resolve(_told)]
SessionDep: TypeAlias = Annotated[str, Resolve(_session)]

Agent: TypeAlias = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^\S+$")]
Line: TypeAlias = Annotated[str, Field(max_length=400)]
Text: TypeAlias = Annotated[str, Field(max_length=20_000)]


async def check_in(
    agent: Agent,
    coordinator: CoordinatorDep,
    waits: WaitsDep,
    project: ProjectDep,
    capabilities: Annotated[list[Tag] | None, Field(max_length=50)] = None,
    description: Annotated[str | None, Field(max_length=2_000)] = None,
    capacity: Annotated[int | None, Field(ge=1, le=100)] = None,
    heartbeat_s: Annotated[int | None, Field(ge=5, le=86_400)] = None,
    budget_usd: Annotated[float | None, Field(ge=0, le=1e6)] = None,
    status: Status = "available",
    take: bool = True,
    wait_s: Annotated[float, Field(ge=0, le=600)] = 0,
) -> CheckInReport:
    """Register or renew yourself and take the task that suits you best, if you have room.

    First say what you can do. `wait_s` waits for work. Silent for two heartbeats (of 300 s) you
    lose your tasks; any call counts. `leaving` gives them back.
    """
    return await coordinator.check_in(
        agent,
        Profile(
            tags=None if capabilities is None else views.tags(capabilities),
            description=description, capacity=capacity, heartbeat_s=heartbeat_s,
            budget_usd=budget_usd, project=project or None,
        ),
        status=status, take=take, wait_s=wait_s, waits=waits,
    )  # fmt: skip


async def check_workforce(
    coordinator: CoordinatorDep,
    project: ProjectDep,
    view: View = "agents",
    task: TaskName | None = None,
    agent: Line | None = None,
    states: Annotated[list[str] | None, Field(max_length=10)] = None,
    text: Line = "",
    everywhere: Annotated[bool, Field(description="all projects")] = False,
    detail: Detail = "concise",
    limit: Annotated[int, Field(ge=1, le=200)] = 20,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> WorkforceReport:
    """Show agents (who is free, how they did), tasks (worked on first), or one task (t12)."""
    return await coordinator.look(
        view, task=task, agent=agent, states=states or (), text=text,
        project="" if everywhere else project, detail=detail, limit=limit, offset=offset,
    )  # fmt: skip


async def assign_task(
    tasks: Annotated[list[TaskToAssign], Field(min_length=1, max_length=200)],
    coordinator: CoordinatorDep,
    project: ProjectDep,
    by: Line = "",
    assign: Annotated[bool, Field(description="false: who is free takes it")] = True,
) -> AssignReport:
    """Make tasks and choose the best agent for each by skill, load and history; says why.

    `after`: refs or t12 it waits for; `needs`: capabilities. Returns assigned_to (may change until
    begun), estimated_completion (90 % interval), dependencies.
    """
    return await coordinator.assign(tasks, project=project, by=by, assign=assign)


async def update_task(
    task: TaskName,
    action: Action,
    coordinator: CoordinatorDep,
    agent: Line = "",
    fence: int | None = None,
    note: Text = "",
    progress: Annotated[float | None, Field(ge=0, le=1)] = None,
    result: Text = "",
    artifacts: Annotated[list[Line] | None, Field(max_length=100)] = None,
    evidence: Evidence | None = None,
    handoff: Handoff | None = None,
    cost_usd: Annotated[float, Field(ge=0, le=1e5)] = 0,
    key: Annotated[str | None, Field(max_length=200)] = None,
) -> UpdateReport:
    """Say how your task stands (progress, complete, fail, hand_over), under the `fence` you got.

    approve, reject, cancel, retry are for people and leads. Repeating a complete changes nothing.
    """
    return await coordinator.update(
        task,
        Update(
            action=action, agent=agent, fence=fence, note=note, progress=progress, result=result,
            artifacts=artifacts or (), evidence=evidence, handoff=handoff, cost_usd=cost_usd,
            key=key,
        ),
    )  # fmt: skip


async def reserve_files(
    action: FileAction,
    agent: Agent,
    repository: RepositoryDep,
    project: ProjectDep,
    session: SessionDep,
    folder: FolderDep,
    paths: Annotated[list[Line] | None, Field(max_length=100, description="src, a/*.py")] = None,
    minutes: Annotated[float, Field(ge=1, le=1_440)] = 30,
    shared: bool = False,
    reason: Line = "",
) -> ReservationReport:
    """Hold files while you edit them, all or none; a conflict says who, what and until when.

    release without paths lets go of all. Guards, where on, bind everybody.
    """
    return await repository.reserve(
        Reserve(
            action=action, agent=agent, paths=paths or (), minutes=minutes, shared=shared,
            reason=reason,
        ),
        project,
        session,
        folder,
    )  # fmt: skip


async def exchange_messages(
    action: MailAction,
    agent: Agent,
    repository: RepositoryDep,
    project: ProjectDep,
    to: Annotated[list[Agent] | None, Field(max_length=50, description="* is all")] = None,
    subject: Line = "",
    body: Text = "",
    message: Annotated[int | None, Field(description="to answer, acknowledge, show")] = None,
    needs_ack: bool = False,
    key: Annotated[str | None, Field(max_length=200)] = None,
    limit: Annotated[int, Field(ge=1, le=100)] = 10,
    offset: Annotated[int, Field(ge=0)] = 0,
) -> MailReport:
    """Write to agents and read what they wrote; inbox marks as read."""
    return await repository.mail(
        Mail(
            action=action, agent=agent, to=to or (), subject=subject, body=body, message=message,
            needs_ack=needs_ack, key=key, limit=limit, offset=offset,
        ),
        project,
    )  # fmt: skip


async def recommend_thinking(
    prompt: str,
    optimiser: OptimiserDep,
    project: ProjectDep,
    here: SessionDep,
    model: str = "",
    session: str = "",
) -> ThinkingReport:
    """How hard to think about a prompt."""
    return await optimiser.recommend(prompt, model, session or here, project)


async def run_recipe(
    action: RecipeAction,
    kitchen: KitchenDep,
    told: ToldDep,
    project: ProjectDep,
    recipe: Line = "",
    definition: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    run: Line = "",
    note: Text = "",
    when: Annotated[Line, Field(description="0 9 * * 1-5 [Europe/Vienna], or a moment")] = "",
    key: Annotated[str | None, Field(max_length=200)] = None,
    wait_s: Annotated[float, Field(ge=0, le=600)] = 20,
    detail: Detail = "concise",
) -> RecipeReport:
    """Run a workflow of tool calls that survives restarts; list shows all.

    `definition`: {name, steps: [{id, tool: "memory.recall", with: {}}]}; texts may hold
    {{ id.output.field }}. run waits `wait_s`, status follows, plan only checks.
    """
    return await kitchen.act(
        action,
        Order(
            recipe=recipe, definition=definition, inputs=inputs or {}, run=run, note=note,
            when=when, key=key, project=project, wait_s=wait_s,
            detail=detail,
        ),
        told,
    )  # fmt: skip


@asynccontextmanager
async def open_coordinator(runtime: Runtime) -> AsyncGenerator[Services]:
    """Open the services with the process's settings and clocks."""
    clock = Clock(now=runtime.now, ticks=boot.ticks, boot=boot.boot_id())
    async with open_services(runtime.settings, clock) as services:

        def is_awake() -> bool:
            return services.kitchen.schedules.are_active or services.keeper.is_busy

        collector = WorkforceCollector(services.coordinator.store, clock.now_us)
        with runtime.showing(collector, is_awake):
            yield services


def build(services: Services) -> MCPServer[Services]:
    """Return the server over open SERVICES: its whole surface."""
    mcp = surface(
        "coordinator", services, version="0.1.0", instructions=INSTRUCTIONS, news=services.news
    )
    mcp.add_tool(tool(check_in), annotations=WRITES)
    mcp.add_tool(tool(check_workforce), annotations=READS)
    mcp.add_tool(tool(assign_task), annotations=WRITES)
    mcp.add_tool(tool(update_task), annotations=WRITES)
    mcp.add_tool(tool(reserve_files), annotations=WRITES)
    mcp.add_tool(tool(exchange_messages), annotations=WRITES)
    mcp.add_tool(tool(recommend_thinking), annotations=WRITES)
    mcp.add_tool(tool(run_recipe), annotations=WRITES)

    @mcp.resource(STATUS, mime_type="application/json")
    @resource
    async def status() -> str:
        """Who works, who is free, what waits."""
        return (await services.coordinator.status()).model_dump_json()

    @mcp.resource("tasks://{agent}", mime_type="application/json")
    @resource
    async def tasks_of(agent: str) -> str:
        """What an agent has to do; changes are notified."""
        return (await services.coordinator.tasks_of(agent)).model_dump_json()

    @mcp.resource(RECIPES, mime_type="application/json")
    @resource
    async def recipes() -> str:
        """The recipes there are, and their latest runs; changes are notified."""
        return (await services.kitchen.recipes.latest("", 20, 0)).model_dump_json()

    del status, tasks_of, recipes
    return mcp


async def answer(services: Services, event: Mapping[str, object]) -> ModelText | None:
    """Return the line on thinking that a prompt gets, or nothing."""
    line = await services.optimiser.told(event)
    return quote(line) if line else None


async def guard(services: Services, event: Mapping[str, object]) -> ModelText | None:
    """Return why an edit or a commit must not happen, or nothing."""
    reason = await services.guard.refusal(event)
    return quote(reason) if reason else None


SERVER = ServerSpec(
    name="coordinator", open=open_coordinator, build=build, answer=answer, guard=guard
)
