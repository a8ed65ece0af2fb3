"""What `arsenale uninstall` takes back: every connection, the daemon and the sidecar, the data."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from arsenale_core import sidecar
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_daemon import (
    checkout,
    connections,
    control,
    discovery,
    git_guard,
    host_config,
    init_summary,
    install,
)
from arsenale_daemon.connections import Connection
from arsenale_daemon.host_config import FileChange


@dataclass(slots=True, kw_only=True)
class Removal:
    """What is to be taken back.

    Attributes:
        changes: Files of assistants, by the folder that they belong to.
        hooks: Pre-commit hooks of repositories.
        problems: What is left as it is, and why.
    """

    changes: dict[Path, list[FileChange]] = field(
        default_factory=lambda: dict[Path, list[FileChange]]()
    )
    hooks: list[FileChange] = field(default_factory=lambda: list[FileChange]())
    problems: list[str] = field(default_factory=lambda: list[str]())

    @property
    def files(self) -> list[Path]:
        """Every file that changes, each once."""
        every = [one.path for changes in self.changes.values() for one in changes]
        return list(dict.fromkeys([*every, *(one.path for one in self.hooks)]))


def plan(settings: Settings, project: Path, user_home: Path) -> Removal:
    """Return what to take back in all recorded places, in PROJECT and in USER_HOME."""
    removal = Removal()
    folders: dict[Path, None] = {project: None}
    for one in connections.read(settings.home):
        folder = Path(one.folder)
        if one.scope == "user" or folder in folders:
            continue
        if folder.is_dir():
            folders[folder] = None
        else:
            removal.problems.append(f"skipped {folder}: the folder does not exist any more")
    for folder in folders:
        removal.changes[folder] = list(_in_hosts(settings, folder, user_home, "project", removal))
        try:
            guard = git_guard.look(folder)
            if guard is not None and guard.mode != "off":
                removal.hooks += git_guard.plan(folder, install.current(settings), "off")
        except ArsenaleError as exc:
            removal.problems.append(str(exc))
    user = list(_in_hosts(settings, user_home, user_home, "user", removal))
    removal.changes[user_home] = [*removal.changes.get(user_home, []), *user]
    return removal


def _in_hosts(
    settings: Settings, project: Path, home: Path, scope: host_config.Scope, removal: Removal
) -> Iterator[FileChange]:
    allow = init_summary.read_only_tools(discovery.names())
    here = install.current(settings)
    for host in host_config.HOSTS:
        try:
            yield from host_config.plan(
                host, project=project, home=home, scope=scope, install=here, undo=True,
                allow=allow, guard=True,
            )  # fmt: skip
        except ArsenaleError as exc:
            removal.problems.append(f"left {host} ({scope}) in {project} as it is: {exc}")


def disconnect(settings: Settings, removal: Removal) -> Iterator[str]:
    """Take out what is ours in all places; yield a line for each file."""
    failed: set[str] = set()
    for folder, changes in removal.changes.items():
        try:
            removed = host_config.apply(changes)
        except ArsenaleError as exc:
            failed.add(str(folder))
            yield f"not changed in {folder}: {exc}"
            continue
        yield from (outcome(change) for change in changes)
        yield from (f"Removed the empty folder {each}" for each in removed)
        checkout.include(folder, [change.path for change in changes])
    for change in removal.hooks:
        try:
            git_guard.apply(change)
            yield outcome(change)
        except ArsenaleError as exc:
            failed.add(str(change.path))
            yield f"not changed: {exc}"
    for one in connections.read(settings.home):
        if one.folder not in failed:
            connections.forget(settings.home, one)


def end_processes(settings: Settings) -> Iterator[str]:
    """End the daemon and the sidecar of the home; yield a line for each that ran."""
    ends: dict[str, Callable[[Path], bool]] = {"daemon": control.down, "sidecar": sidecar.stop}
    for name, end in ends.items():
        try:
            if end(settings.home):
                yield f"Ended the {name}."
        except (ArsenaleError, OSError) as exc:
            yield f"The {name} did not end: {exc}"


def delete_data(settings: Settings) -> str:
    """Delete `ARSENALE_HOME`; return what happened."""
    home = settings.home
    if home.is_symlink():  # the folder goes, and so does the link to it
        shutil.rmtree(home.resolve(), ignore_errors=True)
        home.unlink()
    else:
        shutil.rmtree(home, ignore_errors=True)
    return f"{home} could not be deleted whole" if home.exists() else f"Deleted {home}."


def outcome(change: FileChange) -> str:
    """Return what was done to a file, in past tense."""
    return f"{'Removed' if change.after is None else 'Wrote'} {change.path}"


def size_bytes(folder: Path) -> int:
    """Return what the files in FOLDER hold."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except OSError:
                continue
    return total


def record(settings: Settings, host: str, scope: str, folder: Path, *, undo: bool) -> None:
    """Note that HOST was connected in FOLDER, or with UNDO that it is no longer."""
    one = Connection(host=host, scope=scope, folder=str(folder))
    (connections.forget if undo else connections.record)(settings.home, one)
