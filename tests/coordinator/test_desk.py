"""Work and workers that come together: waiting, leaving, late, cut off, several daemons at once."""

import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from mcp import Client
from tests.coordinator.conftest import Call, Time, agent_of, caller, opened, task_of

from arsenale_coordinator import desk
from arsenale_coordinator.lifecycle import Finish
from arsenale_coordinator.opening import Services
from arsenale_coordinator.record import NewTask, Profile
from arsenale_coordinator.repository.sharing import Repository, Reserve
from arsenale_coordinator.store import CoordinatorStore

Refusal = Callable[..., Awaitable[str]]
SOMEBODY = Profile(description="does it all")


def checked_in(store: CoordinatorStore, name: str, **said: Any) -> int:
    return store.check_in(name, Profile(description="x", **said)).id


async def test_who_waits_gets_at_once_what_is_assigned_to_it(call: Call) -> None:
    found: list[Any] = []

    async def wait() -> None:
        found.append(await call("check_in", agent="ann", description="x", wait_s=30))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.1)
            said = await call("assign_task", tasks=[{"title": "For ann"}])
            assert said["tasks"][0]["assigned_to"] == "ann"
    assert [work["title"] for work in found[0]["work"]] == ["For ann"]


@pytest.mark.parametrize("status", ["leaving", "paused"])
async def test_who_leaves_or_pauses_elsewhere_waits_no_longer_and_gets_nothing(
    call: Call, services: Services, status: str
) -> None:
    found: list[Any] = []

    async def wait() -> None:
        found.append(await call("check_in", agent="ann", description="x", wait_s=30))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(0.1)
            await call("check_in", agent="ann", status=status)
    state = "left" if status == "leaving" else "paused"
    assert (found[0]["state"], found[0]["work"]) == (state, [])
    await call("assign_task", tasks=[{"title": "One"}])
    assert agent_of(services.coordinator.store, "ann").state == state


async def test_a_call_that_is_cut_off_gives_back_what_it_was_about_to_get(
    services: Services, time: Time
) -> None:
    store, coordinator = services.coordinator.store, services.coordinator
    for n in range(25):
        told: list[str] = []
        made: list[int] = []
        scope = anyio.CancelScope()

        async def wait(scope: anyio.CancelScope, told: list[str]) -> None:
            with scope:
                said = await coordinator.check_in(
                    "ann", SOMEBODY, status="available", take=True, wait_s=30
                )
                told += [work.task for work in said.work]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, scope, told)
            await anyio.sleep(0.01)
            made += [one.id for one in await to_thread.run_sync(store.add, [NewTask(title="One")])]
            coordinator.desk.nudge()
            await anyio.sleep(0.0004 * n)
            scope.cancel()
        task = task_of(store, made[0])
        assert (task.state == "running") == (told == [task.name])
        assert agent_of(store, "ann").load == len(told)
        store.decide(task.id, "cancel", "test", {})
        assert not task.text("note")


async def test_an_agent_that_is_no_longer_fit_does_not_spoil_the_claims_of_others(
    store: CoordinatorStore,
) -> None:
    ann = checked_in(store, "ann", tags=("python",))
    bob, cy = checked_in(store, "bob", tags=("python",)), checked_in(store, "cy")
    made = store.add([NewTask(title=f"T{n}", needs=("python",)) for n in range(2)])
    made += store.add([NewTask(title="T2")])
    store.check_in("ann", Profile(tags=("rust",)))
    store.check_in("cy", Profile(), state="left")
    pairs = list(zip((ann, bob, cy), (task.id for task in made), strict=True))
    taken = store.claim_pairs(pairs)
    assert [(task.agent_id, task.title) for task in taken] == [(bob, "T1")]


async def test_one_process_serves_an_agent_that_waits_in_another(
    settings_of: dict[str, str], time: Time
) -> None:
    found: list[Any] = []
    async with opened(settings_of, time.clock) as (_, one), opened(settings_of, time.clock) as two:
        waiting, other = caller(one), caller(two[1])

        async def wait() -> None:
            found.append(await waiting("check_in", agent="ann", description="x", wait_s=30))

        with anyio.fail_after(8):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(0.1)
                await other("assign_task", tasks=[{"title": "From afar"}])
    assert found[0]["work"][0]["title"] == "From afar"


