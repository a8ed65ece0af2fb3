"""NUL, half characters and huge numbers in every parameter, on SQLite and PostgreSQL."""

import pytest
from mcp import Client
from tests.hostile import unexpected


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_no_value_of_a_parameter_breaks_a_tool(client: Client) -> None:
    assert await unexpected(client) == []
    assert (await client.list_tools()).tools
