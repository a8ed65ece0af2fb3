"""Private folders, and files that somebody else may have placed."""

import errno
import os
import stat
from pathlib import Path

from arsenale_core.errors import InvalidError

CHUNK_BYTES = 1 << 20


def make_private(folder: Path) -> None:
    """Make FOLDER and what is missing above it, for nobody but the user (0700).

    `Path.mkdir(parents=True, mode=0o700)` opens the folders above to others: its mode is only of
    the last.
    """
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)


def read_regular(path: Path, max_bytes: int, *, follow_links: bool = False) -> bytes:
    """Return the content of PATH, which somebody else may have placed.

    A checkout can hold a link to `/dev/zero`, a pipe that nobody writes to or a huge file. So only
    a regular file is opened, without waiting for it, and no more than MAX_BYTES are read.

    Args:
        path: The file.
        max_bytes: The largest size that is accepted.
        follow_links: Accept a symbolic link to a regular file: for files that the user places.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be opened or read.
        InvalidError: It is not a regular file, or it is larger than MAX_BYTES.
    """
    _check(path, os.stat(path, follow_symlinks=follow_links))  # opening some devices acts already
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags | (0 if follow_links else os.O_NOFOLLOW))
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _refusal(path, "is a symbolic link") from exc
        raise
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        _check(path, os.fstat(descriptor))
        content = bytearray()
        while chunk := file.read(min(CHUNK_BYTES, max_bytes + 1 - len(content))):
            content += chunk
            if len(content) > max_bytes:
                raise _refusal(path, f"is larger than {max_bytes:,} bytes")
    return bytes(content)


def _check(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _refusal(path, "is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "is not a regular file")


def _refusal(path: Path, why: str) -> InvalidError:
    return InvalidError(f"{path} {why}", hint="replace it with a regular file of that size or less")
