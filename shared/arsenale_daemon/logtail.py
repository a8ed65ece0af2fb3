"""The last lines of a log file, and those that come; a rotated file is followed to the new one."""

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from arsenale_core.errors import NotFoundError, UnavailableError

POLL_S = 0.2


def lines(path: Path, last: int, *, follow: bool) -> Iterator[str]:
    """Yield the LAST lines of PATH, then, if FOLLOW, new ones for ever.

    Raises:
        UnavailableError: There is no log, and nobody wants to wait for one.
    """
    while True:
        try:
            file = path.open(encoding="utf-8", errors="replace")
        except OSError as exc:
            if not follow:
                raise UnavailableError(
                    f"{path}: {exc.strerror}", hint="the log begins with `arsenale up`"
                ) from exc
            time.sleep(POLL_S)
            continue
        with file:
            yield from deque(file, last)
            if not follow:
                return
            inode = os.fstat(file.fileno()).st_ino
            while _is_still(path, inode):
                if line := file.readline():
                    yield line
                else:
                    time.sleep(POLL_S)
            yield from file
        last = 1_000_000


def _is_still(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except OSError:
        return False


def file_of(home: Path, name: str) -> Path:
    """Return the log NAME of HOME.

    Raises:
        NotFoundError: There is none of this name.
    """
    folder = home / "logs"
    for suffix in (".log", ".err", ""):
        path = folder / f"{name}{suffix}"
        if path.parent == folder and path.is_file():
            return path
    if name == "daemon":
        return folder / "daemon.log"
    known = sorted({path.stem for path in folder.glob("*.*")}) or ["none yet"]
    raise NotFoundError("log", name, hint=f"there are {', '.join(known)}")


def readable(line: str) -> str:
    """Return a line of a structured log as people read it: local time, level, event, the rest.

    A line that is not JSON is returned as it is.
    """
    try:
        said = json.loads(line)
        at = datetime.fromisoformat(said.pop("timestamp")).astimezone()
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    level, logger = str(said.pop("level", "")).upper(), said.pop("logger", "")
    event, trace = said.pop("event", ""), said.pop("exception", "")
    rest = "".join(f" {key}={_plain(value)}" for key, value in said.items())
    head = f"{at:%Y-%m-%d %H:%M:%S} {level:7} {logger}: {event}{rest}\n"
    return head + (f"{trace}\n" if trace else "")


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if " " in text and isinstance(value, str) else text
