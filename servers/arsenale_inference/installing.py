"""Build llama-cpp-python once, the short way: `python -m arsenale_inference.installing`.

It is published as source only. Of the 178 files that its build compiles the library needs less than
half: we leave out llama.cpp's command-line tools and its vision part, without patching anything.
That takes half the time, and halves the wheel. The wheel is kept by version, machine and processor,
so that the next environment on this machine has it in seconds.
"""

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from arsenale_core.config import build_arguments, cache_folder
from arsenale_core.errors import ArsenaleError, UnavailableError

VERSION = "0.3.36"
"""The version whose low-level calls we use and have tested."""

GGUF = "gguf>=0.19"

LEAVE_OUT = "set(LLAMA_BUILD_COMMON OFF)\n"
"""A file that CMake reads at llama.cpp's `project()`: llama-cpp-python forces the option of that
name on as a cache entry, and a plain variable hides a cache entry."""

COMPILERS = (("c++", "g++", "clang++"), ("cc", "gcc", "clang"))
"""What CMake looks for: one of each is needed."""

STEP_PERCENT = 5
"""How often the build says how far it is; the longest silence is about a minute of one core."""

KEPT_LINES = 25
"""Lines of a failed build's output that are shown; all of them are in its log."""

Say: TypeAlias = Callable[[str], None]
Build: TypeAlias = Callable[[Path, Say], Path]
"""Makes the wheel in a folder and returns its path."""

_COMPILED = re.compile(r"^\s*\[(\d+)/(\d+)\] ")


def install(cache: Path, constraint: Path | None, say: Say) -> None:
    """Install llama-cpp-python and gguf into this environment; SAY is told each step.

    Raises:
        UnavailableError: There is no compiler, the source cannot be fetched, or it does not build.
    """
    if installed_version() == VERSION:
        say(f"llama-cpp-python {VERSION} is installed already")
    wheel = [] if installed_version() == VERSION else [str(kept_wheel(cache, say))]
    limits = ["--constraint", str(constraint)] if constraint else []
    run([*_pip("install"), "--quiet", *limits, *wheel, GGUF], cache / "install.log", lambda _: None)
    say(f"llama-cpp-python {VERSION} and gguf are ready")


def installed_version() -> str | None:
    """Return which llama-cpp-python this environment has, or None."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


def kept_wheel(cache: Path, say: Say, build: Build | None = None) -> Path:
    """Return the wheel for this machine: the one kept under CACHE, else a new one, then kept.

    Raises:
        UnavailableError: As `install`.
    """
    folder = cache / "wheels" / machine_key()
    for wheel in sorted(folder.glob("llama_cpp_python-*.whl")):
        say(f"using the wheel built before: {wheel}")
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as part:
        built = (build or build_wheel)(Path(part), say)
        kept = built.replace(folder / built.name)
    say(f"kept the wheel: {kept}")
    return kept


def machine_key() -> str:
    """Return what a wheel is bound to, as a folder's name: it is built for this very processor."""
    said = "\n".join([_processor(), build_arguments()])
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    system = f"{platform.system()}-{platform.machine()}".lower()
    return f"{VERSION}-{python}-{system}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def build_wheel(folder: Path, say: Say) -> Path:
    """Build the wheel in FOLDER, which takes minutes; return its path.

    `CMAKE_ARGS` of the environment is honoured, as `-DGGML_CUDA=ON` for an NVIDIA GPU.

    Raises:
        UnavailableError: There is no compiler, the source cannot be fetched, or it does not build.
    """
    check_compilers()
    say(
        f"building llama-cpp-python {VERSION} from source, as PyPI has no wheel of it: "
        "fetches 77 MB, compiles some 80 files; about 4 minutes on two free cores"
    )
    left_out = folder / "leave_out.cmake"
    left_out.write_text(LEAVE_OUT, encoding="ascii")
    options = f"-DLLAVA_BUILD=OFF;-DCMAKE_PROJECT_llama.cpp_INCLUDE={left_out}"
    command = [
        *_pip("wheel"), "--verbose", "--no-deps", "--no-cache-dir", "--wheel-dir", str(folder),
        "--config-settings", f"cmake.args={options}", f"llama-cpp-python=={VERSION}",
    ]  # fmt: skip
    run(command, folder.parent / "build.log", progress(say))
    [wheel] = folder.glob("*.whl")
    return wheel


def check_compilers() -> None:
    """Raise where there is no compiler.

    Raises:
        UnavailableError: It says how to get one.
    """
    for names in COMPILERS:
        if not any(map(shutil.which, names)):
            raise UnavailableError(
                f"llama-cpp-python must be built, and no compiler is there ({' or '.join(names)})",
                hint="install one: `apt install build-essential`, `dnf install gcc-c++` "
                "or `xcode-select --install`",
            )


def progress(say: Say) -> Callable[[str], None]:
    """Return what takes the build's lines and tells SAY, every few percent, how far it is."""
    told = -1

    def take(line: str) -> None:
        nonlocal told
        if "Configuring CMake" in line:
            say("  fetched; configuring")
        counted = _COMPILED.match(line)
        if counted:
            done, total = int(counted[1]), int(counted[2])
            percent = 100 * done // total // STEP_PERCENT * STEP_PERCENT
            if percent > told:
                told = percent
                say(f"  compiled {done} of {total} files ({percent} %)")

    return take


def _pip(verb: str) -> list[str]:
    return [sys.executable, "-m", "pip", verb, "--disable-pip-version-check"]


def run(command: Sequence[str], log: Path, take: Callable[[str], None]) -> None:
    """Run COMMAND, write its output to LOG and give each line to TAKE.

    Raises:
        UnavailableError: It failed; the last lines are shown.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in _lines(process):
            file.write(line)
            last.append(line)
            take(line)
    if process.returncode:
        raise UnavailableError(
            f"{' '.join(command[2:4])} failed:\n{''.join(last).rstrip()}",
            hint=f"all of its output is in {log}",
        )


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    with process:
        assert process.stdout
        yield from process.stdout


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    marks = ("flags", "Features", "model name", "CPU part")
    found = dict(line.split(":", 1) for line in text.splitlines() if line.startswith(marks))
    return "\n".join(f"{name.strip()}:{value}" for name, value in sorted(found.items()))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the command line and install."""
    parser = argparse.ArgumentParser(description="Build and install llama-cpp-python.")
    parser.add_argument("--constraint", type=Path, help="a file of versions for pip")
    given = parser.parse_args()
    try:
        install(cache_folder(), given.constraint, _say)
    except ArsenaleError as exc:
        sys.exit(f"arsenale: {exc}")


if __name__ == "__main__":
    main()
