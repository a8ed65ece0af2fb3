"""Links of every kind with both ends in one process."""

import ssl
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, Listener
from anyio.streams.tls import TLSListener

from arsenale_core.tasks import background
from arsenale_mesh import certificates, identity
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, MemoryLink, StreamLink, Way, memory_links
from arsenale_mesh.node.joining import Gateway, connect

NOW_S = 1_800_000_000.0
Serve = Callable[[Link], Awaitable[None]]


@asynccontextmanager
async def listening_tls(key: Identity, serve: Serve) -> AsyncGenerator[Gateway]:
    """Serve links over TLS on loopback with KEY's certificate; give where."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.pem"
        der = certificates.write(file, key, NOW_S)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(file)
        tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = tcp.extra(anyio.abc.SocketAttribute.local_port)
        way = Way(local=False, channel=sha256(der).hexdigest())
        async with _serving(TLSListener(tcp, context, standard_compatible=False), way, serve):
            yield Gateway(host="127.0.0.1", port=port, did=key.did)


@asynccontextmanager
async def listening_unix(serve: Serve) -> AsyncGenerator[Gateway]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.sock"
        async with _serving(await anyio.create_unix_listener(path), Way(local=True), serve):
            yield Gateway(path=path)


@asynccontextmanager
async def _serving(listener: Listener[Any], way: Way, serve: Serve) -> AsyncGenerator[None]:
    async def handle(stream: ByteStream) -> None:
        link = StreamLink(stream, way)
        try:
            await serve(link)
        finally:
            await link.aclose()

    async with listener, background() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[MemoryLink, MemoryLink]]:
    node, gateway = memory_links()
    try:
        yield node, gateway
    finally:
        await node.aclose()
        await gateway.aclose()


@asynccontextmanager
async def ends(kind: str) -> AsyncGenerator[tuple[Link, Link]]:
    """Give the two ends of a link: the node's, the gateway's."""
    if kind == "memory":
        async with pair() as both:
            yield both
        return
    ours, there = list[Link](), anyio.Event()

    async def serve(link: Link) -> None:
        ours.append(link)
        there.set()
        await anyio.sleep_forever()

    key = identity.make()
    opened = listening_unix(serve) if kind == "unix" else listening_tls(key, serve)
    async with opened as gateway:
        node = await connect(gateway)
        with anyio.fail_after(10):
            await there.wait()
        try:
            yield node, ours[0]
        finally:
            await node.aclose()
