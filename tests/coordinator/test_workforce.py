"""Agents and tasks over MCP: checked in, assigned, worked on, lost and found again."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated
from mcp.types import (
    EmptyResult,
    ResourceUpdatedNotification,
    SubscribeRequest,
    SubscribeRequestParams,
)
from tests.coordinator.conftest import Call, Time, caller, opened

Refusal = Callable[..., Awaitable[str]]


async def test_an_agent_gets_the_task_that_it_can_do_and_completes_it(call: Call) -> None:
    await call("check_in", agent="ann", capabilities=["Python", "code review"], take=False)
    made = await call(
        "assign_task",
        tasks=[
            {"title": "Paint", "needs": ["paint"], "priority": 9},
            {"title": "Review", "needs": ["code review"], "description": "all of it"},
        ],
    )
    paint, review = made["tasks"]
    assert paint["assigned_to"] is None and "no agent has tag paint" in paint["why"]
    assert review["assigned_to"] == "ann" and "ann scores" in review["why"]
    begun = await call("check_in", agent="ann")
    [work] = begun["work"]
    assert (work["title"], work["description"]) == ("Review", "all of it")
    done = await call(
        "update_task", task=work["task"], action="complete", agent="ann", fence=work["fence"],
        result="looks good",
    )  # fmt: skip
    assert done["state"] == "done"
    shown = await call("check_workforce", view="task", task=work["task"], detail="full")
    assert shown["task"]["result"] == "looks good"
    assert [a["outcome"] for a in shown["task"]["attempts"]] == ["done"]
    assert [e["what"] for e in shown["task"]["history"]] == [
        "task.created", "task.assigned", "task.claimed", "task.done",
    ]  # fmt: skip


async def test_what_comes_after_is_ready_when_all_before_is_done_and_is_told_the_results(
    call: Call,
) -> None:
    await call(
        "assign_task", assign=False,
        tasks=[
            {"title": "Build", "ref": "b"},
            {"title": "Test", "ref": "t", "after": ["b"]},
            {"title": "Ship", "after": ["b", "t"]},
        ],
    )  # fmt: skip
    for title in ("Build", "Test", "Ship"):
        got = await call("check_in", agent="ann", description="does it all")
        [work] = got["work"]
        assert work["title"] == title
        done = await call(
            "update_task", task=work["task"], action="complete", agent="ann",
            result=f"{title} is done", artifacts=[f"{title}.txt"],
        )  # fmt: skip
        assert done.get("now_ready", []) == ({"Build": ["t2"], "Test": ["t3"]}.get(title, []))
    shown = await call("check_workforce", view="task", task="t3")
    assert [line["state"] for line in shown["task"]["after"]] == ["done", "done"]
    assert [one["result"] for one in work["after"]] == ["Build is done", "Test is done"]


async def test_a_cycle_is_refused_with_its_tasks_named(call: Call, refusal: Refusal) -> None:
    said = await refusal(
        "assign_task",
        tasks=[
            {"title": "A", "ref": "a", "after": ["c"]},
            {"title": "B", "ref": "b", "after": ["a"]},
            {"title": "C", "ref": "c", "after": ["b"]},
        ],
    )
    assert "a -> c -> b -> a" in said
    await call("assign_task", tasks=[{"title": "A", "ref": "a"}, {"title": "B", "after": ["a"]}])
    later = await refusal("assign_task", tasks=[{"task": "t1", "after": ["t2"]}])
    assert "t1 -> t2 -> t1" in later


async def test_a_task_that_is_there_is_changed_and_can_wait_for_another(
    call: Call, refusal: Refusal
) -> None:
    await call("assign_task", tasks=[{"title": "A"}, {"title": "B"}])
    changed = [{"task": "t1", "after": ["t2"], "priority": 9, "title": "AA"}]
    [line] = (await call("assign_task", tasks=changed))["tasks"]
    assert (line["title"], line["state"], line["dependencies"]) == ("AA", "waiting", ["t2"])
    said = await refusal("assign_task", tasks=[{"task": "t1", "needs": ["x"]}])
    assert "needs of t1 cannot be changed" in said


async def test_a_taken_task_says_who_has_it_and_a_late_answer_is_refused(
    call: Call, refusal: Refusal, time: Time
) -> None:
    await call("assign_task", tasks=[{"title": "One"}])
    mine = await call("check_in", agent="ann", description="first", heartbeat_s=60)
    assert mine["work"][0]["task"] == "t1"
    none = await call("check_in", agent="bob", description="second")
    assert none["work"] == [] and "nothing to do" in none["hint"]
    said = await refusal("update_task", task="t1", action="complete", agent="bob")
    assert "ann has it, its lease ends in 1" in said
    fence = mine["work"][0]["fence"]
    time.passes(121)
    again = await call("check_in", agent="bob")
    assert again["work"][0]["task"] == "t1" and again["work"][0]["fence"] > fence
    late = await refusal("update_task", task="t1", action="complete", agent="ann", fence=fence)
    assert "your lease of t1 is over" in late and "bob has it" in late


async def test_a_lease_never_ends_early_and_any_call_renews_it(call: Call, time: Time) -> None:
    await call("assign_task", tasks=[{"title": "One"}])
    await call("check_in", agent="ann", description="first", heartbeat_s=60)
    await call("check_in", agent="bob", description="second")
    for _ in range(5):
        time.passes(119)
        assert (await call("check_in", agent="bob"))["work"] == []
        await call("update_task", task="t1", action="progress", agent="ann", progress=0.5)
    time.wall_s -= 86_400  # somebody sets the clock back, and forth
    assert (await call("check_in", agent="bob"))["work"] == []
    time.wall_s += 10 * 86_400
    assert (await call("check_in", agent="bob"))["work"] == []


async def test_a_task_whose_agents_fall_silent_three_times_waits_for_a_person(
    call: Call, time: Time
) -> None:
    await call("assign_task", tasks=[{"title": "Deadly", "max_attempts": 20}])
    for n in range(3):
        got = await call("check_in", agent=f"a{n}", description="brave", heartbeat_s=60)
        assert got["work"][0]["title"] == "Deadly"
        time.passes(121)
    assert (await call("check_in", agent="last", description="x"))["work"] == []
    shown = await call("check_workforce", task="t1")
    assert shown["task"]["state"] == "failed" and "fell silent 3 times" in shown["task"]["note"]
    assert (await call("update_task", task="t1", action="retry"))["state"] == "ready"
    assert (await call("check_in", agent="last"))["work"][0]["task"] == "t1"


async def test_completing_twice_is_once_by_key_or_fence(call: Call, refusal: Refusal) -> None:
    await call("assign_task", tasks=[{"title": "One"}])
    work = (await call("check_in", agent="ann", description="x"))["work"][0]
    done = {"task": "t1", "action": "complete", "agent": "ann", "fence": work["fence"]}
    for _ in range(3):
        assert (await call("update_task", **done, key="k"))["state"] == "done"
    shown = await call("check_workforce", task="t1", detail="full")
    assert len(shown["task"]["attempts"]) == 1
    other = await refusal("update_task", **done, key="other")
    assert "t1 is done already" in other


async def test_evidence_must_be_a_green_run_of_the_command_asked_for(
    call: Call, refusal: Refusal
) -> None:
    await call("assign_task", tasks=[{"title": "One", "evidence": "make test"}])
    await call("check_in", agent="ann", description="x")
    done = {"task": "t1", "action": "complete", "agent": "ann"}
    assert "is done when `make test` ran green" in await refusal("update_task", **done)
    red = {"command": "make test", "exit_code": 2}
    assert "ended with 2, not 0" in await refusal("update_task", **done, evidence=red)
    other = {"command": "echo fine", "exit_code": 0}
    assert "asks for a run of" in await refusal("update_task", **done, evidence=other)
    green = {"command": "cd x && make  test", "exit_code": 0, "output": "5 passed"}
    assert (await call("update_task", **done, evidence=green))["state"] == "done"


async def test_gates_wait_for_a_person_before_and_after(call: Call, refusal: Refusal) -> None:
    await call(
        "assign_task", tasks=[{"title": "Risky", "gate": "before"}, {"title": "B", "gate": "after"}]
    )
    work = (await call("check_in", agent="ann", description="x"))["work"]
    assert [one["title"] for one in work] == ["B"]
    done = {"action": "complete", "agent": "ann"}
    assert (await call("update_task", task="t2", **done))["state"] == "review"
    assert (await call("update_task", task="t2", **done))["state"] == "review"  # as said before
    back = await call("update_task", task="t2", action="reject", note="not yet")
    assert back["state"] == "ready"
    again = (await call("check_in", agent="ann"))["work"][0]
    assert again["note"] == "not yet"
    await call("update_task", task="t2", **done)
    assert (await call("update_task", task="t2", action="approve"))["state"] == "done"
    assert (await call("update_task", task="t1", action="approve"))["state"] == "ready"
    said = await refusal("update_task", task="t2", action="cancel")
    assert "t2 is done and cannot be cancelled" in said


async def test_a_failed_task_goes_to_another_agent_until_no_attempt_is_left(call: Call) -> None:
    await call("assign_task", tasks=[{"title": "Hard", "max_attempts": 2}], assign=False)
    await call("check_in", agent="ann", description="x")
    await call("check_in", agent="bob", description="y", take=False)
    failed = await call("update_task", task="t1", action="fail", agent="ann", note="too hard")
    assert failed["next"].startswith("bob is thought to do it best now")
    assert (await call("check_in", agent="ann"))["work"] == []  # bob has not tried yet
    got = (await call("check_in", agent="bob"))["work"][0]
    assert (got["attempt"], got["note"]) == (2, "too hard")
    assert (await call("update_task", task="t1", action="fail", agent="bob"))["state"] == "failed"


async def test_handing_over_tells_the_next_agent_what_it_has_to_know(call: Call) -> None:
    await call("assign_task", tasks=[{"title": "Long", "max_attempts": 1}])
    await call("check_in", agent="ann", description="x")
    left = {"done": "half", "remaining": "the rest", "pitfalls": "the cache"}
    await call("update_task", task="t1", action="hand_over", agent="ann", handoff=left)
    got = (await call("check_in", agent="bob", description="y"))["work"][0]
    assert got["handoff"] == left


async def test_who_leaves_gives_its_tasks_back(call: Call) -> None:
    await call("assign_task", tasks=[{"title": "One"}, {"title": "Two"}])
    await call("check_in", agent="ann", description="x", capacity=2)
    await call("check_in", agent="ann")
    gone = await call("check_in", agent="ann", status="leaving")
    assert (gone["state"], gone["work"]) == ("left", [])
    shown = await call("check_workforce", view="tasks")
    assert [t["state"] for t in shown["tasks"]] == ["ready", "ready"]
    assert "1 left" in (await call("check_workforce"))["summary"]


async def test_capacity_limits_what_an_agent_has_at_once(call: Call) -> None:
    await call("assign_task", assign=False, tasks=[{"title": f"T{n}"} for n in range(5)])
    got = await call("check_in", agent="ann", description="x", capacity=2)
    for _ in range(4):
        got = await call("check_in", agent="ann")
    assert [one["title"] for one in got["work"]] == ["T0", "T1"]


async def test_waiting_for_work_ends_when_work_comes(call: Call) -> None:
    found: list[Any] = []

    async def wait() -> None:
        found.append(await call("check_in", agent="ann", description="x", wait_s=30))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.1)
            await call("assign_task", tasks=[{"title": "At last"}], assign=False)
    assert found[0]["work"][0]["title"] == "At last"


async def test_waiting_agents_get_each_the_task_that_suits_them(call: Call) -> None:
    got: dict[str, str] = {}

    async def wait(name: str, skill: str) -> None:
        said = await call("check_in", agent=name, capabilities=[skill], wait_s=30)
        got[name] = said["work"][0]["title"]

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "ann", "python")
            tasks.start_soon(wait, "bob", "rust")
            await anyio.sleep(0.1)
            await call(
                "assign_task", assign=False,
                tasks=[{"title": "R", "needs": ["rust"]}, {"title": "P", "needs": ["python"]}],
            )  # fmt: skip
    assert got == {"ann": "P", "bob": "R"}


URIS = {"workforce://status", "tasks://ann"}


async def test_changes_are_notified_to_who_listens(settings_of: dict[str, str], time: Time) -> None:
    seen: set[str] = set()
    async with opened(settings_of, time.clock) as (_, client):
        call = caller(client)
        await call("check_in", agent="ann", description="x")
        with anyio.fail_after(10):
            async with client.listen(resource_subscriptions=list(URIS)) as events:
                await call("assign_task", tasks=[{"title": "New"}])
                async for event in events:
                    assert isinstance(event, ResourceUpdated)
                    seen.add(str(event.uri))
                    if seen == URIS:
                        break


async def test_changes_are_notified_to_older_clients(
    settings_of: dict[str, str], time: Time
) -> None:
    seen: set[str] = set()
    all_came = anyio.Event()

    async def came(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            seen.add(str(message.params.uri))
            if seen >= URIS:
                all_came.set()

    options = {"mode": "legacy", "message_handler": came}
    async with opened(settings_of, time.clock, **options) as (_, client):
        call = caller(client)
        await call("check_in", agent="ann", description="x")
        for uri in URIS:
            asked = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
            await client.session.send_request(asked, EmptyResult)
        await call("assign_task", tasks=[{"title": "New"}])
        with anyio.fail_after(10):
            await all_came.wait()


async def test_resources_show_the_workforce_and_an_agents_tasks(call: Call, client: Client) -> None:
    await call("check_in", agent="ann", description="x", take=False)
    await call("assign_task", tasks=[{"title": "New"}])
    status = (await client.read_resource("workforce://status")).contents[0]
    assert "ann" in getattr(status, "text", "")
    mine = (await client.read_resource("tasks://ann")).contents[0]
    assert "New" in getattr(mine, "text", "")
