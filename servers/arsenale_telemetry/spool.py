"""The folder between hooks and store: how an event's file is claimed, read whole, and let go.

A hook writes one file and knows nothing else. The intake moves it to `claimed/` (so that no new
hook can open it by name), makes sure that its writer is done, stores what it says, and unlinks it.
Whoever is killed at any of these steps leaves a file that the next run finds: nothing is lost, and
the store's keys see to it that nothing counts twice.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson

from arsenale_core.errors import UnavailableError
from arsenale_core.files import make_private
from arsenale_core.redaction import redact
from arsenale_telemetry import lenient

WRITER_GRACE_S = 5.0
"""Where the kernel cannot say whether a file is still open: how long an incomplete one may wait."""

QUARANTINE_MAX_FILES = 200
QUARANTINE_FILE_BYTES = 256 * 1024
"""Kept of one damaged file: what is looked through for secrets."""

QUARANTINE_MAX_BYTES = 16 * 2**20
"""Damaged input is kept for a look, oldest thrown out first."""

FULL_MARK = "full"
"""A file of this name tells the hooks that the spool is full and events are to be dropped."""

_SETLEASE = getattr(fcntl, "F_SETLEASE", None)  # Linux only


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A file of the spool that is ours to store and then to let go.

    Attributes:
        origin: Names the file in a way that is the same after a crash and another read.
        at_us: When the hook wrote it: the file's modification time, microseconds.
    """

    path: str
    origin: str
    at_us: int
    content: bytes


class Spool:
    """The spool folder, mode 0700. Only one process drains it: the one that holds `lock()`.

    Args:
        folder: Where hooks write; made if absent.

    Raises:
        UnavailableError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claimed = folder / "claimed"
        self._claimed_prefix = f"{self._claimed}{os.sep}"
        self._quarantine = folder / "quarantine"
        self._make()

    def lock(self) -> int | None:
        """Return a descriptor that holds the right to drain, or `None` while another has it."""
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def claim(self, limit: int, max_bytes: int, now: float) -> tuple[list[Claimed], bool]:
        """Take over complete files: at most LIMIT, and no more once they hold MAX_BYTES.

        Returns:
            The files, and whether others are still being written.
        """
        if not os.path.isdir(self._claimed):
            self._make()  # somebody cleared the folder while we ran
        taken: list[Claimed] = []
        busy, held = False, 0
        for path in self._candidates(limit):
            if held >= max_bytes:
                break
            claimed = self._read(path, now)
            if claimed is None:
                busy = True
            else:
                taken.append(claimed)
                held += len(claimed.content)
        return taken, busy

    def let_go(self, files: list[Claimed]) -> None:
        """Unlink FILES: what they say is stored."""
        for file in files:
            with suppress(FileNotFoundError):
                os.unlink(file.path)

    def quarantine(self, file: Claimed, content: bytes) -> None:
        """Keep CONTENT, a damaged part of FILE, for a person to look at; secrets are masked."""
        kept = self._quarantine / os.path.basename(file.path)
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            text = lenient.decode(content[:QUARANTINE_FILE_BYTES])
            out.write(redact(text).encode("utf-8", "replace"))
        self._bound_quarantine()

    def waiting(self) -> tuple[int, int]:
        """Return how many files wait to be stored, and their bytes."""
        sizes = [
            _size(entry)
            for folder in (self.folder, self._claimed)
            for entry in _entries(folder)
            if entry.name.endswith(".json")
        ]
        return len(sizes), sum(sizes)

    def bound(self, max_bytes: int) -> int:
        """Keep the spool under MAX_BYTES while nothing can be stored: bodies go, events stay.

        Each file's bodies are replaced by their size until the rest fits; if even that is too much,
        the hooks are told to drop new events (`FULL_MARK`).

        Returns:
            How many bodies were dropped.
        """
        dropped = 0
        _, total = self.waiting()
        if total > max_bytes:
            self._claim_everything()
            for path in sorted(self._claimed_files(), key=lambda p: -os.stat(p).st_size):
                saved = _drop_bodies(Path(path))
                dropped += saved > 0
                total -= saved
                if total <= max_bytes:
                    break
        mark = self.folder / FULL_MARK
        if total > max_bytes:
            mark.touch(mode=0o600)
        else:
            mark.unlink(missing_ok=True)
        return dropped

    def _make(self) -> None:
        try:
            for each in (self.folder, self._claimed, self._quarantine):
                make_private(each)
            self.folder.chmod(0o700)
        except OSError as exc:
            raise UnavailableError(
                f"{self.folder}: {exc.strerror}", hint="make it writable, or set ARSENALE_HOME"
            ) from exc

    def _candidates(self, limit: int) -> Iterator[str]:
        """Give claimed files first, then claim new ones as they are asked for."""
        yielded = 0
        for path in self._claimed_files():
            yield path
            yielded += 1
            if yielded == limit:
                return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and (moved := self._move(entry)):
                    yield moved
                    yielded += 1
                    if yielded == limit:
                        return

    def _claim_everything(self) -> None:
        for entry in _entries(self.folder):
            if entry.name.endswith(".json"):
                self._move(entry)

    def _claimed_files(self) -> list[str]:
        return sorted(entry.path for entry in _entries(self._claimed))

    def _move(self, entry: os.DirEntry[str]) -> str | None:
        # The inode makes the name free: a reused process id may claim the same one again. Plain
        # strings: this runs for every event, and pathlib would be a tenth of the whole drain.
        target = f"{self._claimed_prefix}{entry.name[:-5]}.{entry.inode()}.json"
        try:
            if os.path.exists(target):
                return None
            os.rename(entry.path, target)
        except FileNotFoundError:
            return None
        return target

    def _read(self, path: str, now: float) -> Claimed | None:
        """Return the file once its writer is done; `None` before."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(descriptor)
            writer_known_done = _has_no_writer(descriptor)
            if writer_known_done is False:
                return None
            content = _read_all(descriptor, status.st_size)
        finally:
            os.close(descriptor)
        cut_off = writer_known_done is None and not content.endswith(b"\n")
        if cut_off and now - status.st_mtime < WRITER_GRACE_S:
            return None
        return Claimed(
            path=path,
            origin=f"{os.path.basename(path)}:{status.st_mtime_ns}",
            at_us=status.st_mtime_ns // 1000,
            content=content,
        )

    def _bound_quarantine(self) -> None:
        kept = sorted(self._quarantine.iterdir(), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in kept)
        while kept and (len(kept) > QUARANTINE_MAX_FILES or total > QUARANTINE_MAX_BYTES):
            oldest = kept.pop(0)
            total -= oldest.stat().st_size
            oldest.unlink(missing_ok=True)


