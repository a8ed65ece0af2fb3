"""Recipes in their own process, over a real daemon: whatever is killed, they end as they should."""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters
from tests.conftest import RELAY
from tests.coordinator.conftest import Call, caller, emptied

from arsenale_core import locks, spawning

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@asynccontextmanager
async def connected(environment: dict[str, str]) -> AsyncGenerator[Client]:
    relay = StdioServerParameters(
        command=sys.executable, args=["-I", "-S", str(RELAY), "coordinator"], env=environment
    )
    async with Client(relay) as client:
        yield client


@pytest.fixture
async def call(home: Path, environment: dict[str, str]) -> AsyncIterator[Call]:
    with (home / "config.toml").open("a", encoding="utf-8") as config:
        config.write("recipes_idle_s = 1.5\n")
    async with connected(environment) as client:
        yield caller(client)
        end_runner(home)


def runner(home: Path) -> int | None:
    """The process that holds the lock, if one does."""
    lock = home / "run" / "recipes.lock"
    if not locks.is_held(lock):
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[5].endswith(f":{inode}"):
            return int(words[4])
    return None


def end_runner(home: Path) -> None:
    if pid := runner(home):
        os.kill(pid, signal.SIGKILL)


def rows(home: Path, query: str) -> list[Any]:
    with sqlite3.connect(f"file:{home}/coordinator.db?mode=ro", uri=True) as db:
        return db.execute(query).fetchall()


async def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    with anyio.fail_after(seconds):
        while not (found := what()):  # noqa: ASYNC110  # what other processes do
            await anyio.sleep(0.02)
    return found


def note(id: str, after: str | None = None) -> dict[str, Any]:
    """A step that sends a letter once, whose text says how many came before."""
    text = f"{{{{ {after}.output.sent }}}}" if after else "first"
    return {
        "id": id, "tool": "coordinator.exchange_messages",
        "with": {"action": "send", "agent": "writer", "to": ["reader"], "body": f"{id} {text}",
                 "key": f"{{{{ run.id }}}}-{id}"},
    }  # fmt: skip


async def two_agents(call: Call) -> None:
    for agent in ("writer", "reader"):
        await call("check_in", agent=agent, description="x", take=False)


async def test_a_recipe_uses_memory_and_telemetry_and_reports_progress(
    environment: dict[str, str], home: Path
) -> None:
    seen: list[tuple[float, float | None]] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        del message
        seen.append((progress, total))

    recipe: dict[str, Any] = {
        "name": "both", "inputs": {"text": {}},
        "steps": [
            {"id": "keep", "tool": "memory.remember",
             "with": {"memories": [{"content": "{{ inputs.text }}"}]}},
            {"id": "look", "parallel": [
                [{"id": "found", "tool": "memory.recall",
                  "with": {"question": "{{ inputs.text }}"}}],
                [{"id": "usage", "tool": "telemetry.usage_report"}]]},
        ],
        "output": {"found": "{{ found.output.memories[0].content }}",
                   "calls": "{{ usage.output.total.calls }}"},
    }  # fmt: skip
    async with connected(environment) as client:
        arguments: dict[str, Any] = {"action": "run", "definition": recipe, "wait_s": 60,
                     "inputs": {"text": "we ship on Tuesdays"}}  # fmt: skip
        answer = await client.call_tool("run_recipe", arguments, progress_callback=told)
        done: Any = answer.structured_content
        assert done["state"] == "done", answer.content
        assert done["output"] == {"found": "we ship on Tuesdays", "calls": 0}
        assert seen[-1][0] == seen[-1][1]
    end_runner(home)


