"""Which files of projects the user has approved: `ARSENALE_HOME/trusted.json`.

A checkout is written by others, and a file in it must not speak to the assistant before the user
has read it. An approval is of one path with one content (SHA-256), as direnv does it: a file that
changes must be approved again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from arsenale_core.errors import InvalidError
from arsenale_core.files import make_private, read_regular

FILE = "trusted.json"
MOST_BYTES = 16 << 20

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidError)
"""What reading a damaged file of approvals raises."""

PROJECT_FILES = (Path(".arsenale", "identity.toml"), Path(".arsenale", "identity.local.toml"))
"""Every file of a checkout that Arsenale reads by itself, below the project's root."""

PROJECT_FILE_BYTES = 1 << 20
"""The largest file of a project that is read."""


class Trust:
    """The approvals of one home; a damaged file of them counts as none."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = home / FILE

    def approved(self) -> dict[str, str]:
        """Return the SHA-256 of each approved file, by its absolute path."""
        try:
            kept: Any = json.loads(read_regular(self._file, MOST_BYTES))
            files = cast("dict[object, object]", kept["files"])
            return {str(path): str(sha) for path, sha in files.items()}
        except DAMAGED:
            return {}

    def holds(self, path: Path, content: bytes) -> bool:
        """Return whether the user has approved CONTENT at PATH."""
        return self.approved().get(_name(path)) == _digest(content)

    def knows(self, path: Path) -> bool:
        """Return whether the user has approved PATH, with this content or another."""
        return _name(path) in self.approved()

    def approve(self, path: Path, content: bytes) -> None:
        """Note that the user has approved CONTENT at PATH.

        Raises:
            OSError: The home cannot be written.
        """
        with self._changing() as files:
            files[_name(path)] = _digest(content)

    def revoke(self, path: Path) -> bool:
        """Withdraw the approval of PATH; return whether there was one.

        Raises:
            OSError: The home cannot be written.
        """
        with self._changing() as files:
            return files.pop(_name(path), None) is not None

    @contextmanager
    def _changing(self) -> Generator[dict[str, str]]:
        make_private(self._home)
        lock = os.open(self._home / "trusted.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            files = self.approved()
            yield files
            fresh = self._file.with_name(f".{FILE}.new")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump({"files": files}, file, indent=1)
                file.flush()
                os.fsync(descriptor)
            fresh.replace(self._file)
        finally:
            os.close(lock)


def _name(path: Path) -> str:
    """Return PATH with the links of its folder resolved: one file has one name."""
    return str(Path(os.path.realpath(path.parent)) / path.name)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
