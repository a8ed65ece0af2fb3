"""`arsenale guard …`: let reservations bind, in assistants' hooks and in git."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer
from rich.markup import escape

from arsenale_core import terminal
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_daemon import git_guard, guards, host_config, install, removal
from arsenale_daemon.guards import Guarded
from arsenale_daemon.host_config import FileChange, Host, Scope
from arsenale_daemon.host_entries import GuardMode

guard = typer.Typer(
    help="Let reservations bind: refuse edits and commits of what another agent holds.",
    no_args_is_help=True,
)
out = terminal.console()
err = terminal.console(stderr=True)

T = TypeVar("T")
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InHost: TypeAlias = Annotated[Host, typer.Option(help="The assistant.")]
InScope: TypeAlias = Annotated[Scope, typer.Option(help="This project, or all of yours.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@guard.command()
def on(
    git: Annotated[bool, typer.Option("--git", help="Guard commits here too.")] = False,
    closed: Annotated[
        bool, typer.Option("--closed", help="Refuse what cannot be checked, as with no daemon.")
    ] = False,
    host: InHost = "claude",
    scope: InScope = "project",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Refuse edits of what another holds; with --git, commits too."""
    mode: GuardMode = "closed" if closed else "open"
    _switched(mode, [host], scope, git=git, ask=not yes, dry_run=dry_run, quiet=as_json)
    if as_json:
        status(as_json=True)
    elif not dry_run:
        out.print("A session that runs already follows when it starts anew.")


@guard.command()
def off(
    git: Annotated[bool, typer.Option("--git", help="Only the guard of commits.")] = False,
    scope: InScope = "project",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take every guard of this project out again; what was there before comes back as it was."""
    hosts = () if git else host_config.HOSTS
    ask = not yes and not as_json and sys.stdin.isatty()  # what it takes out was ours
    in_git = git or scope == "project"
    _switched("off", hosts, scope, git=in_git, ask=ask, dry_run=dry_run, quiet=as_json)
    if as_json:
        status(as_json=True)
        return
    for one in _told(_found) if not (git or dry_run) else ():
        out.print(f"Still on: {one.where}, in {escape(str(one.path))}", soft_wrap=True)


@guard.command()
def status(as_json: Json = False) -> None:
    """Show which guards are on here, or were and are gone; exit status 3 when none is on."""
    found = _told(_found)
    if as_json:
        rows = [
            {
                "where": o.where, "mode": o.mode, "path": str(o.path), "sound": o.sound,
                "state": o.state,
            }
            for o in found
        ]  # fmt: skip
        out.print_json(data={"on": any(o.state != "gone" for o in found), "guards": rows})
        return
    for one in found:
        out.print(_line(one), soft_wrap=True)
    if all(one.state == "gone" for one in found):
        out.print("No guard is on: reservations bind nobody. [bold]arsenale guard on --git[/]")
        raise typer.Exit(3)


def _line(one: Guarded) -> str:
    """Return how a guard stands, with the command that puts it right."""
    if one.state == "gone":
        lost = f"[red]gone[/]: it was on, but {escape(one.why)}"
        return f"{one.where}: {lost}; switch it on again with `{one.mend}`"
    what = (
        "refuses an edit that cannot be checked"
        if one.mode == "closed"
        else "allows an edit while the daemon is down"
    )
    state = "on" if one.sound else f"[yellow]outdated[/], fix it with `{one.mend}`"
    return f"{one.where}: {state}; {what}; {escape(str(one.path))}"


def _planned(
    mode: GuardMode, hosts: Sequence[Host], scope: Scope, *, git: bool
) -> tuple[list[FileChange], list[FileChange]]:
    """Return the changes of hosts' files, and of the git hook, that bring guards into MODE."""
    project, home = Path.cwd(), Path.home()
    here = install.current(Settings.read())
    planned: list[FileChange] = []
    for host in hosts:
        planned += host_config.plan_guard(
            host, project=project, home=home, scope=scope, install=here, mode=mode
        )
    wanted = git and (mode != "off" or git_guard.look(project) is not None)
    return planned, git_guard.plan(project, here, mode) if wanted else []


def _switched(
    mode: GuardMode, hosts: Sequence[Host], scope: Scope, *, git: bool, ask: bool, dry_run: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Bring guards into MODE: show the changes, ask, write."""
    planned, in_git = _told(lambda: _planned(mode, hosts, scope, git=git))
    say = terminal.console(quiet=True) if quiet else out
    if git and not dry_run and not planned and not in_git:
        guards.remember(Settings.read(), Path.cwd(), mode)
    if not planned and not in_git:
        say.print("Nothing to change: " + ("all is off." if mode == "off" else "it is on."))
        return
    for change in (*planned, *in_git):
        say.out(host_config.diff(change), end="", highlight=False)
    if not dry_run and ask and not sys.stdin.isatty():
        err.print("[red]error:[/] nothing was written, as there is no terminal to ask: add --yes")
        raise typer.Exit(1)
    if dry_run or (ask and not typer.confirm("Write this?", default=True)):
        say.print("Nothing was written.")
        return
    _told(lambda: host_config.apply(planned))
    if mode != "off" or hosts:
        place = Path.home() if scope == "user" else Path.cwd()
        removal.record(Settings.read(), "guard", scope, place, undo=mode == "off")
    for change in in_git:
        _told(lambda change=change: git_guard.apply(change))
        if mode != "off" and (note := git_guard.note(change.path, Path.cwd())):
            say.print(escape(note), soft_wrap=True)
    if git:
        guards.remember(Settings.read(), Path.cwd(), mode)


def _found() -> list[Guarded]:
    return guards.look(Settings.read(), Path.cwd(), Path.home())


def _told(do: Callable[[], T]) -> T:
    """Turn our errors into one line and exit status 1."""
    try:
        return do()
    except ArsenaleError as exc:
        err.print(f"[red]error:[/] {escape(str(exc))}", soft_wrap=True)
        raise typer.Exit(1) from None
