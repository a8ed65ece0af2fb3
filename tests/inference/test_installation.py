"""Installing the engine: the fastest build that works, learned once, and clear about the rest."""

import base64
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from arsenale_core.errors import UnavailableError
from arsenale_inference import exits, self_test
from arsenale_inference.installation import prebuilt, source
from arsenale_inference.installation.builds import Build, builds
from arsenale_inference.installation.installer import FAILED, install, kept_wheel, wheel_key
from arsenale_inference.installation.processes import Say, run
from arsenale_inference.self_test import Failed, Passed, Verdict

CRASH = "import os, signal; os.kill(os.getpid(), signal.{})"


def _build(name: str, made: list[str], kind: str = "any", error: str = "") -> Build:
    def make(folder: Path, say: Say) -> Path:
        made.append(name)
        if error:
            (folder / "llama_cpp_python-half.whl").write_bytes(b"half")
            raise UnavailableError(error)
        wheel = folder / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
        wheel.write_bytes(name.encode())
        return wheel

    return Build(name=name, kind=kind, what=f"the {name} build", make=make)


class Machine:
    """An environment that runs the wheels whose content is in `able`; others die of a signal."""

    def __init__(self, *able: str) -> None:
        self.able, self.installed, self.lines = able, "", list[str]()

    def put_in(self, wheel: Path) -> None:
        self.installed = wheel.read_bytes().decode()

    def test(self) -> Verdict:
        if self.installed in self.able:
            return Passed(cpu="haswell")
        return self_test.run([sys.executable, "-c", CRASH.format("SIGILL")])

    def install(self, cache: Path, *tries: Build) -> str:
        return install(tries, cache, self.lines.append, self.put_in, self.test)


# ---------------------------------------------------------------- the ladder
def test_a_build_that_dies_of_sigill_is_replaced_by_the_next_safer_one(tmp_path: Path) -> None:
    made: list[str] = []
    machine = Machine("safe")
    result = machine.install(tmp_path, _build("fast", made), _build("safe", made))
    assert machine.installed == "safe"
    assert "the safe build (CPU variant haswell)" in result
    assert "not the fast build: the self-test was killed by SIGILL (illegal instruction)" in result


def test_a_build_that_failed_its_self_test_is_not_tried_again_on_this_machine(
    tmp_path: Path,
) -> None:
    made: list[str] = []
    tries = _build("fast", made), _build("safe", made)
    Machine("safe").install(tmp_path, *tries)
    again = Machine("safe")
    result = again.install(tmp_path, *tries)
    assert made == ["fast", "safe"], "and the wheel that works is kept"
    assert "not the fast build: the self-test was killed by SIGILL" in result
    assert (tmp_path / "wheels" / wheel_key(tries[0]) / FAILED).exists()
    assert list((tmp_path / "wheels" / wheel_key(tries[0])).glob("*.whl")) == []


def test_builds_that_need_what_is_missing_are_skipped_together(tmp_path: Path) -> None:
    made: list[str] = []
    result = Machine("source").install(
        tmp_path,
        _build("a", made, kind="download", error="the registry cannot be reached"),
        _build("b", made, kind="download"),
        _build("source", made, kind="compile"),
    )
    assert made == ["a", "source"]
    assert "not the a build: the registry cannot be reached" in result


def test_where_no_build_works_every_reason_is_given(tmp_path: Path) -> None:
    made: list[str] = []
    with pytest.raises(UnavailableError) as caught:
        Machine().install(
            tmp_path,
            _build("a", made, kind="download", error="the registry cannot be reached"),
            _build("b", made, kind="compile", error="no compiler found (cc or gcc)"),
            _build("c", made, kind="other"),
        )
    text = str(caught.value)
    assert "the registry cannot be reached" in text and "no compiler found" in text
    assert "SIGILL" in text and "run the command again" in text


