"""Ask the telemetry server which tool calls of your assistant took long.

Run it: `python examples/ask_telemetry.py --home ~/.arsenale`. It needs a home in which an
assistant has worked; without `--home` it asks a temporary home, which is empty.
"""

from mcp import Client
from running import run

from arsenale_core.surface import Target


async def main(telemetry: Target) -> None:
    """Each parameter names a server of the suite; the tests pass one of their own."""
    async with Client(telemetry) as client:
        report = await client.call_tool("latency_report", {"since": "all", "slowest": 3})

    assert report.structured_content is not None
    for row in report.structured_content["rows"]:
        print(f"{row['name']:20} {row['calls']:6} calls  p95 {row.get('p95_ms')} ms")
    for call in report.structured_content.get("slowest", []):
        print(f"slowest: {call['tool']} on {call.get('subject')} took {call['duration_ms']:.0f} ms")
    if hint := report.structured_content.get("hint"):
        print(hint)


if __name__ == "__main__":
    run(main, "telemetry")
