"""What is fetched and run: no code of the current folder, nothing without its hash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.inference.test_installation import _build  # pyright: ignore[reportPrivateUsage]

from arsenale_inference.installation import prebuilt, processes
from arsenale_inference.installation.installer import kept_wheel

ROOT = Path(__file__).parents[2]


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return version and hashes of each requirement in requirements/NAME."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in filter(None, text.splitlines()):
        words = line.split()
        package, _, version = words[0].partition("==")
        hashes = [word for word in words if word.startswith("--hash=sha256:")]
        found[package.partition("[")[0]] = (version, hashes)
    return found


@pytest.mark.parametrize("name", ["build.txt", "run.txt", "dev.txt"])
def test_every_requirement_of_make_has_a_version_of_the_constraints_and_hashes(name: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    found = locked(name)
    assert len(found) > 5
    for package, (version, hashes) in found.items():
        assert hashes and pinned.get(package, version) == version, package


@pytest.mark.parametrize("words", [("models", "install", "minilm")])
def test_a_pip_of_the_current_folder_is_not_run(
    environment: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    pytest.importorskip("onnxruntime")
    mark = f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n"
    for name in ("pip.py", "onnx.py", "tempfile.py", "sitecustomize.py"):
        (tmp_path / name).write_text(mark, encoding="utf-8")
    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0",
                   "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull,
                   "PIP_NO_INDEX": "1"}  # fmt: skip
    done = subprocess.run(
        [str(Path(sys.executable).with_name("arsenale")), *words], cwd=tmp_path,
        env={**environment, **unreachable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "cannot be fetched" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "ran").exists()


def test_pip_never_looks_into_the_current_folder() -> None:
    assert processes.pip("install")[:4] == [sys.executable, "-P", "-m", "pip"]


def test_a_fetched_archive_with_another_hash_is_refused(tmp_path: Path) -> None:
    words = processes.pinned(tmp_path, "x==1", prebuilt.SDIST_SHA256)
    assert "--require-hashes" in words
    text = (tmp_path / "requirement.txt").read_text(encoding="ascii")
    assert text == f"x==1 --hash=sha256:{prebuilt.SDIST_SHA256}\n"


@pytest.mark.parametrize("change", ["content", "no hash", "another hash", "open folder"])
def test_a_kept_wheel_that_somebody_may_have_put_there_is_made_again(
    tmp_path: Path, change: str
) -> None:
    made: list[str] = []
    build, folder, said = _build("a", made), tmp_path / "wheels", list[str]()
    wheel = kept_wheel(folder, build, lambda _: None)
    assert folder.stat().st_mode & 0o777 == 0o700
    hashed = wheel.with_name(wheel.name + ".sha256")
    if change == "content":
        wheel.write_bytes(b"evil")
    elif change == "no hash":
        hashed.unlink()
    elif change == "another hash":
        hashed.write_text("0" * 64, encoding="ascii")
    else:
        folder.chmod(0o777)
    assert kept_wheel(folder, build, said.append).read_bytes() != b"evil"
    assert made == ["a", "a"] and "made again" in said[0]


def test_a_model_is_fetched_only_with_its_hash(environment: dict[str, str], tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("arsenale")), "models", "add"]
    for more in ([], ["--sha256", "abc"], ["--sha256", "g" * 64]):
        done = subprocess.run(
            [*command, "https://127.0.0.1:9/model.gguf", *more], env=environment, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, "--sha256" in done.stderr) == (1, True), done.stderr
