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


@dataclass(frozen=True, slots=True, kw_only=True)
class GitGuard:
    """The pre-commit hook of a repository.

    Attributes:
        hook: Where git looks for it: the same for all worktrees, or in `core.hooksPath`.
        mode: Whether it guards.
        runs: Git would run it: it is executable and what it names is there.
    """

    hook: Path
    mode: GuardMode
    runs: bool


def look(project: Path) -> GitGuard | None:
    """Return how the guard of PROJECT's repository stands; nothing outside of one."""
    folder = _hooks(project)
    if folder is None:
        return None
    hook = folder / "pre-commit"
    block = _BLOCK.search(_text(hook) or "")
    if block is None:
        return GitGuard(hook=hook, mode="off", runs=False)
    named = [word for word in shlex.split(block[0], comments=True) if word.endswith(f"/{GUARD}")]
    return GitGuard(
        hook=hook, mode="closed" if " --closed " in block[0] else "open",
        runs=os.access(hook, os.X_OK) and all(Path(word).is_file() for word in named),
    )  # fmt: skip


def plan(project: Path, install: Install, mode: GuardMode) -> list[FileChange]:
    """Return the change of PROJECT's pre-commit hook that brings its guard into MODE.

    Raises:
        InvalidError: PROJECT lies in no repository.
    """
    now = look(project)
    if now is None:
        raise InvalidError(f"{project} is in no git repository", hint="run it inside of one")
    before = _text(now.hook)
    if mode == "off":
        after = _without(now) if now.mode != "off" else before
    else:
        after = _with(now.hook, before, _block(install, closed=mode == "closed"))
    return [FileChange(now.hook, before, after)] if before != after else []


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


def _without(now: GitGuard) -> str | None:
    """Return the text of the hook as it was before us."""
    text = _text(now.hook)
    if _is_ours(text):
        return _text(now.hook.with_name(BEFORE_US))
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
*) echo "arsenale guard: {GONE}" >&2 ;;
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
