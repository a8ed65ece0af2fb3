"""What a user installs: the wheel holds `arsenale_*` only, and runs from an empty environment."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, env=dict(os.environ), check=True, capture_output=True)
    [built] = out.glob("*.whl")
    return built


def test_the_wheel_installs_every_package_under_our_prefix_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = (p for top in ("servers", "shared") for p in (ROOT / top).iterdir())
    packages = {p.name for p in folders if (p / "__init__.py").is_file()}
    installed = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert installed == packages
    assert all(name.startswith("arsenale_") for name in installed)


def test_every_hook_and_the_recorded_session_are_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    hooks = {p.name for p in (ROOT / "hooks").iterdir() if p.is_file() and p.name != "README.md"}
    assert {f"arsenale_core/_assets/hooks/{name}" for name in hooks} <= names
    assert "arsenale_daemon/data/session.jsonl" in names


def test_the_tiny_model_and_its_layers_are_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {"base-q8_0.gguf", "facts.gguf", "tone.gguf", "facts.rehearsal.json", "card.json"}
    assert {f"arsenale_inference/tiny/{name}" for name in files} <= names


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_wheel_runs_the_demo_from_an_environment_that_has_only_its_dependencies(
    wheel: Path, tmp_path: Path
) -> None:
    # Dependencies are lent from this environment by a path file, so that nothing is downloaded;
    # the checkout itself is not on that path.
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    own = tmp_path / "own"
    zipfile.ZipFile(wheel).extractall(own)
    lent = next(p for p in map(Path, sys.path) if (p / "mcp" / "__init__.py").is_file())
    (site / "lent.pth").write_text(f"{own}\n{lent}\n", encoding="utf-8")
    code = (
        "import sys; sys.argv = ['arsenale', 'demo']; from arsenale_daemon.cli import main; main()"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "193 recorded events went through the hook" in done.stdout
