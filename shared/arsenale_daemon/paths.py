"""The files of `ARSENALE_HOME` that the daemon owns."""

import os
import secrets
from pathlib import Path

from arsenale_core.errors import UnavailableError
from arsenale_core.files import make_private

CHAT_KEY = "chat-key"
"""The file of the key that opens the sidecar's OpenAI-compatible interface and nothing else."""


def daemon_lock(home: Path) -> Path:
    """Return the file that the running daemon holds locked."""
    return home / "run" / "daemon.lock"


def state_file(home: Path) -> Path:
    """Return the file in which the running daemon says its pid, version and port."""
    return home / "run" / "daemon.json"


def log_file(home: Path) -> Path:
    """Return the daemon's structured log."""
    return home / "logs" / "daemon.log"


def err_file(home: Path) -> Path:
    """Return where the daemon's stderr goes: what it said before it could log."""
    return home / "logs" / "daemon.err"


def token(home: Path) -> str:
    """Return the bearer token of HTTP, made on first use; its file has mode 0600.

    It opens everything: memories, tools, administration.

    Raises:
        UnavailableError: The file cannot be read or made, or others may read it.
    """
    return _secret(home / "token")


def chat_key(home: Path) -> str:
    """Return the key for clients of the sidecar's `/v1`, made on first use; its file has mode 0600.

    It opens neither memories nor administration.

    Raises:
        UnavailableError: The file cannot be read or made, or others may read it.
    """
    return _secret(home / CHAT_KEY)


def _secret(path: Path) -> str:
    try:
        if not path.exists():
            _create(path, secrets.token_urlsafe(32))
        if path.stat().st_mode & 0o077:
            raise UnavailableError(f"{path} can be read by others", hint=f"chmod 600 {path}")
        return path.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise UnavailableError(
            f"{path}: {exc.strerror}", hint="make it readable, or set another ARSENALE_HOME"
        ) from exc


def _create(path: Path, text: str) -> None:
    make_private(path.parent)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
    try:
        os.link(fresh, path)  # unlike rename, never replaces the token another process just made
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
