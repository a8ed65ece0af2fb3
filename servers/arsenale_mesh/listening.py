"""Where nodes come in: this home's socket, and over TLS where that is asked for."""

import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketStream, TaskStatus
from anyio.streams.tls import TLSStream

from arsenale_core import logs
from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh import certificates
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link, StreamLink, Way
from arsenale_relay import endpoint

Serve: TypeAlias = Callable[[Link], Awaitable[None]]

MOST_STRANGERS = 256
"""Connections of those who did not say yet who they are; the oldest makes room for the newest."""

HANDSHAKE_S = 10.0
AGAIN_S = 0.2
"""When it is tried again to accept, where the process has no file left for that."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


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

    async def handle(stream: ByteStream) -> None:
        await serve(StreamLink(stream, Way(local=True)))

    async with listener:
        await _accept(listener, handle)


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
    door = _Door()

    async def handle(stream: ByteStream) -> None:
        with door.comes() as scope:
            try:
                with anyio.fail_after(HANDSHAKE_S):
                    tls = await TLSStream.wrap(
                        stream, server_side=True, ssl_context=context, standard_compatible=False
                    )
                await serve(StreamLink(tls, way, widened=lambda: door.is_in(scope)))
            except (*_NO_TLS, TimeoutError):
                return
            finally:
                door.is_in(scope)
                await anyio.aclose_forcefully(stream)

    task_status.started(plain.extra(SocketAttribute.local_port))
    logs.get("arsenale.mesh.gateway").info("nodes may come", where=where)
    async with plain, anyio.create_task_group() as tasks:
        for one in plain.listeners:
            tasks.start_soon(_accept, one, handle)


_NO_TLS = (ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream)


class _Door:
    """Those who came and did not say yet who they are."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, None] = {}

    def comes(self) -> anyio.CancelScope:
        """Return the scope of one who comes; it ends early where too many come after."""
        if len(self._scopes) >= MOST_STRANGERS:
            oldest = next(iter(self._scopes))
            self.is_in(oldest)
            oldest.cancel()
        scope = anyio.CancelScope()
        self._scopes[scope] = None
        return scope

    def is_in(self, scope: anyio.CancelScope) -> None:
        """Note that this one is no stranger any more, or gone."""
        self._scopes.pop(scope, None)


async def _accept(
    listener: Listener[SocketStream], handle: Callable[[ByteStream], Awaitable[None]]
) -> None:
    """Accept connections for ever, also where there is no file left for one for a while."""
    async with anyio.create_task_group() as tasks:
        while True:
            try:
                await listener.serve(handle, tasks)
            except OSError as exc:
                if exc.errno not in _NO_ROOM:
                    raise
                logs.get("arsenale.mesh.gateway").warning("nobody is let in", reason=str(exc))
                await anyio.sleep(AGAIN_S)
