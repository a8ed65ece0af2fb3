"""The inference sidecar from outside: where it is, and how it is started."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2

from arsenale_core import locks
from arsenale_core.config import plain_environment
from arsenale_core.errors import UnavailableError
from arsenale_core.files import make_private

START_S = 30.0
"""How long the sidecar may take to listen; models are loaded later, when they are asked for."""

STOP_S = 20.0
"""How long it may take to end."""

POLL_S = 0.05
AGAIN_S = 0.5

ALREADY_RUNS = 75
"""Exit status of a sidecar that found another one in its home (`EX_TEMPFAIL` of sysexits.h)."""

NOT_INSTALLED = "run `arsenale inference install` (in a checkout: `make inference`)"


CATALOGUE = "models.json"
"""In the home: the models that were added, as the sidecar keeps them."""

BUILT_IN_BASES = ("tiny",)
"""Base models that come with the suite; a test holds them to the sidecar's own list."""

ADD_MODEL = "add one with `arsenale models add FILE.gguf --name NAME`"


def base_models(home: Path) -> list[str]:
    """Return the names of the base models that HOME's sidecar would serve, whether it runs or not.

    A catalogue that cannot be read names none here; the sidecar reports it.
    """
    try:
        said = json.loads((home / CATALOGUE).read_bytes())
        added = [str(name) for name in said.get("bases", {})]
    except (OSError, ValueError, AttributeError, TypeError):
        added = []
    return sorted({*BUILT_IN_BASES, *added})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the sidecar is; `headers` have its bearer token."""

    url: str
    pid: int
    headers: dict[str, str]


def address(home: Path) -> Address | None:
    """Return where HOME's sidecar is; `None` when none runs."""
    try:
        said: dict[str, Any] = json.loads((home / "run" / "inference.json").read_bytes())
        token = (home / "token").read_text(encoding="ascii").strip()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not locks.is_held(home / "run" / "inference.lock"):
        return None  # it was killed: its pid may be anybody's now
    return Address(url=said["url"], pid=said["pid"], headers={"Authorization": f"Bearer {token}"})


def ensure(home: Path, wait: Callable[[float], None] = time.sleep) -> Address:
    """Return where HOME's sidecar is, started if there is none.

    Raises:
        UnavailableError: It cannot be started.
    """
    if (found := address(home)) is not None and _answers(found):
        return found
    if find_spec("llama_cpp") is None:
        raise UnavailableError("the inference engine is not installed", hint=NOT_INSTALLED)
    try:
        child = _spawn(home)
    except OSError as exc:
        raise UnavailableError(
            f"the inference sidecar cannot be started ({exc})",
            hint="run `arsenale doctor`: is ARSENALE_HOME writable?",
        ) from exc
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = address(home)
        if found is not None and _answers(found):
            return found
        match _exit_code(child):
            case None:
                pass
            case status if status == ALREADY_RUNS:  # it starts, or it ends and the next may start
                wait(AGAIN_S)
                if address(home) is None:
                    child = _spawn(home)
            case _:
                break
        wait(POLL_S)
    raise UnavailableError(
        "the inference sidecar does not start", hint="run `arsenale logs inference`"
    )


def stop(home: Path, wait: Callable[[float], None] = time.sleep) -> bool:
    """End HOME's sidecar and wait until it and its workers are gone; false when none ran.

    Raises:
        UnavailableError: It does not end.
    """
    found = address(home)
    if found is None:
        return False
    try:
        httpx2.post(
            f"{found.url}/admin/stop", headers=found.headers, timeout=STOP_S, trust_env=False
        )
    except httpx2.HTTPError as exc:
        raise UnavailableError(
            "the sidecar does not answer", hint=f"end it with `kill {found.pid}`"
        ) from exc
    deadline = time.monotonic() + STOP_S
    while locks.is_held(home / "run" / "inference.lock"):
        if time.monotonic() > deadline:
            raise UnavailableError(
                "the sidecar does not end", hint=f"end it with `kill {found.pid}`"
            )
        wait(POLL_S)
    return True


def _answers(found: Address) -> bool:
    try:
        answer = httpx2.get(
            f"{found.url}/healthz", headers=found.headers, timeout=2, trust_env=False
        )  # with the token: others who ask without it use up their rate
        return answer.status_code == 200
    except httpx2.HTTPError:
        return False


def _err_file(home: Path) -> Path:
    return home / "logs" / "inference.err"


def _spawn(home: Path) -> int:
    """Start the sidecar in a session of its own; return its process id."""
    make_private(_err_file(home).parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    err = os.open(_err_file(home), flags, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            # -P: the current folder is a project's, and what lies there is not ours to import
            [sys.executable, "-P", "-m", "arsenale_inference"],
            plain_environment(home),
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0)]
            + [(os.POSIX_SPAWN_DUP2, err, number) for number in (1, 2)],
            setsid=True,
        )
    finally:
        os.close(null)
        os.close(err)


def _exit_code(child: int) -> int | None:
    """Return how CHILD ended; `None` while it runs, and once that was asked."""
    try:
        pid, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None
