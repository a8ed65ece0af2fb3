"""`arsenale recipe …`: workflows by hand, through the daemon, which is started if need be."""

from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, cast

import anyio
import orjson
import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from arsenale_coordinator import relaying
from arsenale_coordinator.recipes import schema
from arsenale_core import logs, people, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError, InvalidError
from arsenale_core.peers import As, Peers, RefusedError
from arsenale_core.tasks import background
from arsenale_core.terminal_text import write

app = typer.Typer(help="Recipes: workflows of tool calls that survive restarts.",
                  no_args_is_help=True)  # fmt: skip
out = terminal.console()
err = terminal.console(stderr=True)

T = TypeVar("T")
Ask: TypeAlias = Callable[..., Awaitable[dict[str, Any]]]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name: TypeAlias = Annotated[str, typer.Argument(help="A recipe's name, or a file of JSON.")]
Run: TypeAlias = Annotated[str, typer.Argument(help="A run's id, or its beginning.")]
Inputs: TypeAlias = Annotated[
    list[str] | None, typer.Option("--input", "-i", help="name=value; a value may be JSON.")
]
Note: TypeAlias = Annotated[str, typer.Option("--note", "-n", help="Why.")]

LOOK_S = 0.25
"""How often a run is looked at that is followed."""

_COLOURS = {
    "done": "green", "failed": "red", "running": "cyan", "waiting": "yellow", "skipped": "dim",
    "undone": "magenta", "cancelled": "magenta",
}  # fmt: skip
_OVER = ("done", "failed", "cancelled")


COMMANDS = {
    "action=list": "`arsenale recipe list`",
    "action=status": "`arsenale recipe status`",
    "with `when`": "by `arsenale recipe schedule`",
}
"""What a person types where a hint names an action of the tool."""


@app.command()
def run(
    recipe: Name,
    inputs: Inputs = None,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    as_json: Json = False,
) -> None:
    """Run a recipe and follow it; Ctrl-C leaves it running."""

    async def work(ask: Ask) -> dict[str, Any]:
        begun = await ask("run", **_meant(recipe), inputs=_inputs(inputs), wait_s=0)
        return await _followed(ask, begun["run"], live=not as_json) if wait else begun

    _show_run(_asked(work), as_json)


