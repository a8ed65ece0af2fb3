"""What every surface does for its tools."""

from collections.abc import AsyncIterator

import pytest
from mcp import Client
from mcp.server import MCPServer
from mcp.types import TextContent
from prometheus_client import CollectorRegistry, generate_latest

from arsenale_core.config import Settings
from arsenale_core.errors import NotFoundError
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import READS, Runtime, ServerSpec, resource, surface, tool


async def greet(name: str, times: int = 1) -> str:
    """Greet."""
    return f"hello {name} " * times


async def find(id: str) -> str:
    """Find."""
    raise NotFoundError("thing", id, hint="call `list`")


async def crash() -> str:
    """Crash."""
    raise RuntimeError("a secret path")


def build(service: None) -> MCPServer[None]:
    mcp = surface("test", service, version="1", instructions="")
    mcp.add_tool(tool(greet), annotations=READS)
    mcp.add_tool(tool(find), annotations=READS)
    mcp.add_tool(tool(crash), annotations=READS)

    @mcp.resource("test://lost")
    @resource
    async def lost() -> str:
        raise NotFoundError("thing", "x", hint="call `list`")

    del lost
    return mcp


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def client(registry: CollectorRegistry) -> AsyncIterator[Client]:
    settings = Settings.read({"ARSENALE_RESULT_MAX_CHARS": "1000"})
    spec = ServerSpec(name="test", open=lambda _: NotImplemented, build=build)
    mcp = spec.mount(None, Runtime(settings=settings), CallMetrics(registry))
    async with Client(mcp) as opened:
        yield opened


async def said(client: Client, name: str, /, **arguments: object) -> tuple[bool, str]:
    result = await client.call_tool(name, arguments)
    [text] = result.content
    assert isinstance(text, TextContent)
    return bool(result.is_error), text.text


async def test_our_errors_reach_the_model_with_their_hint(client: Client) -> None:
    assert await said(client, "find", id="x") == (
        True,
        "Error executing tool find: no thing 'x': call `list`",
    )


async def test_a_crash_tells_the_model_nothing(client: Client) -> None:
    assert await said(client, "crash") == (True, "Error executing tool crash")


async def test_an_unknown_argument_is_refused_with_the_nearest_name(client: Client) -> None:
    failed, text = await said(client, "greet", name="a", time=2)
    assert failed
    assert text == "greet has no argument 'time': did you mean 'times'? It takes name, times."
    assert "It takes none" in (await said(client, "crash", x=1))[1]


async def test_a_result_past_the_limit_says_what_to_do(client: Client) -> None:
    failed, text = await said(client, "greet", name="a", times=500)
    assert failed
    assert "more than the limit of 1,000: ask for fewer items" in text


async def test_every_call_is_counted_and_timed_under_a_known_name(
    client: Client, registry: CollectorRegistry
) -> None:
    await said(client, "greet", name="a")
    await said(client, "find", id="x")
    await client.call_tool("no such tool", {})
    text = generate_latest(registry).decode()
    assert 'arsenale_mcp_calls_total{server="test",status="ok",tool="greet"} 1.0' in text
    assert 'arsenale_mcp_calls_total{server="test",status="error",tool="find"} 1.0' in text
    assert 'tool="unknown"} 1.0' in text
    assert 'duration_seconds_count{server="test",tool="greet"} 1.0' in text


async def test_the_error_of_a_resource_reaches_its_reader(client: Client) -> None:
    with pytest.raises(Exception, match="no thing 'x': call `list`"):
        await client.read_resource("test://lost")
