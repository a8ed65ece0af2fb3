"""Installs the inference engine and keeps the wheel, by all that it depends on.

Each build is installed and tested in a child process. One that fails is recorded beside its wheel
with the reason, and the next safer one is tried, so that a machine learns once what it can run.
"""

import argparse
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from arsenale_core.config import cache_folder
from arsenale_core.errors import ArsenaleError, UnavailableError
from arsenale_core.files import make_private
from arsenale_core.terminal_text import write
from arsenale_inference import self_test
from arsenale_inference.installation.builds import Build, builds
from arsenale_inference.installation.prebuilt import VERSION
from arsenale_inference.installation.processes import Say, pip, run
from arsenale_inference.self_test import Failed, Passed, Verdict

NEEDED = ("gguf>=0.19", "llguidance>=1.9,<2", "diskcache>=5.6.1", "jinja2>=3.1")
"""What the extra `inference` names besides llama-cpp-python, and what that needs."""

FAILED = "failed.txt"
"""Beside a wheel: why its self-test failed on this machine."""

RECORD = "arsenale-engine.txt"
"""In the package `llama_cpp`: which build is installed, and why faster ones are not."""


def install(
    tries: Sequence[Build],
    cache: Path,
    say: Say,
    put_in: Callable[[Path], None],
    test: Callable[[], Verdict] = self_test.run,
) -> str:
    """Install the first of TRIES whose self-test passes; return what was installed and why.

    PUT_IN installs a wheel into this environment.

    Raises:
        UnavailableError: None can be had or passes; it gives the reason of each. Or the self-test
            cannot run, which is no fault of a build.
    """
    reasons: list[str] = []
    unmade: set[str] = set()
    for build in tries:
        if build.kind in unmade:
            continue
        folder = cache / "wheels" / wheel_key(build)
        known = folder / FAILED
        if known.exists():
            reasons.append(f"{build.what}: {known.read_text(encoding='utf-8').strip()}")
            continue
        try:
            put_in(kept_wheel(folder, build, say))
        except UnavailableError as exc:
            unmade.add(build.kind)
            reasons.append(f"{build.what}: {exc.what}")
            say(f"  not {build.what}: {exc.what}")
            continue
        match test():
            case Passed(cpu=cpu):
                variant = f" (CPU variant {cpu})" if cpu else ""
                skipped = "".join(f"\nnot {reason}" for reason in reasons)
                return f"llama-cpp-python {VERSION}, {build.what}{variant}{skipped}"
            case Failed(reason=reason):
                known.write_text(reason, encoding="utf-8")
                for wheel in folder.glob("*.whl"):
                    wheel.unlink()
                reasons.append(f"{build.what}: {reason}")
                say(f"  not {build.what}: {reason}")
    listed = "\n".join(f"- {reason}" for reason in reasons)
    raise UnavailableError(
        f"the inference engine cannot be installed:\n{listed}",
        hint="fix one of these reasons and run the command again; "
        f"delete {cache / 'wheels'} to try builds again whose self-test failed",
    )


def kept_wheel(folder: Path, build: Build, say: Say) -> Path:
    """Return the wheel in FOLDER; BUILD makes it where there is none.

    Raises:
        UnavailableError: It cannot be made.
    """
    make_private(folder)
    for wheel in sorted(folder.glob("llama_cpp_python-*.whl")):
        if _is_ours(wheel):
            say(f"using the wheel in {folder}")
            return wheel
        say(f"the wheel in {folder} is not the one that was put there: it is made again")
        wheel.unlink()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as part:
        made = build.make(Path(part), say)
        _hash_file(folder / made.name).write_text(_sha256(made) + "\n", encoding="ascii")
        return made.replace(folder / made.name)


def _is_ours(wheel: Path) -> bool:
    """Return whether WHEEL has the hash beside it, in a folder that nobody else can write to."""
    status = wheel.parent.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        return False
    try:
        return _hash_file(wheel).read_text(encoding="ascii").strip() == _sha256(wheel)
    except (OSError, UnicodeDecodeError):
        return False


def _hash_file(wheel: Path) -> Path:
    return wheel.with_name(wheel.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wheel_key(build: Build) -> str:
    """Return what the wheel of BUILD is bound to, as a folder's name.

    It holds the processor, the compiler and all flags: a wheel is built for this very machine.
    """
    bound = "\n".join([_processor(), build.key])
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    system = f"{platform.system()}-{platform.machine()}".lower()
    digest = hashlib.sha256(bound.encode()).hexdigest()[:12]
    return f"{VERSION}-{python}-{system}-{digest}-{build.name}"


def installed_version() -> str | None:
    """Return which llama-cpp-python this environment has, or None."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


def record() -> str | None:
    """Return what `install` reported of the installed engine; None where it came another way."""
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(RECORD)
    return path.read_text(encoding="utf-8") if path.exists() else None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    marks = ("flags", "Features", "model name", "CPU part")
    found = dict(line.split(":", 1) for line in text.splitlines() if line.startswith(marks))
    return "\n".join(f"{name.strip()}:{value}" for name, value in sorted(found.items()))


def install_here(*, from_source: bool, constraint: Path | None, say: Say) -> str:
    """Install the engine into this environment; return what was installed and why.

    An engine whose self-test passes stays, unless FROM_SOURCE asks for another. CONSTRAINT is a
    file of versions for pip.

    Raises:
        UnavailableError: It cannot be installed.
    """
    cache = cache_folder()
    limits = ["--constraint", str(constraint)] if constraint else []

    def put_in(wheel: Path) -> None:
        command = [*pip("install"), "--quiet", "--force-reinstall", "--no-deps", str(wheel)]
        run(command, cache / "install.log")

    wheels = ["--only-binary", ":all:"]  # what is built runs code before anything is checked
    run([*pip("install"), "--quiet", *wheels, *limits, *NEEDED], cache / "install.log")
    if not from_source and installed_version() == VERSION:
        match self_test.run():
            case Passed():
                say("the engine is installed and its self-test passes")
                return record() or f"llama-cpp-python {VERSION}, installed by other means"
            case Failed(reason=reason):
                say(f"the installed engine does not work: {reason}")
    result = install(builds(from_source=from_source), cache, say, put_in)
    found = find_spec("llama_cpp")
    if found and found.origin:
        Path(found.origin).with_name(RECORD).write_text(result, encoding="utf-8")
    return result


def main() -> None:
    """Read the command line and install."""
    parser = argparse.ArgumentParser(description="Install the inference engine (llama.cpp).")
    parser.add_argument("--constraint", type=Path, help="a file of versions for pip")
    parser.add_argument("--from-source", action="store_true", help="build it for this processor")
    parser.add_argument("--forget", action="store_true", help="forget builds that failed before")
    given = parser.parse_args()

    def say(line: str) -> None:
        write(f"{line}\n")

    if given.forget:
        shutil.rmtree(cache_folder() / "wheels", ignore_errors=True)
    try:
        say(install_here(from_source=given.from_source, constraint=given.constraint, say=say))
    except ArsenaleError as exc:
        sys.exit(f"arsenale: {exc}")