@app.command()
def status(
    run_id: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until its end.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run, step by step."""

    async def work(ask: Ask) -> dict[str, Any]:
        if follow:
            return await _followed(ask, run_id, live=not as_json)
        return await ask("status", run=run_id, wait_s=0, detail="full")

    _show_run(_asked(work), as_json)


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """List recipes, runs and schedules."""
    report = _asked(lambda ask: ask("list"))
    if as_json:
        out.print_json(data=people.whole(report, "recipes", "runs", "schedules"))
        return
    if report.get("hint"):
        out.print(escape(report["hint"]), soft_wrap=True)
    _table(report.get("recipes"), name="recipe", description="", inputs="", fault="")
    _table(report.get("runs"), run="run", recipe="", state="", began="", seconds="", error="")
    _table(report.get("schedules"), name="schedule", when="", state="", next="", last="", runs="")


@app.command()
def plan(recipe: Name, inputs: Inputs = None, as_json: Json = False) -> None:
    """Check a recipe and say what it would do; nothing runs."""
    given = _inputs(inputs)
    report = _asked(lambda ask: ask("plan", **_meant(recipe), inputs=given))
    if as_json:
        out.print_json(data=report)
        return
    _table(report.get("steps"), path="step", step="id", what="")


@app.command()
def approve(run_id: Run, note: Note = "", as_json: Json = False) -> None:
    """Say yes to what a run asks."""
    _show_run(_asked(lambda ask: ask("approve", run=run_id, note=note, wait_s=2)), as_json)


@app.command()
def reject(run_id: Run, note: Note = "", as_json: Json = False) -> None:
    """Say no to what a run asks."""
    _show_run(_asked(lambda ask: ask("reject", run=run_id, note=note, wait_s=2)), as_json)


@app.command()
def cancel(run_id: Run, as_json: Json = False) -> None:
    """End a run; what it did is undone as far as the recipe says how."""
    _show_run(_asked(lambda ask: ask("cancel", run=run_id)), as_json)


@app.command()
def schedule(
    recipe: Name,
    when: Annotated[str, typer.Argument(help="`0 9 * * 1-5 Europe/Vienna`, or 2h, or ISO.")],
    inputs: Inputs = None,
    as_json: Json = False,
) -> None:
    """Let a recipe run by itself, at a time or again and again."""
    given = _inputs(inputs)
    _show_schedule(
        _asked(lambda ask: ask("schedule", **_meant(recipe), when=when, inputs=given)), as_json
    )


@app.command()
def pause(name: str, as_json: Json = False) -> None:
    """Let a schedule rest."""
    _show_schedule(_asked(lambda ask: ask("pause", recipe=name)), as_json)


@app.command()
def resume(name: str, as_json: Json = False) -> None:
    """Let a schedule go on, with the next moment to come."""
    _show_schedule(_asked(lambda ask: ask("resume", recipe=name)), as_json)


@app.command()
def unschedule(name: str, as_json: Json = False) -> None:
    """Take a schedule away."""
    _show_schedule(_asked(lambda ask: ask("unschedule", recipe=name)), as_json)


@app.command()
def save(file: Annotated[Path, typer.Argument(help="A recipe.")]) -> None:
    """Keep a recipe, so that it can be run by its name."""
    report = _asked(lambda ask: ask("save", **_meant(str(file))))
    out.print(f"Saved as {report['recipe']}")


@app.command()
def show(name: str) -> None:
    """Print a recipe."""
    out.print_json(data=_asked(lambda ask: ask("show", recipe=name))["definition"])


@app.command(name="schema")
def schema_() -> None:
    """Print the JSON Schema of recipes: editors complete and check by it."""
    write(orjson.dumps(schema.json_schema(), option=orjson.OPT_INDENT_2).decode() + "\n")


def _meant(recipe: str) -> dict[str, Any]:
    """Return the arguments that name a recipe: a file is sent as it is."""
    path = Path(recipe)
    if not (recipe.endswith(".json") or "/" in recipe):
        return {"recipe": recipe}
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise InvalidError(f"{recipe}: {exc.strerror}", hint="name a file or a recipe") from exc
    schema.parse(text)
    return {"definition": orjson.loads(text)}


def _inputs(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign:
            raise typer.BadParameter(f"{one!r} is not name=value", param_hint="--input")
        try:
            found[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[name] = value
    return found


async def _followed(ask: Ask, run_id: str, *, live: bool) -> dict[str, Any]:
    """Look at a run until it is over or asks a person, and draw it."""
    with Live(console=err, refresh_per_second=8, transient=True) as drawn:
        while True:
            report = await ask("status", run=run_id, wait_s=0, detail="full")
            if live and err.is_terminal:
                drawn.update(_drawn(report))
            if report["state"] in _OVER or report.get("asks"):
                return report
            await anyio.sleep(LOOK_S)


def _drawn(report: Mapping[str, Any]) -> Group:
    table = Table("step", "state", "seconds", "result", box=None)
    for step in report.get("steps", ()):
        colour = _COLOURS.get(step["state"], "white")
        said = step.get("error") or step.get("what", "")
        seconds = "" if step.get("seconds") is None else f"{step['seconds']:.2f}"
        tries = f" ({step['attempts']} x)" if step.get("attempts") else ""
        state = Text(step["state"] + tries, style=colour)
        table.add_row(escape(step["step"]), state, seconds, escape(said[:100]))
    colour = _COLOURS.get(report["state"], "white")
    return Group(Text(f"{report['recipe']}: {report['state']}", style=f"bold {colour}"), table)


def _show_run(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        out.print_json(data=report)
    else:
        out.print(_drawn(report))
        for question in report.get("asks", ()):
            said = f"[yellow]asks:[/] {escape(question)}"
            answer = f"arsenale recipe approve|reject {report['run'][:13]}"
            out.print(f"{said}\n{answer}", soft_wrap=True)
        if report.get("output") is not None:
            out.print_json(data=report["output"])
        if report.get("error"):
            err.print(f"[red]error:[/] {escape(report['error'])}", soft_wrap=True)
        if report["state"] not in _OVER and not report.get("asks"):
            out.print(f"run {report['run']} goes on: `arsenale recipe status -f` follows it")
    if report["state"] == "failed":
        raise typer.Exit(1)


def _show_schedule(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        out.print_json(data=report)
        return
    _table(report.get("schedules"), name="schedule", when="", state="", next="")


def _table(rows: list[dict[str, Any]] | None, **columns: str) -> None:
    if not rows:
        return
    shown = [name for name in columns if any(row.get(name) not in (None, "", []) for row in rows)]
    table = people.table(*(columns[name] or name for name in shown))
    for row in people.localised(rows, Settings.read().timezone):
        table.add_row(*(escape(_cell(row.get(name), name)) for name in shown))
    out.print(table)


def _cell(value: Any, name: str) -> str:
    if name == "run":
        return str(value)[:13]  # the rest is chance: so much names it
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[Any]", value)))
    return "" if value is None else str(value)


def _asked(work: Callable[[Ask], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Let WORK ask the coordinator, through the daemon; errors end the command."""

    async def asked() -> dict[str, Any]:
        async with background() as tasks:
            peers = relaying.peers(Settings.read().home, tasks)
            who = As(project=str(Path.cwd()))

            async def ask(action: str, **arguments: Any) -> dict[str, Any]:
                return await _called(peers, {"action": action, **arguments}, who)

            return await work(ask)

    logs.configure("WARNING", file=None)
    with _told():
        return anyio.run(asked)


async def _called(peers: Peers, arguments: Mapping[str, Any], who: As) -> dict[str, Any]:
    report = await peers.call("coordinator", "run_recipe", arguments, who)
    if not isinstance(report, dict):
        raise RefusedError(f"the coordinator answered {str(report)[:200]!r}")
    return cast("dict[str, Any]", report)


@contextmanager
def _told() -> Generator[None]:
    try:
        yield
    except ArsenaleError as exc:
        said = people.with_commands(str(exc), COMMANDS)
        err.print(f"[red]error:[/] {escape(said)}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("What runs goes on: `arsenale recipe list`")
        raise typer.Exit(130) from None
