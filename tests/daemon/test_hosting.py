"""Servers are opened when they are asked for; what kept one from opening may be gone then."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from arsenale_core.config import Settings
from arsenale_core.surface import Runtime
from arsenale_daemon import discovery
from arsenale_daemon.hosting import Servers

ALL = {"coordinator", "genome", "memory", "mesh", "telemetry"}


@pytest.fixture
async def servers(home: Path) -> AsyncIterator[Servers]:
    opened = Servers(Runtime(settings=Settings.read({"ARSENALE_HOME": str(home)})))
    async with anyio.create_task_group() as tasks:
        await tasks.start(opened.run)
        yield opened
        opened.close()


@pytest.mark.slow
async def test_one_is_opened_alone_and_the_others_when_all_are_wanted(servers: Servers) -> None:
    await servers.open("telemetry")
    assert set(servers.surfaces) == {"telemetry"}
    await servers.open("nothing")
    assert "no server 'nothing' is installed" in servers.why_not("nothing")
    async with anyio.create_task_group() as tasks:  # at once, and each is opened once
        for _ in range(3):
            tasks.start_soon(servers.open_all)
            tasks.start_soon(servers.open, "mesh")
    assert set(servers.surfaces) == ALL
    assert servers.failed == {}


@pytest.mark.slow
async def test_one_that_failed_is_tried_again_when_it_is_asked_for(
    servers: Servers, home: Path
) -> None:
    (home / "telemetry.db").write_bytes(b"garbage" * 1_000)
    await servers.open_all()
    assert set(servers.surfaces) == ALL - {"telemetry"}
    assert "telemetry" in servers.why_not("telemetry")
    await servers.open_all()
    assert set(servers.failed) == {"telemetry"}
    (home / "telemetry.db").unlink()
    await servers.open("telemetry")
    assert set(servers.surfaces) == ALL
    assert servers.failed == {}


@pytest.mark.slow
async def test_only_the_start_of_a_session_waits_for_all(servers: Servers) -> None:
    await servers.open("memory")
    assert await servers.hook({"hook_event_name": "UserPromptSubmit"}, starts=False) is None
    assert set(servers.surfaces) == {"memory"}
    assert (await servers.guard({"hook_event_name": "PreToolUse"}))["error"] is None
    assert set(servers.surfaces) == {"memory", "coordinator"}
    await servers.hook({"hook_event_name": "SessionStart"}, starts=True)
    assert set(servers.surfaces) == ALL


async def test_at_the_end_nothing_is_opened_any_more(servers: Servers) -> None:
    servers.open_no_more()
    await servers.open("telemetry")
    await servers.open_all()
    assert servers.surfaces == {}
    assert "is just ending" in servers.why_not("telemetry")


def test_the_servers_that_guard_are_those_that_say_so() -> None:
    names = discovery.names()
    assert set(names) == ALL
    guards = [name for name in names if discovery.load(name).guard is not None]
    assert guards == discovery.names(discovery.GUARDS)
