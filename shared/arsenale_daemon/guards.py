"""Which guards are on: in the assistants' hooks, and in git."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_core.files import make_private
from arsenale_daemon import git_guard, host_config, install
from arsenale_daemon.git_guard import GitGuard
from arsenale_daemon.host_config import Host, Scope
from arsenale_daemon.host_entries import GuardMode, Install

State: TypeAlias = Literal["on", "outdated", "gone"]

_MODES = TypeAdapter(dict[str, GuardMode])

REMEMBERED = "guards.json"
"""In the home: which repositories' commits were put under guard, and how. A hook manager that
writes its hooks anew does not ask us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A guard that is on, or that was and is gone.

    Attributes:
        where: An assistant and its scope, or `git`.
        path: The file that has it, or had it.
        mode: Whether it lets pass what it cannot check.
        state: Whether it names this installation and its host would run it, or is gone.
        mend: The command that puts it right.
        why: What happened to one that is gone.
    """

    where: str
    path: Path
    mode: GuardMode
    state: State
    mend: str
    why: str = ""

    @property
    def sound(self) -> bool:
        """Whether it works as it is."""
        return self.state == "on"

    @property
    def text(self) -> str:
        """Where, and how, in a word."""
        return f"{self.where} (closed)" if self.mode == "closed" else self.where


def look(settings: Settings, project: Path, user_home: Path) -> list[Guarded]:
    """Return the guards that are on for PROJECT, and that of commits if it is gone."""
    here = install.current(settings)
    found = [
        one
        for host in host_config.HOSTS
        for scope in host_config.SCOPES
        if (one := _in_host(host, scope, project, user_home, here))
    ]
    git = git_guard.look(project)
    if git is not None:
        found += _in_git(git, project, here, remembered(settings, project))
    return found


def remember(settings: Settings, project: Path, mode: GuardMode) -> None:
    """Note in the home how PROJECT's commits are guarded: `off` forgets it."""
    name = git_guard.repository(project)
    if name is None:
        return
    modes = _modes(settings)
    before = dict(modes)
    modes.pop(name, None)
    if mode != "off":
        modes[name] = mode
    if modes != before:
        path = settings.home / REMEMBERED
        make_private(path.parent)
        fresh = path.with_name(f".{REMEMBERED}.{os.getpid()}")
        fresh.write_text(json.dumps(modes, indent=1), encoding="utf-8")
        fresh.chmod(0o600)
        os.replace(fresh, path)


def remembered(settings: Settings, project: Path) -> GuardMode:
    """Return how PROJECT's commits were put under guard."""
    return _modes(settings).get(git_guard.repository(project) or "", "off")


def _modes(settings: Settings) -> dict[str, GuardMode]:
    """Return what is remembered; nothing where the file is missing or damaged."""
    try:
        return _MODES.validate_json((settings.home / REMEMBERED).read_bytes())
    except (OSError, ValueError):
        return {}


def _in_git(git: GitGuard, project: Path, here: Install, was: GuardMode) -> list[Guarded]:
    mode = git.mode if git.mode != "off" else was if was != "off" else git.idle_mode
    if mode == "off":
        return []
    mend = "arsenale guard on --git" + (" --closed" if mode == "closed" else "")
    if git.mode == "off":
        return [
            Guarded(where="git", path=git.hook, mode=mode, state="gone", mend=mend, why=_lost(git))
        ]
    current = git.runs and not git_guard.plan(project, here, git.mode)
    state: State = "on" if current else "outdated"
    return [Guarded(where="git", path=git.hook, mode=mode, state=state, mend=mend)]


def _lost(git: GitGuard) -> str:
    """Say what became of a guard of commits that is gone."""
    by = f"{git.manager} wrote {git.hook} anew" if git.manager else f"{git.hook} has it no longer"
    if not git.idle:
        return by
    return f"{by}; {', '.join(map(str, git.idle))} still has it, which no commit runs"


def _in_host(
    host: Host, scope: Scope, project: Path, user_home: Path, here: Install
) -> Guarded | None:
    try:
        mode = host_config.guard_mode(host, project=project, home=user_home, scope=scope)
        if mode == "off":
            return None
        changes = host_config.plan_guard(
            host, project=project, home=user_home, scope=scope, install=here, mode=mode
        )
    except ArsenaleError:
        return None  # `doctor` tells about that file elsewhere
    closed = " --closed" if mode == "closed" else ""
    return Guarded(
        where=f"{host} ({scope})",
        path=host_config.hook_file(host, project=project, home=user_home, scope=scope),
        mode=mode,
        state="outdated" if changes else "on",
        mend=f"arsenale guard on --host {host} --scope {scope}{closed}",
    )
