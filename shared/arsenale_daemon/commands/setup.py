"""`arsenale doctor`, `demo`: what works here, and what it is for."""

from pathlib import Path
from typing import Annotated

import typer

from arsenale_core import terminal
from arsenale_core.config import Settings
from arsenale_daemon import demo as demonstration
from arsenale_daemon import doctor as examination
from arsenale_daemon.commands.console import (
    Json,
    errors_shown,
    print_json,
)


def doctor(as_json: Json = False) -> None:
    """Check dependencies, permissions, port, spool and host configurations; say how to fix them."""
    with errors_shown():
        checks = examination.examine(Settings.read(), Path.cwd(), Path.home())
        if as_json:
            print_json([check.as_dict() for check in checks])
        else:
            examination.show(terminal.console(), checks)
        if any(check.state == "fail" for check in checks):
            raise typer.Exit(1)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running to look around.")] = False,
) -> None:
    """Show what each server is for, in a temporary home."""
    with errors_shown():
        demonstration.run(terminal.console(), keep=keep)
