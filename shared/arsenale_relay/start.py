"""Start the daemon when there is none: one winner by file lock, the others wait for its socket."""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable

from arsenale_relay import endpoint

POLL_S = 0.004
"""How often the process that starts the daemon looks for its socket."""

OTHERS_POLL_S = 0.02
"""How often the others look: a host starts a relay for each server, and they share its cores."""

MAX_FAILURES = 3
"""After so many daemons that ended with an error no more is started: each would."""

PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/homebrew/bin"
"""`PATH` of a daemon that a relay starts."""

ERR_LOG_MAX_BYTES = 1_000_000


class StartError(Exception):
    """No daemon answered within the budget."""


def connect_or_start(
    home: str,
    budget_s: float,
    wait: Callable[[float], None],
    environment: dict[str, str] | None = None,
) -> socket.socket:
    """Return a connection to HOME's daemon, started if there is none.

    Args:
        home: The absolute `ARSENALE_HOME`.
        budget_s: How long to try, seconds.
        wait: Sleeps for the given seconds; may raise to give up early.
        environment: Of a daemon that is started; by default `bare_environment`.

    Raises:
        StartError: The daemon cannot be started, or did not answer in time.
    """
    deadline = time.monotonic() + budget_s
    lock: int | None = None
    child: int | None = None
    failures = 0
    try:
        while True:
            try:
                return endpoint.connect(home)
            except OSError as exc:
                reason = exc
            if lock is None:
                lock = _try_lock(home)
            elif child is None:
                child = _spawn(home, environment)
            elif (status := _exit_status(child)) is not None:
                # Ours ended and nobody listens: it gave up because an older one was just ending
                # (0), or was killed (below 0), or cannot serve.
                failures += status > 0
                child = _spawn(home, environment) if failures < MAX_FAILURES else child
            if failures == MAX_FAILURES:
                raise StartError(_said(home, "does not start"))
            if time.monotonic() > deadline:
                raise StartError(_said(home, f"does not answer ({reason.strerror or reason})"))
            wait(OTHERS_POLL_S if lock is None else POLL_S)
    except OSError as exc:
        raise StartError(f"cannot start the Arsenale daemon in {home}: {exc.strerror}") from exc
    finally:
        if lock is not None:
            os.close(lock)


def _try_lock(home: str) -> int | None:
    path = os.path.join(endpoint.run_dir(home), "start.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _said(home: str, what: str) -> str:
    log = os.path.join(home, "logs", "daemon.err")
    return f"the Arsenale daemon {what}: see {log} and run `arsenale doctor`"


def _exit_status(child: int) -> int | None:
    """Return the exit code of CHILD, the signal that ended it as -N; `None` while it runs."""
    try:
        pid, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if pid else None


def _spawn(home: str, environment: dict[str, str] | None) -> int:
    """Start the daemon in a session of its own; its output goes to `logs/daemon.err`."""
    logs = os.path.join(home, "logs")
    os.makedirs(logs, mode=0o700, exist_ok=True)
    path = os.path.join(logs, "daemon.err")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if os.path.exists(path) and os.path.getsize(path) > ERR_LOG_MAX_BYTES:
        flags |= os.O_TRUNC
    log = os.open(path, flags, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            # -P: the current folder is a project's, and what lies there is not ours to import.
            [sys.executable, "-P", "-m", "arsenale_daemon"],
            environment or bare_environment(home),
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)]
            + [(os.POSIX_SPAWN_DUP2, log, number) for number in (1, 2)],
            setsid=True,
        )
    finally:
        os.close(null)
        os.close(log)


def bare_environment(home: str) -> dict[str, str]:
    """Return the environment of a daemon for HOME that a session starts.

    The daemon serves every session, so the one that starts it must not configure it: the variables
    of a session may come from a project's files, and an endpoint among them would receive the
    memories of all projects. Settings come from `config.toml`, or from `arsenale up`.
    """
    kept = {"HOME": os.environ["HOME"]} if os.environ.get("HOME") else {}
    return {**kept, "PATH": PROGRAMS, "LANG": "C.UTF-8", "ARSENALE_HOME": home}
