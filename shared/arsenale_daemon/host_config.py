"""Connect an assistant: which of its files change, and how. Planning is pure but for reading.

A change keeps what is there: other servers, other hooks, the order of keys, the indentation, the
comments of TOML. What is ours is recognised by a mark in its command (`hook_commands`), so that it
can be renewed and taken out again.
"""

import difflib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from arsenale_core.errors import ConflictError, InvalidError, UnavailableError
from arsenale_daemon import host_json, host_toml
from arsenale_daemon.host_backups import Backup
from arsenale_daemon.host_entries import (
    GuardMode,
    Install,
    Json,
    guard_entries,
    guard_mode_of,
    hook_entries,
    is_guard,
    is_our_handler,
)

Host: TypeAlias = Literal["claude", "cursor", "vscode", "codex"]
Scope: TypeAlias = Literal["project", "user"]

HOSTS: tuple[Host, ...] = get_args(Host)
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class FileChange:
    """What is to happen to one file; `None` stands for "no such file".

    Attributes:
        home: `ARSENALE_HOME`, where the file is kept as it is before us; `None`: keep nothing.
        first: BEFORE has nothing of ours, AFTER has: this is what undo gives back.
    """

    path: Path
    before: str | None
    after: str | None
    home: Path | None = None
    first: bool = False


def plan(
    host: Host, *, project: Path, home: Path, scope: Scope, install: Install, undo: bool,
    allow: Sequence[str] = (), guard: bool = False,
) -> list[FileChange]:  # fmt: skip
    """Return the changes that connect HOST, or with UNDO take out what an earlier one wrote.

    Args:
        host: The assistant.
        project: The folder of the project (scope `project`).
        home: The user's home directory (scope `user`).
        scope: This project, or all of the user's.
        install: What the entries name.
        undo: Take out instead.
        allow: Names of tools that Claude Code is to allow, or with UNDO no longer.
        guard: With UNDO, take out the guard too.

    Raises:
        InvalidError: A file of the host cannot be understood; nothing is to be written.
        UnavailableError: A file of the host cannot be read.
    """
    files = _files(host, project if scope == "project" else home, scope)
    changes: list[FileChange] = []
    for path, edit in zip(files, (_servers_after, _hooks_after), strict=True):
        before = _read(path)
        without = edit(host, path, before, install, undo=True)
        after = without if undo else edit(host, path, before, install, undo=False)
        if allow and host == "claude" and path == files[1]:
            after = host_json.permissions(path, after, allow, undo=undo)
        if undo and guard and path == files[1]:
            after = host_json.hooks(path, after, host, {}, is_guard)
        if undo or (path == files[1] and not hook_entries(install, host)):
            after = _original(install.home, path, before, after)
        first = not undo and without == before and not _has_guard(path, before)
        if before != after:
            changes.append(FileChange(path, before, after, install.home, first))
    return changes


def _servers_after(
    host: Host, path: Path, before: str | None, install: Install, *, undo: bool
) -> str | None:
    if host == "codex":
        return host_toml.servers(path, before, install, undo=undo)
    key = "servers" if host == "vscode" else "mcpServers"
    return host_json.servers(path, before, key, install, undo=undo, typed=host == "vscode")


def _hooks_after(
    host: Host, path: Path, before: str | None, install: Install, *, undo: bool
) -> str | None:
    entries: dict[str, list[Json]] = {} if undo else hook_entries(install, host)
    return host_json.hooks(path, before, host, entries, is_our_handler)


def _has_guard(path: Path, text: str | None) -> bool:
    return path.suffix == ".json" and any(map(is_guard, host_json.handlers(path, text)))


def plan_guard(
    host: Host, *, project: Path, home: Path, scope: Scope, install: Install, mode: GuardMode
) -> list[FileChange]:
    """Return the change that lets HOST ask the guard before files are written; off takes it out.

    Raises:
        InvalidError: The host's hook file cannot be understood.
        UnavailableError: It cannot be read.
    """
    hooks = hook_file(host, project=project, home=home, scope=scope)
    before = _read(hooks)
    entries: dict[str, list[Json]] = {}
    if mode != "off":
        entries = guard_entries(install, host, closed=mode == "closed")
    after = host_json.hooks(hooks, before, host, entries, is_guard)
    if mode == "off":
        after = _original(install.home, hooks, before, after)
    if before == after:
        return []
    ours = any(is_guard(one) or is_our_handler(one) for one in host_json.handlers(hooks, before))
    return [FileChange(hooks, before, after, install.home, mode != "off" and not ours)]


def guard_mode(host: Host, *, project: Path, home: Path, scope: Scope) -> GuardMode:
    """Return how HOST's guard stands."""
    hooks = hook_file(host, project=project, home=home, scope=scope)
    for handler in host_json.handlers(hooks, _read(hooks)):
        if (mode := guard_mode_of(handler)) != "off":
            return mode
    return "off"


