"""The daemon: opens each server once, serves it on the socket and over HTTP, ends cleanly."""

import fcntl
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import anyio
import orjson
from anyio.abc import SocketListener, SocketStream, TaskStatus

from arsenale_core import logs
from arsenale_core.admission import Admission, Scoped, accept
from arsenale_core.config import Settings
from arsenale_core.descriptors import room
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.surface import PEER, Peer, Runtime
from arsenale_core.wire import Traffic, read_lines, serve_lines
from arsenale_daemon import hello, paths
from arsenale_daemon.hosting import Servers
from arsenale_daemon.session_starts import SessionStarts
from arsenale_relay import __version__, endpoint

if TYPE_CHECKING:
    from arsenale_daemon import http_server

Ending: TypeAlias = Literal["down", "idle", "upgrade"]

HELLO_TIMEOUT_S = 10.0
"""How long a new connection may take to say what it wants."""

QUIET_S = 0.1
"""So long nobody asks for anything before HTTP and the servers that nobody wanted are opened."""

QUIET_WITHIN_S = 2.0
"""They are opened by then, whoever asks."""

FINISH_S = 5.0
"""How long running requests may take after the daemon was asked to end."""

FAREWELL_S = 0.5
"""How long a client that is closed may take to take the reason."""

TOO_MANY = "too many connections: this one made room for another, try again"

LOCK_WAIT_S = 15.0
"""How long a new daemon waits for one that is just ending."""