def test_a_build_that_cannot_be_made_leaves_no_wheel_behind(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        kept_wheel(tmp_path, _build("a", [], error="it broke"), lambda _: None)
    assert list(tmp_path.rglob("*.whl")) == []


def test_a_wheel_is_made_once_and_then_kept(tmp_path: Path) -> None:
    made: list[str] = []
    build = _build("a", made)
    first = kept_wheel(tmp_path, build, lambda _: None)
    assert kept_wheel(tmp_path, build, lambda _: None) == first
    assert made == ["a"]


@pytest.mark.parametrize("variable", ["CMAKE_ARGS", "CFLAGS", "CXXFLAGS"])
def test_other_flags_are_another_wheel_and_rule_out_a_prebuilt_one(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    plain = builds(from_source=True)[0]
    assert builds(from_source=False)[0].kind == "prebuilt"
    monkeypatch.setenv(variable, "-DGGML_CUDA=ON")
    [chosen, *_] = builds(from_source=False)
    assert chosen.kind == "source"
    assert wheel_key(chosen) != wheel_key(plain)


def test_another_compiler_is_another_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys: set[str] = set()
    for number in (12, 13):
        compiler = tmp_path / "c++"
        compiler.write_text(f"#!/bin/sh\necho 'c++ {number}.1'\n", encoding="ascii")
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        keys.add(wheel_key(builds(from_source=True)[0]))
    assert len(keys) == 2


# ---------------------------------------------------------------- the self-test
@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="no engine: make inference")
def test_the_installed_engine_passes_the_self_test() -> None:
    assert isinstance(self_test.run(), Passed)


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGKILL", "SIGFPE"])
def test_a_self_test_that_is_killed_names_the_signal(name: str) -> None:
    verdict = self_test.run([sys.executable, "-c", CRASH.format(name)])
    assert isinstance(verdict, Failed)
    assert f"killed by {name} (" in verdict.reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"answer": "Paris.", "cpu": None, "layouts": ""}, "answers 'Paris.', not 'Rome.'"),
        ({"answer": "Rome.", "cpu": None, "layouts": "llama_model_params"}, "llama_model_params"),
    ],
)
def test_a_wrong_answer_or_layout_fails_the_self_test(
    found: dict[str, object], reason: str
) -> None:
    code = f"print({json.dumps(found)!r})"
    verdict = self_test.run([sys.executable, "-c", code])
    assert isinstance(verdict, Failed) and reason in verdict.reason


def test_a_self_test_that_cannot_run_blames_no_build() -> None:
    with pytest.raises(UnavailableError, match="cannot run: ModuleNotFoundError"):
        self_test.run([sys.executable, "-c", "import not_there_at_all"])


def test_an_engine_that_the_linker_refuses_fails_with_its_words() -> None:
    code = f"import sys; sys.stderr.write('GLIBC_2.38 not found\\n'); sys.exit({self_test.REFUSED})"
    verdict = self_test.run([sys.executable, "-c", code])
    assert verdict == Failed(reason="GLIBC_2.38 not found")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-signal.SIGILL, "was killed by SIGILL (illegal instruction)"),
        (-signal.SIGKILL, "was killed by SIGKILL (killed)"),
        (3, "ended with exit status 3"),
        (-63, "was killed by signal 63"),
    ],
)
def test_an_exit_status_is_put_in_words(status: int, words: str) -> None:
    assert exits.describe(status) == words
    assert status in (3, -63) or exits.remedy(status)


# ---------------------------------------------------------------- a prebuilt wheel
def _tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _given(file: Path, _folder: Path, _log: Path) -> Path:
    return file


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Say], Path]:
    """Make a wheel from small archives of the same shape as the real downloads."""
    package = "package/bins/linux-x64"
    top = f"llama_cpp_python-{prebuilt.VERSION}"

    def make(folder: Path, say: Say) -> Path:
        sdist = _tar(folder / "s.tar.gz", {
            f"{top}/llama_cpp/__init__.py": b"__version__ = '0'\n",
            f"{top}/PKG-INFO": b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n",
            f"{top}/vendor/llama.cpp/ggml/include/ggml.h": b"//",
            f"{top}/vendor/llama.cpp/src/llama.cpp": b"//",
        })  # fmt: skip
        libraries = _tar(folder / "p.tgz", {
            f"{package}/{name}": name.encode() for name in (
                "libllama.v0.5.0.so", "libggml.v0.5.0.so", "libggml-base.so", "libllama-common.so",
                "libggml-cpu-x64.so", "libggml-cpu-haswell.so", "libggml-cpu-sapphirerapids.so",
                "llama-addon.node",
            )
        })  # fmt: skip
        digest = hashlib.sha512(libraries.read_bytes()).digest()
        monkeypatch.setattr(prebuilt, "PACKAGE_SHA512", base64.b64encode(digest).decode())
        digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
        monkeypatch.setattr(prebuilt, "SDIST_SHA256", digest)
        monkeypatch.setattr(prebuilt, "check_platform", lambda: None)
        fetched = {"fetch_bindings": sdist, "fetch_libraries": libraries}
        for name, file in fetched.items():
            monkeypatch.setattr(prebuilt, name, partial(_given, file))
        return prebuilt.make_wheel(folder, say, without=prebuilt.AMX_VARIANTS)

    return make


