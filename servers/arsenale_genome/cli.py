"""`arsenale genome …`: genomes by hand. Opens the store itself; the daemon may run or not."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast, get_args

import anyio
import orjson
import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from arsenale_core import logs, people, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError, InvalidError
from arsenale_genome.adding import NewLayer
from arsenale_genome.models import FindReport, GenomeReport, LayerReport, Weighted
from arsenale_genome.opening import Services, open_services
from arsenale_genome.record import PROMPTS_MAX, Filter, Permission, Trait
from arsenale_genome.service import NewGenome

app = typer.Typer(help="Genomes: list, show, create, add layers, export, import, check.",
                  no_args_is_help=True)  # fmt: skip
out = terminal.console()
err = terminal.console(stderr=True)

COMMANDS = {
    "`add_layer`": "`arsenale genome add-layer`",
    "`create_genome`": "`arsenale genome create`",
    "`exchange_genome` imports": "`arsenale genome import` takes an export",
    "by `revise`": "by an assistant (`revise`)",
}
"""What a person types where a hint names a tool; there is no command for `revise`."""

T = TypeVar("T")
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tags: TypeAlias = Annotated[list[str] | None, typer.Option("--tag", "-t", help="May be repeated.")]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", min=1, max=1000)]
Search: TypeAlias = Annotated[str, typer.Option("--search", "-s", help="What it should do.")]
Base: TypeAlias = Annotated[str | None, typer.Option(help="Base model, by the sidecar's name.")]


@app.command(name="list")
def list_(
    search: Search = "", tag: Tags = None, base: Base = None, limit: Limit = 50,
    as_json: Json = False,
) -> None:  # fmt: skip
    """List genomes, the newest first, or the nearest to what is searched for."""
    wanted = Filter(tags=tuple(tag or ()), base=base)
    report = _run(lambda s: s.genomes.find("genome", search, wanted, limit=limit, offset=0))
    if as_json:
        _print_json(report)
        return
    table = people.table("name", "base", "layers", "generation", "description")
    for row in report.found:
        cells = (", ".join(row.layers), str(row.generation), row.description)
        table.add_row(row.name, escape(row.base), *(escape(cell) for cell in cells))
    _print_found(report, table)


@app.command()
def layers(
    search: Search = "",
    tag: Tags = None,
    trait: Annotated[str | None, typer.Option(help=", ".join(get_args(Trait)))] = None,
    base: Base = None,
    licence: Annotated[str | None, typer.Option()] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List layers, the newest first, or the nearest to what is searched for."""
    chosen = None if trait is None else _trait(trait)
    wanted = Filter(trait=chosen, tags=tuple(tag or ()), base=base, licence=licence)
    report = _run(lambda s: s.genomes.find("layer", search, wanted, limit=limit, offset=0))
    if as_json:
        _print_json(report)
        return
    table = people.table("name", "trait", "base", "rank", "licence", "sharing", "description")
    for row in report.found:
        cells = (row.base, str(row.rank), row.licence, row.permission, row.description)
        table.add_row(row.name, row.trait, *(escape(cell) for cell in cells))
    _print_found(report, table)


@app.command()
def show(
    name: str,
    kind: Annotated[Literal["genome", "layer"] | None, typer.Option(help="If both exist.")] = None,
    as_json: Json = False,
) -> None:
    """Show a genome or layer whole: lineage, history, hashes, advice."""
    report = _run(lambda s: s.genomes.inspect(name, kind, detail="full", check=False))
    if as_json:
        _print_json(report)
        return
    shown = report.genome or report.layer
    assert shown is not None
    _print_fields(shown)
    if report.genome is not None:
        table = Table("layer", "trait", "weight")
        for row in report.genome.layers:
            table.add_row(row.layer, row.trait, f"{row.weight:g}")
        out.print(table)
        out.print("\n".join(escape(line) for line in report.genome.lineage))
    for row in shown.history:
        out.print(f"[dim]revision {row.revision}, {row.at}:[/] {escape(row.why)}", soft_wrap=True)
    _print_advice(shown.advice)


