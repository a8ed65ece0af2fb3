"""Compiled modules: some in memory, more in a folder of this home.

Loading machine code is running it: of 300 files with a flipped byte the engine takes 262. So what
lies in the folder is private (0600) and carries an HMAC under a key of this home; what does not
check is removed and compiled again, and nothing of a peer is ever loaded.
"""

import contextlib
import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arsenale_core.errors import UnavailableError
from arsenale_core.files import make_private

KEY_BYTES: Final = 32

MOST_BYTES: Final = 512 << 20
"""Of code in a folder; what was not used for longest goes."""

_MAC_BYTES: Final = hashlib.sha256().digest_size


def load_or_make_key(file: Path) -> bytes:
    """Return the key in FILE (0600), made if absent; two that make it at once agree.

    Raises:
        UnavailableError: It cannot be read or written, or is not one.
    """
    try:
        make_private(file.parent)
        if not file.exists():
            _write(file, os.urandom(KEY_BYTES), first=True)
        key = file.read_bytes()
    except OSError as exc:
        raise UnavailableError(f"{file}: {exc.strerror}", hint="make it readable to you") from exc
    if len(key) != KEY_BYTES:
        raise UnavailableError(f"{file} holds no key", hint="remove it; the cache is made again")
    return key


@dataclass(frozen=True, slots=True)
class CodeFolder:
    """Machine code by engine and module, in FOLDER, under KEY; MOST_BYTES of it are kept."""

    folder: Path
    key: bytes
    most_bytes: int = MOST_BYTES

    def get(self, engine: str, module: str) -> bytes | None:
        """Return the code of MODULE (SHA-256, hex) for ENGINE; `None` where there is none."""
        file = self._file(engine, module)
        try:
            data = file.read_bytes()
        except OSError:
            return None
        mac, code = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if hmac.compare_digest(mac, self._mac(engine, module, code)):
            with contextlib.suppress(OSError):
                os.utime(file)
            return code
        with contextlib.suppress(OSError):
            file.unlink()
        return None

    def put(self, engine: str, module: str, code: bytes) -> None:
        """Keep CODE; a folder that cannot be written keeps nothing."""
        with contextlib.suppress(OSError):
            make_private(self.folder)
            _write(self._file(engine, module), self._mac(engine, module, code) + code)
            self._prune()

    def _prune(self) -> None:
        """Remove what was not used for longest, until there is no more than MOST_BYTES."""
        with os.scandir(self.folder) as entries:
            seen = [(one.stat().st_mtime_ns, one.stat().st_size, one.path) for one in entries]
        over = sum(size for _, size, _ in seen) - self.most_bytes
        for _, size, path in sorted(seen):
            if over <= 0:
                return
            Path(path).unlink(missing_ok=True)
            over -= size

    def _file(self, engine: str, module: str) -> Path:
        name = hashlib.sha256(f"{engine}\0{module}".encode()).hexdigest()
        return self.folder / f"{name}.code"

    def _mac(self, engine: str, module: str, code: bytes) -> bytes:
        said = f"arsenale-mesh-code-v1\0{engine}\0{module}\0".encode()
        return hmac.digest(self.key, said + code, "sha256")


def _write(file: Path, data: bytes, *, first: bool = False) -> None:
    """Write FILE whole or not at all; of several FIRST ones the first wins."""
    fresh = file.with_name(f"{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        if first:
            with contextlib.suppress(FileExistsError):
                os.link(fresh, file)
        else:
            fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
