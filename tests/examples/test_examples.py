"""Every example runs, against a real daemon through the real relay."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mcp import StdioServerParameters

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
    servers = inspect.signature(main).parameters
    await main(
        **{
            name: StdioServerParameters(command=RELAY, args=[name], env=environment)
            for name in servers
        }
    )
    assert capsys.readouterr().out