async def test_two_processes_give_no_task_to_two_agents(
    settings_of: dict[str, str], time: Time
) -> None:
    got: list[str] = []
    async with opened(settings_of, time.clock) as (_, one), opened(settings_of, time.clock) as two:
        calls = [caller(one), caller(two[1])]

        async def work(n: int) -> None:
            said = await calls[n % 2]("check_in", agent=f"a{n}", description="x", wait_s=20)
            got.extend(work["task"] for work in said["work"])

        with anyio.fail_after(25):
            async with anyio.create_task_group() as tasks:
                for n in range(12):
                    tasks.start_soon(work, n)
                await anyio.sleep(0.05)
                for n in range(4):
                    made = [{"title": f"T{n}.{i}"} for i in range(3)]
                    await calls[n % 2]("assign_task", tasks=made, assign=n < 2)
    assert sorted(got) == sorted(f"t{n}" for n in range(1, 13))


async def test_what_is_assigned_to_an_agent_that_does_not_come_goes_to_one_that_waits(
    call: Call, time: Time
) -> None:
    await call("check_in", agent="ann", capabilities=["x"], take=False, heartbeat_s=600)
    said = await call("assign_task", tasks=[{"title": "One", "needs": ["x"]}])
    assert said["tasks"][0]["assigned_to"] == "ann"
    assert (await call("check_in", agent="bob", capabilities=["x"]))["work"] == []
    time.passes(31)
    [work] = (await call("check_in", agent="bob"))["work"]
    assert work["title"] == "One"
    assert (await call("check_in", agent="ann"))["work"] == []


async def test_an_assignment_ends_when_its_agent_misses_its_heartbeats_or_pauses(
    call: Call, time: Time, services: Services
) -> None:
    store = services.coordinator.store
    await call("check_in", agent="ann", description="x", take=False, heartbeat_s=60)
    await call("assign_task", tasks=[{"title": "One"}])
    time.passes(121)
    store.sweep()
    assert (task_of(store, 1).state, agent_of(store, "ann").load) == ("ready", 0)
    await call("check_in", agent="ann", take=False)
    await call("assign_task", tasks=[{"task": "t1"}, {"task": "t1"}])
    assert task_of(store, 1).state == "reserved"
    await call("check_in", agent="ann", status="paused")
    assert (task_of(store, 1).state, agent_of(store, "ann").load) == ("ready", 0)


async def test_an_old_task_is_not_starved_by_many_that_are_a_little_more_urgent(
    call: Call, time: Time
) -> None:
    await call("assign_task", assign=False, tasks=[{"title": "Old", "priority": 4}])
    time.passes(3 * 3600)
    for _ in range(3):
        young = [{"title": "Young", "priority": 5} for _ in range(200)]
        await call("assign_task", assign=False, tasks=young)
    [work] = (await call("check_in", agent="ann", description="x"))["work"]
    assert work["title"] == "Old"


async def test_saying_twice_that_a_task_failed_is_saying_it_once(call: Call) -> None:
    await call("assign_task", tasks=[{"title": "One", "max_attempts": 2}], assign=False)
    work = (await call("check_in", agent="ann", description="x"))["work"][0]
    failed = {"task": "t1", "action": "fail", "agent": "ann", "fence": work["fence"]}
    for _ in range(3):
        assert (await call("update_task", **failed))["state"] == "ready"
    again = (await call("check_in", agent="ann"))["work"][0]
    over = {**failed, "action": "hand_over", "fence": again["fence"]}
    for _ in range(2):
        assert (await call("update_task", **over))["state"] == "ready"
    shown = await call("check_workforce", task="t1", detail="full")
    assert [a["outcome"] for a in shown["task"]["attempts"]] == ["failed", "handed_over"]


async def test_who_left_stays_away_though_a_late_answer_comes(
    call: Call, refusal: Refusal, services: Services
) -> None:
    await call("assign_task", tasks=[{"title": "One", "max_attempts": 1}])
    work = (await call("check_in", agent="ann", description="x"))["work"][0]
    await call("check_in", agent="ann", status="leaving")
    done = {"task": "t1", "action": "complete", "agent": "ann", "fence": work["fence"]}
    assert "your lease of t1 is over" in await refusal("update_task", **done)
    assert agent_of(services.coordinator.store, "ann").state == "left"
    again = (await call("check_in", agent="bob", description="y"))["work"][0]
    assert "attempt" not in again  # what was handed over is no attempt that failed