def connected_servers(host: Host, *, project: Path, home: Path, scope: Scope) -> list[str]:
    """Return the servers that HOST's file names as ours, by their own names.

    Raises:
        InvalidError: The file cannot be understood.
        UnavailableError: It cannot be read.
    """
    path = _files(host, project if scope == "project" else home, scope)[0]
    text = _read(path)
    if host == "codex":
        return host_toml.our_servers(path, text)
    return host_json.our_servers(path, text, "servers" if host == "vscode" else "mcpServers")


def plugin_is_enabled(project: Path, home: Path) -> bool:
    """Say whether Claude Code's own settings enable our plugin."""
    folders = (home / ".claude", project / ".claude")
    return any(
        host_json.enables_plugin(_read(folder / name) or "")
        for folder in folders
        for name in ("settings.json", "settings.local.json")
    )


def hook_file(host: Host, *, project: Path, home: Path, scope: Scope) -> Path:
    """Return where HOST keeps its hooks."""
    return _files(host, project if scope == "project" else home, scope)[1]


def diff(change: FileChange) -> str:
    """Return CHANGE as a unified diff."""
    lines = difflib.unified_diff(
        (change.before or "").splitlines(keepends=True),
        (change.after or "").splitlines(keepends=True),
        str(change.path) if change.before is not None else "/dev/null",
        str(change.path) if change.after is not None else "/dev/null",
    )
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def apply(changes: Sequence[FileChange]) -> list[Path]:
    """Write CHANGES, each file whole or not at all; return the folders that were removed.

    Raises:
        ConflictError: A file is no longer as it was planned for (a running assistant rewrites its
            own); nothing is written.
        UnavailableError: A file cannot be written; those before it are.
    """
    for change in changes:
        if _read(change.path) != change.before:
            raise ConflictError(f"{change.path} has just changed", hint="run init again")
    removed: list[Path] = []
    try:
        for change in changes:  # before the first write makes folders that others need too
            if change.home is not None and change.first:
                content = None if change.before is None else change.before.encode("utf-8")
                Backup(change.home, change.path.resolve()).keep(content)
        for change in changes:
            removed += _applied(change.path.resolve(), change)
    except OSError as exc:
        raise UnavailableError(
            f"{exc.filename}: {exc.strerror}", hint="make it writable, then run init again"
        ) from exc
    return removed


def _applied(path: Path, change: FileChange) -> list[Path]:
    """Write or delete PATH; return the folders that went with it."""
    backup = Backup(change.home, path) if change.home is not None else None
    if change.after is not None:
        _write(path, change.after)
        if backup is not None and backup.read() == change.after.encode("utf-8"):
            backup.forget()  # all is as it was
        return []
    path.unlink(missing_ok=True)
    if backup is None:
        return []
    removed = backup.remove_folders()
    backup.forget()
    return removed


def _files(host: Host, base: Path, scope: Scope) -> tuple[Path, Path]:
    """Return where HOST keeps its servers and its hooks."""
    user = scope == "user"
    match host:
        case "claude":
            # Entries name paths of this machine: of the project's files, hooks go to the one that
            # is not committed.
            servers = base / (".claude.json" if user else ".mcp.json")
            return servers, base / ".claude" / ("settings.json" if user else "settings.local.json")
        case "cursor":
            return base / ".cursor" / "mcp.json", base / ".cursor" / "hooks.json"
        case "vscode":
            profile = _vscode_profile(base) if user else base / ".vscode"
            folder = ".copilot/hooks" if user else ".github/hooks"
            return profile / "mcp.json", base / folder / "arsenale.json"
        case "codex":
            return base / ".codex" / "config.toml", base / ".codex" / "hooks.json"


def _vscode_profile(home: Path) -> Path:
    """Return where VS Code keeps a user's settings: a Mac has its own place for it."""
    mac = home / "Library" / "Application Support" / "Code" / "User"
    return mac if mac.is_dir() else home / ".config" / "Code" / "User"


def _original(home: Path, path: Path, before: str | None, after: str | None) -> str | None:
    """Return AFTER as the file was before us: byte by byte, or no file where there was none."""
    if before is None or after == before:
        return after
    kept = Backup(home, path.resolve()).read()
    blank = after is None or _is_blank(after)
    if kept is None:
        return None if blank else after
    backup = kept.decode("utf-8", "replace")
    same = after is not None and host_json.says_the_same(backup, after)
    return backup if same or (blank and _is_blank(backup)) else after


def _is_blank(text: str) -> bool:
    return not host_json.says_something(text) or text.strip() == f"[{host_toml.KEY}]"


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as exc:
        raise InvalidError(f"{path} is not UTF-8", hint="mend or move it") from exc
    except OSError as exc:
        raise UnavailableError(f"{path}: {exc.strerror}", hint="make it readable") from exc


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.chmod(fresh, mode)
        os.replace(fresh, path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
