"""Where the daemon listens, for both ends: the one module that knows unix sockets.

Another platform's way (a named pipe on Windows) belongs here, behind the same three functions.
"""

import os
import socket

MAX_PATH_BYTES = 100
"""A unix socket's path has 108 bytes on Linux and 104 on macOS (`sun_path`), its NUL included."""


def home_dir() -> str:
    """Return the absolute `ARSENALE_HOME`, by default `~/.arsenale`."""
    return os.path.abspath(os.path.expanduser(os.environ.get("ARSENALE_HOME") or "~/.arsenale"))


def run_dir(home: str) -> str:
    """Return the folder of HOME's locks, pid and socket, made with mode 0700.

    Raises:
        OSError: It cannot be made.
    """
    os.makedirs(home, mode=0o700, exist_ok=True)  # by itself: a parent would get the umask's mode
    folder = os.path.join(home, "run")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def socket_path(home: str, name: str = "daemon") -> str:
    """Return the path of the socket NAME: in HOME, or if too long in a private temporary folder.

    That is in /tmp, whatever `TMPDIR` says: it may be long too, and hosts start a relay without it.

    Raises:
        PermissionError: The temporary folder is there and belongs to someone else.
    """
    path = os.path.join(home, "run", f"{name}.sock")
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    import hashlib  # 4 MB and 5 ms, needed here only
    import tempfile

    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    file = f"{digest}.sock" if name == "daemon" else f"{digest}-{name}.sock"
    temporary = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
    folder = os.path.join(temporary, f"arsenale-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a private folder of yours: remove it")
    return os.path.join(folder, file)


def connect(home: str) -> socket.socket:
    """Connect to HOME's daemon.

    Raises:
        OSError: None listens.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(socket_path(home))
    except OSError:
        connection.close()
        raise
    return connection


def listen(home: str) -> socket.socket:
    """Listen as HOME's daemon; a stale socket is replaced. The caller holds the daemon's lock.

    Raises:
        OSError: The socket cannot be made.
    """
    path = socket_path(home)
    run_dir(home)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener
