"""`arsenale memory …`: the memories by hand. Opens the store itself; the daemon may run or not."""

import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast, get_args

import anyio
import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from arsenale_core import logs, people, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_memory.formats import Format
from arsenale_memory.models import FoundMemory, NewMemory, TrackRow
from arsenale_memory.opening import Services, open_services
from arsenale_memory.record import Kind, Mode, Source
from arsenale_memory.service import Query
from arsenale_relay import session_start

app = typer.Typer(help="Memories: add, search, list, show, forget, import, export.",
                  no_args_is_help=True)  # fmt: skip
out = terminal.console()
err = terminal.console(stderr=True)

COMMANDS = {
    "`remember`": "`arsenale memory add`",
    "`maintain`": "`arsenale memory import`",
    "`recall` and `read` show ids": "`arsenale memory list` shows ids",
    "`recall`": "`arsenale memory search`",
    "`revise` or `supersedes` what is wrong": "`arsenale memory forget` what is wrong",
}
"""What a person types where a hint names a tool."""

T = TypeVar("T")
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Namespace: TypeAlias = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Default: yours; * is every one.")
]
Tags: TypeAlias = Annotated[list[str] | None, typer.Option("--tag", "-t", help="May be repeated.")]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", min=1, max=1000)]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

Told: TypeAlias = Callable[[int, int], Awaitable[None]]


@app.command()
def add(
    content: Annotated[str, typer.Argument(help="What to keep; - reads stdin.")],
    namespace: Namespace = None,
    tag: Tags = None,
    kind: Annotated[str, typer.Option(help=", ".join(get_args(Kind)))] = "note",
    subject: Annotated[str | None, typer.Option(help="Whom or what it is about.")] = None,
    importance: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    as_json: Json = False,
) -> None:
    """Keep a memory."""
    if kind not in get_args(Kind):
        raise typer.BadParameter(f"it is one of {', '.join(get_args(Kind))}", param_hint="--kind")
    text = sys.stdin.read() if content == "-" else content
    item = NewMemory(
        content=text, kind=cast("Kind", kind), subject=subject, tags=tag or [],
        importance=importance,
    )  # fmt: skip
    report = _run(
        lambda s: s.memory.remember([item], namespace=namespace, source=Source(via="cli")),
        changes=True,
    )
    if as_json:
        _print_json(report)
        return
    [row] = report.items
    if row.status == "failed":
        err.print(f"[red]error:[/] {escape(str(row.reason))}", soft_wrap=True)
        raise typer.Exit(1)
    out.print("Stored" if row.status == "stored" else "It is there already:", row.id)
    for other in row.related:
        out.print(f"  {other.kind}: {other.id}  {escape(other.content)}", soft_wrap=True)


@app.command()
def search(
    question: str,
    namespace: Namespace = None,
    tag: Tags = None,
    since: Annotated[str | None, typer.Option(help="7d, today, 2026-11-20")] = None,
    as_of: Annotated[str | None, typer.Option(help="As it was known then.")] = None,
    mode: Annotated[str, typer.Option(help="hybrid, keyword or semantic")] = "hybrid",
    explain: Annotated[bool, typer.Option(help="Show what made the score.")] = False,
    limit: Limit = 8,
    as_json: Json = False,
) -> None:
    """Find the memories that best answer a question."""
    if mode not in get_args(Mode):
        raise typer.BadParameter("hybrid, keyword or semantic", param_hint="--mode")
    query = Query(namespace=namespace, tags=tag or (), since=since, as_of=as_of)
    report = _run(
        lambda s: s.memory.recall(
            question, query, limit=limit, budget_tokens=1_000_000, mode=cast("Mode", mode),
            detail="full" if explain else "concise",
        )
    )  # fmt: skip
    if as_json:
        _print_json(report, "memories")
        return
    _print_rows(report.memories, relevance=True)
    for row in report.memories if explain else ():
        parts = ", ".join(f"{name} {value}" for name, value in (row.why or {}).items())
        out.print(f"{row.id}: {parts}", soft_wrap=True)
    _print_hint(report.hint)


