"""Lock files, by which a process says that it lives: held with `flock` until it ends, however."""

import fcntl
import os
from pathlib import Path


def is_held(path: Path) -> bool:
    """Say whether a process holds the lock file PATH; false where there is no such file.

    Whoever asks takes a shared lock for a moment, so that two who ask are not taken for a holder.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
