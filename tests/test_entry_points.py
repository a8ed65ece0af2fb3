"""Each server is started as a host would start it, relayed and standalone, and lists its tools."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from arsenale_daemon import discovery

SCRIPTS = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.parametrize("server", discovery.names())
@pytest.mark.parametrize(
    "command", [["arsenale-stdio"], ["arsenale", "stdio"], ["arsenale", "serve"]], ids=" ".join
)
async def test_a_server_lists_its_tools_over_stdio(
    command: list[str], server: str, environment: dict[str, str]
) -> None:
    script, *words = command
    target = StdioServerParameters(
        command=str(SCRIPTS / script), args=[*words, server], env=environment
    )
    with anyio.fail_after(30):
        async with Client(target) as client:
            assert 0 < len((await client.list_tools()).tools) <= 8


def test_every_script_of_the_distribution_is_installed() -> None:
    ours = [e.name for e in entry_points(group="console_scripts") if e.value.startswith("arsenale")]
    assert sorted(ours) == ["arsenale", "arsenale-stdio", "arsenale-verify"]
    assert all((SCRIPTS / name).is_file() for name in ours)