@app.command(name="list")
def list_(
    namespace: Namespace = None,
    tag: Tags = None,
    since: Annotated[str | None, typer.Option(help="7d, today, 2026-11-20")] = None,
    limit: Limit = 20,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List memories, the newest first."""
    query = Query(namespace=namespace, tags=tag or (), since=since)
    report = _run(lambda s: s.memory.listed(query, limit=limit, offset=offset))
    if as_json:
        _print_json(report, "listed")
        return
    _print_rows(report.listed)
    if report.next_offset:
        out.print(f"{report.total - report.next_offset} more: --offset {report.next_offset}")
    _print_hint(report.hint)


@app.command()
def show(id: str, as_json: Json = False) -> None:
    """Show one memory whole, with its history, neighbours and links."""
    report = _run(lambda s: s.memory.read([id], neighbours=2, start=0))
    if as_json:
        _print_json(report)
        return
    [memory] = report.memories
    memory = people.localised(memory, Settings.read().timezone)
    fields = memory.model_dump(
        exclude={"content", "history", "before", "after", "related", "cut"}, exclude_none=True
    )
    table = Table(show_header=False, box=None)
    for name, value in fields.items():
        text = _shown(value)
        if text:
            table.add_row(f"[dim]{name}[/]", escape(str(text)))
    out.print(table)
    out.print(f"\n{escape(memory.content)}", soft_wrap=True)
    if memory.cut:
        out.print(f"[dim]… {memory.cut:,} more characters[/]")
    for old in memory.history:
        said = f"version {old.version}, {old.written}, {old.why_ended}"
        out.print(f"\n[dim]{said}[/]\n{escape(old.content)}", soft_wrap=True)
    for title, rows in (("before", memory.before), ("after", memory.after)):
        for row in rows:
            out.print(f"[dim]{title}[/] {row.id} {escape(row.content)}", soft_wrap=True)
    for other in memory.related:
        out.print(f"[dim]{other.kind}[/] {other.id} {escape(other.content)}", soft_wrap=True)


@app.command()
def forget(
    ids: list[str],
    undo: Annotated[bool, typer.Option("--undo", help="Bring them back instead.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Erase for good, at once.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget memories; they can be brought back for some days."""
    if now and not yes and sys.stdin.isatty():
        typer.confirm(f"Erase {len(ids)} for good?", abort=True)

    async def done(services: Services) -> list[Any]:
        if undo:
            return [await services.memory.unforget(id) for id in ids]
        return await services.memory.forget(ids, at_once=now)

    rows = _run(done)
    if as_json:
        out.print_json(data=[row.model_dump() for row in rows])
        return
    for row in rows:
        until = f" (--undo until {row.undo_until})" if row.undo_until else ""
        out.print(f"{row.id} {row.action}{until}")


@app.command(name="import")
def import_(
    path: Path,
    format: Annotated[str, typer.Option("--format", "-f", help="jsonl, markdown, graph, claude")],
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Import memories from a file or folder."""
    form = _format(format)
    with _progress("imported") as told:
        report = _run(
            lambda s: s.exchange.bring(form, path, namespace=namespace, roots=None, progress=told),
            changes=True,
        )
    if as_json:
        _print_json(report)
        return
    out.print(f"{report.memories} imported, {report.duplicates} were there already.")
    for reason in report.failed:
        err.print(f"[yellow]not imported:[/] {escape(reason)}", soft_wrap=True)
    _print_hint(report.hint)


@app.command()
def export(
    path: Annotated[Path | None, typer.Argument(help="Default: in ARSENALE_HOME/exports.")] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="jsonl, markdown, graph")] = "jsonl",
    namespace: Namespace = None,
    tag: Tags = None,
    as_json: Json = False,
) -> None:
    """Export memories with all their versions."""
    query = Query(namespace=namespace or "*", tags=tag or ())
    form = _format(format)
    report = _run(lambda s: s.exchange.take(form, path, query, None))
    if as_json:
        _print_json(report)
        return
    out.print(f"{report.memories} memories in {report.path}", soft_wrap=True)


@app.command()
def reindex(as_json: Json = False) -> None:
    """Make everything derived anew: full-text index, missing vectors, caches."""
    with _progress("embedded") as told:
        report = _run(lambda s: s.memory.maintain("reindex", told))
    if as_json:
        _print_json(report)
        return
    out.print(f"{report.done} parts embedded; the index is whole.")


@app.command()
def research(
    action: Annotated[Literal["list", "grant", "withdraw"], typer.Argument()] = "list",
    feature: Annotated[str, typer.Argument()] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show experimental features; consent to one, or withdraw and erase what it made."""

    async def done(services: Services) -> list[TrackRow]:
        if action == "grant":
            said = services.research.feature(feature).text
            if not yes:
                out.print(escape(said), soft_wrap=True)
                typer.confirm("Do you consent?", abort=True)
            services.research.grant(feature, services.memory.owner)
        elif action == "withdraw":
            gone = services.research.withdraw(feature)
            err.print(f"{gone} rows erased.")
        return await services.research.rows()

    rows = _run(done)
    if as_json:
        out.print_json(data=[row.model_dump() for row in rows])
        return
    for row in rows:
        out.print(f"[bold]{row.feature}[/] {'on' if row.on else 'off'}; consent: {row.consent}")
        out.print(f"{escape(row.text)}\nhypothesis: {row.hypothesis}", soft_wrap=True)
        for name, value in row.metrics.items():
            out.print(f"  {name} {value:g}")


@app.command()
def stats(as_json: Json = False) -> None:
    """Show how much there is and in what state the index is."""
    found = _run(lambda s: s.memory.stats())
    if as_json:
        _print_json(found)
        return
    out.print(
        f"{found.memories} memories ({found.versions} versions, {found.forgotten} forgotten), "
        f"{found.links} links, {found.database}"
    )
    waiting = found.pending + found.replies_pending
    pending = f", {waiting} wait to be embedded" if waiting else ""
    out.print(f"embedder {found.embedder}: {found.vectors} vectors{pending}")
    table = Table("namespace", "memories", "newest")
    for row in found.namespaces:
        table.add_row(escape(row.name), str(row.memories), row.newest or "")
    if found.namespaces:
        out.print(table)
    _print_hint(found.hint)


def _run(use: Callable[[Services], Awaitable[T]], *, changes: bool = False) -> T:
    """Open the services, USE them, close them; our errors are one line and exit status 1.

    After what CHANGES memories, texts that the daemon keeps for sessions' starts are out of date.
    """

    async def whole() -> T:
        async with _services() as services:
            return await use(services)

    try:
        done = anyio.run(whole)
        if changes:
            with suppress(OSError):  # then a session's start lacks the news until the next change
                session_start.mark_changed(str(Settings.read().home))
        return done
    except ArsenaleError as exc:
        err.print(
            f"[red]error:[/] {escape(people.with_commands(str(exc), COMMANDS))}", soft_wrap=True
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@asynccontextmanager
async def _services() -> AsyncGenerator[Services]:
    settings = Settings.read()
    logs.configure("WARNING", file=None)
    async with open_services(settings, time.time, lambda _: None) as services:
        yield services


@contextmanager
def _progress(what: str) -> Generator[Told]:
    """Show how far it is, on a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        task = shown.add_task(what, total=None)

        async def told(done: int, total: int) -> None:
            del total
            shown.update(task, completed=done)

        yield told


def _format(name: str) -> Format:
    if name not in get_args(Format):
        raise typer.BadParameter(f"it is one of {', '.join(get_args(Format))}")
    return cast("Format", name)


def _print_rows(rows: list[FoundMemory], *, relevance: bool = False) -> None:
    if not rows:
        return
    rows = people.localised(rows, Settings.read().timezone)
    table = people.table("id", *(["relevance"] if relevance else []), "when", "content", "tags")
    for row in rows:
        cells = [row.id, *([f"{row.relevance:.2f}"] if relevance else []), row.at[:10]]
        table.add_row(*cells, escape(row.content[:300]), escape(", ".join(row.tags)))
    out.print(table)


def _shown(value: Any) -> str:
    """Return a field as a person reads it: lists by commas, objects as `name value`."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return ", ".join(f"{name} {_shown(one)}" for name, one in pairs.items())
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in cast("list[Any]", value))
    return "yes" if value is True else "no" if value is False else str(value or "")


def _print_json(model: BaseModel, *lists: str) -> None:
    out.print_json(data=people.whole(model, *lists))


def _print_hint(hint: str | None) -> None:
    if hint:
        out.print(escape(people.with_commands(hint, COMMANDS)), soft_wrap=True)
