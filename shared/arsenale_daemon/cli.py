"""The command line `arsenale`: each command parses, calls one function, and prints."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_daemon import control, demo, doctor, host_config, install, logtail, paths, standalone
from arsenale_daemon.host_config import Host, Scope
from arsenale_daemon.standalone import Transport
from arsenale_relay import __main__ as relay
from arsenale_relay import __version__

COMMANDS = "arsenale.commands"
"""Entry points of this group are command groups (`typer.Typer`) of servers."""

app = typer.Typer(
    name="arsenale",
    help="Arsenale: local MCP servers for AI coding assistants.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def _told() -> Generator[None]:
    """Turn our errors into one line and exit status 1, Ctrl-C into 130."""
    try:
        yield
    except ArsenaleError as exc:
        err.print(f"[red]error:[/] {exc}", markup=True, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"arsenale {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def up(
    foreground: Annotated[bool, typer.Option(help="Stay here and log to stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Start the daemon, unless it runs."""
    with _told():
        settings = Settings.read()
        if foreground:
            sys.stdout.flush()
            command = [sys.executable, "-P", "-m", "arsenale_daemon", "--foreground"]
            os.execv(sys.executable, command)
        _print_status(control.up(settings.home), as_json)


@app.command()
def down() -> None:
    """End the daemon. Assistants start it again with their next call."""
    with _told():
        ended = control.down(Settings.read().home)
        out.print("The daemon has ended." if ended else "No daemon was running.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the daemon and its servers; exit status 3 when it is down."""
    with _told():
        settings = Settings.read()
        answer = control.ask(settings.home, "status")
        if answer is None:
            if as_json:
                out.print_json(data={"running": False, "home": str(settings.home)})
            else:
                out.print(
                    f"The daemon is down (home {settings.home}). It starts with the first call of "
                    "an assistant, or with [bold]arsenale up[/]."
                )
            raise typer.Exit(3)
        _print_status(answer, as_json)


def _print_status(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        out.print_json(data={"running": True, **answer})
        return
    out.print(
        f"Arsenale {answer['version']} is up: pid {answer['pid']}, for {answer['uptime_s']:.0f} s, "
        f"home {answer['home']}"
    )
    http = answer["http"] or f"off ({answer['http_error'] or 'http = false'})"
    out.print(f"HTTP: {http}", soft_wrap=True)
    table = Table("server", "state", "connections")
    for name, server in answer["servers"].items():
        state = server["state"] if server["state"] == "up" else f"failed: {server['reason']}"
        table.add_row(name, state, str(server.get("connections", "")))
    out.print(table)


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="How many old lines.")] = 50,
) -> None:
    """Show the daemon's log."""
    with _told():
        home = Settings.read().home
        for line in logtail.lines(paths.log_file(home), lines, follow=follow):
            sys.stdout.write(line)
            sys.stdout.flush()


@app.command(name="doctor")
def doctor_command(as_json: Json = False) -> None:
    """Check dependencies, permissions, port, spool and host configurations; say how to mend."""
    with _told():
        checks = doctor.examine(Settings.read(), Path.cwd(), Path.home())
        if as_json:
            out.print_json(data=[check.as_dict() for check in checks])
        else:
            doctor.show(out, checks)
        if any(check.state == "fail" for check in checks):
            raise typer.Exit(1)


@app.command()
def init(
    host: Annotated[Host, typer.Option(help="The assistant to connect.")] = "claude",
    scope: Annotated[Scope, typer.Option(help="This project, or all of yours.")] = "project",
    undo: Annotated[bool, typer.Option("--undo", help="Take out what init wrote.")] = False,
    tracking: Annotated[
        bool, typer.Option(help="Also answer each PreToolUse with a tracking id.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Connect an assistant: MCP servers and hooks. Shows the changes, keeps what is there."""
    with _told():
        settings = Settings.read()
        changes = host_config.plan(
            host,
            project=Path.cwd(),
            home=Path.home(),
            scope=scope,
            install=install.current(settings, tracking=tracking),
            undo=undo,
        )
        if not changes:
            out.print("Nothing to change: " + ("nothing of ours is there." if undo else "all set."))
            return
        for change in changes:
            sys.stdout.write(host_config.diff(change))
        if dry_run or not (yes or _agreed()):
            out.print("Nothing was written.")
            return
        host_config.apply(changes)
        out.print(f"Wrote {', '.join(str(change.path) for change in changes)}.", soft_wrap=True)
        if not undo:
            out.print("Start a new session of the assistant; [bold]arsenale doctor[/] checks it.")


def _agreed() -> bool:
    return not sys.stdin.isatty() or typer.confirm("Write this?", default=True)


@app.command()
def serve(
    server: str,
    transport: Annotated[Transport, typer.Option(help="How to speak.")] = "stdio",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="For HTTP; 0 = any.")] = None,
) -> None:
    """Serve one server in the foreground, in its own process."""
    with _told():
        settings = Settings.read()
        if port is not None:
            settings = settings.model_copy(update={"http_port": port})
        standalone.serve(server, transport, settings)


@app.command()
def stdio(server: str) -> None:
    """Relay stdin and stdout to a server of the daemon (what `arsenale-stdio` does faster)."""
    sys.argv = ["arsenale-stdio", server]
    raise typer.Exit(relay.main())


@app.command(name="demo")
def demo_command(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running to look around.")] = False,
) -> None:
    """Play a recorded coding session through the real thing, in a temporary home."""
    with _told():
        demo.run(out, keep=keep)


def _add_commands() -> None:
    """Add the commands that servers bring, where they are asked for: their imports cost time."""
    wanted = sys.argv[1:2]
    for entry in entry_points(group=COMMANDS):
        if not wanted or wanted[0] == entry.name or wanted[0].startswith("-"):
            app.add_typer(entry.load(), name=entry.name)


def main() -> None:
    """Run the command line."""
    _add_commands()
    try:
        app()
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): no traceback, and no second one at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
