"""Compiles `compose.c` for this machine, once, and keeps it in a folder of the caller.

The name of the library holds all that it depends on: source, flags, llama-cpp-python and machine.
It is written beside its place and renamed, so processes may race for it.
"""

import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from arsenale_core.errors import UnavailableError
from arsenale_inference.engine import llama

SOURCE = Path(__file__).with_name("compose.c")
COMPILERS = ("cc", "gcc", "clang")
FAST = (
    "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
    "-freciprocal-math", "-ffinite-math-only",
)  # fmt: skip
"""What -ffast-math is, but for its start-up code: that makes whoever loads the library, Python's
floats too, take numbers below 2e-308 for 0."""

FLAGS = ("-O3", "-march=native", *FAST, "-shared", "-fPIC", "-w")
OPENMP = "-fopenmp"
"""Threads share the work; left out where the compiler has no OpenMP."""

TIMEOUT_S = 120.0
"""It takes 1 s on a free core."""

log = logging.getLogger(__name__)


def library(folder: Path) -> Path:
    """Return the compiled `compose.c` in FOLDER; compile it where it is not there yet.

    Raises:
        UnavailableError: There is no C compiler, or it refused.
    """
    target = folder / f"compose-{_fingerprint()}.so"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _compile(_compiler(), target)
    return target


def _compiler() -> str:
    for name in COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise UnavailableError(
        "there is no C compiler", hint="install gcc or clang: mixed LoRA layers get faster"
    )


def _compile(compiler: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="compose-") as folder:
        made = Path(folder) / "compose.so"
        try:
            _run(compiler, made, OPENMP)
        except subprocess.CalledProcessError:
            _run_at_last(compiler, made)
        except (OSError, subprocess.SubprocessError) as exc:
            raise _refused(compiler, exc) from exc
        made.replace(target)
    log.info("compiled %s with %s", target.name, compiler)


def _run_at_last(compiler: str, made: Path) -> None:
    try:
        _run(compiler, made)
    except (OSError, subprocess.SubprocessError) as exc:
        raise _refused(compiler, exc) from exc


def _run(compiler: str, made: Path, *more: str) -> None:
    command = [compiler, *FLAGS, *more, f"-I{llama.INCLUDE}", str(SOURCE), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)


def _refused(compiler: str, exc: Exception) -> UnavailableError:
    said: bytes = getattr(exc, "stderr", None) or b""
    return UnavailableError(
        f"{compiler} could not compile {SOURCE.name}: {exc} {said[-500:]!r}",
        hint="look whether the compiler works and llama_cpp has its headers",
    )


def _fingerprint() -> str:
    parts = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), llama.VERSION.encode(), _machine())
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _machine() -> bytes:
    """Return what `-march=native` looks at, as far as it can be told."""
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}".encode()
