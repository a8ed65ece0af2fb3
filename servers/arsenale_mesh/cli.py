"""`arsenale mesh …`: tasks, nodes, modules, receipts and credits by hand.

It asks the daemon, as an assistant does; the daemon starts by itself.
"""

import base64
import os
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from arsenale_core import people, terminal
from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError
from arsenale_core.terminal_text import write_bytes
from arsenale_mesh import changes, node_cli, proving, rows, running, tables_cli
from arsenale_mesh.asking import task_id
from arsenale_mesh.calling import Json, Tool, asking, err, out, print_json, told
from arsenale_mesh.sandbox.scan import Bounds, too_large
from arsenale_mesh.store import MeshStore

app = typer.Typer(
    help="WebAssembly in a sandbox, with receipts: tasks, nodes, modules, credits.",
    no_args_is_help=True,
)

Limit: TypeAlias = Annotated[int, typer.Option("--limit", min=1, max=200)]
WASM_MAGIC = b"\0asm"

METHODS = ("signature", "slice", "rerun", "interpreter")

_WORDS: dict[bool | None, str] = {
    True: "[green]holds[/]", False: "[red]does not hold[/]", None: "[yellow]cannot be said[/]"
}  # fmt: skip
_EXITS: dict[bool | None, int] = {True: 0, False: 1, None: 2}


@app.command()
def run(
    module: Annotated[str, typer.Argument(help="A module's name, or a .wasm or .wat file.")],
    input: Annotated[
        str | None, typer.Option("--input", "-i", help="A file; - is standard input.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The input itself.")] = None,
    function: Annotated[str, typer.Option("--function", "-f", help="Else run or _start.")] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the output goes.")
    ] = None,
    fuel: Annotated[int | None, typer.Option(min=1)] = None,
    memory_mb: Annotated[int | None, typer.Option("--memory-mb", min=1)] = None,
    wall_s: Annotated[float | None, typer.Option("--wall-s", min=0.001)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="Take a trusted node's word, unchecked.")
    ] = False,
    green: Annotated[bool, typer.Option("--green", help="Weigh grams of CO2.")] = False,
    here: Annotated[bool, typer.Option("--here", help="On our own node only.")] = False,
    wait_s: Annotated[float, typer.Option("--wait-s", min=0, help="Ctrl-C cancels.")] = 600,
    label: str = "",
    as_json: Json = False,
) -> None:
    """Run a module on an input; its output goes to standard output."""
    with told():
        data = _input(input, text)
        order: dict[str, Any] = {
            "function": function, "seed": seed, "label": label, "here": here,
            "assurance": "provisional" if provisional else "verified",
            "carbon": "prefer" if green else "off", "wait_s": 0, **_module(module),
        }  # fmt: skip
        limits = {"fuel": fuel, "memory_mb": memory_mb, "wall_s": wall_s}
        order |= {name: value for name, value in limits.items() if value is not None}
        with _store() as store, store.changing() as c:
            order["input_sha256"] = changes.keep(c, data)
    report = asking(lambda tool: _run_and_wait(tool, order, wait_s))
    if as_json:
        print_json(report)
    else:
        _told_end(report)
    if report["state"] != "done" or report.get("status") != "ok":
        _write_output(report, output, as_json)
        raise typer.Exit(1)
    _write_output(report, output, as_json)