@app.command(name="add-layer")
def add_layer(
    name: str,
    path: Annotated[Path, typer.Argument(help="A GGUF file, or a folder that PEFT saved.")],
    trait: Annotated[str, typer.Option(help=", ".join(get_args(Trait)))],
    base: Annotated[str, typer.Option(help="Base model, by the sidecar's name.")],
    base_path: Annotated[Path | None, typer.Option(help="GGUF file of the base.")] = None,
    description: Annotated[str, typer.Option()] = "",
    tag: Tags = None,
    creator: Annotated[str, typer.Option()] = "",
    licence: Annotated[str, typer.Option(help="As MIT.")] = "",
    share: Annotated[str, typer.Option(help=", ".join(get_args(Permission)))] = "private",
    rehearsal: Annotated[Path | None, typer.Option(help="JSON: a list of prompts.")] = None,
    trained_on: Annotated[list[str] | None, typer.Option(help="Layer below; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Import a LoRA layer."""
    if share not in get_args(Permission):
        raise typer.BadParameter(f"it is one of {', '.join(get_args(Permission))}")
    new = NewLayer(
        name=name, path=path, trait=_trait(trait), base=base, base_path=base_path,
        description=description, tags=tag or (), creator=creator, licence=licence,
        permission=cast("Permission", share), trained_on=trained_on or (),
        rehearsal=_guarded(lambda: _prompts(rehearsal)),
    )  # fmt: skip
    report = _run(lambda s: s.adding.add(new))
    if as_json:
        _print_json(report)
        return
    out.print(f"Layer {report.name}: rank {report.rank}, {report.size_bytes:,} bytes")
    _print_advice(report.advice)


@app.command()
def create(
    name: str,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", "-l", help="NAME or NAME=WEIGHT, in order.")
    ] = None,
    parent: Annotated[list[str] | None, typer.Option("--parent", "-p", help="One or two.")] = None,
    choose: Annotated[
        list[str] | None, typer.Option(help="TRAIT or LAYER=parent, both or none.")
    ] = None,
    base: Base = None,
    persona: Annotated[str | None, typer.Option()] = None,
    instructions: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    description: Annotated[str, typer.Option()] = "",
    tag: Tags = None,
    as_json: Json = False,
) -> None:
    """Make a genome from layers, or from one or two parents."""
    if len(parent or ()) > 2:
        raise typer.BadParameter("one or two", param_hint="--parent")
    new = NewGenome(
        name=name,
        base=base,
        layers=[_weighted(each) for each in layer] if layer else None,
        parents=parent or (),
        choices=dict(_pair(each) for each in choose) if choose else None,
        persona=persona,
        instructions=instructions,
        description=description,
        tags=tag or (),
    )
    report = _run(lambda s: s.genomes.create(new))
    if as_json:
        _print_json(report)
        return
    stack = ", ".join(f"{row.layer} {row.weight:g}" for row in report.layers) or "no layers"
    out.print(f"Genome {report.name} on {report.base}, generation {report.generation}: {stack}")
    _print_advice(report.advice)


@app.command()
def export(
    name: str,
    path: Annotated[Path | None, typer.Argument(help="Default: in ARSENALE_HOME/exports.")] = None,
    include_private: Annotated[
        bool, typer.Option("--include-private", help="Give private layers away too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a genome with its layers to one file."""
    report = _run(
        lambda s: s.exchange.export(name, path, include_private=include_private, roots=None)
    )
    if as_json:
        _print_json(report)
        return
    out.print(f"{report.path} ({report.size_bytes:,} bytes)", soft_wrap=True)
    out.print(f"SHA-256 {report.sha256}")


@app.command(name="import")
def import_(
    path: Path,
    on_conflict: Annotated[
        Literal["rename", "refuse"], typer.Option(help="What a name that is taken means.")
    ] = "rename",
    as_json: Json = False,
) -> None:
    """Import a file that `export` has written; it is verified first."""
    report = _run(lambda s: s.exchange.bring(path, on_conflict=on_conflict, roots=None))
    if as_json:
        _print_json(report)
        return
    out.print(f"Genome {report.genome} with {', '.join(report.layers) or 'no layers'}")
    for before, after in report.renamed.items():
        out.print(f"  {before} is called {after} here")
    if report.hint:
        out.print(escape(_for_people(report.hint)), soft_wrap=True)
    _print_advice(report.advice)


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Default: everything.")] = None,
    as_json: Json = False,
) -> None:
    """Read every file and compare its hash; exit status 1 when something is wrong."""
    report = _run(lambda s: s.genomes.inspect(name, None, detail="concise", check=True))
    if as_json:
        _print_json(report)
    else:
        for problem in report.problems:
            err.print(f"[red]problem:[/] {escape(problem)}", soft_wrap=True)
        out.print(
            f"{report.checked} checked. {escape(_for_people(report.hint or ''))}", soft_wrap=True
        )
    if report.problems:
        raise typer.Exit(1)


def _run(use: Callable[[Services], Awaitable[T]]) -> T:
    """Open the services, USE them, close them; our errors are one line and exit status 1."""

    async def whole() -> T:
        async with _services() as services:
            return await use(services)

    return _guarded(lambda: anyio.run(whole))


def _guarded(do: Callable[[], T]) -> T:
    try:
        return do()
    except ArsenaleError as exc:
        err.print(f"[red]error:[/] {escape(_for_people(str(exc)))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as exc:  # the home cannot be written, the disk is full
        err.print(f"[red]error:[/] {escape(str(exc))}", soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@asynccontextmanager
async def _services() -> AsyncGenerator[Services]:
    settings = Settings.read()
    logs.configure("WARNING", file=None)
    async with open_services(settings, time.time) as services:
        yield services


def _trait(name: str) -> Trait:
    if name not in get_args(Trait):
        raise typer.BadParameter(f"it is one of {', '.join(get_args(Trait))}", param_hint="--trait")
    return cast("Trait", name)


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r} has no =")
    return key, value


def _weighted(text: str) -> Weighted:
    name, _, weight = text.partition("=")
    try:
        return Weighted(layer=name, weight=float(weight or 1))
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r}: the weight is 0..1", param_hint="--layer") from exc


def _prompts(path: Path | None) -> tuple[str, ...]:
    """Return the prompts in the JSON file PATH: a list, or an object with `prompts`.

    Raises:
        InvalidError: It is no such file.
    """
    if path is None:
        return ()
    try:
        said: Any = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise InvalidError(f"{path} cannot be read ({exc})", hint="give a JSON list") from exc
    rows: Any = cast("dict[str, Any]", said).get("prompts") if isinstance(said, dict) else said
    found = cast("list[Any]", rows) if isinstance(rows, list) else []
    if not 0 < len(found) <= PROMPTS_MAX or not all(isinstance(row, str) for row in found):
        raise InvalidError(f"{path} is no list of prompts", hint=f"1 to {PROMPTS_MAX} texts")
    return tuple(cast("list[str]", found))


def _print_found(report: FindReport, table: Table) -> None:
    if report.found:
        out.print(table)
    if report.next_offset:
        out.print(f"{report.total - report.next_offset} more: raise --limit")
    if report.hint:
        out.print(escape(_for_people(report.hint)), soft_wrap=True)


def _print_fields(shown: GenomeReport | LayerReport) -> None:
    hidden = {"layers", "history", "lineage", "advice", "rehearsal", "choices"}
    table = Table(show_header=False, box=None)
    for name, value in shown.model_dump(exclude=hidden, exclude_none=True).items():
        text = ", ".join(map(str, cast("list[Any]", value))) if isinstance(value, list) else value
        if text not in ("", {}):
            table.add_row(f"[dim]{name}[/]", escape(str(text)))
    out.print(table)


def _print_advice(advice: list[str]) -> None:
    for line in advice:
        out.print(f"[yellow]note:[/] {escape(_for_people(line))}", soft_wrap=True)


def _for_people(text: str) -> str:
    return people.with_commands(text, COMMANDS)


def _print_json(model: BaseModel) -> None:
    out.print_json(model.model_dump_json())
