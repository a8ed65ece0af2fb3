"""`arsenale init`, `doctor`, `demo`: connecting assistants, and looking whether all is well."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from arsenale_core.config import Settings
from arsenale_daemon import demo as demonstration
from arsenale_daemon import doctor as examination
from arsenale_daemon import host_config, install
from arsenale_daemon.commands.console import (
    Json,
    Yes,
    confirmed,
    errors_shown,
    print_json,
    say,
)
from arsenale_daemon.host_config import Host, Scope


def doctor(as_json: Json = False) -> None:
    """Check dependencies, permissions, port, spool and host configurations; say how to fix them."""
    with errors_shown():
        checks = examination.examine(Settings.read(), Path.cwd(), Path.home())
        if as_json:
            print_json([check.as_dict() for check in checks])
        else:
            examination.show(Console(highlight=False), checks)
        if any(check.state == "fail" for check in checks):
            raise typer.Exit(1)


def init(
    host: Annotated[Host, typer.Option(help="The assistant to connect.")] = "claude",
    scope: Annotated[Scope, typer.Option(help="This project, or all of yours.")] = "project",
    undo: Annotated[bool, typer.Option("--undo", help="Take out what init wrote.")] = False,
    tracking: Annotated[
        bool, typer.Option(help="Also answer each PreToolUse with a tracking id.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False,
    yes: Yes = False,
) -> None:
    """Connect an assistant: MCP servers and hooks. Shows the changes, keeps what is there."""
    with errors_shown():
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
            say("Nothing to change: " + ("nothing of ours is there." if undo else "all set."))
            return
        for change in changes:
            sys.stdout.write(host_config.diff(change))
        if dry_run or not confirmed("Write this?", yes=yes):
            say("Nothing was written.")
            return
        host_config.apply(changes)
        say(f"Wrote {', '.join(str(change.path) for change in changes)}.")
        if not undo:
            say("Start a new session of the assistant; `arsenale doctor` checks it.")


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running to look around.")] = False,
) -> None:
    """Show what each server is for, in a temporary home."""
    with errors_shown():
        demonstration.run(Console(highlight=False), keep=keep)
