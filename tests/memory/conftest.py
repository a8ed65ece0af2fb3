"""A memory service over a store of each kind, and a client of its MCP surface."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from prometheus_client import CollectorRegistry

from arsenale_core.config import Settings
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_memory import tables
from arsenale_memory.opening import Services
from arsenale_memory.record import Entry, Labels, Part, Source, Version
from arsenale_memory.server import SERVER
from arsenale_memory.service import Memory
from arsenale_memory.store import MemoryStore

NOON_US = 1_795_262_400_000_000  # 2026-11-21 12:00 UTC


def emptied(url: str) -> str:
    """Empty the memory schema of the PostgreSQL at URL."""
    with MemoryStore(url) as store, store.writing() as db:
        names = [name for name in tables.memory.metadata.tables if name != "schema_version"]
        db.exec_driver_sql(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a fresh store is, once of each kind."""
    if request.param == "sqlite":
        return tmp_path
    return emptied(str(request.getfixturevalue("postgres_url")))


@pytest.fixture
def store(where: Path | str) -> Iterator[MemoryStore]:
    with MemoryStore(where) as opened:
        yield opened


@pytest.fixture
def environment_of(where: Path | str, tmp_path: Path) -> dict[str, str]:
    found = {"ARSENALE_HOME": str(tmp_path / "home"), "ARSENALE_EMBEDDER": "static"}
    if isinstance(where, str):
        found["ARSENALE_DATABASE_URL"] = where
    return found


@asynccontextmanager
async def opened(
    environment: dict[str, str], **more: Any
) -> AsyncGenerator[tuple[Services, Client]]:
    """Open the memory server of ENVIRONMENT in this process, and a client of it."""
    runtime = Runtime(settings=Settings.read(environment), **more)
    async with SERVER.open(runtime) as services:
        surface = SERVER.mount(services, runtime, CallMetrics(CollectorRegistry()))
        async with Client(surface, raise_exceptions=True) as client:
            yield services, client


@pytest.fixture
async def services_and_client(
    environment_of: dict[str, str],
) -> AsyncIterator[tuple[Services, Client]]:
    async with opened(environment_of) as both:
        yield both


@pytest.fixture
def services(services_and_client: tuple[Services, Client]) -> Services:
    return services_and_client[0]


@pytest.fixture
def memory(services_and_client: tuple[Services, Client]) -> Memory:
    return services_and_client[0].memory


@pytest.fixture
def client(services_and_client: tuple[Services, Client]) -> Client:
    return services_and_client[1]


@pytest.fixture
def call(client: Client) -> Callable[..., Awaitable[Any]]:
    """Call a tool and return what it answers; a failure is the test's."""

    async def answer(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        found = result.structured_content
        assert found is not None
        return found["result"] if set(found) == {"result"} else found

    return answer


@pytest.fixture
def refusal(client: Client) -> Callable[..., Awaitable[str]]:
    """Call a tool, which is to fail, and return what it says."""

    async def said(tool: str, **arguments: Any) -> str:
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        return str(getattr(result.content[0], "text", ""))

    return said


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """Make an entry without vectors."""
    made = 0

    def make(content: str, **more: Any) -> Entry:
        nonlocal made
        made += 1
        values: dict[str, Any] = {
            "uid": f"019ab000-0000-7000-8000-{made:012x}",
            "number": 1,
            "namespace": "n",
            "owner": "me",
            "kind": "note",
            "content": content,
            "subject": None,
            "session": None,
            "importance": 0.5,
            "labels": Labels(),
            "source": Source(via="test"),
            "created_us": NOON_US + made,
            "written_us": NOON_US + made,
            "valid_from_us": NOON_US,
        }
        supersedes = more.pop("supersedes", ())
        values.update(more)
        return Entry(
            version=Version(**values),
            parts=(Part(start=0, body=content),),
            supersedes=supersedes,
        )

    return make
