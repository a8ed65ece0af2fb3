"""`arsenale workforce …`: agents, tasks, files and mail by hand.

Opens the store itself; the daemon may run or not.
"""

import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast

import anyio
import typer
from anyio import to_thread
from pydantic import BaseModel, ValidationError
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from arsenale_coordinator.guard_cli import guard
from arsenale_coordinator.models import AgentLine, TaskLine, TaskToAssign, WorkforceReport
from arsenale_coordinator.projects import project_of, top_of
from arsenale_coordinator.record import Clock
from arsenale_coordinator.repository.sharing import Repository
from arsenale_coordinator.service import Coordinator, Update
from arsenale_coordinator.states import STATES
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core import boot, logs, people, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError

__all__ = ["app", "guard"]

app = typer.Typer(
    help="Agents that share work: who does what, and what waits for you.", no_args_is_help=True
)
out = terminal.console()
err = terminal.console(stderr=True)

T = TypeVar("T")
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Everywhere: TypeAlias = Annotated[
    bool, typer.Option("--everywhere", "-e", help="All projects, not this repository's only.")
]
Note: TypeAlias = Annotated[str, typer.Option("--note", "-m", help="Why; its agent reads it.")]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", min=1, max=1000)]

ENDED = ("done", "cancelled")
OPEN = tuple(state for state in STATES if state not in ENDED)
COMMANDS = {
    "`check_workforce` with view=tasks": "`arsenale workforce tasks`",
    "`check_workforce` with task=": "`arsenale workforce show` with ",
    "`check_workforce`": "`arsenale workforce agents`",
    "`assign_task`": "`arsenale workforce add`",
    "`update_task` with action=approve": "`arsenale workforce approve`",
    "action=retry": "`arsenale workforce retry`",
    "register it with `check_in` and `capabilities` or `description`": "an assistant registers it",
    "with `check_in`": "when it checks in",
    "`check_in`": "checking in",
    "`exchange_messages`": "a message from an assistant",
}
"""What a person types, or does, where a hint names a tool."""

R = TypeVar("R")
PERSON = "a person"
NO_AGENTS = "No agents yet: an assistant registers with the tool `check_in`."
NO_TASKS = 'No open tasks. Add one: [bold]arsenale workforce add "what is to be done"[/]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the commands call."""

    coordinator: Coordinator
    repository: Repository


@app.command()
def agents(everywhere: Everywhere = False, limit: Limit = 100, as_json: Json = False) -> None:
    """List the agents: who is free, who works on what, how they did."""
    report = _run(lambda s: _agents(s, _project(everywhere), limit))
    if as_json:
        _print_json(report, "agents")
        return
    _print_table(_agent_table(report.agents), bool(report.agents), NO_AGENTS)
    out.print(report.summary)


