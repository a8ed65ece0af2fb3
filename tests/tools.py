"""Installs what some tests need and a machine may lack: `make test` runs it before the tests.

Nothing here stops the gate. What cannot be installed gets one line with the tests that are skipped
as a result; `conftest.py` repeats these lines after the tests. Standard library only.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENV = Path(sys.prefix)
MISSING = VENV / "missing-tools.txt"
"""One line for each tool that is not there."""

CPU_TORCH = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds: the Linux wheels of PyPI need 3 GB of CUDA libraries."""

PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
       "--constraint", str(ROOT / "constraints.txt")]  # fmt: skip
LAST_LINES = 3


def main() -> None:
    """Install each tool; print and record what is missing. Names on the command line choose."""
    chosen = sys.argv[1:]
    lines = list(missing(chosen))
    for line in lines:
        print(line)  # noqa: T201
    if chosen:
        sys.exit(bool(lines))
    MISSING.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def missing(chosen: list[str]) -> Iterator[str]:
    """Yield a line for each tool, of those CHOSEN or of all, that cannot be had."""
    for provide, name, skipped in (
        (engine, "inference engine", "the tests that run models"),
        (node, "Node tools", "the MCP Inspector and the conformance suite"),
        (torch, "torch (CPU build)", "the tests that train models"),
        (postgresql, "PostgreSQL", "the store tests on PostgreSQL (those on SQLite run)"),
        (compiler, "C compiler", "the tests of compiled LoRA composition (those of numpy run)"),
    ):
        if chosen and provide.__name__ not in chosen:
            continue
        print(f"test tools: {name} ...", flush=True)  # noqa: T201
        if reason := provide():
            yield f"not installed: {name} ({reason}); skipped: {skipped}"


def engine() -> str:
    """Install llama.cpp; it returns at once where the installed one passes its self-test."""
    command = [sys.executable, "-m", "arsenale_inference.installation"]
    return _run([*command, "--constraint", str(ROOT / "constraints.txt")])


def node() -> str:
    """Install the MCP Inspector and the conformance suite with the Node.js of the dev group."""
    here, there = ROOT / "tests/node/package-lock.json", VENV / "node/package-lock.json"
    done = VENV / "node/.installed"
    if done.exists() and there.exists() and here.read_bytes() == there.read_bytes():
        return ""
    reason = _run(["sh", str(ROOT / "tests/node/install"), sys.executable, str(VENV / "node")])
    if not reason:
        done.touch()
    return reason


def torch() -> str:
    """Install torch where pip finds its CPU build; never one that needs CUDA."""
    if find_spec("torch") is not None:
        return ""
    wanted = [*PIP, "--retries", "1", "--extra-index-url", CPU_TORCH, "torch>=2.8"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        reason = _run([*wanted, "--dry-run", "--report", str(report)])
        if reason:
            return reason
        plan = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {part["metadata"]["name"].lower() for part in plan}
    if any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names):
        return "only its CUDA build can be reached"
    return _run([*wanted, "gguf>=0.19"])


def postgresql() -> str:
    """Look for a server; only the system's package manager can install one."""
    found = shutil.which("postgres") or next(Path("/usr/lib/postgresql").glob("*/bin/postgres"), "")
    return "" if found else "install the package postgresql"


def compiler() -> str:
    """Look for a C compiler."""
    return "" if any(map(shutil.which, ("cc", "gcc", "clang"))) else "install gcc or clang"


def _run(command: list[str]) -> str:
    """Run COMMAND and return why it failed, in one line; empty when it did not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if not done.returncode:
        return ""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    return " ".join(errors[:LAST_LINES])[:300] or f"exit status {done.returncode}"


if __name__ == "__main__":
    main()
