"""A wall clock that steps back a day: leases go on by ticks, and nothing is refused for it."""

from collections.abc import Awaitable, Callable
from typing import Any

from tests.coordinator.conftest import Time, agent_of

from arsenale_coordinator.store import CoordinatorStore

Call = Callable[..., Awaitable[Any]]


async def test_an_agent_falls_silent_after_its_heartbeats_though_the_clock_stepped_back(
    call: Call, store: CoordinatorStore, time: Time
) -> None:
    await call("check_in", agent="ann", description="x", take=False, heartbeat_s=60)
    time.wall_s -= 86_400
    store.sweep()
    assert agent_of(store, "ann").state == "available"
    time.passes(60 * 10)
    store.sweep()
    assert agent_of(store, "ann").state == "silent"


async def test_tasks_are_added_taken_and_finished_after_the_clock_stepped_back(
    call: Call, store: CoordinatorStore, time: Time
) -> None:
    await call("check_in", agent="ann", description="x", take=False, heartbeat_s=60)
    time.wall_s -= 86_400
    await call("check_in", agent="ann", description="x", take=False, heartbeat_s=60)
    time.passes(30)
    store.sweep()
    assert agent_of(store, "ann").state == "available"
