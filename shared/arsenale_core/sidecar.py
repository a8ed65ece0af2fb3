"""The inference sidecar from outside: where it is, and how it is started."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2

from arsenale_core.config import plain_environment
from arsenale_core.errors import UnavailableError

START_S = 30.0
"""How long the sidecar may take to listen; models are loaded later, when they are asked for."""

POLL_S = 0.05
AGAIN_S = 0.5

ALREADY_RUNS = 75
"""Exit status of a sidecar that found another one in its home (`EX_TEMPFAIL` of sysexits.h)."""

NOT_INSTALLED = "run `make inference` in a checkout, else `python -m arsenale_inference.installing`"


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
        os.kill(said["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
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
    child = _spawn(home)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = address(home)
        if found is not None and _answers(found):
            return found
        match child.poll():
            case None:
                pass
            case status if status == ALREADY_RUNS:  # it starts, or it ends and the next may start
                wait(AGAIN_S)
                if address(home) is None:
                    child = _spawn(home)
            case _:
                break
        wait(POLL_S)
    raise UnavailableError("the inference sidecar does not start", hint=f"see {_err_file(home)}")


def _answers(found: Address) -> bool:
    try:
        return httpx2.get(f"{found.url}/healthz", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


def _err_file(home: Path) -> Path:
    return home / "logs" / "inference.err"


def _spawn(home: Path) -> "subprocess.Popen[bytes]":
    _err_file(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _err_file(home).open("ab") as err:
        return subprocess.Popen(  # our own module
            [sys.executable, "-P", "-m", "arsenale_inference"],
            env=plain_environment(home), stdin=subprocess.DEVNULL, stdout=err, stderr=err,
            start_new_session=True,
        )  # fmt: skip