async def _run_and_wait(tool: Tool, order: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """Run a task and wait for it, telling how far it is; an interruption cancels it."""
    report = await tool("run_task", **order)
    ends = time.monotonic() + wait_s
    fuel = 0
    try:
        with err.status("") as status:
            while report["state"] not in ("done", "failed", "cancelled"):
                left = ends - time.monotonic()
                if left <= 0:
                    break
                status.update(_progress(report))
                wait = {"task": report["task"], "wait_s": min(left, 0.5), "everywhere": True}
                report = (await tool("check_task", **wait))["about"]
                fuel = report.get("fuel", fuel)
    except BaseException:
        err.print(f"{report['task']} goes on: `arsenale mesh cancel {report['task']}` ends it")
        raise
    return (await tool("check_task", task=report["task"], detail="full"))["about"]


def _progress(report: dict[str, Any]) -> str:
    fuel = report.get("fuel") or 0
    return f"{report['task']} {report['state']}: {fuel:,} fuel {report.get('hint', '')}"


def _told_end(report: dict[str, Any]) -> None:
    """Say on standard error how a task ended, in a line or two."""
    fuel = f"{report.get('fuel') or 0:,} fuel"
    parts = [
        report["task"],
        report["state"],
        report.get("status", ""),
        fuel,
        f"{report.get('seconds', 0)} s",
        report.get("node", ""),
        report.get("checked", ""),
    ]
    err.print(f"[dim]{escape(', '.join(part for part in parts if part))}[/]", soft_wrap=True)
    for name in ("detail", "stderr", "hint"):
        if said := str(report.get(name, "")).strip():
            err.print(tables_cli.shown(said), soft_wrap=True)
    if receipt := report.get("receipt"):
        task = report["task"]
        err.print(f"[dim]receipt {receipt[:16]}: `arsenale mesh verify {task}`[/]", soft_wrap=True)


def _write_output(report: dict[str, Any], file: Path | None, as_json: bool) -> None:
    if as_json and file is None:
        return
    with told(), _store() as store, store.reading() as db:
        task = rows.task(db, task_id(report["task"]))
        data = rows.blob(db, task.output) if task and task.output else None
        if file is not None and data is not None:
            _write(file, data)
        elif data:
            write_bytes(data)


def _input(file: str | None, text: str | None) -> bytes:
    if file is not None and text is not None:
        raise InvalidError("the input is given twice", hint="--input or --text")
    if text is not None:
        return os.fsencode(text)
    if file == "-":
        return sys.stdin.buffer.read()
    return _read(Path(file)) if file else b""


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as exc:
        raise InvalidError(f"{file}: {exc.strerror}", hint="give a file in a folder") from exc


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise InvalidError(f"{file}: {exc.strerror}", hint="give a file that is there") from exc


def _module(said: str) -> dict[str, str]:
    """Return the module that a file or a name is, as the tool takes it."""
    if not (said.endswith((".wasm", ".wat")) or "/" in said):
        return {"module": said}
    data = _read(Path(said))
    if len(data) > Bounds().size_bytes:
        raise too_large(data, Bounds().size_bytes)
    if data.startswith(WASM_MAGIC):
        return {"wasm_base64": base64.b64encode(data).decode()}
    try:
        return {"wat": data.decode()}
    except UnicodeDecodeError as exc:
        raise InvalidError(f"{said} is neither wasm nor WAT text", hint="a core module") from exc


@app.command()
def submit(
    name: str,
    file: Annotated[Path, typer.Argument(help="A .wasm or .wat file.")],
    description: Annotated[str, typer.Option("--description", "-d")] = "",
    as_json: Json = False,
) -> None:
    """Keep a module under a name."""
    with told():
        what = _module(str(file) if "/" in str(file) else f"./{file}")
    report = _ask("submit_module", name=name, description=description, **what)
    if as_json:
        print_json(report)
        return
    module = report["module"]
    out.print(f"[bold]{escape(module['name'])}[/] {module['sha256'][:12]}, "
              f"{module['bytes']:,} bytes, exports {', '.join(module['functions'])}")  # fmt: skip
    for note in report.get("notes", []):
        out.print(f"[dim]{escape(note)}[/]")


@app.command()
def modules(text: str = "", limit: Limit = 100, as_json: Json = False) -> None:
    """List the modules that can be run by name."""
    report = _ask("check_mesh", view="modules", text=text, limit=limit)
    if as_json:
        print_json(people.whole(report, "modules"))
        return
    out.print(tables_cli.modules(report))


@app.command()
def tasks(
    state: Annotated[str, typer.Option("--state", "-s")] = "",
    limit: Limit = 30,
    as_json: Json = False,
) -> None:
    """List tasks, newest first."""
    report = _ask("check_task", state=state, limit=limit, everywhere=True)
    if as_json:
        print_json(people.whole(report, "tasks"))
        return
    out.print(tables_cli.tasks(_local(report)))
    out.print(report.get("summary", ""), style="dim")


@app.command()
def show(task: str, as_json: Json = False) -> None:
    """Show one task, as m12: its result, who ran it, its receipt."""
    report = _ask("check_task", task=task, detail="full")["about"]
    if as_json:
        print_json(report)
        return
    out.print(tables_cli.facts(_local(report)))


@app.command()
def cancel(task: str, as_json: Json = False) -> None:
    """Give a task up; nodes that run it are told."""
    report = _ask("check_task", task=task, action="cancel")["about"]
    if as_json:
        print_json(report)
        return
    out.print(f"{report['task']} is {report['state']}")


@app.command()
def nodes(
    name: Annotated[str, typer.Argument(help="One node: why it scores so.")] = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List nodes: health, reputation, energy; or explain one."""
    view = "node" if name else "nodes"
    report = _ask("check_mesh", view=view, node=name, limit=limit)
    if as_json:
        print_json(people.whole(report, "nodes"))
        return
    report = _local(report)
    out.print(tables_cli.node(report) if name else tables_cli.nodes(report, out.width))
    _print_summary(report)


@app.command()
def audit(limit: Limit = 30, as_json: Json = False) -> None:
    """List what happened: who was admitted, banned, found to be wrong."""
    report = _ask("check_mesh", view="audit", limit=limit)
    if as_json:
        print_json(people.whole(report, "audit"))
        return
    out.print(tables_cli.audit(_local(report)))


@app.command()
def ledger(
    node: Annotated[str, typer.Option(help="Of one node.")] = "",
    task: Annotated[str, typer.Option(help="Of one task.")] = "",
    check: Annotated[bool, typer.Option("--check", help="All of the chain.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show credits and balances, and whether the chain is whole."""
    report = _ask("read_ledger", node=node, task=task, limit=limit, check_all=check)
    if as_json:
        print_json(people.whole(report, "balances", "entries"))
    else:
        for table in tables_cli.ledger(_local(report)):
            out.print(table)
        whole = "[green]the chain is whole[/]"
        fault = f"[red]the chain is broken: {escape(report.get('fault', ''))}[/]"
        out.print(f"{report['summary']}; {whole if report['whole'] else fault}")
    if not report["whole"]:
        raise typer.Exit(1)


@app.command()
def verify(
    receipt: Annotated[str, typer.Argument(help="A task (m12), a receipt's id, or a file.")],
    method: Annotated[
        str, typer.Option("--method", "-m", help="signature, slice, rerun, interpreter")
    ] = "rerun",
    as_json: Json = False,
) -> None:
    """Say whether a receipt holds: 0 it does, 1 it does not, 2 that cannot be said."""
    with told():
        if method not in METHODS:
            raise InvalidError(f"no method {method!r}", hint=f"one of {', '.join(METHODS)}")
        said = _read(Path(receipt)).decode(errors="replace") if _is_file(receipt) else receipt
    report = _ask("verify_receipt", receipt=said, method=method)
    if as_json:
        print_json(report)
    else:
        word = _WORDS[report.get("holds")]
        out.print(f"{report['receipt'][:16]} {word}: {escape(report['says'])}", soft_wrap=True)
        for problem in report.get("problems", []):
            out.print(f"  {escape(problem)}", soft_wrap=True)
    raise typer.Exit(_EXITS[report.get("holds")])


@app.command()
def receipt(
    task: Annotated[str, typer.Argument(help="A task (m12) or a receipt's id.")],
    output: Annotated[Path | None, typer.Option("--output", "-o")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="With module and input, so that it can be run again.")
    ] = False,
) -> None:
    """Export a receipt; `arsenale-verify` checks it, without Arsenale's daemon."""
    with told(), _store() as store:
        data = proving.export(store, task, whole=whole)
        if output is not None:
            _write(output, data)
            err.print(f"[dim]{len(data):,} bytes, SHA-256 {sha256(data).hexdigest()[:16]}[/]")
        else:
            write_bytes(data)


@app.command()
def top(as_json: Json = False) -> None:
    """Watch nodes and tasks; q leaves."""
    if as_json or not (sys.stdin.isatty() and out.is_terminal):
        both = asking(_look)
        if as_json:
            print_json(both)
        else:
            out.print(_screen(both))
        return
    with terminal.keys():
        asking(_watch, interrupted=0)


async def _watch(tool: Tool) -> dict[str, Any]:
    async def render() -> Group:
        return _screen(await _look(tool))

    await terminal.watch(out, render)
    return {}


async def _look(tool: Tool) -> dict[str, Any]:
    mesh = await tool("check_mesh", limit=50)
    return {"mesh": mesh, "tasks": await tool("check_task", everywhere=True, limit=20)}


def _screen(both: dict[str, Any]) -> Group:
    mesh, work = both["mesh"], both["tasks"]
    alerts = [Text(one, style="yellow") for one in mesh.get("alerts", [])]
    summary = Text(f"{mesh['summary']}   (q leaves)", style="dim")
    return Group(
        tables_cli.nodes(mesh, out.width), tables_cli.tasks(_local(work)), *alerts, summary
    )


def _print_summary(report: dict[str, Any]) -> None:
    for alert in report.get("alerts", []):
        out.print(f"[yellow]{escape(alert)}[/]", soft_wrap=True)
    out.print(report["summary"], style="dim")


def _ask(name: str, /, **arguments: Any) -> dict[str, Any]:
    return asking(lambda tool: tool(name, **arguments))


def _local(report: dict[str, Any]) -> dict[str, Any]:
    return people.localised(report, Settings.read().timezone)


def _is_file(said: str) -> bool:
    return said.endswith(".json") or "/" in said


def _store() -> MeshStore:
    return running.store_of(Settings.read())


node_cli.add_to(app)