async def test_a_task_that_a_person_rejected_is_not_begun_by_a_retry_alone(call: Call) -> None:
    await call("assign_task", tasks=[{"title": "Risky", "gate": "before"}])
    await call("update_task", task="t1", action="reject", note="no")
    assert (await call("update_task", task="t1", action="retry"))["state"] == "held"
    assert (await call("update_task", task="t1", action="approve"))["state"] == "ready"


async def test_one_key_for_two_tasks_of_a_call_is_refused(refusal: Refusal, call: Call) -> None:
    said = await refusal(
        "assign_task",
        tasks=[
            {"title": "A", "ref": "a", "key": "k", "after": ["c"]},
            {"title": "C", "ref": "c", "after": ["b"]},
            {"title": "B", "ref": "b", "key": "k"},
        ],
    )
    assert "key 'k' is given twice" in said
    assert (await call("check_workforce", view="tasks")).get("tasks", []) == []


async def test_an_agent_with_much_to_do_is_told_what_there_is_room_for(call: Call) -> None:
    long = {"description": "d" * 20_000, "priority": 9}
    await call("assign_task", tasks=[{"title": f"T{n}", **long} for n in range(8)], assign=False)
    for n in range(8):
        got = await call("check_in", agent="ann", description="x", capacity=8)
        assert len(got["work"]) == n + 1
        assert len(got["work"][0]["description"]) == 20_000
        last = got["work"][-1]["description"]
        assert ("`check_workforce` with task=t" in last) == (n >= 2)


@pytest.mark.parametrize(
    ("command", "counts"),
    [
        ("make test", True), ("cd x && make   test", True), ("CI=1 make test -k fast", True),
        ("make tests", False), ("remake test", False), ("make test || true", False),
        ("make test | tail -3", False), ("make test; echo ok", False), ("make test ; true", False),
    ],
)  # fmt: skip
async def test_what_counts_as_a_run_of_the_command(
    call: Call, refusal: Refusal, command: str, counts: bool
) -> None:
    await call("assign_task", tasks=[{"title": "One", "evidence": "make test"}])
    await call("check_in", agent="ann", description="x")
    done: dict[str, Any] = {"task": "t1", "action": "complete", "agent": "ann"}
    done["evidence"] = {"command": command, "exit_code": 0}
    if counts:
        assert (await call("update_task", **done))["state"] == "done"
    else:
        assert "asks for a run of `make test`" in await refusal("update_task", **done)


@pytest.mark.parametrize("name", ["a/b", "ünï-✓", "50%", "o'hara;--", "a{b}", "..", "x" * 60])
async def test_agents_may_have_odd_names(call: Call, client: Any, name: str) -> None:
    await call("assign_task", tasks=[{"title": "One", "description": "d" * 20_000}])
    [work] = (await call("check_in", agent=name, capabilities=["ünï cödé", "a'b"]))["work"]
    assert len(work["description"]) == 20_000
    assert (await call("check_workforce", view="tasks", agent=name))["tasks"][0]["agent"] == name
    done = await call("update_task", task="t1", action="complete", agent=name)
    assert done["state"] == "done"


async def test_two_hundred_tasks_of_one_call_are_all_there_and_assigned_within_limits(
    call: Call, services: Services
) -> None:
    for n in range(3):
        await call("check_in", agent=f"a{n}", capabilities=["x"], capacity=10, take=False)
    chain = [{"title": f"T{n}", "ref": f"r{n}", "after": [f"r{n - 1}"]} for n in range(1, 100)]
    rest = [{"title": f"S{n}", "needs": ["x"] if n % 2 else ["nobody-has-it"]} for n in range(100)]
    said = await call("assign_task", tasks=[{"title": "T0", "ref": "r0"}, *chain, *rest])
    states = [line["state"] for line in said["tasks"]]
    assert (states.count("reserved"), states.count("waiting"), len(states)) == (30, 99, 200)
    assert "no agent has tag nobody-has-it" in said["tasks"][100]["why"]
    for n in range(3):
        assert agent_of(services.coordinator.store, f"a{n}").load == 10