async def test_thirty_steps_killed_at_every_boundary_end_alike_and_each_is_done_once(
    call: Call, home: Path
) -> None:
    await two_agents(call)
    notes = [note("s0"), *(note(f"s{n}", f"s{n - 1}") for n in range(1, 30))]
    # A rest after each, so that no boundary passes between two looks on a busy machine.
    steps = [step for n, one in enumerate(notes) for step in (one, {"id": f"z{n}", "sleep_s": 0.1})]
    recipe = {"name": "thirty", "steps": steps, "output": "{{ s29.output.sent }}"}
    begun = await call("run_recipe", action="run", definition=recipe, wait_s=0)
    killed: set[int] = set()
    db = sqlite3.connect(f"file:{home}/coordinator.db?mode=ro", uri=True, isolation_level=None)
    count = "SELECT count(*) FROM run_step WHERE state = 'done' AND step LIKE 's%'"
    started, state, pid = time.monotonic(), "queued", 0
    while state not in ("done", "failed"):
        assert time.monotonic() - started < 200
        done = db.execute(count).fetchone()[0]
        if pid and done not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(done)
            pid = 0
        elif not pid:
            spawn(home)
            pid = runner(home) or 0
        state = db.execute("SELECT state FROM run").fetchone()[0]
        await anyio.sleep(0.001)
    db.close()
    assert state == "done"
    assert len(killed) >= 25
    shown = await call("run_recipe", action="status", run=begun["run"], wait_s=0, detail="full")
    assert shown["output"] == 30
    assert [step["step"] for step in shown["steps"]] == [step["id"] for step in steps]
    bodies = [body for (body,) in rows(home, "SELECT body FROM message ORDER BY id")]
    assert bodies == ["s0 first", *(f"s{n} {n}" for n in range(1, 30))]


def spawn(home: Path) -> None:
    """Start the process at once; the daemon would within a second, and longer each time."""
    spawning.spawn("arsenale_coordinator.running", home, home / "logs" / "recipes.err")
    deadline = time.monotonic() + 10
    while runner(home) is None and time.monotonic() < deadline:
        time.sleep(0.01)


async def test_killed_with_its_daemon_a_run_goes_on(
    environment: dict[str, str], home: Path, daemon_pid: Callable[[], int]
) -> None:
    async with connected(environment) as client:
        call = caller(client)
        await two_agents(call)
        steps = [note("a"), {"id": "z", "sleep_s": 1}, note("b", "a")]
        begun = await call("run_recipe", action="run", definition={"name": "x", "steps": steps},
                           wait_s=0)  # fmt: skip
        await until(lambda: rows(home, "SELECT 1 FROM run_step WHERE step = 'z'"))
        end_runner(home)
        os.kill(daemon_pid(), signal.SIGKILL)
        with suppress(MCPError):  # it may have been on its way when the daemon ended
            await call("run_recipe", action="status", run=begun["run"], wait_s=0)
        done = await call("run_recipe", action="status", run=begun["run"], wait_s=60)
        assert done["state"] == "done", done
        assert len(rows(home, "SELECT 1 FROM message")) == 2
    end_runner(home)


async def test_while_a_person_is_waited_for_nothing_runs_and_the_answer_goes_on(
    call: Call, home: Path
) -> None:
    await two_agents(call)
    steps = [note("a"), {"id": "ok", "ask": "send the second?"}, note("b", "a")]
    recipe = {"name": "asks", "steps": steps, "output": "{{ ok.output.note }}"}
    begun = await call("run_recipe", action="run", definition=recipe, wait_s=60)
    assert begun["asks"] == ["ok: send the second?"]
    await until(lambda: runner(home) is None)
    assert (home / "logs" / "recipes.err").read_text(
        encoding="utf-8"
    ) == ""  # it ended as it should
    assert rows(home, "SELECT state FROM run") == [("waiting",)]
    done = await call("run_recipe", action="approve", run=begun["run"][:8], note="go", wait_s=60)
    assert (done["state"], done["output"]) == ("done", "go")
    assert len(rows(home, "SELECT 1 FROM message")) == 2
    for table in (
        "workflow_status",
        "operation_outputs",
    ):  # what is read is never run, as pickle is
        assert rows(home, f"SELECT DISTINCT serialization FROM {table}") == [("portable_json",)]


