"""Where a path belongs: in which repositories it lies, and what it is called in each.

A file of a submodule, or of a clone within a tree, lies in two repositories. A reservation is kept
in each of them, and a guard looks in each of them: so it binds whoever works from either side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from arsenale_coordinator.projects import project_of, top_of, tops_of
from arsenale_coordinator.repository import globs
from arsenale_core.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Place:
    """A path, or a glob, relative to a checkout of a project; empty for the checkout itself."""

    project: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A glob as its own project names it, and as the repositories around and within do."""

    own: str
    others: tuple[Place, ...] = ()


def of_file(file: Path, folder: str) -> list[Place]:
    """Return the places of FILE (absolute), also under the names that links hide.

    Args:
        file: It need not exist.
        folder: That of the session: a file in no repository belongs to it, if it lies in it.
    """
    found = (_in(spelled, top) for spelled in _spellings(file) for top in _tops(spelled, folder))
    return [place for place in dict.fromkeys(found) if place.path]


def of_commit(cwd: str, names: Sequence[str]) -> list[Place]:
    """Return the places of NAMES, paths as git prints them: relative to the checkout of CWD."""
    places = [Place(project_of(cwd), name) for name in names]
    tops = tops_of(Path(cwd).resolve())
    for outer in tops[1:]:
        inner = _in(tops[0], outer)
        places += [Place(inner.project, f"{inner.path}/{name}") for name in names]
    return places


def of_pattern(pattern: str, project: str, folder: str) -> Pattern:
    """Return PATTERN as it is kept.

    Args:
        pattern: As an agent wrote it: relative to its checkout, or absolute and within it.
        project: The project of the session.
        folder: The folder of the session; empty where none is known.

    Raises:
        InvalidError: It lies outside the checkout, is empty or too long.
    """
    top = top_of(folder)
    text = pattern.strip()
    absolute = text.startswith("/")
    if top is None:
        return Pattern(own=globs.normal(pattern))
    outside = InvalidError(
        f"{pattern!r} is outside the repository {top}",
        hint="name a path below it, absolute or relative to it: src/api/**",
    )
    if absolute and not text.strip("/"):
        raise outside
    relative = globs.normal(text.lstrip("/") if absolute else text)
    literal, rest = globs.split(relative)
    root = Path("/") if absolute else top
    places = _patterns(Path(normpath(root / literal)), rest, folder)
    mine = [place.path for place in places if place.project == project]
    if absolute and not mine:
        raise outside
    own = mine[0] or "**" if absolute else relative
    others = (place for place in places if (place.project, place.path) != (project, own))
    return Pattern(own=own, others=tuple(dict.fromkeys(others)))


def _patterns(literal: Path, rest: str, folder: str) -> list[Place]:
    found: list[Place] = []
    for spelled in _spellings(literal):
        for top in _tops(spelled, folder):
            place = _in(spelled, top)
            whole = "/".join(part for part in (place.path, rest) if part)
            found.append(Place(place.project, whole or "**"))
    return found


def _tops(path: Path, folder: str) -> Iterable[Path]:
    """Return the checkouts around PATH, and that of the session where PATH lies in it."""
    tops = tops_of(path)
    session = top_of(folder)
    if session is not None:
        tops += [one for one in (session, session.resolve()) if path.is_relative_to(one)]
    return dict.fromkeys(tops)


def _in(path: Path, top: Path) -> Place:
    relative = path.relative_to(top).as_posix()
    return Place(project_of(str(top)), "" if relative == "." else relative)


def _spellings(file: Path) -> list[Path]:
    """Return FILE as it is named, where its folder really is, and what it leads to."""
    return list(dict.fromkeys((file, file.parent.resolve() / file.name, file.resolve())))
