"""Pools of workers, and modules from text."""

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

import pytest
from tests.mesh.village import Hand, Village, emptied
from wasmtime import wat2wasm

from arsenale_mesh.sandbox.jobs import Job, Outcome, limits
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.store import MeshStore

Wat: TypeAlias = Callable[[str], bytes]


class Run(Protocol):
    """Runs the text of a module."""

    async def __call__(
        self, text: str, *, fuel: int = ..., wall_ms: int = ..., function: str = ...
    ) -> Outcome: ...


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def pool() -> AsyncGenerator[Pool]:
    async with Pool() as opened:
        yield opened


@pytest.fixture(scope="session")
def wat() -> Wat:
    return lambda text: bytes(wat2wasm(text))


@pytest.fixture
def run(pool: Pool, wat: Wat) -> Run:
    async def call(
        text: str, *, fuel: int = 300_000_000, wall_ms: int = 20_000, function: str = "_start"
    ) -> Outcome:
        job = Job(
            module=wat(text),
            function=function,
            limits=limits(fuel=fuel, wall_ms=wall_ms, output_bytes=1000),
            slice_fuel=50_000_000,
        )
        return await pool.run(job)

    return call


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an empty mesh is: a folder, or a PostgreSQL."""
    if request.param == "sqlite":
        return tmp_path / "home"
    return emptied(request.getfixturevalue("postgres_url"))


@pytest.fixture
def village(where: Path | str) -> Iterator[Village]:
    """A mesh on each database, without a node."""
    with MeshStore(where, Hand()) as store:
        yield Village(store)
