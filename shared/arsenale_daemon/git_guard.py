"""The guard in git: a pre-commit hook that asks ours, and runs the one that was there before.

A hook that is a shell script gets our lines after its first: some look at their own name and place
(husky, for one), and would not find themselves elsewhere. Any other is kept beside ours.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from arsenale_core.errors import ConflictError, InvalidError, UnavailableError
from arsenale_daemon.checkout import git
from arsenale_daemon.host_config import FileChange
from arsenale_daemon.host_entries import GUARD, GuardMode, Install

BEFORE_US = "pre-commit.before-arsenale"
"""A hook that is no shell script is kept under this name, and runs after ours."""

MARK = "# Begin of what `arsenale guard on --git` wrote; `arsenale guard off` takes it out."
END = "# End of what `arsenale guard on --git` wrote."

REFUSED = 100
"""What `guard.py --git` exits with to refuse a commit. Any other status lets it pass: Python and
the shell have their own for a script or an interpreter that is missing."""

GONE = "cannot run, nobody checked this commit; `arsenale guard off --git` removes the guard"

_SHELL = re.compile(r"#!.*\b(?:sh|bash|dash|ksh|zsh)\b.*")
_BLOCK = re.compile(rf"^{re.escape(MARK)}\n.*?^{re.escape(END)}\n", re.MULTILINE | re.DOTALL)


_FRAMEWORK = "hook-impl"
"""Hooks of pre-commit and prek have this word: they run `pre-commit.legacy` first."""

_MANAGERS = (("husky", "husky"), (_FRAMEWORK, "pre-commit"), ("lefthook", "lefthook"))
"""Words in a hook, and the manager that writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitGuard:
    """The guard of commits of a repository.

    Attributes:
        hook: The file that has it and that a commit runs; where git looks for it, if none has.
        mode: Whether it guards.
        runs: Git would run it: it is executable and what it names is there.
        idle: Copies that other tools moved away, which no commit runs.
        idle_mode: The mode of the first of those.
        manager: The hook manager that owns git's hook; empty for none that is known.
    """

    hook: Path
    mode: GuardMode
    runs: bool
    idle: tuple[Path, ...] = ()
    idle_mode: GuardMode = "off"
    manager: str = ""


def look(project: Path) -> GitGuard | None:
    """Return how the guard of PROJECT's repository stands; nothing outside of one."""
    folder = _hooks(project)
    if folder is None:
        return None
    run = _run_by_git(folder)
    ours = [path for path in _candidates(project, folder) if MARK in (_text(path) or "")]
    active = next((path for path in run if path in ours), None)
    idle = tuple(path for path in ours if path not in run)
    return GitGuard(
        hook=active or folder / "pre-commit", mode=_mode(active) if active else "off",
        runs=active is not None and _can_run(active, folder), idle=idle,
        idle_mode=_mode(idle[0]) if idle else "off", manager=_manager(folder),
    )  # fmt: skip


def repository(project: Path) -> str | None:
    """Return the name under which PROJECT's repository is remembered: its common git directory."""
    common = git(project, "rev-parse", "--git-common-dir")
    return str((project / common).resolve()) if common else None


def plan(project: Path, install: Install, mode: GuardMode) -> list[FileChange]:
    """Return the changes of PROJECT's hooks that bring its guard into MODE.

    `off` takes it out of every copy, also of those that other tools moved away.

    Raises:
        InvalidError: PROJECT lies in no repository.
    """
    now = look(project)
    if now is None:
        raise InvalidError(f"{project} is in no git repository", hint="run it inside of one")
    if mode == "off":
        copies = [*([now.hook] if now.mode != "off" else []), *now.idle]
        changes = [FileChange(path, _text(path), _without(path)) for path in copies]
    else:
        before = _text(now.hook)
        after = _with(now.hook, before, _block(install, closed=mode == "closed"))
        changes = [FileChange(now.hook, before, after)]
    return [change for change in changes if change.before != change.after]


def _run_by_git(folder: Path) -> list[Path]:
    """Return the files that a commit runs, with git's hooks in FOLDER."""
    hook = folder / "pre-commit"
    text = _text(hook) or ""
    found = [hook]
    if _FRAMEWORK in text and os.access(hook, os.X_OK):
        legacy = folder / "pre-commit.legacy"
        found += [legacy] if os.access(legacy, os.X_OK) else []
    if folder.name == "_" and ('/h"' in text or "husky.sh" in text):
        found.append(folder.parent / "pre-commit")
    return found


def _candidates(project: Path, folder: Path) -> list[Path]:
    """Return the files in which our lines may stand: hooks, and where managers put old ones."""
    common = repository(project)
    top = git(project, "rev-parse", "--show-toplevel")
    folders = [folder, folder.parent] if folder.name == "_" else [folder]
    folders += [Path(common) / "hooks"] if common else []
    folders += [Path(top) / ".husky", Path(top) / ".husky" / "_"] if top else []
    found: dict[Path, Path] = {}
    for place in folders:
        for path in [*place.glob("pre-commit*"), *place.glob("*/pre-commit*")]:
            if path.is_file() and path.name != BEFORE_US:
                found.setdefault(path.resolve(), path)
    return list(found.values())


