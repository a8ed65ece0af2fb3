"""Building llama-cpp-python: once a machine, seen alive, and clear about what is missing."""

import sys
from pathlib import Path

import pytest

from arsenale_core.errors import UnavailableError
from arsenale_inference import installing
from arsenale_inference.installing import check_compilers, kept_wheel, machine_key, progress


def test_a_wheel_is_built_once_and_then_kept(tmp_path: Path) -> None:
    built: list[Path] = []
    said: list[str] = []

    def build(folder: Path, say: installing.Say) -> Path:
        built.append(folder)
        wheel = folder / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
        wheel.write_bytes(b"a wheel")
        return wheel

    first = kept_wheel(tmp_path, said.append, build)
    again = kept_wheel(tmp_path, said.append, build)
    assert first == again and first.read_bytes() == b"a wheel"
    assert len(built) == 1 and not built[0].exists()
    assert first.parent.name == machine_key()
    assert said[-1].startswith("using the wheel built before")


def test_a_build_that_fails_leaves_no_wheel_behind(tmp_path: Path) -> None:
    def build(folder: Path, say: installing.Say) -> Path:
        (folder / "llama_cpp_python-half.whl").write_bytes(b"half")
        raise UnavailableError("it broke")

    with pytest.raises(UnavailableError):
        kept_wheel(tmp_path, lambda _: None, build)
    assert list(tmp_path.rglob("*.whl")) == []


def test_other_build_options_are_another_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "")
    plain = machine_key()
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    assert machine_key() != plain
    assert plain.startswith(f"{installing.VERSION}-cp{sys.version_info.major}")


def test_without_a_compiler_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"no compiler is there.*build-essential"):
        check_compilers()
    for name in ("g++", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
    check_compilers()


def test_it_says_every_few_percent_how_far_the_build_is() -> None:
    said: list[str] = []
    take = progress(said.append)
    take("  *** Configuring CMake...\n")
    for done in range(1, 75):
        take(f"  [{done}/74] Building CXX object\n")
        take("  something else [3/4] \n")
    assert said[0] == "  fetched; configuring"
    assert said[-1] == "  compiled 74 of 74 files (100 %)"
    assert 20 <= len(said) <= 23


def test_a_build_that_breaks_shows_its_last_lines_and_keeps_them_all(tmp_path: Path) -> None:
    code = "[print('line', n) for n in range(100)]; import sys; sys.exit(3)"
    with pytest.raises(UnavailableError) as caught:
        installing.run([sys.executable, "-c", code], tmp_path / "build.log", lambda _: None)
    shown = str(caught.value)
    assert "line 99" in shown and "line 10\n" not in shown
    assert shown.endswith(f"all of its output is in {tmp_path / 'build.log'}")
    assert (tmp_path / "build.log").read_text(encoding="utf-8").count("line") == 100