@app.command()
def tasks(
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help=f"Repeatable: {', '.join(STATES)}")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Those that are over, too.")] = False,
    agent: Annotated[str | None, typer.Option(help="Of one agent.")] = None,
    everywhere: Everywhere = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List the tasks, what is worked on first."""
    states = tuple(state or (() if all_ else OPEN))
    report = _run(lambda s: _tasks(s, _project(everywhere), states, limit, agent))
    if as_json:
        _print_json(report, "tasks")
        return
    report = _local(report)
    _print_table(_task_table(report.tasks), bool(report.tasks), NO_TASKS)
    if report.next_offset:
        out.print(f"More than {limit}: --limit shows them.")
    out.print(report.summary)


@app.command()
def show(task: str, as_json: Json = False) -> None:
    """Show one task, as t12, with its attempts and its history."""
    report = _run(
        lambda s: s.coordinator.look(
            "task", task=task, agent=None, states=(), text="", project="", detail="full", limit=1,
            offset=0,
        )
    )  # fmt: skip
    if as_json:
        _print_json(report)
        return
    report = _local(report)
    assert report.task is not None
    said = report.task.model_dump(exclude={"attempts", "history", "after", "before"})
    table = Table(show_header=False, box=None)
    for name, value in said.items():
        text = ", ".join(map(str, cast("list[Any]", value))) if isinstance(value, list) else value
        table.add_row(f"[dim]{name}[/]", escape(str(text)))
    out.print(table)
    for title, others in (("after", report.task.after), ("before", report.task.before)):
        for other in others:
            line = f"[dim]{title}[/] {other.task} {escape(other.title)} ({other.state})"
            out.print(line, soft_wrap=True)
    for one in report.task.attempts:
        took = "" if one.minutes is None else f", {one.minutes} min"
        said_why = f": {one.reason}" if one.reason else ""
        line = f"{one.agent} {one.outcome}, began {one.began}{took}{said_why}"
        out.print(f"[dim]attempt[/] {escape(line)}", soft_wrap=True)
    for event in report.task.history:
        out.print(f"[dim]{event.at}[/] {event.what} {escape(event.agent)}", soft_wrap=True)


@app.command()
def add(
    title: str,
    description: Annotated[str, typer.Option("--description", "-d")] = "",
    needs: Annotated[
        list[str] | None, typer.Option("--needs", "-n", help="A capability; may be repeated.")
    ] = None,
    after: Annotated[
        list[str] | None, typer.Option("--after", help="A task that it waits for, as t12.")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", "-p", min=0, max=10)] = 5,
    deadline: Annotated[str | None, typer.Option(help="2026-11-30T17:00, or 90m, 2h, 3d")] = None,
    as_json: Json = False,
) -> None:
    """Add a task of this repository, and say who is thought to do it best."""
    try:
        wanted = TaskToAssign(
            title=title, description=description, needs=needs or [], after=after or [],
            priority=priority, deadline=deadline,
        )  # fmt: skip
    except ValidationError as exc:
        [first, *_] = exc.errors(include_url=False)
        err.print(f"[red]error:[/] {first['loc'][0]}: {escape(first['msg'])}", soft_wrap=True)
        raise typer.Exit(1) from None
    project = _project(False)
    report = _run(lambda s: s.coordinator.assign([wanted], project=project, by=PERSON, assign=True))
    if as_json:
        _print_json(report)
        return
    [line] = report.tasks
    out.print(f"[bold]{line.task}[/] is {line.state}: {escape(line.why)}", soft_wrap=True)


@app.command()
def approve(task: str, note: Note = "", as_json: Json = False) -> None:
    """Let a task begin, or accept its result."""
    _decide(task, "approve", note, as_json)


@app.command()
def reject(task: str, note: Note = "", as_json: Json = False) -> None:
    """Send a result back, or do not let a task begin."""
    _decide(task, "reject", note, as_json)


@app.command()
def cancel(task: str, note: Note = "", as_json: Json = False) -> None:
    """Give a task up; its agent is told with its next call."""
    _decide(task, "cancel", note, as_json)


@app.command()
def retry(task: str, note: Note = "", as_json: Json = False) -> None:
    """Let a task that failed or was cancelled be done again."""
    _decide(task, "retry", note, as_json)


@app.command()
def files(as_json: Json = False) -> None:
    """List who holds which files of this repository, and until when."""
    project = project_of(str(Path.cwd()))
    report = _run(lambda s: s.repository.held_in(project))
    if as_json:
        _print_json(report, "held")
        return
    report = _local(report)
    table = people.table("path", "agent", "until", "mode", "why")
    for one in report.held:
        shared = "shared" if one.shared else "exclusive"
        table.add_row(escape(one.path), escape(one.agent), one.until, shared, escape(one.reason))
    _print_table(table, bool(report.held), "Nobody holds a file here.")
    if report.held:
        out.print("`arsenale guard status` says whether that binds.")


@app.command()
def mail(agent: str, limit: Limit = 20, as_json: Json = False) -> None:
    """Show what was written to an agent; it stays unread."""
    report = _run(lambda s: s.repository.peek(agent, limit))
    if as_json:
        _print_json(report, "messages")
        return
    report = _local(report)
    for one in report.messages:
        marks = "".join(
            f" [yellow]{mark}[/]"
            for mark, holds in (("unread", one.unread), ("to acknowledge", one.needs_ack))
            if holds
        )
        head = f"[bold]#{one.id}[/] {one.at} {escape(one.sender)}: {escape(one.subject)}{marks}"
        out.print(head, soft_wrap=True)
        out.print(escape(one.body), soft_wrap=True)
    if not report.messages:
        out.print(f"Nobody wrote to {escape(agent)}.")


@app.command()
def top(everywhere: Everywhere = False, as_json: Json = False) -> None:
    """Watch agents and tasks; q leaves."""
    project = _project(everywhere)
    if as_json or not (sys.stdin.isatty() and out.is_terminal):
        both = _run(lambda s: _look(s, project))
        if as_json:
            data = [report.model_dump(mode="json") for report in both]
            out.print_json(data={"agents": data[0], "tasks": data[1]})
        else:
            out.print(_screen(*both))
        return
    with terminal.keys():
        _run(lambda s: _watch(s, project), interrupted=0)


async def _watch(services: Opened, project: str) -> None:
    async def render() -> Group:
        return _screen(*await _look(services, project))

    await terminal.watch(out, render)


async def _look(services: Opened, project: str) -> tuple[WorkforceReport, WorkforceReport]:
    await to_thread.run_sync(services.coordinator.store.sweep)
    return await _agents(services, project, 50), await _tasks(services, project, OPEN, 50, None)


async def _agents(services: Opened, project: str, limit: int) -> WorkforceReport:
    await to_thread.run_sync(services.coordinator.store.sweep)
    return await services.coordinator.look(
        "agents", task=None, agent=None, states=(), text="", project=project, detail="concise",
        limit=limit, offset=0,
    )  # fmt: skip


async def _tasks(
    services: Opened, project: str, states: tuple[str, ...], limit: int, agent: str | None
) -> WorkforceReport:
    await to_thread.run_sync(services.coordinator.store.sweep)
    return await services.coordinator.look(
        "tasks", task=None, agent=agent, states=states, text="", project=project, detail="concise",
        limit=limit, offset=0,
    )  # fmt: skip


def _decide(
    task: str, action: Literal["approve", "reject", "cancel", "retry"], note: str, as_json: bool
) -> None:
    update = Update(action=action, note=note)
    report = _run(lambda s: s.coordinator.update(task, update))
    if as_json:
        _print_json(report)
        return
    freed = f"; now ready: {', '.join(report.now_ready)}" if report.now_ready else ""
    following = f": {report.next}" if report.next else ""
    out.print(f"{report.task} is {report.state}{escape(following)}{freed}", soft_wrap=True)


def _project(everywhere: bool) -> str:
    """Return this repository, or nothing for all projects: outside of one, all are shown."""
    here = str(Path.cwd())
    top = top_of(here)
    inside = top is not None and (top / ".git").exists()
    return project_of(here) if inside and not everywhere else ""


def _run(use: Callable[[Opened], Awaitable[T]], *, interrupted: int = 130) -> T:
    """Open the store, USE it, close it; our errors are one line and exit status 1."""

    async def whole() -> T:
        with _opened() as opened:
            return await use(opened)

    try:
        return anyio.run(whole)
    except ArsenaleError as exc:
        err.print(f"[red]error:[/] {escape(_for_people(str(exc)))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


@contextmanager
def _opened() -> Generator[Opened]:
    """Open the store, and none of what runs beside it in the daemon."""
    settings = Settings.read()
    logs.configure("WARNING", file=None)
    clock = Clock(now=time.time, ticks=boot.ticks, boot=boot.boot_id())

    async def changed(agents: Sequence[str]) -> None:
        del agents  # the daemon sees it by itself, and tells

    with CoordinatorStore(settings.database_url or settings.home, clock) as store:
        repository = Repository(store)
        coordinator = Coordinator(store, changed, lambda: False, repository.unread)
        yield Opened(coordinator=coordinator, repository=repository)


def _agent_table(lines: list[AgentLine]) -> Table:
    table = people.table("agent", "state", "load", "success", "capabilities", "works on")
    for one in lines:
        cells = (one.agent, one.state, one.load, one.success, ", ".join(one.capabilities),
                 "\n".join(one.tasks))  # fmt: skip
        table.add_row(*map(escape, cells))
    return table


def _task_table(lines: list[TaskLine]) -> Table:
    table = people.table(
        "task", "state", "agent", "done", "priority", "title", "waits for", "deadline"
    )
    for one in lines:
        done = f"{one.progress:.0%}" if one.progress else ""
        priority = str(one.priority) if one.priority is not None else ""
        cells = (one.task, one.state, one.agent, done, priority, one.title,
                 ", ".join(one.waits_for), one.deadline)  # fmt: skip
        table.add_row(*map(escape, cells))
    return table


def _screen(workers: WorkforceReport, work: WorkforceReport) -> Group:
    parts: list[Table | Text] = []
    empty = ((workers.agents, NO_AGENTS), (work.tasks, NO_TASKS))
    for table, (lines, hint) in zip(
        (_agent_table(workers.agents), _task_table(work.tasks)), empty, strict=True
    ):
        parts.append(table if lines else Text.from_markup(hint))
    return Group(*parts, Text(f"{workers.summary}   (q leaves)", style="dim"))


def _print_table(table: Table, full: bool, empty: str) -> None:
    out.print(table if full else empty, soft_wrap=not full)


def _for_people(text: str) -> str:
    return people.with_commands(text, COMMANDS)


def _local(report: R) -> R:
    return people.localised(report, Settings.read().timezone)


def _print_json(model: BaseModel, *lists: str) -> None:
    out.print_json(data=people.whole(model, *lists))
