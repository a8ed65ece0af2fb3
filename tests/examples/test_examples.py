"""Every example runs, against a real daemon through the real relay."""

import importlib.util
import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from anyio import to_thread
from mcp import StdioServerParameters

from arsenale_core import sidecar

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
RELAY = str(Path(sys.executable).with_name("arsenale-stdio"))


def load(path: Path) -> ModuleType:
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
        assert "[1] # Hooks write a file each" in said
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
