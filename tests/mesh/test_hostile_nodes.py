"""Whatever comes over a node's connection, the mesh goes on serving everybody else."""

import ssl
import struct
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from mcp import Client
from prometheus_client import CollectorRegistry

from arsenale_core.config import Settings
from arsenale_core.descriptors import MOST_STRANGERS
from arsenale_core.errors import ArsenaleError
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_mesh import identity, listening
from arsenale_mesh.links import Link, Message
from arsenale_mesh.node.joining import Gateway, connect, join
from arsenale_mesh.opening import Services
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.server import SERVER

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

ABOUT: dict[str, Any] = {
    "name": "mallory", "kind": "pc", "slots": 64, "memory_bytes": 1 << 29,
    "engine": engine_id("cranelift"), "holds": [], "measured": {},
}  # fmt: skip
ODD: list[Any] = [
    None, True, -1, 1e308, "", "x" * 1000, "\0", [], [1], {}, {"a": 1}, [[[]]], [None], ["1"],
    [2**63], [-1], [1.5],
]  # fmt: skip


class Opened:
    """A mesh, and a client of it."""

    def __init__(self, home: Path, services: Services, client: Client) -> None:
        self.home = home
        self.services = services
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Any:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    @asynccontextmanager
    async def node(self, **about: Any) -> AsyncGenerator[Link]:
        """Join as somebody who says what it likes."""
        link = await connect(Gateway(path=listening.socket_path(self.home)))
        try:
            await join(link, identity.make(), {**ABOUT, **about})
            yield link
        finally:
            await link.aclose()


@asynccontextmanager
async def opened(**env: str) -> AsyncGenerator[Opened]:
    with tempfile.TemporaryDirectory(prefix="arsenale-", ignore_cleanup_errors=True) as folder:
        runtime = Runtime(settings=Settings.read({"ARSENALE_HOME": folder, **env}))
        async with SERVER.open(runtime) as services:
            surface = SERVER.mount(services, runtime, CallMetrics(CollectorRegistry()))
            async with Client(surface, raise_exceptions=True) as client:
                yield Opened(Path(folder), services, client)


@pytest.fixture(scope="module")
async def mesh() -> AsyncGenerator[Opened]:
    async with opened() as one:
        yield one


async def drained(link: Link) -> None:
    """Read until nothing comes: anyio tells a test of a socket closed while it was written to."""
    with anyio.move_on_after(1) as scope:
        while True:
            await link.receive()
            scope.deadline = anyio.current_time() + 1


async def next_work(link: Link) -> list[int]:
    """Return the leases of the next message of work."""
    while (message := await link.receive()).kind != "work":
        pass
    return [one["lease"] for one in message.body["tasks"]]


async def test_a_node_that_gives_everything_back_wears_no_task_out(mesh: Opened) -> None:
    async def refuse(link: Link) -> None:
        while True:
            said = {"leases": await next_work(link), "reason": "no"}
            await link.send(Message(kind="returned", body=said))

    async with mesh.node(slots=1_000) as link, anyio.create_task_group() as tasks:
        tasks.start_soon(refuse, link)
        for number in range(3):
            report = await mesh.call("run_task", module="sha256", input=str(number), wait_s=60)
            assert (report["state"], report["checked"]) == ("done", "run here, by our own node")
        tasks.cancel_scope.cancel()


async def test_a_node_that_reads_nothing_keeps_nobody_else_waiting() -> None:
    async with opened(ARSENALE_MESH_HOUSE="false") as mesh, mesh.node() as deaf:
        for _ in range(2):  # it looks better than the other, and is given tasks first
            probe = await deaf.receive()
            await deaf.send(Message(kind="echo", body={"nonce": probe.body["nonce"], "sha": ""}))
        async with mesh.node(name="other") as other:
            big = "x" * 2_000_000
            for number in range(10):
                await mesh.call("run_task", module="sha256", input=f"{number}{big}", wait_s=0)
            with anyio.fail_after(15):
                assert await next_work(other)
                report = await mesh.call("check_task", task="m1", action="cancel")
            assert report["about"]["state"] == "cancelled"
            await drained(deaf)


@pytest.mark.slow
async def test_no_word_of_a_node_ends_the_mesh(mesh: Opened) -> None:
    for kind in ("beat", "fetch", "returned", "echo", "done", "hello", "kept", ""):
        for name in ("measured", "fuel", "holds", "sha", "leases", "reason", "nonce", "results"):
            for odd in ODD:
                async with mesh.node() as link:
                    try:
                        await link.send(Message(kind=kind, body={name: odd}))
                        await link.send(Message(kind="leave"))
                        while True:
                            await link.receive()
                    except ArsenaleError:
                        continue
    for name in (*ABOUT, "invitation", "signature"):
        for odd in ODD:
            try:
                async with mesh.node(**{name: odd}):
                    pass
            except ArsenaleError:
                continue
    report = await mesh.call("run_task", module="sha256", input="still here", wait_s=60)
    assert report["status"] == "ok"


async def test_a_stranger_sends_little_before_it_is_cut_off() -> None:
    async with opened(ARSENALE_MESH_LISTEN="127.0.0.1:0") as mesh:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for head in (
            orjson.dumps({"kind": "hello", "body": {}, "blobs": [90 << 20]}),
            b"{" + b" " * (1 << 20),
        ):
            stream = await anyio.connect_tcp(
                "127.0.0.1", mesh.services.port or 0, ssl_context=context, tls=True
            )
            with anyio.fail_after(10), pytest.raises((anyio.BrokenResourceError, OSError)):
                await stream.send(struct.pack(">I", len(head)) + head)
                while True:
                    await stream.send(b"x" * (1 << 20))
            await anyio.aclose_forcefully(stream)


async def test_strangers_that_say_nothing_keep_no_node_out() -> None:
    many = MOST_STRANGERS * 2
    async with opened(ARSENALE_MESH_LISTEN="127.0.0.1:0") as mesh:
        port = mesh.services.port or 0
        silent = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(many)]
        gateway = Gateway(host="127.0.0.1", port=port, did=mesh.services.mesh.gateway.identity.did)
        with anyio.fail_after(10):
            link = await connect(gateway)
            with pytest.raises(ArsenaleError, match="invitation"):  # it was heard
                await join(link, identity.make(), ABOUT)
        await link.aclose()
        for one in silent:
            await anyio.aclose_forcefully(one)
