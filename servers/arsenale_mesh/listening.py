"""Where nodes come in: this home's socket, and over TLS where that is asked for."""

import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from anyio.streams.tls import TLSStream

from arsenale_core import logs
from arsenale_core.admission import Admission, Scoped, accept
from arsenale_core.descriptors import Room, room
from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh import certificates
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, StreamLink, Way
from arsenale_relay import endpoint

Serve: TypeAlias = Callable[[Link], Awaitable[None]]

HANDSHAKE_S = 10.0


def socket_path(home: Path) -> Path:
    """Return the socket at which this home's nodes find the gateway."""
    return Path(endpoint.socket_path(str(home), "mesh"))


async def at_home(home: Path, serve: Serve, *, task_status: TaskStatus[None]) -> None:
    """Serve nodes of this home for ever; a stale socket is replaced. The caller holds the lock."""
    path = socket_path(home)
    endpoint.run_dir(str(home))
    with suppress(FileNotFoundError):
        path.unlink()
    listener = await anyio.create_unix_listener(path, mode=0o600)
    task_status.started()
    door = _door()

    async def handle(stream: SocketStream) -> None:
        guest = Scoped()
        door.arrive(guest)
        with guest.scope:
            try:
                link = StreamLink(stream, Way(local=True), widened=lambda: door.depart(guest))
                await serve(link)
            finally:
                door.depart(guest)
                await anyio.aclose_forcefully(stream)

    async with listener, anyio.create_task_group() as tasks:
        await accept(listener, handle, tasks, door, _log())


def host_and_port(where: str) -> tuple[str, int]:
    """Return the two parts of HOST:PORT.

    Raises:
        InvalidError: It is no such thing.
    """
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise InvalidError(f"mesh_listen: {where!r} is no HOST:PORT", hint="as 0.0.0.0:8725")
    return host.strip("[]"), int(port)


async def elsewhere(
    where: str, home: Path, identity: Identity, now_s: float, serve: Serve,
    *, task_status: TaskStatus[int],
) -> None:  # fmt: skip
    """Serve nodes at HOST:PORT over TLS 1.3 for ever; the status is the port.

    Raises:
        InvalidError: WHERE is no place.
        UnavailableError: It cannot be listened at.
    """
    host, port = host_and_port(where)
    file = home / "keys" / "mesh-gateway.pem"
    certificate = certificates.write(file, identity, now_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    way = Way(local=False, channel=sha256(certificate).hexdigest(), gateway=identity.did)
    try:
        plain = await anyio.create_tcp_listener(local_host=host, local_port=port)
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise UnavailableError(f"mesh_listen {where}: {reason}", hint="choose another") from exc
    door = _door()

    async def handle(stream: SocketStream) -> None:
        guest = Scoped()
        door.arrive(guest)
        with guest.scope:
            try:
                with anyio.fail_after(HANDSHAKE_S):
                    tls = await TLSStream.wrap(
                        stream, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await serve(StreamLink(tls, way, widened=lambda: door.depart(guest)))
            except (*_NO_TLS, TimeoutError):
                return
            finally:
                door.depart(guest)
                await anyio.aclose_forcefully(stream)

    task_status.started(plain.extra(SocketAttribute.local_port))
    _log().info("nodes may come", where=where)
    async with plain, anyio.create_task_group() as tasks:
        for one in plain.listeners:
            assert isinstance(one, SocketListener)
            tasks.start_soon(accept, one, handle, tasks, door, _log())


_NO_TLS = (ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream)


def _door() -> Admission:
    """Return who may wait to say who they are; the roster bounds those who have."""
    return Admission(Room(strangers=room().strangers, known=0), _log())


def _log() -> logs.Logger:
    return logs.get("arsenale.mesh.gateway")
