"""A recipe asks telemetry, remembers what it found, and asks a person before it goes on.

It continues where it was, whichever process is killed.

Run it: `python examples/a_recipe.py`. It needs Arsenale only, and uses a temporary home;
`--home ~/.arsenale` uses yours.
"""

from typing import Any

from mcp import Client
from running import run

from arsenale_core.surface import Target

RECIPE: dict[str, Any] = {
    "name": "friday",
    "description": "What the week cost, kept as a memory if somebody wants it.",
    "inputs": {"since": {"default": "7d", "required": False}},
    "steps": [
        {"id": "look", "parallel": [
            [{"id": "usage", "tool": "telemetry.usage_report",
              "with": {"since": "{{ inputs.since }}"}}],
            [{"id": "known", "tool": "memory.recall", "with": {"question": "What did it cost?"}}],
        ]},
        {"id": "text", "value": "This week: {{ usage.output.total.calls }} tool calls."},
        {"id": "ok", "ask": "Keep {{ text.output|tojson }}?", "on_reject": "continue"},
        {"id": "keep", "tool": "memory.remember", "when": "ok.output.approved",
         "with": {"memories": [{"content": "{{ text.output }}", "tags": ["costs"]}]}},
    ],
    "output": {"said": "{{ text.output }}", "kept": "{{ keep.state == 'done' }}"},
}  # fmt: skip


async def main(coordinator: Target) -> None:
    """Each parameter names a server of the suite; the tests pass one of their own."""
    async with Client(coordinator) as client:

        async def recipe(action: str, **arguments: Any) -> Any:
            answer = await client.call_tool("run_recipe", {"action": action, **arguments})
            assert not answer.is_error, answer.content
            return answer.structured_content

        plan = await recipe("plan", definition=RECIPE)
        print("it would:", "; ".join(step["what"] for step in plan["steps"]))
        run = await recipe("run", definition=RECIPE, wait_s=60)
        print("it asks:", run["asks"][0])
        done = await recipe("approve", run=run["run"], note="yes, keep it", wait_s=60)
        print(f"{done['state']}: {done['output']}")


if __name__ == "__main__":
    run(main, "coordinator")
