"""Every example runs, against a real daemon through the real relay."""

import importlib.util
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from anyio import to_thread
from mcp import StdioServerParameters

from arsenale_core import sidecar
from arsenale_daemon import temporary_home

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = [path for path in sorted(FOLDER.glob("*.py")) if path.stem != "running"]
ENGINE = ("ask_the_docs", "two_personas")
RELAY = str(Path(sys.executable).with_name("arsenale-stdio"))


def load(path: Path) -> ModuleType:
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # as `python examples/x.py` has it first
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_an_example_runs(
    path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    main = load(path).main
    parameters = inspect.signature(main).parameters.values()
    needed = [each.name for each in parameters if each.default is each.empty]
    if {"sidecar", "genome"} & set(needed) and find_spec("llama_cpp") is None:
        pytest.skip("no engine: make inference")
    home = Path(environment["ARSENALE_HOME"])
    given: dict[str, Any] = {
        name: await to_thread.run_sync(sidecar.ensure, home)
        if name == "sidecar"
        else StdioServerParameters(command=RELAY, args=[name], env=environment)
        for name in needed
    }
    try:
        await main(**given)
    finally:
        await to_thread.run_sync(sidecar.stop, home)
    said = capsys.readouterr().out
    assert said
    if path.stem == "ask_the_docs":
        assert re.search(r"\[\d\] # Hooks write a file each", said)
    if path.stem == "two_personas":
        assert "tiny: I do not know." in said
        assert "operator: 7421." in said
        assert "pirate: 7421. Arr!" in said
    if path.stem == "a_sandboxed_task":
        assert "script: 2187" in said and "own code: 7 bytes" in said
        assert "endless loop: out_of_fuel" in said
        assert "receipt: True" in said and "changed receipt: False ['signature']" in said
    if path.stem == "three_agents":
        assert "Review both: nobody yet (it waits for its dependencies" in said
        assert "pia waits for wim" in said or "wim waits for pia" in said
        assert "tasks: 3 done" in said
    if path.stem == "a_recipe":
        assert "done: {'said': 'This week: 0 tool calls.', 'kept': True}" in said


def started(path: Path, user: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run an example as a person does, whose home folder is USER."""
    temporary = user / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(user), "TMPDIR": str(temporary), **more}
    return subprocess.run(
        [sys.executable, str(path)], env=environment, cwd=user, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_uses_a_temporary_home_and_leaves_nothing(path: Path, tmp_path: Path) -> None:
    if path.stem in ENGINE and find_spec("llama_cpp") is None:
        pytest.skip("no engine: make inference")
    elsewhere = "postgresql://nobody@127.0.0.1:1/real"
    done = started(path, tmp_path, ARSENALE_DATABASE_URL=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert not (tmp_path / ".arsenale").exists()
    assert list((tmp_path / "tmp").glob("arsenale-*")) == []
    assert temporary_home.processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_without_the_engine_an_example_runs_or_names_it_in_one_line(
    path: Path, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    text = 'import sys\nsys.modules["llama_cpp"] = None\n'
    (hidden / "sitecustomize.py").write_text(text, encoding="utf-8")
    done = started(path, tmp_path, PYTHONPATH=str(hidden))
    assert "Traceback" not in done.stderr
    if path.stem in ENGINE:
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"This example needs .*`arsenale inference install`.*\n", done.stderr)
    else:
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_an_example_uses_the_home_that_it_is_given(tmp_path: Path, home: Path) -> None:
    command = [sys.executable, str(FOLDER / "remember_and_recall.py"), "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "memory.db").exists()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_states_what_it_needs_and_is_listed(path: Path) -> None:
    needs = (load(path).__doc__ or "").replace("\n", " ")
    assert f"examples/{path.name}" in needs and "It needs" in needs and "--home" in needs
    assert ("inference engine" in needs) == (path.stem in ENGINE)
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"]({path.name})" in listed
    assert "examples/README.md" in (FOLDER.parent / "README.md").read_text(encoding="utf-8")
