"""What one session remembers, the next one recalls.

Run it: `python examples/remember_and_recall.py`. It needs Arsenale only, and uses a temporary home;
`--home ~/.arsenale` uses yours.
"""

from mcp import Client
from running import run

from arsenale_core.surface import Target


async def main(memory: Target) -> None:
    """Each parameter names a server of the suite; the tests pass one of their own."""
    async with Client(memory) as monday:
        decision = {"content": "We ship the inventory service on Tuesdays.", "kind": "decision"}
        await monday.call_tool("remember", {"memories": [decision]})

    async with Client(memory) as tuesday:
        found = await tuesday.call_tool("recall", {"question": "When do we ship?", "limit": 1})

    assert found.structured_content is not None
    [memory_found] = found.structured_content["memories"]
    print("recalled:", memory_found["content"])


if __name__ == "__main__":
    run(main, "memory")