async def test_a_cancelled_run_undoes_what_it_did(call: Call, home: Path) -> None:
    await two_agents(call)
    undo = {**note("gone")}
    del undo["id"]
    steps = [{**note("a"), "compensate": undo}, {"id": "z", "sleep_s": 600}]
    begun = await call("run_recipe", action="run", definition={"name": "x", "steps": steps},
                       wait_s=0)  # fmt: skip
    await until(lambda: rows(home, "SELECT 1 FROM run_step WHERE step = 'z'"))
    await call("run_recipe", action="cancel", run=begun["run"])
    done = await call("run_recipe", action="status", run=begun["run"], wait_s=30)
    assert done["state"] == "cancelled"
    assert rows(home, "SELECT body FROM message ORDER BY id") == [("a first",), ("gone first",)]


async def test_a_failing_tool_is_tried_again_and_then_said_with_its_reason(
    call: Call, home: Path
) -> None:
    step = {**note("a"), "retry": {"attempts": 3, "delay_s": 0.05}}  # nobody has checked in
    done = await call("run_recipe", action="run", definition={"name": "x", "steps": [step]},
                      wait_s=60)  # fmt: skip
    assert done["state"] == "failed" and "no agent 'writer'" in done["error"]
    assert done["steps"][0]["attempts"] == 3


async def test_a_schedule_runs_at_its_time_and_is_paused_and_cancelled(
    call: Call, home: Path
) -> None:
    recipe = {"name": "soon", "steps": [{"id": "a", "value": 7}]}
    made = await call("run_recipe", action="schedule", definition=recipe, when="1s")
    assert made["schedules"][0]["when"] == "once"
    await until(lambda: rows(home, "SELECT 1 FROM run WHERE state = 'done'"))
    listed = await call("run_recipe", action="list")
    assert [line["state"] for line in listed["schedules"]] == ["done"]
    every = {**recipe, "name": "often"}
    await call("run_recipe", action="schedule", definition=every, when="* * * * *")
    paused = await call("run_recipe", action="pause", recipe="often")
    assert paused["state"] == "paused"
    assert (await call("run_recipe", action="resume", recipe="often"))["state"] == "active"
    assert (await call("run_recipe", action="unschedule", recipe="often"))["state"] == "cancelled"
    begun = time.monotonic()
    listed = await call("run_recipe", action="list")
    assert time.monotonic() - begun < 5
    assert [line["name"] for line in listed["schedules"]] == ["soon"]


async def test_a_recipe_runs_on_postgresql(
    environment: dict[str, str], home: Path, postgres_url: str
) -> None:
    emptied(postgres_url)
    async with connected({**environment, "ARSENALE_DATABASE_URL": postgres_url}) as client:
        call = caller(client)
        await two_agents(call)
        recipe = {"name": "pg", "steps": [note("a"), {"id": "p", "parallel": [[note("b", "a")]]}],
                  "output": "{{ b.output.sent }}"}  # fmt: skip
        done = await call("run_recipe", action="run", definition=recipe, wait_s=60)
        assert done["state"] == "done", json.dumps(done)
        assert done["output"] > 1
    end_runner(home)


async def test_a_daemon_with_a_schedule_stays_up(
    environment: dict[str, str], home: Path, daemon_pid: Callable[[], int]
) -> None:
    with (home / "config.toml").open("a", encoding="utf-8") as config:
        config.write("idle_exit_s = 1\n")
    recipe = {"name": "often", "steps": [{"id": "a", "value": 7}]}
    async with connected(environment) as client:
        await caller(client)("run_recipe", action="schedule", definition=recipe, when="@daily")
    pid = daemon_pid()
    await anyio.sleep(2.5)
    assert daemon_pid() == pid and Path(f"/proc/{pid}").exists()
    async with connected(environment) as client:
        await caller(client)("run_recipe", action="unschedule", recipe="often")
    await until(lambda: not Path(f"/proc/{pid}/cmdline").exists(), 10)
