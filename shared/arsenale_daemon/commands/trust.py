"""`arsenale trust`: read a project's files, then let the assistant use them."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.files import read_regular
from arsenale_core.terminal_text import write
from arsenale_core.trust import PROJECT_FILE_BYTES, PROJECT_FILES, Trust
from arsenale_daemon.commands.console import Json, confirmed, errors_shown, print_json, say
from arsenale_relay import session_start

State: TypeAlias = Literal["approved", "changed", "not approved", "invalid"]


def trust(
    folder: Annotated[Path, typer.Argument(help="The project's root.")] = Path(),
    show: Annotated[bool, typer.Option("--show", help="Show the state; change nothing.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Withdraw the approval.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Approve a project's .arsenale files, which the assistant then uses in that project.

    A file that changes is not used until you approve it again.
    """
    with errors_shown():
        home = Settings.read().home
        approvals, root = Trust(home), folder.resolve()
        paths = [root / file for file in PROJECT_FILES]
        if revoke:
            _revoke(home, approvals, paths, as_json=as_json)
        elif show:
            _print_states(approvals, paths, as_json=as_json)
        else:
            _approve(home, approvals, root, paths, yes=yes, as_json=as_json)


def _approve(
    home: Path, approvals: Trust, root: Path, paths: list[Path], *, yes: bool, as_json: bool
) -> None:
    """Show what is not approved yet, ask, and approve exactly what was shown."""
    contents = {path: _content(path) for path in paths if path.exists() or path.is_symlink()}
    if not contents:
        names = " or ".join(str(file) for file in PROJECT_FILES)
        raise NotFoundError("project file", str(root), hint=f"a project may have {names}")
    waiting = {path: c for path, c in contents.items() if not approvals.holds(path, c)}
    if waiting and not as_json:
        for path, content in waiting.items():
            _show(path, content)
    if waiting and not confirmed("Let the assistant use this in the project?", yes=yes):
        say("Nothing was approved.")
        return
    for path, content in waiting.items():
        approvals.approve(path, content)
    if waiting:
        session_start.mark_changed(str(home))
    if as_json:
        _print_states(approvals, paths, as_json=True)
        return
    for path in contents:
        say(f"approved  {path}" if path in waiting else f"approved before  {path}")


def _revoke(home: Path, approvals: Trust, paths: list[Path], *, as_json: bool) -> None:
    gone = [path for path in paths if approvals.revoke(path)]
    if gone:
        session_start.discard(str(home))  # texts that hold what was approved are not given again
    if as_json:
        print_json({"revoked": [str(path) for path in gone]})
    for path in gone if not as_json else ():
        say(f"revoked  {path}")
    if not gone and not as_json:
        say("None of this project's files is approved.")


def _print_states(approvals: Trust, paths: list[Path], *, as_json: bool) -> None:
    rows = [
        {"path": str(path), "state": _state(approvals, path)}
        for path in paths
        if path.exists() or path.is_symlink()
    ]
    if as_json:
        print_json({"files": rows})
        return
    for row in rows:
        say(f"{row['state']:<12}  {row['path']}")
    if not rows:
        say("This project has no .arsenale files.")


def _state(approvals: Trust, path: Path) -> State:
    try:
        content = _content(path)
    except (InvalidError, OSError):
        return "invalid"
    if approvals.holds(path, content):
        return "approved"
    return "changed" if approvals.knows(path) else "not approved"


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, PROJECT_FILE_BYTES)
    except OSError as exc:
        raise InvalidError(
            f"{path} cannot be read: {exc.strerror}", hint="check its permissions"
        ) from exc


def _show(path: Path, content: bytes) -> None:
    """Print all of CONTENT; what a terminal would act on is shown as an escape."""
    text = content.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    write(f"--- {path}\n{text.rstrip()}\n---\n")