def documents(content: bytes) -> tuple[list[dict[str, object]], list[bytes]]:
    """Split what a file says into JSON objects and the damaged rest.

    A file is one document; several lines when a process id came round again before the drain did.
    What is not strict JSON is read leniently: an odd byte costs that byte, not the event.
    """
    whole = _object(content)
    if whole is not None:
        return [whole], []
    good: list[dict[str, object]] = []
    damaged: list[bytes] = []
    for line in content.split(b"\n"):
        if line.strip():
            found = _object(line)
            if found is None:
                damaged.append(line)
            else:
                good.append(found)
    if not damaged:
        return good, []
    read, rest = lenient.documents(content)
    if len(read) > len(good):
        return read, rest
    return good, [one for line in damaged for one in _read_into(good, line)]


def _read_into(good: list[dict[str, object]], line: bytes) -> list[bytes]:
    """Add the events of a damaged LINE to GOOD; return what is left of it."""
    read, rest = lenient.documents(line)
    good += read
    return rest


def _object(content: bytes) -> dict[str, object] | None:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def _has_no_writer(descriptor: int) -> bool | None:
    """Say whether nobody else has the file open; `None` where the kernel cannot tell.

    A write lease is granted only on a file that no other descriptor has open (fcntl(2)).
    """
    if _SETLEASE is None:
        return None
    try:
        fcntl.fcntl(descriptor, _SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, _SETLEASE, fcntl.F_UNLCK)
    except OSError as exc:
        return False if exc.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _read_all(descriptor: int, size: int) -> bytes:
    """Return what is in a file of SIZE bytes, and what was added since that was asked."""
    content = b""
    while more := os.read(descriptor, size + 1):
        content += more
    return content


def _drop_bodies(path: Path) -> int:
    """Replace the bodies in a file by their sizes; return how many bytes that saved."""
    before = path.stat()
    found, damaged = documents(path.read_bytes())
    if damaged or not found:
        return 0
    for event in found:
        for name in ("tool_response", "tool_output", "tool_input", "result_json", "output"):
            if name in event:
                event[name] = {"arsenale_dropped_bytes": len(orjson.dumps(event[name]))}
    small = b"\n".join(orjson.dumps(event) for event in found) + b"\n"
    if len(small) >= before.st_size:
        return 0
    shrunk = path.with_suffix(".tmp")
    shrunk.write_bytes(small)
    shutil.copystat(path, shrunk)
    os.utime(shrunk, ns=(before.st_atime_ns, before.st_mtime_ns))
    shrunk.replace(path)
    return before.st_size - len(small)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.is_file(follow_symlinks=False)]


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
