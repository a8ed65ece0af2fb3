"""Processes of ours that outlive who starts them."""

import os
import sys
from pathlib import Path

from arsenale_core.config import plain_environment
from arsenale_core.files import make_private


def spawn(module: str, home: Path, err: Path) -> int:
    """Start `python -m MODULE` in a session of its own; return its process id.

    It gets no more of our environment than it needs; what it prints is appended to ERR (0600).
    """
    make_private(err.parent)
    out = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            # -P: the current folder is a project's, and what lies there is not ours to import
            [sys.executable, "-P", "-m", module],
            plain_environment(home),
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)]
            + [(os.POSIX_SPAWN_DUP2, out, number) for number in (1, 2)],
            setsid=True,
        )
    finally:
        os.close(null)
        os.close(out)
