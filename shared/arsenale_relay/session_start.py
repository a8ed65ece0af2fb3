"""The text that a session gets at its start, kept ready as a file for each project.

The daemon writes the files; the hook prints one without asking anybody, so that a session starts as
fast as without Arsenale. Standard library only.
"""

import json
import os
from typing import Any, cast

FOLDER = "session-start"
"""Below `ARSENALE_HOME/run`."""

MOST_BYTES = 1 << 18

DAMAGED = (OSError, ValueError, KeyError, TypeError, RecursionError)
"""What reading a file that somebody damaged raises."""


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
        return text if kept["project"] == normal(project) and isinstance(text, str) else None
    except DAMAGED:
        return None


def write(home: str, project: str, text: str) -> None:
    """Keep TEXT for PROJECT; readers see the old or the new text, whole.

    Raises:
        OSError: The home cannot be written.
    """
    path = file_of(home, project)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fresh = f"{path}.{os.getpid()}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        json.dump({"project": normal(project), "text": text}, file)
    os.replace(fresh, path)


def projects(home: str) -> list[str]:
    """Return the projects with a kept text, the one written last first."""
    folder = os.path.join(home, "run", FOLDER)
    found: list[tuple[float, str]] = []
    for name in _names(folder):
        try:
            with open(os.path.join(folder, name), "rb") as file:
                project: object = json.loads(file.read(MOST_BYTES))["project"]
                if isinstance(project, str) and file_of(home, project).endswith(name):
                    found.append((os.fstat(file.fileno()).st_mtime, project))
        except DAMAGED:
            continue
    return [project for _, project in sorted(found, reverse=True)]


def discard(home: str) -> None:
    """Delete every kept text: what was forgotten must not be told again."""
    folder = os.path.join(home, "run", FOLDER)
    for name in _names(folder):
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


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