@dataclass(slots=True, eq=False)
class Connection:
    """One client of the socket."""

    stream: SocketStream
    server: str
    heard_from: Callable[[], None]
    traffic: Traffic = field(default_factory=Traffic)
    parted: bool = False
    heard: float = field(default_factory=time.monotonic)

    async def lines(self, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass LINES on, but for the relay's own: its farewell says that no more will come."""
        async for line in lines:
            self.heard = time.monotonic()
            self.heard_from()
            if line.startswith(b'{"arsenale":'):
                self.parted = True
            else:
                yield line


class Daemon:
    """The servers of one home and everyone connected to them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runtime = Runtime(settings=settings)
        self._servers = Servers(self._runtime, called=lambda: self._starts.changed())
        self._starts = SessionStarts(str(settings.home), partial(self._servers.hook, starts=True))
        self._arriving = self._asking = 0
        self._connections: set[Connection] = set()
        self._ending: Ending | None = None
        self._end = anyio.Event()
        self._last_seen = time.monotonic()
        self._started_at = time.time()
        self._http_port: int | None = None
        self._web: http_server.WebServer | None = None
        self._web_ended = anyio.Event()
        self._http_settled = anyio.Event()
        self._http_error: str | None = None
        self._log = logs.get("arsenale.daemon")
        self._admission = Admission(room(), self._log)

    async def run(self) -> None:
        """Serve until a signal, `arsenale down`, idleness or a newer version ends it."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._servers.run)
            listener = await SocketListener.from_socket(endpoint.listen(str(self._settings.home)))
            async with anyio.create_task_group() as serving:
                await serving.start(self._listen_for_signals)
                serving.start_soon(
                    accept, listener, self._serve_socket, serving, self._admission, self._log
                )
                serving.start_soon(self._open_the_rest)
                serving.start_soon(self._watch_idleness)
                serving.start_soon(self._keep_session_starts)
                self._write_state()
                self._log.info("up", version=__version__)
                await self._end.wait()
                await self._say_goodbye(listener)
                serving.cancel_scope.cancel()
            self._servers.close()
        paths.state_file(self._settings.home).unlink(missing_ok=True)
        self._log.info("ended", reason=self._ending)

    def end(self, why: Ending) -> None:
        """Ask the daemon to end; the first reason counts."""
        if self._ending is None:
            self._ending = why
            self._servers.open_no_more()
            self._end.set()
            self._http_settled.set()

    async def _open_the_rest(self) -> None:
        """Open what nobody asked for yet, and HTTP, once who started us has its first answers."""
        with anyio.move_on_after(QUIET_WITHIN_S):
            await anyio.sleep(QUIET_S)
            while not self._is_quiet():  # noqa: ASYNC110  # quiet is what nobody tells
                await anyio.sleep(QUIET_S / 4)
        await self._servers.open_all()
        self._write_state()
        await self._servers.keep_handshakes()
        if self._settings.http and self._ending is None:
            await self._serve_http()
        else:
            self._http_settled.set()

    async def _keep_session_starts(self) -> None:
        await self._http_settled.wait()  # all servers are open
        await self._starts.run()

    def _is_quiet(self) -> bool:
        since = time.monotonic() - QUIET_S
        return not self._arriving and not any(
            one.traffic.busy or one.heard > since for one in self._connections
        )

    # The socket.

    async def _serve_socket(self, stream: SocketStream) -> None:
        """Serve one client; whatever breaks, breaks its connection and no other."""
        guest = Scoped()
        self._admission.arrive(guest)
        async with stream:
            with guest.scope:
                try:
                    await self._serve_guest(stream, guest)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    self._log.debug("a client went")
                except Exception as exc:  # noqa: BLE001  # the edge of one connection
                    await self._report_broken(stream, exc)
                finally:
                    self._admission.depart(guest)
                    self._last_seen = time.monotonic()
            if guest.evicted:
                await self._farewell(stream)

    async def _serve_guest(self, stream: SocketStream, guest: Scoped) -> None:
        """Find out what a client wants, and do it."""
        lines = read_lines(stream.receive, self._settings.line_max_bytes)
        try:
            with anyio.fail_after(HELLO_TIMEOUT_S):
                said = hello.parse(await anext(lines, b"{}"))
            guest.busy_while(lambda: True)
            if not self._admission.recognise(guest):
                raise UnavailableError("too many clients are being answered", hint="try again")
        except (TimeoutError, InvalidError) as exc:
            reason = str(exc) or f"no hello within {HELLO_TIMEOUT_S:g} s: send it at once"
            self._log.warning("connection refused", reason=reason)
            await _tell(stream, {"error": reason, "final": True})
            return
        if said.hook is not None:
            await self._hook(stream, said.hook, starts=said.starts)
        elif said.guard is not None:
            await stream.send(_line(await self._servers.guard(said.guard)))
        elif said.control is not None:
            await stream.send(_line(await self._control(said.control)))
        else:
            await self._serve_relay(stream, said, lines, guest)

    async def _farewell(self, stream: SocketStream) -> None:
        """Tell a client that it made room for another; its relay comes again when it is asked."""
        with anyio.move_on_after(FAREWELL_S):
            await _tell(stream, {"goodbye": "full", "reason": TOO_MANY})

    async def _hook(self, stream: SocketStream, event: dict[str, Any], *, starts: bool) -> None:
        """Answer a hook; one that has printed a session's kept text goes without an answer."""
        asked_ns = time.time_ns()
        context = await self._servers.hook(event, starts=starts)
        await _tell(stream, {"context": context})
        if starts:
            await self._starts.begun(event, context, asked_ns)
        else:
            self._starts.changed()

    async def _report_broken(self, stream: SocketStream, exc: BaseException) -> None:
        """Tell the log, and the client, why its connection ends."""
        while isinstance(exc, BaseExceptionGroup):
            exc = cast("BaseExceptionGroup[BaseException]", exc).exceptions[0]
        expected = isinstance(exc, ArsenaleError)
        self._log.error("connection broken", exc_info=None if expected else exc, reason=str(exc))
        reason = str(exc) if expected else "the connection crashed: see `arsenale logs`"
        await _tell(stream, {"error": reason, "final": False})

    async def _serve_relay(
        self, stream: SocketStream, said: hello.Hello, lines: AsyncIterator[bytes], guest: Scoped
    ) -> None:
        name = str(said.server)
        if hello.is_newer(said.version, __version__):
            self._log.info("a newer relay came", version=said.version)
            if not self._busy():
                self.end("upgrade")
                await stream.send(_line({"goodbye": "upgrade"}))
                return
        self._arriving += 1
        try:
            await self._servers.open(name)
        finally:
            self._arriving -= 1
        if name not in self._servers.surfaces:
            why, known = self._servers.why_not(name), name in self._servers
            is_over = self._ending is not None and known
            await stream.send(
                _line({"goodbye": self._ending} if is_over else {"error": why, "final": not known})
            )
            return
        connection = Connection(stream, name, lambda: self._admission.heard(guest))
        guest.busy_while(lambda: connection.traffic.busy)
        self._connections.add(connection)
        PEER.set(Peer(session=_text(said.session), project=_text(said.project)))
        try:
            await stream.send(_line({"version": __version__, "pid": os.getpid()}))
            await serve_lines(
                self._servers.surfaces[name],
                connection.lines(lines),
                stream.send,
                connection.traffic,
            )
        finally:
            self._connections.discard(connection)

    async def _control(self, command: Literal["status", "stop"]) -> dict[str, Any]:
        if command == "stop":
            self.end("down")
        self._asking += 1  # who waits for an answer is here
        try:
            await self._servers.open_all()
            with anyio.move_on_after(HELLO_TIMEOUT_S):
                await self._http_settled.wait()
        finally:
            self._asking -= 1
        return self.status()

    def status(self) -> dict[str, Any]:
        """Return what `arsenale status` shows."""
        return {
            "pid": os.getpid(),
            "version": __version__,
            "uptime_s": round(time.time() - self._started_at, 1),
            "servers": {
                name: {
                    "state": "up",
                    "connections": sum(c.server == name for c in self._connections),
                }
                for name in sorted(self._servers.surfaces)
            }
            | {
                name: {"state": "failed", "reason": why}
                for name, why in self._servers.failed.items()
            },
            "socket": endpoint.socket_path(str(self._settings.home)),
            "http": f"http://{self._settings.http_host}:{self._http_port}"
            if self._http_port
            else None,
            "http_error": self._http_error,
            "home": str(self._settings.home),
            "settings": [asdict(one) for one in self._settings.changed()],
        }

    # HTTP.

    async def _serve_http(self) -> None:
        from arsenale_daemon import http_server, web  # noqa: PLC0415

        settings = self._settings
        try:
            token = paths.token(settings.home)
            bound = http_server.bind(settings.http_host, settings.http_port)
        except (OSError, ArsenaleError) as exc:
            # The socket serves on; `status` and `doctor` tell about it.
            self._http_error = f"{settings.http_host}:{settings.http_port}: {exc}"
            self._log.error("no HTTP", reason=self._http_error)
            self._http_settled.set()
            return
        self._http_port = bound.getsockname()[1]
        self._write_state()
        clients = web.Clients(seen=self._seen)
        app = web.build(settings, token, self._servers.surfaces, self._runtime.registry, clients)
        self._runtime.awake.add(lambda: clients.present)
        self._web = http_server.WebServer(app)
        self._http_settled.set()
        try:
            await self._web.serve(sockets=[bound])
        finally:
            self._web_ended.set()

    def _seen(self) -> None:
        self._last_seen = time.monotonic()

    # The end.

    async def _listen_for_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                self.end("down")

    async def _watch_idleness(self) -> None:
        limit_s = self._settings.idle_exit_s
        while limit_s:
            if (
                self._connections
                or self._asking
                or any(is_awake() for is_awake in self._runtime.awake)
            ):
                self._seen()
            silent_s = time.monotonic() - self._last_seen
            if silent_s >= limit_s:
                self.end("idle")
                return
            await anyio.sleep(
                min(limit_s - silent_s, 1.0) if self._connections else limit_s - silent_s
            )

    def _busy(self) -> bool:
        return any(connection.traffic.busy for connection in self._connections)

    async def _say_goodbye(self, listener: SocketListener) -> None:
        """Close the door, tell every relay that this is planned, answer what they have sent."""
        with suppress(FileNotFoundError):
            os.unlink(endpoint.socket_path(str(self._settings.home)))
        await listener.aclose()
        for connection in list(self._connections):
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                with anyio.move_on_after(0.5):
                    await connection.stream.send(_line({"goodbye": self._ending}))
        if self._web is not None:
            self._web.end()
        with anyio.move_on_after(FINISH_S):
            while any(not c.parted or c.traffic.busy for c in self._connections):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            if self._web is not None:
                await self._web_ended.wait()

    def _write_state(self) -> None:
        path = paths.state_file(self._settings.home)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(self.status()))
        fresh.replace(path)


def hold_lock(home: Path) -> int | None:
    """Become the daemon of HOME; `None` when there is one that answers.

    Raises:
        OSError: The home cannot be written.
    """
    endpoint.run_dir(str(home))
    descriptor = os.open(paths.daemon_lock(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with suppress(OSError):
                endpoint.connect(str(home)).close()
                os.close(descriptor)
                return None
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor


def _line(said: dict[str, Any]) -> bytes:
    return orjson.dumps({"arsenale": 1, **said}) + b"\n"


async def _tell(stream: SocketStream, said: dict[str, Any]) -> None:
    """Send SAID to a client that may have gone."""
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.send(_line(said))


def _text(value: str | None) -> str | None:
    return value and value[:200]
