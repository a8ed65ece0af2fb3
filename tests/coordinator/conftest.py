"""A coordinator over a real database of either kind, with a clock that tests turn."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, TypeAlias, cast

import psycopg
import pytest
from mcp import Client
from prometheus_client import CollectorRegistry

from arsenale_coordinator import rows
from arsenale_coordinator.opening import Services, open_services
from arsenale_coordinator.record import Agent, Clock, Task
from arsenale_coordinator.server import SERVER
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core.config import Settings
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime

Call: TypeAlias = Callable[..., Awaitable[Any]]

TABLES = (
    "event", "capability", "agent_vector", "need", "dependency", "attempt", "task", "agent",
    "reservation", "recipient", "message", "meta", "decision", "run_step", "run", "schedule",
    "thinking_history", "thinking_seen",
)  # fmt: skip


ENDS = (("agent", "until_ticks"), ("task", "reserved_ticks"), ("reservation", "until_ticks"))


@dataclass(slots=True)
class Time:
    """A clock that stands still until it is told to go on."""

    wall_s: float = 1_800_000_000.0
    ticks: int = 1_000_000_000
    boot: str = "one"
    url: str | None = None
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(now=lambda: self.wall_s, ticks=lambda: self.ticks, boot=self.boot)

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.ticks += int(seconds * 1e6)
        if self.url:  # PostgreSQL counts by its own clock: let all that ends end earlier
            with psycopg.connect(self.url) as db:
                for table, column in ENDS:
                    name = f"arsenale_coordinator.{table}"
                    earlier = f"UPDATE {name} SET {column} = {column} - {int(seconds * 1e6)}"
                    db.execute(cast("LiteralString", earlier))


@pytest.fixture
def time() -> Time:
    return Time()


def emptied(url: str) -> str:
    """Empty the coordinator's schema of the PostgreSQL at URL."""
    with CoordinatorStore(url, Time().clock) as store, store.writing() as db:
        db.exec_driver_sql(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY CASCADE")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path, time: Time) -> Path | str:
    """Where a fresh store is, once of each kind."""
    if request.param == "sqlite":
        return tmp_path / "home"
    time.url = emptied(str(request.getfixturevalue("postgres_url")))
    return time.url


@pytest.fixture
def store(where: Path | str, time: Time) -> Any:
    with CoordinatorStore(where, time.clock) as opened:
        yield opened


def task_of(store: CoordinatorStore, id: int) -> Task:
    with store.reading() as db:
        found = rows.task(db, id)
    assert found is not None
    return found


def agent_of(store: CoordinatorStore, name: str) -> Agent:
    with store.reading() as db:
        found = rows.agent_named(db, name)
    assert found is not None
    return found


@asynccontextmanager
async def opened(
    environment: dict[str, str], clock: Clock, **options: Any
) -> AsyncGenerator[tuple[Services, Client]]:
    """Open the coordinator of ENVIRONMENT in this process, and a client of it."""
    runtime = Runtime(settings=Settings.read(environment), now=clock.now)
    async with open_services(runtime.settings, clock) as services:
        surface = SERVER.mount(services, runtime, CallMetrics(CollectorRegistry()))
        async with Client(surface, raise_exceptions=True, **options) as client:
            yield services, client


@pytest.fixture
def settings_of(where: Path | str, tmp_path: Path) -> dict[str, str]:
    found = {"ARSENALE_HOME": str(tmp_path / "home"), "ARSENALE_EMBEDDER": "static"}
    if isinstance(where, str):
        found["ARSENALE_DATABASE_URL"] = where
    return found


@pytest.fixture
async def services_and_client(
    settings_of: dict[str, str], time: Time
) -> AsyncIterator[tuple[Services, Client]]:
    async with opened(settings_of, time.clock) as both:
        yield both


@pytest.fixture
def services(services_and_client: tuple[Services, Client]) -> Services:
    return services_and_client[0]


@pytest.fixture
def client(services_and_client: tuple[Services, Client]) -> Client:
    return services_and_client[1]


def caller(client: Client) -> Call:
    async def answer(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        assert result.structured_content is not None
        return result.structured_content

    return answer


@pytest.fixture
def call(client: Client) -> Call:
    """Call a tool and return what it answers; a failure is the test's."""
    return caller(client)


@pytest.fixture
async def team(call: Call) -> Call:
    """Call a tool, once ann, bob and cy have registered; they take no tasks."""
    for agent in ("ann", "bob", "cy"):
        await call("check_in", agent=agent, capabilities=["python"], take=False)
    return call


@pytest.fixture
def refusal(client: Client) -> Callable[..., Awaitable[str]]:
    """Call a tool, which is to fail, and return what it says."""

    async def said(tool: str, **arguments: Any) -> str:
        result = await client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        text = str(getattr(result.content[0], "text", ""))
        return text.removeprefix(f"Error executing tool {tool}: ")

    return said