async def test_agents_of_other_projects_are_left_alone(store: CoordinatorStore) -> None:
    ann, bob = checked_in(store, "ann", project="p"), checked_in(store, "bob", project="q")
    made = store.add([NewTask(title="P", project="p"), NewTask(title="Any")])
    assert store.claim_pairs([(bob, made[0].id)]) == []
    assert len(store.claim_pairs([(ann, made[0].id), (bob, made[1].id)])) == 2


async def test_agents_are_shown_as_they_were_last_seen(call: Call, time: Time) -> None:
    await call("check_in", agent="ann", description="x", take=False)
    before = (await call("check_workforce"))["agents"][0]["last_seen"]
    time.wall_s += 100
    await call("check_in", agent="ann", take=False)
    assert (await call("check_workforce"))["agents"][0]["last_seen"] > before


async def test_a_reservation_that_ended_is_no_longer_looked_through(
    team: Call, time: Time, services: Services
) -> None:
    call = team
    paths = [f"src/{n}/*.py" for n in range(50)]
    await call("reserve_files", action="reserve", agent="ann", paths=paths, minutes=1)
    time.passes(61)
    await call("reserve_files", action="reserve", agent="bob", paths=["x.py"])
    with services.coordinator.store.reading() as db:
        live = db.exec_driver_sql("SELECT count(*) FROM reservation WHERE released_us IS NULL")
        assert live.scalar() == 1


STORM, TASKS_OF_STORM = 6, 60


def test_of_many_processes_at_once_each_task_goes_to_one(
    where: Path | str, store: CoordinatorStore, time: Time
) -> None:
    ids = [
        store.check_in(f"a{n}", Profile(tags=(), capacity=100)).id for n in range(STORM)
    ]  # fmt: skip
    wanted = [task.id for task in store.add([NewTask(title="T")] * TASKS_OF_STORM)]

    def storm(n: int) -> list[tuple[int, int]]:
        own = random.Random(n).sample(wanted, len(wanted))
        with CoordinatorStore(where, time.clock) as mine:
            taken = [task for id in own for task in mine.claim_pairs([(ids[n], id)])]
            agent = agent_of(mine, f"a{n}")
            for task in taken:
                mine.finish(agent, task.id, Finish(outcome="done", fence=task.fence, body={}))
            return [(task.id, task.fence) for task in taken]

    with ThreadPoolExecutor(STORM) as threads:
        taken = [pair for found in threads.map(storm, range(STORM)) for pair in found]
    assert sorted(id for id, _ in taken) == sorted(wanted)
    assert len({fence for _, fence in taken}) == len(wanted)
    assert all(agent_of(store, f"a{n}").load == 0 for n in range(STORM))


async def test_of_many_processes_at_once_one_holds_a_path(
    settings_of: dict[str, str], where: Path | str, time: Time
) -> None:
    held: list[str] = []

    def grab(n: int) -> None:
        with CoordinatorStore(where, time.clock) as mine:
            mine.check_in(f"a{n}", Profile(tags=("python",)))
            wish = Reserve(
                action="reserve", agent=f"a{n}", paths=["src/*.py" if n % 2 else "src/a.py"],
                minutes=5, shared=False, reason="",
            )  # fmt: skip
            got = anyio.run(Repository(mine).reserve, wish, "p", "")
            held.extend([f"a{n}"] if got.granted else [])

    with ThreadPoolExecutor(STORM) as threads:
        await to_thread.run_sync(lambda: list(threads.map(grab, range(STORM))))
    assert len(held) == 1


async def test_check_in_reports_progress_while_it_waits(
    client: Client, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "PROGRESS_S", 0.05)
    seen: list[tuple[float, float | None, str | None]] = []
    second = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        if len(seen) > 1:
            second.set()

    async def assign() -> None:
        await second.wait()
        await call("assign_task", tasks=[{"title": "one"}])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(assign)
            answer = await client.call_tool(
                "check_in", {"agent": "ann", "description": "x", "wait_s": 60},
                progress_callback=told,
            )  # fmt: skip
            assert answer.structured_content and answer.structured_content["work"]
    assert seen[0][1:] == (60, "waiting for a task")
    assert [done for done, *_ in seen] == sorted({done for done, *_ in seen})
