"""Child processes of an installation: pip and compilers, with their output in a log."""

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from arsenale_core.config import process_environment
from arsenale_core.errors import UnavailableError

Say: TypeAlias = Callable[[str], None]
"""Prints a line of progress."""

KEPT_LINES = 25
"""Lines of a failed command's output that are shown; all of them are in its log."""


def pip(verb: str) -> list[str]:
    """Return the start of a pip command of this environment.

    `-P` keeps the current folder out: a project may have a `pip.py`.
    """
    return [sys.executable, "-P", "-m", "pip", verb, "--disable-pip-version-check"]


def pinned(folder: Path, requirement: str, *hashes: str) -> list[str]:
    """Return pip's arguments for REQUIREMENT in FOLDER with one of HASHES (SHA-256, hexadecimal).

    pip compares the hash before it unpacks anything or runs code of the package.
    """
    file = folder / "requirement.txt"
    words = [requirement, *(f"--hash=sha256:{each}" for each in hashes)]
    file.write_text(" ".join(words) + "\n", encoding="ascii")
    return ["--no-deps", "--require-hashes", "--requirement", str(file)]


def run(
    command: Sequence[str],
    log: Path,
    take: Callable[[str], None] = lambda _: None,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run COMMAND, write its output to LOG and give each line to TAKE.

    ENVIRONMENT is on top of this process's own variables.

    Raises:
        UnavailableError: It failed or cannot be started; the last lines are shown.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", cwd=cwd, env=process_environment(environment or {}),
            )  # fmt: skip
            for line in _lines(process):
                file.write(line)
                last.append(line)
                take(line)
    except OSError as exc:
        raise UnavailableError(f"{command[0]} cannot be started: {exc.strerror}") from exc
    if process.returncode:
        raise UnavailableError(
            f"{' '.join(command[:4])} failed:\n{''.join(last).rstrip()}",
            hint=f"all of its output is in {log}",
        )


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    with process:
        assert process.stdout
        yield from process.stdout
