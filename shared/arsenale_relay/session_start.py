"""The text that a session gets at its start, kept ready as a file for each project.

The daemon writes the files; the hook prints one without asking anybody, so that a session starts as
fast as without Arsenale. Standard library only.
"""

import json
import os
import time
from typing import Any, cast

from arsenale_relay import endpoint

FOLDER = "session-start"
"""Below `ARSENALE_HOME/run`."""

MOST_BYTES = 1 << 18

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a file that somebody damaged raises."""


FORM = 2
"""Texts of another form were made by other rules, and are not used."""

STAMP = "discarded"
"""Holds when texts were discarded last, Unix nanoseconds: older answers must not be kept."""

CHANGED = "changed"
"""An empty file, as old as the last change that the daemon did not make: older texts lack it."""

ANYWHERE = "/"
"""The folder whose text a project gets that has none yet, while no daemon answers."""


def normal(project: str) -> str:
    """Return the folder PROJECT as it is named here: absolute, without a slash at its end."""
    return os.path.abspath(project)


def file_of(home: str, project: str) -> str:
    """Return the path of the file for the folder PROJECT."""
    import hashlib  # 5 ms, needed here only

    name = hashlib.sha256(os.fsencode(normal(project))).hexdigest()[:32]
    return os.path.join(home, "run", FOLDER, f"{name}.json")


def read(home: str, project: str) -> str | None:
    """Return the text for PROJECT, which may be empty; None when none is kept."""
    try:
        with open(file_of(home, project), "rb") as file:
            kept: Any = json.loads(file.read(MOST_BYTES))
        text: object = cast("dict[str, object]", kept)["text"]
        ours = (
            kept.get("form") == FORM
            and kept["project"] == normal(project)
            and kept["asked_ns"] > discarded_ns(home)
        )
        return text if ours and isinstance(text, str) else None
    except DAMAGED:
        return None


def write(home: str, project: str, text: str, asked_ns: int) -> None:
    """Keep TEXT for PROJECT; readers see the old or the new text, whole.

    ASKED_NS is when the servers were asked for it, Unix nanoseconds: a text that was asked for
    before the last `discard` may hold what was forgotten, and `read` does not return it.

    Raises:
        OSError: The home cannot be written.
    """
    path = file_of(home, project)
    _make_folder(home)
    fresh = f"{path}.{os.getpid()}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        kept = {"form": FORM, "project": normal(project), "asked_ns": asked_ns, "text": text}
        json.dump(kept, file)
    os.replace(fresh, path)
    if asked_ns <= discarded_ns(home):
        forget(home, project)


def discarded_ns(home: str) -> int:
    """Return when texts were discarded last, Unix nanoseconds; 0 for never."""
    try:
        with open(os.path.join(home, "run", FOLDER, STAMP), encoding="ascii") as file:
            return int(file.read(30))
    except (OSError, ValueError):
        return 0


def mark_changed(home: str) -> None:
    """Note that another process than the daemon changed what sessions get.

    Texts that were written before stay, for sessions that start while no daemon answers.

    Raises:
        OSError: The home cannot be written.
    """
    folder = _make_folder(home)
    path = os.path.join(folder, CHANGED)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    os.utime(path)


def changed_at(home: str) -> float:
    """Return when `mark_changed` was called last, Unix seconds; 0 for never."""
    try:
        return os.stat(os.path.join(home, "run", FOLDER, CHANGED)).st_mtime
    except OSError:
        return 0.0


def projects(home: str) -> list[str]:
    """Return the projects with a kept text, the one written last first."""
    folder = os.path.join(home, "run", FOLDER)
    found: list[tuple[float, str]] = []
    for name in _names(folder):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                project: object = json.loads(file.read(MOST_BYTES))["project"]
                if (
                    isinstance(project, str)
                    and project == normal(project)
                    and file_of(home, project).endswith(name)
                ):
                    found.append((os.fstat(file.fileno()).st_mtime, project))
        except DAMAGED:
            continue
    return [project for _, project in sorted(found, reverse=True)]


def discard(home: str) -> None:
    """Delete every kept text: what was forgotten must not be given again.

    The stamp comes first, so that a text that is just being written does not count either.

    Raises:
        OSError: The home cannot be written.
    """
    folder = _make_folder(home)
    fresh = os.path.join(folder, f"{STAMP}.{os.getpid()}.new")
    with open(fresh, "w", encoding="ascii") as file:
        file.write(str(time.time_ns()))
    os.replace(fresh, os.path.join(folder, STAMP))
    for name in _names(folder):
        if name in (STAMP, CHANGED):
            continue
        try:
            os.unlink(os.path.join(folder, name))
        except OSError:
            continue


def forget(home: str, project: str) -> None:
    """Delete the kept text of PROJECT."""
    try:
        os.unlink(file_of(home, project))
    except OSError:
        pass


def _make_folder(home: str) -> str:
    """Make the folder of the kept texts, private at each level, and return its path."""
    folder = os.path.join(endpoint.run_dir(home), FOLDER)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
