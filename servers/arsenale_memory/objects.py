"""A folder of bytes named by their SHA-256: written once, never changed, shared by snapshots."""

import os
import zlib
from hashlib import sha256
from pathlib import Path

from arsenale_core.errors import NotFoundError, UnavailableError
from arsenale_core.files import make_private


class Objects:
    """Content-addressed bytes in FOLDER, compressed.

    When `put` has returned, the object survives a kill -9 and a power cut; one that is there is
    whole, since it comes by rename.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Keep DATA; return its SHA-256 in hexadecimal."""
        name = sha256(data).hexdigest()
        path = self._path(name)
        if path.exists():
            return name
        try:
            make_private(path.parent)
            fresh = path.with_name(f".{name}.{os.getpid()}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(zlib.compress(data, 6))
                file.flush()
                os.fsync(descriptor)
            fresh.replace(path)
            _sync_folder(path.parent)
        except OSError as exc:
            raise UnavailableError(
                f"{path.parent}: {exc.strerror}", hint="make room, or make it writable"
            ) from exc
        return name

    def get(self, name: str) -> bytes:
        """Return the bytes called NAME.

        Raises:
            NotFoundError: There are none.
            UnavailableError: They are damaged.
        """
        try:
            data = zlib.decompress(self._path(name).read_bytes())
        except FileNotFoundError as exc:
            raise NotFoundError("object", name, hint="the snapshot is incomplete") from exc
        except (OSError, zlib.error) as exc:
            raise UnavailableError(f"the object {name} is damaged", hint="use a backup") from exc
        if sha256(data).hexdigest() != name:
            raise UnavailableError(f"the object {name} is damaged", hint="use a backup")
        return data

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
