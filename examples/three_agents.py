"""Three agents share one repository: tasks in order, one agent a file, messages in between.

Run it: `python examples/three_agents.py`. It needs Arsenale only, and uses a temporary home;
`--home ~/.arsenale` uses yours.
"""

from typing import Any

import anyio
from mcp import Client
from running import run

from arsenale_core.surface import Target

PLAN: list[dict[str, Any]] = [
    {"ref": "api", "title": "Write the API", "needs": ["python"], "evidence": "pytest -q"},
    {"ref": "page", "title": "Draw the page", "needs": ["web"]},
    {"title": "Review both", "needs": ["review"], "after": ["api", "page"]},
]


async def main(coordinator: Target) -> None:
    """Each parameter names a server of the suite; the tests pass one of their own."""
    async with Client(coordinator) as client:

        async def call(tool: str, **arguments: Any) -> Any:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, answer.content
            return answer.structured_content

        for agent, skill in (("pia", "python"), ("wim", "web"), ("rea", "review")):
            await call("check_in", agent=agent, capabilities=[skill], take=False)
        for task in (await call("assign_task", tasks=PLAN, by="lead"))["tasks"]:
            who = task["assigned_to"] or f"nobody yet ({task['why']})"
            print(f"{task['title']}: {who}")

        async def work(agent: str, path: str) -> None:
            [task] = (await call("check_in", agent=agent, wait_s=30))["work"]
            held = await call("reserve_files", action="reserve", agent=agent, paths=[path])
            while not held["granted"]:
                holder = held["conflicts"][0]["agent"]
                print(f"{agent} waits for {holder}")
                await anyio.sleep(0.1)
                held = await call("reserve_files", action="reserve", agent=agent, paths=[path])
            await anyio.sleep(0.3)  # here it would edit
            ran = {"command": "pytest -q", "exit_code": 0, "output": "12 passed"}
            await call(
                "update_task", action="complete", agent=agent, task=task["task"],
                fence=task["fence"], result=f"{path} is done", evidence=ran,
            )  # fmt: skip
            await call("reserve_files", action="release", agent=agent)
            print(f"{agent} finished {task['title']!r}")

        async with anyio.create_task_group() as agents:
            agents.start_soon(work, "pia", "src/**")
            agents.start_soon(work, "wim", "src/page.html")
            agents.start_soon(work, "rea", "src/**")
        note = {"to": ["pia", "wim"], "subject": "Review", "body": "Both are fine, thank you."}
        await call("exchange_messages", action="send", agent="rea", **note)
        inbox = await call("exchange_messages", action="inbox", agent="pia")
        print("pia reads:", inbox["messages"][0]["body"])
        print((await call("check_workforce"))["summary"])


if __name__ == "__main__":
    run(main, "coordinator")
