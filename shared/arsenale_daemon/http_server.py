"""The HTTP server of the daemon and of the sidecar: uvicorn behind an admission and time limits.

A stranger, a connection on which no request has shown the token, holds one of a bounded number of
places, for a bounded time. Source of the limits of a request: `RequestReadTimeout` of Apache's
mod_reqtimeout.
"""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, TypeAlias

import anyio
import anyio.lowlevel
import h11
import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from arsenale_core import logs
from arsenale_core.admission import Admission, endure
from arsenale_core.descriptors import room

BACKLOG = 128
"""Connections that may wait to be accepted."""

BURST = 4
"""So many are accepted before those that are here get their turn."""

HEAD_S = 10.0
"""How long the head of a request may take, from the connection or from its first byte."""

BODY_S = 20.0
"""How long a body may take, and a second more for each `BODY_BYTES_PER_S` that came of it."""

BODY_BYTES_PER_S = 16_384
"""4 MiB may take 5 minutes: on loopback it takes milliseconds."""

TICK_S = 1.0

RECOGNISE = "arsenale.recognise"
"""The ASGI extension by which the gate says that a request had the token. It gives false where
there is no room for one more client."""

_Phase: TypeAlias = Literal["head", "body"]


class WebServer(uvicorn.Server):
    """Uvicorn that leaves the signals to the process, unless told to handle them."""

    def __init__(self, app: Starlette, *, handle_signals: bool = False) -> None:
        self._handle_signals = handle_signals
        self._ending = anyio.Event()
        self._log = logs.get("arsenale.http")
        self._admission = Admission(room(), self._log)
        self._listening: list[socket.socket] = []
        config = uvicorn.Config(
            app,
            http="h11",  # httptools, where chromadb brings it, keeps white space around a header
            ws="none",  # a WebSocket would leave the admission, and none is served
            proxy_headers=False,  # `X-Forwarded-For` of a client is not its address
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
            server_header=False,
            backlog=BACKLOG,
        )
        super().__init__(config)

    def end(self) -> None:
        """Ask it to end, at once."""
        self.should_exit = True
        self._ending.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application; the connections of SOCKETS are accepted in `main_loop`.

        asyncio's own loop takes as many connections as wait before it serves any, and logs a
        traceback for each of them when there is no descriptor left.
        """
        self._listening = sockets or []
        await super().startup(sockets=[])

    async def main_loop(self) -> None:
        """Accept connections until the end; tick once a second, where uvicorn does ten times.

        An idle daemon costs two thirds less so (benchmarks/bench_workforce.py).
        """
        async with anyio.create_task_group() as tasks:
            for one in self._listening:
                one.setblocking(False)
                tasks.start_soon(self._accept, one)
            while not await self.on_tick(0):
                logs.bound_stderr()
                with anyio.move_on_after(TICK_S):
                    await self._ending.wait()
            tasks.cancel_scope.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            while True:
                for _ in range(BURST):
                    try:
                        accepted, _ = await loop.sock_accept(listening)
                    except OSError as exc:
                        await endure(exc, self._admission, self._log)
                    else:
                        tasks.start_soon(self._connect, accepted)
                await anyio.lowlevel.checkpoint()

    async def _connect(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._connection, accepted)
        except OSError:  # the client has gone already
            accepted.close()

    def _connection(self) -> H11Protocol:
        return _Connection(self._admission, self.config, self.server_state, self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take SIGINT and SIGTERM while serving, or leave them alone."""
        with super().capture_signals() if self._handle_signals else nullcontext():
            yield


class _Connection(H11Protocol):
    """One connection: a guest of the admission, whose requests must arrive in time."""

    def __init__(
        self,
        admission: Admission,
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._admission = admission
        self._application = self.app
        self.app = self._run
        self._is_known = False
        self._phase: _Phase | None = "head"
        self._begun = self.loop.time()
        self._body_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {RECOGNISE: self._recognise}
        await self._application(scope, receive, send)  # type: ignore[arg-type]

    # What the admission asks.

    @property
    def busy(self) -> bool:
        """Whether a request is arriving or being answered; a stream is, as long as it is open."""
        return self._answering or self._phase == "body"

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The request that came last; none came yet where it is `None`."""
        return self.cycle

    @property
    def _answering(self) -> bool:
        return self._cycle is not None and not self._cycle.response_complete

    def evict(self) -> None:
        """Close the connection at once; who has asked nothing yet is answered why."""
        if self._cycle is None:
            self._refuse(503, "too many connections: try again")
        elif not self.busy:
            self.timeout_keep_alive_handler()
        if (self._cycle is not None and self.busy) or self.transport.get_write_buffer_size():
            self.transport.abort()  # who reads nothing would keep it open

    def _recognise(self) -> bool:
        self._is_known = self._admission.recognise(self)
        return self._is_known

    # What asyncio and uvicorn call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, self._late)
        self._admission.arrive(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.depart(self)
        self._enter(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase == "body":
            self._body_bytes += len(data)
        if self._is_known:
            self._admission.heard(self)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; what was about to be answered is not any more."""
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    # Time limits.

    def _look(self) -> None:
        """Find out what is awaited of the client, and for how long."""
        theirs = self.conn.their_state
        if self.transport.is_closing():
            self._enter(None)
        elif theirs is h11.SEND_BODY:
            self._enter("body")
        elif theirs is h11.IDLE and (self.conn.trailing_data[0] or self._cycle is None):
            self._enter("head")
        else:  # it is answered, or idle: for that uvicorn has a limit of its own
            self._enter(None)

    def _enter(self, phase: _Phase | None) -> None:
        if phase == self._phase:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._phase, self._begun, self._body_bytes = phase, self.loop.time(), 0
        self._timer = self.loop.call_later(self._limit_s, self._late) if phase else None

    @property
    def _limit_s(self) -> float:
        if self._phase == "body":
            return BODY_S + self._body_bytes / BODY_BYTES_PER_S
        return HEAD_S

    def _late(self) -> None:
        left_s = self._begun + self._limit_s - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._late)
            return
        self._timer = None
        self._refuse(408, f"the {self._phase} of the request did not arrive in time: send it again")

    def _refuse(self, status: int, text: str) -> None:
        """Answer STATUS if nothing was answered yet, and close."""
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing() or self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = f'{{"error":"{text}"}}\n'.encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        with suppress(h11.LocalProtocolError):  # the answer to HEAD has no body
            self.transport.write(
                self.conn.send(h11.Response(status_code=status, headers=headers)) or b""
            )
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket of HOST and PORT (0: any free one).

    It listens at once: who is told of the port may connect, and waits until the server is up.

    Raises:
        OSError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY where the protocol is said: else every answer waits 40 ms (Nagle).
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    bound.set_inheritable(False)
    return bound