def _mode(hook: Path) -> GuardMode:
    block = _BLOCK.search(_text(hook) or "")
    if block is None:
        return "off"
    return "closed" if " --closed " in block[0] else "open"


def _can_run(hook: Path, folder: Path) -> bool:
    block = _BLOCK.search(_text(hook) or "")
    words = shlex.split(block[0], comments=True) if block else []
    named = [word for word in words if word.endswith(f"/{GUARD}")]
    first = folder / "pre-commit"
    return os.access(first, os.X_OK) and all(Path(word).is_file() for word in named)


def _manager(folder: Path) -> str:
    text = _text(folder / "pre-commit") or ""
    if folder.name == "_" and folder.parent.name == ".husky":
        return "husky"
    return next((name for word, name in _MANAGERS if word in text), "")


def apply(change: FileChange) -> None:
    """Write CHANGE; a hook that is kept is moved aside and back, as it is.

    Raises:
        ConflictError: The hook is no longer as it was planned for.
        UnavailableError: The hook cannot be written.
    """
    hook, kept = change.path, change.path.with_name(BEFORE_US)
    if _text(hook) != change.before:
        raise ConflictError(f"{hook} has just changed", hint="run it again")
    was, now = _is_ours(change.before), _is_ours(change.after)
    try:
        hook.parent.mkdir(parents=True, exist_ok=True)
        if was and not now:
            if kept.exists() or kept.is_symlink():
                os.replace(kept, hook)
            else:
                hook.unlink()
            return
        if now and not was and change.before is not None:
            os.rename(hook, kept)
        mode = 0o755 if now else hook.stat().st_mode & 0o777
        fresh = hook.with_name(f".pre-commit.{os.getpid()}")
        fresh.write_bytes((change.after or "").encode("utf-8"))
        fresh.chmod(mode)
        os.replace(fresh, hook)
    except OSError as exc:
        raise UnavailableError(f"{hook}: {exc.strerror}", hint="make it writable") from exc


def _with(hook: Path, before: str | None, block: str) -> str:
    """Return the text of HOOK with our BLOCK in it."""
    if not _is_ours(before) and _takes_lines(hook, before):
        first, _, rest = _BLOCK.sub("", before or "", count=1).partition("\n")
        return f"{first}\n{block}{rest}"
    return (
        f'#!/bin/sh\n{block}before="$(dirname "$0")/{BEFORE_US}"\n'
        '[ ! -x "$before" ] || exec "$before" "$@"\n'
    )


def _without(hook: Path) -> str | None:
    """Return the text of HOOK as it was before us."""
    text = _text(hook)
    if _is_ours(text):
        return _text(hook.with_name(BEFORE_US))
    return _BLOCK.sub("", text or "", count=1)


def _is_ours(text: str | None) -> bool:
    """Say whether all of a hook is ours, not only some lines."""
    return text is not None and MARK in text and BEFORE_US in text


def _takes_lines(hook: Path, text: str | None) -> bool:
    """Say whether HOOK is a shell script that git runs, to which lines can be added."""
    first = (text or "").partition("\n")[0]
    plain = hook.is_file() and not hook.is_symlink() and os.access(hook, os.X_OK)
    readable = "\N{REPLACEMENT CHARACTER}" not in (text or "") and "\n" in (text or "")
    return plain and readable and _SHELL.fullmatch(first) is not None


def _block(install: Install, *, closed: bool) -> str:
    guard = install.hook.with_name(GUARD)
    words = [install.python, "-I", "-S", str(guard), "--git", *(["--closed"] if closed else [])]
    command = shlex.join([*words, str(install.relay.parent.parent), str(install.home)])
    return f"""{MARK}
arsenale_guard=127
if [ -f {shlex.quote(str(guard))} ]; then
    {command} && arsenale_guard=0 || arsenale_guard=$?
fi
case $arsenale_guard in
0) ;;
{REFUSED}) exit 1 ;;
*) echo {shlex.quote(f"arsenale guard: {GONE}")} >&2 ;;
esac
{END}
"""


def note(hook: Path, project: Path) -> str:
    """Say what is unusual about where git keeps its hooks for PROJECT; empty for the usual."""
    if not git(project, "config", "core.hooksPath"):
        return ""
    top = git(project, "rev-parse", "--show-toplevel")
    if top and hook.is_relative_to(top):
        return f"{hook} lies in the checkout: do not commit it, it names paths of this machine."
    return f"{hook} is of every repository with this core.hooksPath: all of them are guarded."


def _hooks(project: Path) -> Path | None:
    """Return the folder in which git looks for the hooks of PROJECT's repository."""
    said = git(project, "rev-parse", "--git-path", "hooks")
    return Path(os.path.normpath(project / said)) if said else None


def _text(path: Path) -> str | None:
    """Return what PATH says, `None` where there is nothing; a program has any bytes."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
