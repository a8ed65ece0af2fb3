"""Builds a wheel of llama-cpp-python from its source archive, the short way.

Of the 178 files that its build compiles the library needs less than half: llama.cpp's command-line
tools and its vision part are left out, without patching anything. That takes half the time, and
halves the wheel.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arsenale_core.errors import UnavailableError
from arsenale_inference.installation.prebuilt import VERSION, fetch_bindings
from arsenale_inference.installation.processes import Say, pip, run

LEAVE_OUT = "set(LLAMA_BUILD_COMMON OFF)\n"
"""A file that CMake reads at llama.cpp's `project()`: llama-cpp-python forces the option of that
name on as a cache entry, and a plain variable hides a cache entry."""

AMX_REPAIR = """\
#if defined(__AMX_TILE__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(p) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(p)))
#endif
"""
"""gcc 12 declares `_tile_loadconfig` with an operand of 8 bytes and so drops the stores to the
other 56; the first AMX instruction then raises SIGILL (ggml-org/llama.cpp PR 26954)."""

NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
COMPILERS = (("c++", "g++", "clang++"), ("cc", "gcc", "clang"))
"""What CMake looks for: one of each is needed."""

STEP_PERCENT = 5
"""How often the build reports its progress; the longest silence is about a minute of one core."""

_COMPILED = re.compile(r"^\s*\[(\d+)/(\d+)\] ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """How to compile.

    Attributes:
        repair_amx: Include `AMX_REPAIR` in every C++ file.
        compiler: Flags for C and C++.
        cmake: Further arguments of CMake.
    """

    repair_amx: bool = False
    compiler: str = ""
    cmake: tuple[str, ...] = ()


def build_wheel(folder: Path, say: Say, flags: Flags) -> Path:
    """Build the wheel in FOLDER, which takes minutes; return its path.

    `CMAKE_ARGS` of the environment is honoured, as `-DGGML_CUDA=ON` for an NVIDIA GPU.

    Raises:
        UnavailableError: There is no compiler, the source cannot be fetched, or it does not build.
    """
    check_compilers()
    say(
        f"building llama-cpp-python {VERSION} from source: "
        "fetches 77 MB, compiles some 80 files; about 4 minutes on two free cores"
    )
    left_out, repair = folder / "leave_out.cmake", folder / "amx_repair.h"
    left_out.write_text(LEAVE_OUT, encoding="ascii")
    repair.write_text(AMX_REPAIR, encoding="ascii")
    sdist = fetch_bindings(folder, folder.parent / "build.log")
    options = ("-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={left_out}", *flags.cmake)
    command = [
        *pip("wheel"), "--verbose", "--no-deps", "--no-cache-dir", "--wheel-dir", str(folder),
        "--config-settings", f"cmake.args={';'.join(options)}", str(sdist),
    ]  # fmt: skip
    included = f"-include {repair}" if flags.repair_amx else ""
    environment = {"CFLAGS": flags.compiler, "CXXFLAGS": f"{flags.compiler} {included}".strip()}
    chosen = {name: value for name, value in environment.items() if value}
    run(command, folder.parent / "build.log", progress(say), environment=chosen)
    [wheel] = folder.glob("*.whl")
    return wheel


def check_compilers() -> None:
    """Raise where no compiler is installed.

    Raises:
        UnavailableError: It says how to get one.
    """
    for names in COMPILERS:
        if not any(map(shutil.which, names)):
            raise UnavailableError(
                f"no compiler found ({' or '.join(names)})",
                hint="install one: `apt install build-essential`, `dnf install gcc-c++` "
                "or `xcode-select --install`",
            )


def compiler_version() -> str:
    """Return the first line of the C++ compiler's `--version`; empty without a compiler."""
    found = next(filter(None, map(shutil.which, COMPILERS[0])), None)
    if found is None:
        return ""
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def progress(say: Say) -> Callable[[str], None]:
    """Return a function that takes the build's lines and reports the progress to SAY."""
    reported = -1

    def take(line: str) -> None:
        nonlocal reported
        if "Configuring CMake" in line:
            say("  fetched; configuring")
        counted = _COMPILED.match(line)
        if counted:
            done, total = int(counted[1]), int(counted[2])
            percent = 100 * done // total // STEP_PERCENT * STEP_PERCENT
            if percent > reported:
                reported = percent
                say(f"  compiled {done} of {total} files ({percent} %)")

    return take
