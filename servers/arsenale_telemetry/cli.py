"""`arsenale telemetry …`: reports, sessions and events for people.

Opens the store itself; the daemon may run or not.
"""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import anyio
import typer
from anyio import to_thread
from pydantic import BaseModel
from rich.markup import escape

from arsenale_core import logs, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_telemetry import tables_cli
from arsenale_telemetry.models import BottleneckReport, FoundEvents, LatencyReport, UsageReport
from arsenale_telemetry.opening import opened
from arsenale_telemetry.reading import EventFilter
from arsenale_telemetry.service import EMPTY_HINT, Telemetry

app = typer.Typer(
    help="Where the time goes: usage, latency, errors, sessions and events of tool calls.",
    no_args_is_help=True,
)
out = terminal.console()
err = terminal.console(stderr=True)

FOLLOW_S = 0.5
"""How often it is looked for new events."""

T = TypeVar("T")
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Since: TypeAlias = Annotated[
    str, typer.Option("--since", "-s", help="24h, 7d, 4w, 90m, today, all, or an ISO date.")
]
Project: TypeAlias = Annotated[
    str | None, typer.Option("--project", "-p", help="A folder, as `.`; else all projects.")
]
Session: TypeAlias = Annotated[
    str | None, typer.Option("--session", help="An id of `sessions`, or its first characters.")
]


@app.command()
def report(
    since: Since = "7d",
    project: Project = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Most tools.")] = 15,
    as_json: Json = False,
) -> None:
    """Show where the time went: tools, slowest calls, errors, bottlenecks."""
    where = _folder(project)

    async def read(telemetry: Telemetry) -> tuple[UsageReport, LatencyReport, BottleneckReport]:
        usage = await telemetry.usage(
            since, "tool", tool=None, project=where, limit=limit, offset=0
        )
        latency = await telemetry.latency(since, by="tool", tool=None, project=where, slowest=5)
        return usage, latency, await telemetry.bottlenecks(since, 10, where)

    usage, latency, found = _run(read)
    if as_json:
        parts = {"usage": usage, "latency": latency, "bottlenecks": found}
        out.print_json(data={name: one.model_dump(mode="json") for name, one in parts.items()})
    elif not usage.rows:
        out.print(_for_people(usage.hint), soft_wrap=True)
    else:
        for part in tables_cli.report(usage, latency, found, _zone()):
            out.print(part)


@app.command()
def sessions(
    since: Since = "7d",
    project: Project = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 30,
    as_json: Json = False,
) -> None:
    """List sessions, newest first: when, where, calls, errors, duration."""
    where = _folder(project)
    listed = _run(lambda telemetry: telemetry.sessions(since, where, limit))
    if as_json:
        _print_json(listed)
        return
    if not listed.sessions:
        out.print(_for_people(listed.hint), soft_wrap=True)
        return
    out.print(tables_cli.sessions(listed.sessions, _zone(), os.path.expanduser("~")))
    if listed.more:
        out.print(f"{listed.more} more: --limit shows them.")
    out.print("One session: `arsenale telemetry events --session ID`.", style="dim")


@app.command()
def events(
    since: Since = "7d",
    tool: Annotated[str | None, typer.Option("--tool", "-t", help="Of one tool, as Bash.")] = None,
    kind: Annotated[str | None, typer.Option(help="An event's name, as PostToolUse.")] = None,
    status: Annotated[
        Literal["ok", "error", "interrupted"] | None, typer.Option(help="How calls ended.")
    ] = None,
    session: Session = None,
    text: Annotated[str | None, typer.Option(help="In paths, commands and errors.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=0, max=10_000)] = 30,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as events come.")] = False,
    as_json: Json = False,
) -> None:
    """Show the newest events that fit, the newest last."""
    wanted = EventFilter(tool=tool, kind=kind, status=status, session=session, text=text)

    async def read(telemetry: Telemetry) -> FoundEvents:
        mark, found = await telemetry.recent(since, wanted, limit)
        if not follow:
            return found
        _print_lines(found, as_json)
        while True:
            await anyio.sleep(FOLLOW_S)
            await to_thread.run_sync(telemetry.drain.catch_up)
            mark, news = await telemetry.news(mark, wanted)
            _print_lines(FoundEvents(span=found.span, events=news[::-1]), as_json)

    found = _run(read)
    if as_json:
        _print_json(found)
    elif not found.events:
        out.print(_for_people(found.hint), soft_wrap=True)
    else:
        _print_lines(found, as_json)


def _print_lines(found: FoundEvents, as_json: bool) -> None:
    """Print events, oldest first, a line each."""
    for event in reversed(found.events):
        line = event.model_dump_json() if as_json else tables_cli.event_line(event, _zone())
        out.print(line, soft_wrap=True, markup=not as_json)


def _folder(project: str | None) -> str | None:
    """Return PROJECT as events name it: an absolute path."""
    return None if project is None else os.path.abspath(os.path.expanduser(project))


def _zone() -> str | None:
    return Settings.read().timezone


def _for_people(hint: str | None) -> str:
    """Return HINT, which is for models, with what a person can do."""
    if hint == EMPTY_HINT:
        return "No events yet: connect an assistant with `arsenale init`, then use it."
    return "Nothing fits: widen --since (7d, 30d, all) or drop a filter."


def _run(use: Callable[[Telemetry], Awaitable[T]]) -> T:
    """Open telemetry, USE it, close it; our errors are one line and exit status 1."""

    async def whole() -> T:
        with opened(Settings.read(), time.time) as telemetry:
            await to_thread.run_sync(telemetry.drain.catch_up)
            return await use(telemetry)

    logs.configure("WARNING", file=None)
    try:
        return anyio.run(whole)
    except ArsenaleError as exc:
        err.print(f"[red]error:[/] {escape(str(exc))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _print_json(model: BaseModel) -> None:
    data: dict[str, Any] = model.model_dump(mode="json")
    for name in ("sessions", "events"):  # lists are there even where they are empty
        if name in type(model).model_fields:
            data.setdefault(name, [])
    out.print_json(data=data)