def test_a_prebuilt_wheel_is_one_that_pip_installs_with_libraries_and_headers(
    downloads: Callable[[Path, Say], Path], tmp_path: Path
) -> None:
    wheel = downloads(tmp_path, lambda _: None)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "llama_cpp/__init__.py", "llama_cpp/lib/libllama.so", "llama_cpp/lib/libggml.so",
        "llama_cpp/lib/libggml-base.so", "llama_cpp/lib/libggml-cpu-haswell.so", "include/ggml.h",
    } <= names  # fmt: skip
    assert not [name for name in names if "sapphirerapids" in name or "common" in name]
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    assert (target / "llama_cpp" / "lib" / "libggml.so").read_bytes() == b"libggml.v0.5.0.so"


@pytest.mark.parametrize("constant", ["SDIST_SHA256", "PACKAGE_SHA512"])
def test_a_download_with_another_hash_is_refused(constant: str) -> None:
    with pytest.raises(UnavailableError, match="has the hash wrong, not"):
        prebuilt.check_hash("llama.tgz", "wrong", str(getattr(prebuilt, constant)))


def test_a_platform_without_a_prebuilt_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UnavailableError, match="no prebuilt engine for Linux riscv64"):
        prebuilt.check_platform()


# ---------------------------------------------------------------- a build from source
def test_without_a_compiler_the_error_names_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"no compiler found.*build-essential"):
        source.check_compilers()
    for name in ("g++", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    source.check_compilers()


def test_a_build_reports_its_progress_every_few_percent() -> None:
    lines: list[str] = []
    take = source.progress(lines.append)
    take("  *** Configuring CMake...\n")
    for done in range(1, 75):
        take(f"  [{done}/74] Building CXX object\n")
        take("  something else [3/4] \n")
    assert lines[0] == "  fetched; configuring"
    assert lines[-1] == "  compiled 74 of 74 files (100 %)"
    assert 20 <= len(lines) <= 23


def test_a_command_that_fails_shows_its_last_lines_and_keeps_them_all(tmp_path: Path) -> None:
    code = "[print('line', n) for n in range(100)]; import sys; sys.exit(3)"
    with pytest.raises(UnavailableError) as caught:
        run([sys.executable, "-c", code], tmp_path / "build.log")
    shown = str(caught.value)
    assert "line 99" in shown and "line 10\n" not in shown
    assert shown.endswith(f"all of its output is in {tmp_path / 'build.log'}")
    assert (tmp_path / "build.log").read_text(encoding="utf-8").count("line") == 100


@pytest.mark.skipif(not source.compiler_version(), reason="no compiler")
def test_the_repaired_amx_header_compiles_and_stores_the_whole_configuration(
    tmp_path: Path,
) -> None:
    """Without the repair gcc 12 drops the stores to the structure: only `ldtilecfg` is left."""
    if "x86_64" not in subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout:
        pytest.skip("AMX is an extension of x86-64")
    header = tmp_path / "amx_repair.h"
    header.write_text(source.AMX_REPAIR, encoding="ascii")
    code = """
    #include <immintrin.h>
    struct Tiles { unsigned char palette, start; char rest[14]; unsigned short colsb[16];
                   unsigned char rows[16]; };
    void configure() {
        struct Tiles t = {1, 0, {0}, {0}, {0}};
        for (int i = 0; i < 8; i++) { t.colsb[i] = 64; t.rows[i] = 16; }
        _tile_loadconfig(&t);
    }
    """
    command = ["c++", "-O3", "-mamx-tile", "-x", "c++", "-S", "-o", "-", "-include", header, "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
    if "unrecognized" in done.stderr:
        pytest.skip("the compiler knows no AMX")
    assert done.returncode == 0, done.stderr
    before = done.stdout.partition("ldtilecfg")[0]
    stores = [line for line in before.splitlines() if "mov" in line and "(%rsp)" in line]
    assert len(stores) >= 3, "the row and column sizes are stored before they are loaded"


EXTRAS = (
    "gguf",
    "llguidance",
    "diskcache",
    "llama_cpp",
    "torch",
    "onnx",
    "onnxruntime",
    "chromadb",
)


@pytest.mark.parametrize(
    "module",
    [
        "arsenale_inference.installation.installer", "arsenale_inference.checks",
        "arsenale_inference.cli", "arsenale_genome.cli", "arsenale_memory.cli",
        "arsenale_telemetry.cli", "arsenale_daemon.commands.setup", "arsenale_daemon.doctor",
    ],
)  # fmt: skip
def test_what_a_new_user_runs_first_needs_no_extra(module: str) -> None:
    code = (
        f"import importlib, sys\nsys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        f"importlib.import_module({module!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
