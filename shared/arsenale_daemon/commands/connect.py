"""`arsenale init` and `arsenale uninstall`: connecting assistants, and taking everything back."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from arsenale_core.config import Settings
from arsenale_core.terminal_text import write
from arsenale_daemon import checkout, discovery, host_config, init_summary, install, removal
from arsenale_daemon.commands.console import Yes, confirmed, errors_shown, say
from arsenale_daemon.host_config import FileChange, Host, Scope
from arsenale_daemon.host_entries import Install


def init(
    host: Annotated[Host, typer.Option(help="The assistant to connect.")] = "claude",
    scope: Annotated[Scope, typer.Option(help="This project, or all of yours.")] = "project",
    servers: Annotated[
        str | None, typer.Option(help="Only these, as in memory,telemetry; hooks follow.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take out what init wrote.")] = False,
    allow: Annotated[
        bool, typer.Option("--allow", help="Let Claude Code use the read-only tools unasked.")
    ] = False,
    tracking: Annotated[
        bool, typer.Option(help="Also answer each PreToolUse with a tracking id.")
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show the changes line by line.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False,
    yes: Yes = False,
) -> None:
    """Connect an assistant: MCP servers and hooks. Shows a summary first, keeps what is there."""
    with errors_shown():
        settings = Settings.read()
        folder, home = _project(scope), Path.home()
        here = install.current(settings, tracking=tracking, servers=_names(servers))
        allowed = init_summary.read_only_tools(discovery.names() if undo else here.servers)
        changes = host_config.plan(
            host, project=folder, home=home, scope=scope, install=here, undo=undo,
            allow=allowed if allow or undo else (),
        )  # fmt: skip
        if not undo and host == "claude" and host_config.plugin_is_enabled(folder, home):
            say(
                "The plugin is active too: only init's hooks will take effect, and each server is "
                "listed twice. `claude plugin uninstall arsenale@arsenale` removes the plugin."
            )
        place = home if scope == "user" else folder
        if not changes:
            if not dry_run:
                removal.record(settings, host, scope, place, undo=undo)
            say("Nothing to change: " + ("nothing of ours is there." if undo else "all set."))
            return
        _show(host, scope, folder, here, changes, undo=undo, lines=diff or dry_run)
        if dry_run or not _agreed(changes, shown=diff, yes=yes):
            say("Nothing was written.")
            return
        removed = host_config.apply(changes)
        removal.record(settings, host, scope, place, undo=undo)
        for change in changes:
            say(removal.outcome(change))
        for each in removed:
            say(f"Removed the empty folder {each}")
        if scope == "project":
            _leave_out_of_git(folder, [change.path for change in changes], undo=undo)
        if not undo:
            for line in init_summary.next_steps(host, scope, here, allowed=allow):
                say(line)


def uninstall(
    data: Annotated[
        bool, typer.Option("--data", help="Also delete the data: memories, figures, keys.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    yes: Yes = False,
) -> None:
    """Disconnect all assistants and guards, end the daemon, and on request delete the data."""
    with errors_shown():
        settings = Settings.read()
        plan = removal.plan(settings, checkout.root(Path.cwd()), Path.home())
        say("This disconnects Arsenale from all assistants and ends its processes.")
        for path in plan.files:
            say(f"  changes  {path}")
        for line in plan.problems:
            say(f"  {line}")
        size = removal.size_bytes(settings.home) / 2**20
        fate = "deletes" if data else "keeps  "
        say(f"  {fate}  {settings.home} ({size:.1f} MiB of data)")
        if dry_run or not confirmed("Do this?", yes=yes):
            say("Nothing was changed.")
            return
        for line in removal.disconnect(settings, plan):
            say(line)
        for line in removal.end_processes(settings):
            say(line)
        keep = f"Data stays in {settings.home}: `arsenale uninstall --data` deletes it."
        if data or (not yes and confirmed(f"Also delete {settings.home}?", yes=False)):
            keep = removal.delete_data(settings)
        say(keep)
        if host_config.plugin_is_enabled(checkout.root(Path.cwd()), Path.home()):
            say("The plugin stays: claude plugin uninstall arsenale@arsenale")
        say(f"The package itself: {sys.executable} -m pip uninstall arsenale")
        say("Models and embeddings that were downloaded may stay in ~/.cache.")


def _project(scope: Scope) -> Path:
    """Return the root of the project that the command was called in."""
    here = Path.cwd()
    top = checkout.root(here) if scope == "project" else here
    if top.resolve() != here.resolve():
        say(f"Using the repository's root, {top}.")
        return top
    return here


def _names(servers: str | None) -> list[str] | None:
    return None if servers is None else [s.strip() for s in servers.split(",") if s.strip()]


def _show(
    host: Host, scope: Scope, folder: Path, here: Install, changes: Sequence[FileChange], *,
    undo: bool, lines: bool,
) -> None:  # fmt: skip
    files = [change.path for change in changes]
    if undo:
        for change in changes:
            say(f"{'Remove' if change.after is None else 'Change'} {change.path}")
    else:
        for line in init_summary.summary(host, scope, folder, here, files):
            say(line)
    if lines:
        _print_diff(changes)


def _print_diff(changes: Sequence[FileChange]) -> None:
    for change in changes:
        write(host_config.diff(change))


def _agreed(changes: Sequence[FileChange], *, shown: bool, yes: bool) -> bool:
    """Ask whether to write; a person may look at the changes first."""
    if yes or shown or not sys.stdin.isatty():
        return confirmed("Write this?", yes=yes)
    answer = typer.prompt("Write this? y = yes, n = no, d = show the changes", default="y")
    if answer.strip().lower().startswith("d"):
        _print_diff(changes)
        return confirmed("Write this?", yes=False)
    return answer.strip().lower() in ("y", "yes")


def _leave_out_of_git(folder: Path, files: Sequence[Path], *, undo: bool) -> None:
    """Keep files that name paths of this machine out of commits."""
    if undo:
        checkout.include(folder, files)
        return
    known = checkout.tracked(folder, files)
    excluded = checkout.exclude(folder, [file for file in files if file not in known])
    if excluded:
        names = ", ".join(str(file.relative_to(folder)) for file in excluded)
        say(f"Kept out of git by .git/info/exclude: {names}.")
    for file in known:
        say(
            f"{file} is under version control and now names paths of this machine: do not commit "
            "this change, or use --scope user."
        )
