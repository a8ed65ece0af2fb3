"""The command line `arsenale`: finds the command that is called, and imports nothing else.

A command starts in a tenth of a second only where the MCP SDK, SQLAlchemy and pydantic stay out:
`benchmarks/bench_cli.py`.
"""

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from arsenale_core.terminal_text import write
from arsenale_relay import __version__

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUPS = "arsenale.commands"
"""Entry points of this group are command groups (`typer.Typer`) of servers."""

COMMANDS = {
    "init": ("connect", "Connect an assistant: MCP servers and hooks."),
    "uninstall": ("connect", "Disconnect all assistants; on request delete the data."),
    "trust": ("trust", "Approve a project's files, which the assistant then uses."),
    "doctor": ("setup", "Check everything that can be wrong; say how to fix it."),
    "demo": ("setup", "Show what each server is for, in a temporary home."),
    "status": ("daemon", "Show the daemon and its servers."),
    "up": ("daemon", "Start the daemon, unless it runs."),
    "down": ("daemon", "End the daemon."),
    "logs": ("daemon", "Show a log."),
    "serve": ("daemon", "Serve one server in the foreground."),
    "stdio": ("daemon", "Relay stdin and stdout to a server of the daemon."),
}
"""Command -> the module of `arsenale_daemon.commands` that has it, and its line in the help."""


class LazyGroup(TyperGroup):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return our commands, then the groups of the servers."""
        return [*COMMANDS, *sorted(_groups())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the command CMD_NAME."""
        if cmd_name in COMMANDS:
            module = import_module(f"arsenale_daemon.commands.{COMMANDS[cmd_name][0]}")
            return _command(cmd_name, getattr(module, cmd_name))
        entry = _groups().get(cmd_name)
        if entry is None:
            return None
        outer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        try:
            outer.add_typer(entry.load(), name=cmd_name)
            group = get_command(outer)
        except Exception as exc:  # noqa: BLE001  # the edge to another package
            said = f"{type(exc).__name__}: {exc}"
            return ctx.fail(
                f"The package with the command {cmd_name!r} is broken ({said}): reinstall it."
            )
        assert isinstance(group, TyperGroup)
        return group.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])
        groups = sorted(_groups().items())
        with formatter.section("Commands of the servers"):
            formatter.write_dl([(name, _help_line(entry)) for name, entry in groups])


def _command(name: str, function: Callable[..., Any]) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name)(function)
    return get_command(app)


def _groups() -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points  # noqa: PLC0415  # 30 ms

    return {entry.name: entry for entry in entry_points(group=GROUPS)}


def _help_line(entry: "EntryPoint") -> str:
    """Return the first sentence of a command group's help, read from its source, not imported."""
    try:
        found = find_spec(entry.module)
        if found is None or found.origin is None:
            return ""
        source = Path(found.origin).read_text(encoding="utf-8", errors="replace")
    except (ImportError, OSError, ValueError):  # of another package; calling it says why
        return ""
    match = re.search(rf'^{entry.attr} = typer\.Typer\([^")]*help="([^"]*)"', source, re.MULTILINE)
    return match[1].split(". ")[0].rstrip(".") + "." if match else ""


app = typer.Typer(
    name="arsenale",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        write(f"arsenale {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Arsenale: local MCP servers for AI coding assistants."""
    del version


def _is_somewhere() -> bool:
    """Say whether the current folder exists."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    """Run the command line.

    `status` is what prompts and status bars call: it goes without Typer, which imports pydantic to
    read a command's options.
    """
    try:
        if sys.argv[1:] in (["status"], ["status", "--json"]):
            from arsenale_daemon.commands.daemon import show_status  # noqa: PLC0415

            sys.exit(show_status(as_json="--json" in sys.argv))
        app()
    except typer.Exit as exc:
        sys.exit(exc.exit_code)
    except FileNotFoundError:
        if _is_somewhere():
            raise
        sys.exit("error: the current folder is deleted: go to another one, with `cd`")
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): no traceback, and no second one at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


if __name__ == "__main__":
    main()
