"""The daemon from outside: ask it, start it, end it."""

import json
import socket
import time
from pathlib import Path
from typing import Any

from arsenale_core import locks
from arsenale_core.errors import UnavailableError
from arsenale_daemon import paths
from arsenale_relay import endpoint
from arsenale_relay.start import StartError, connect_or_start

ANSWER_S = 20.0
START_S = 30.0
STOP_S = 20.0
"""How long the daemon may take to answer, to start and to end, seconds."""


def ask(home: Path, command: str) -> dict[str, Any] | None:
    """Send COMMAND (`status`, `stop`) to HOME's daemon; `None` when none runs.

    Raises:
        UnavailableError: One runs and does not answer.
    """
    try:
        connection = endpoint.connect(str(home))
    except OSError:
        return None
    with connection:
        return _ask(connection, command)


def up(home: Path) -> dict[str, Any]:
    """Start HOME's daemon unless it runs, with the settings in our environment; return its status.

    Raises:
        UnavailableError: It cannot be started.
    """
    from arsenale_core.config import chosen_environment  # noqa: PLC0415  # `status` needs none

    try:
        environment = chosen_environment(home)
        while True:
            with connect_or_start(str(home), START_S, time.sleep, environment) as connection:
                if (answer := _ask(connection, "status")) is not None:
                    return answer
    except StartError as exc:
        raise UnavailableError(_why_not_up(home, str(exc))) from exc


def down(home: Path) -> bool:
    """End HOME's daemon and wait until it is gone; false when none ran.

    Raises:
        UnavailableError: It does not end.
    """
    answered = ask(home, "stop")
    if answered is None and not locks.is_held(paths.daemon_lock(home)):
        return False
    deadline = time.monotonic() + STOP_S
    while locks.is_held(paths.daemon_lock(home)):
        if time.monotonic() > deadline:
            pid = answered["pid"] if answered else "its pid"
            raise UnavailableError("the daemon does not end", hint=f"end it with `kill {pid}`")
        time.sleep(0.02)
    return True


def _ask(connection: socket.socket, command: str) -> dict[str, Any] | None:
    connection.settimeout(ANSWER_S)
    try:
        connection.sendall(json.dumps({"arsenale": 1, "control": command}).encode() + b"\n")
        with connection.makefile("rb") as answer:
            line = answer.readline()
    except ConnectionError:
        return None  # it was just ending
    except OSError as exc:
        raise UnavailableError(
            "the daemon runs but does not answer",
            hint="read `arsenale logs`; its pid is in run/daemon.json, to end it with `kill`",
        ) from exc
    answer = json.loads(line) if line else None
    if answer is not None and "pid" not in answer:
        raise UnavailableError(
            f"the daemon refused the command ({answer.get('reason') or answer.get('error')})",
            hint="try again; `arsenale logs` shows who connects",
        )
    return answer


def _why_not_up(home: Path, reason: str) -> str:
    try:
        said = paths.err_file(home).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return reason
    words = [line.strip(" |+-") for line in said]  # a group of errors is drawn as a tree
    last = [line for line in words if line][-1:]
    return f"{reason} (it said: {last[0]})" if last else reason
