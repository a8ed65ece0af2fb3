"""`arsenale up`, `down`, `status`, `logs`, `serve`, `stdio`: the daemon and its servers."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from arsenale_core.terminal_text import write
from arsenale_daemon.commands.console import Json, errors_shown, print_json, say, table
from arsenale_relay import endpoint

DOWN_STATUS = 3
"""Exit status of `arsenale status` when the daemon is down (LSB init scripts: "not running")."""


def _home() -> Path:
    return Path(endpoint.home_dir())


def up(
    foreground: Annotated[bool, typer.Option(help="Stay here and log to stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Start the daemon, unless it runs."""
    from arsenale_core.config import Settings  # noqa: PLC0415
    from arsenale_daemon import control  # noqa: PLC0415

    with errors_shown():
        settings = Settings.read()
        if foreground:
            sys.stdout.flush()
            command = [sys.executable, "-P", "-m", "arsenale_daemon", "--foreground"]
            os.execv(sys.executable, command)
        _print_status(control.up(settings.home), as_json)


def down() -> None:
    """End the daemon. Assistants start it again with their next call."""
    from arsenale_daemon import control  # noqa: PLC0415

    with errors_shown():
        ended = control.down(_home())
        say("The daemon has ended." if ended else "No daemon was running.")


def status(as_json: Json = False) -> None:
    """Show the daemon and its servers; exit status 3 when it is down."""
    raise typer.Exit(show_status(as_json=as_json))


def show_status(*, as_json: bool) -> int:
    """Print what `arsenale status` shows; return its exit status."""
    from arsenale_daemon import control  # noqa: PLC0415

    with errors_shown():
        home = _home()
        answer = control.ask(home, "status")
        if answer is not None:
            _print_status(answer, as_json)
            return 0
        if as_json:
            print_json({"running": False, "home": str(home)})
        else:
            say(
                f"The daemon is down (home {home}). It starts with the first call of an assistant, "
                "or with `arsenale up`."
            )
    return DOWN_STATUS


def _print_status(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"running": True, **answer})
        return
    say(
        f"Arsenale {answer['version']} is up: pid {answer['pid']}, for {answer['uptime_s']:.0f} s, "
        f"home {answer['home']}"
    )
    off = f"off ({answer['http_error'] or 'http = false'})"
    say(f"HTTP: {answer['http'] or off}")
    rows: list[tuple[str, ...]] = [("server", "state", "connections")]
    for name, server in answer["servers"].items():
        state = server["state"] if server["state"] == "up" else f"failed: {server['reason']}"
        rows.append((name, state, str(server.get("connections", ""))))
    say(table(rows))
    _print_settings(answer.get("settings", []))


def _print_settings(changed: list[dict[str, str]]) -> None:
    """Print the settings that are not at their default, with where they come from."""
    if not changed:
        return
    say("")
    where = {"environment": "environment of `arsenale up`"}
    say(table([("setting", "value", "from"),
               *((one["name"], one["value"][:60], where.get(one["source"], one["source"]))
                 for one in changed)]))  # fmt: skip
    if any(one["source"] == "environment" for one in changed):
        say("What comes from an environment ends with this daemon: write it into config.toml.")


def logs(
    name: Annotated[str, typer.Argument(help="Of a log: daemon, inference, ...")] = "daemon",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="How many old lines.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """Show a log of the home, the daemon's by default, in local time."""
    from arsenale_daemon import logtail  # noqa: PLC0415

    with errors_shown():
        path = logtail.file_of(_home(), name)
        for line in logtail.lines(path, lines, follow=follow):
            write(line if as_json else logtail.readable(line))


def serve(
    server: str,
    transport: Annotated[
        Literal["stdio", "sse", "streamable-http"], typer.Option(help="How to speak.")
    ] = "stdio",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="For HTTP; 0 = any.")] = None,
) -> None:
    """Serve one server in the foreground, in its own process."""
    from arsenale_core.config import Settings  # noqa: PLC0415
    from arsenale_daemon import standalone  # noqa: PLC0415

    with errors_shown():
        settings = Settings.read()
        if port is not None:
            settings = settings.model_copy(update={"http_port": port})
        standalone.serve(server, transport, settings)


def stdio(server: str) -> None:
    """Relay stdin and stdout to a server of the daemon (what `arsenale-stdio` does faster)."""
    from arsenale_relay import __main__ as relay  # noqa: PLC0415

    sys.argv = ["arsenale-stdio", server]
    raise typer.Exit(relay.main())
