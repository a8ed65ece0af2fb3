"""Nodes whose gateway goes and comes: how soon they are back, and how long they wait for it."""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from arsenale_core.tasks import background
from arsenale_mesh import identity, running
from arsenale_mesh.links import Link, memory_links
from arsenale_mesh.node import agent
from arsenale_mesh.node.agent import Agent, Profile
from arsenale_mesh.node.joining import Gateway, RefusedError
from arsenale_mesh.running import Options

PATIENCE_S = 0.5


async def test_a_gateway_that_goes_often_is_found_again_as_soon_as_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent, "LEAST_BACKOFF_S", 0.01)
    came = 0
    enough = anyio.Event()

    async def connect() -> Link:
        nonlocal came
        came += 1
        if came == 14:
            enough.set()
        ours, theirs = memory_links()
        tasks.start_soon(_goes, theirs)
        return ours

    unused: Any = None
    one = Agent(identity.make(), Profile(name="n", kind="pc", slots=1), unused, lambda _: {}, int)
    with anyio.fail_after(20):  # were every wait twice the one before, it would take a minute
        async with background() as tasks:
            tasks.start_soon(one.serve, connect)
            await enough.wait()


async def _goes(link: Link) -> None:
    try:
        await anyio.sleep(0.1)
    finally:
        await link.aclose()


@pytest.mark.slow
async def test_a_node_waits_for_a_gateway_that_it_had_for_long_as_for_any() -> None:
    with tempfile.TemporaryDirectory(prefix="node-") as name:
        home = Path(name)
        options = Options(
            gateway=Gateway(path=home / "s"), identity=identity.make(), name="n", kind="pc",
            workers=1, patience_s=PATIENCE_S,
        )  # fmt: skip
        async with background() as tasks:
            refused = anyio.Event()
            tasks.start_soon(_serve, options, home, refused)
            await _is_there(home / "s", PATIENCE_S * 4)
            await anyio.sleep(PATIENCE_S / 2)
            assert not refused.is_set()
            await _is_there(home / "s", PATIENCE_S)
            begun = time.monotonic()
            with anyio.fail_after(20):
                await refused.wait()
            assert time.monotonic() - begun > PATIENCE_S


async def _serve(options: Options, home: Path, refused: anyio.Event) -> None:
    with suppress(RefusedError):
        await running.serve(options, home)
    refused.set()


async def _is_there(path: Path, for_s: float) -> None:
    """Listen until a node comes, and for so long after; then be gone."""
    came = anyio.Event()

    async def handle(stream: ByteStream) -> None:
        came.set()
        async with stream:
            await anyio.sleep_forever()

    path.unlink(missing_ok=True)
    async with await anyio.create_unix_listener(path) as listener, background() as tasks:
        tasks.start_soon(listener.serve, handle)
        with anyio.fail_after(20):
            await came.wait()
        await anyio.sleep(for_s)
