"""Files named by their SHA-256: what layers are made of, in the folder that all servers share."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_core.files import make_private

BLOCK = 2**20
SUFFIX = ".gguf"
STAGING, OWNER = ".staging-", ".owner"


class Artifacts:
    """Layer files in FOLDER: written once, never changed.

    A file that is there is whole, since it comes by rename; when `keep` has returned it survives a
    kill -9 and a power cut.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha: str) -> Path:
        """Return where the file SHA is, or would be."""
        return self._folder / sha[:2] / f"{sha}{SUFFIX}"

    def is_here(self, sha: str) -> bool:
        """Say whether there is a file SHA."""
        return self.path(sha).is_file()

    @contextmanager
    def staging(self) -> Generator[Path]:
        """Give a folder of our own on the same disk; it is gone at the end.

        Raises:
            UnavailableError: It cannot be made.
        """
        try:
            make_private(self._folder)
            _sweep(self._folder)
            folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=self._folder))
            owner = _owned(folder)
        except OSError as exc:
            raise _full(self._folder, exc) from exc
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            owner.close()

    def keep(self, staged: Path, sha: str) -> None:
        """Move STAGED, which has the hash SHA, to its place.

        Raises:
            UnavailableError: It cannot be written.
        """
        place = self.path(sha)
        try:
            make_private(place.parent)
            _sync(staged)
            staged.replace(place)
            _sync(place.parent)
        except OSError as exc:
            raise _full(place.parent, exc) from exc

    def drop(self, sha: str) -> None:
        """Remove the file SHA, if there is one."""
        self.path(sha).unlink(missing_ok=True)

    def fault(self, sha: str) -> str | None:
        """Read the file SHA and say what is wrong with it, if anything is."""
        try:
            with self.path(sha).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return f"its file {self.path(sha)} is missing"
        except OSError as exc:
            return f"its file {self.path(sha)} cannot be read ({exc.strerror})"
        if found != sha:
            return f"its file {self.path(sha)} is damaged: it has SHA-256 {found}"
        return None


def _owned(folder: Path) -> BinaryIO:
    """Mark FOLDER as ours until the file that is returned is closed, or we end."""
    fresh = folder / ".owner.new"
    file = fresh.open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    fresh.replace(folder / OWNER)  # locked before it can be seen
    return file


def _sweep(folder: Path) -> None:
    """Remove what processes left that were killed while they staged a file."""
    for owner in folder.glob(f"{STAGING}*/{OWNER}"):
        try:
            with owner.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
        except OSError:
            continue  # its owner lives, or has just removed it


def copied(source: BinaryIO, target: Path, limit_bytes: int, name: str) -> tuple[str, int]:
    """Copy SOURCE to TARGET; return its SHA-256 and size.

    Raises:
        InvalidError: It has more than LIMIT_BYTES; NAME is what people call it.
        UnavailableError: TARGET cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            while block := source.read(BLOCK):
                size += len(block)
                if size > limit_bytes:
                    raise InvalidError(
                        f"{name} has more than {limit_bytes:,} bytes",
                        hint="train it with a lower rank, or export it in half precision",
                    )
                digest.update(block)
                file.write(block)
    except OSError as exc:
        raise _full(target.parent, exc) from exc
    return digest.hexdigest(), size


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(folder: Path, exc: OSError) -> UnavailableError:
    return UnavailableError(f"{folder}: {exc.strerror}", hint="make room, or make it writable")
