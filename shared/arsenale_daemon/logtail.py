"""The last lines of a log file, and those that come; a rotated file is followed to the new one."""

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from arsenale_core.errors import UnavailableError

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
