"""What workers say on stderr: a file each, for its owner alone, of a bounded size and number."""

import os
import re
from contextlib import suppress
from pathlib import Path

from arsenale_core.err_files import bound
from arsenale_core.files import make_private

MOST_FILES = 20
"""Files of workers that ended, the newest; those that said nothing leave none."""

_NAME = re.compile(r"inference-worker-(\d+)\.err")


def err_file(folder: Path, number: int) -> Path:
    """Return the file of the worker NUMBER."""
    return folder / f"inference-worker-{number}.err"


def opened(path: Path) -> int:
    """Return a descriptor that appends to PATH; older files make room.

    Raises:
        OSError: It cannot be made.
    """
    make_private(path.parent)
    _prune(path.parent)
    bound(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)  # it may be of a version that was less careful
    return descriptor


def closed(path: Path) -> None:
    """Remove PATH if nothing was said."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def _prune(folder: Path) -> None:
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        with suppress(OSError):
            if _NAME.fullmatch(path.name):
                found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[: -MOST_FILES + 1]:
        for each in (path, path.with_suffix(".err.1")):
            each.unlink(missing_ok=True)
