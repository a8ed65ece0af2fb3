"""What processes of ours write on stderr: files for their owner, whose size is bounded."""

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 1_000_000
"""A file that has more is moved aside; with what is moved, a process takes twice as much."""


def bound(path: Path) -> None:
    """Move what is in PATH aside when it is too much; who appends to it goes on at its start."""
    with suppress(OSError):
        size = path.stat().st_size
        if size <= MOST_BYTES:
            return
        with path.open("rb") as file:
            file.seek(size - MOST_BYTES)
            end = file.read(MOST_BYTES)
        aside = path.with_suffix(".err.1")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(end)
        os.truncate(path, 0)


def own(folder: Path) -> Path | None:
    """Return the file `*.err` of FOLDER to which this process appends what it writes on stderr.

    `None` for a terminal, a pipe, and a file of somebody else: those are not ours to cut.
    """
    try:
        ours = os.fstat(2)
        appends = fcntl.fcntl(2, fcntl.F_GETFL) & os.O_APPEND
        if not stat.S_ISREG(ours.st_mode) or not appends:
            return None
        return next(
            (path for path in folder.glob("*.err") if os.path.samestat(path.lstat(), ours)), None
        )
    except OSError:
        return None
