"""Local users without a token: they stop, fill or slow nothing, whatever they send."""

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from arsenale_daemon import control
from arsenale_daemon.http_server import BODY_S, HEAD_S
from arsenale_relay import endpoint

Start = Callable[..., dict[str, Any]]


@pytest.fixture
def start(home: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Start a daemon with SOFT and HARD as its limits of open files; return its status."""
    daemons: list[subprocess.Popen[bytes]] = []

    def started(soft: int, hard: int, **more: str) -> dict[str, Any]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        (home / "logs").mkdir(mode=0o700, exist_ok=True)
        with (home / "logs" / "daemon.err").open("ab") as err:
            daemons.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "arsenale_daemon"],
                    env={**environment, **more}, stderr=err, preexec_fn=limit,
                )
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while (status := control.ask(home, "status")) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return status

    yield started
    for daemon in daemons:
        with suppress(Exception):
            control.down(home)
        daemon.kill()
        daemon.wait()


def address_of(status: dict[str, Any]) -> tuple[str, int]:
    return "127.0.0.1", int(str(status["http"]).rpartition(":")[2])


def token_of(home: Path) -> dict[str, str]:
    token = (home / "token").read_text(encoding="ascii").strip()
    return {"Authorization": f"Bearer {token}"}


def unix(home: Path) -> socket.socket:
    connection = endpoint.connect(str(home))
    connection.settimeout(20)
    return connection


def asked(home: Path, said: bytes) -> dict[str, Any]:
    """Send SAID as the first line on the socket; return the answer."""
    with unix(home) as connection:
        connection.sendall(said + b"\n")
        return json.loads(connection.makefile("rb").readline())


HOOK = json.dumps(
    {"arsenale": 1, "hook": {"hook_event_name": "UserPromptSubmit", "prompt": "where?"}}
).encode()


def is_served(home: Path, status: dict[str, Any]) -> None:
    """Hold that an honest client is served: its hook, its command and its request over HTTP."""
    assert "context" in asked(home, HOOK)
    assert control.ask(home, "status")
    answer = httpx2.get(f"{status['http']}/metrics", headers=token_of(home), timeout=20)
    assert answer.status_code == 200


def logs_bytes(home: Path) -> int:
    return sum(file.stat().st_size for file in (home / "logs").iterdir())


def is_open(connection: socket.socket) -> bool:
    """Whether the other end has closed CONNECTION; what it sent before is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# How many.


@pytest.mark.parametrize(("soft", "hard"), [(256, 256), (1_024, 1_024), (256, 4_096)])
def test_more_connections_than_descriptors_keep_no_honest_client_out(
    home: Path, start: Start, soft: int, hard: int
) -> None:
    status = start(soft, hard)
    with ExitStack() as strangers:
        for _ in range(1_300):
            strangers.enter_context(socket.create_connection(address_of(status), timeout=20))
        for _ in range(600):
            strangers.enter_context(unix(home))
        for _ in range(3):
            is_served(home, status)
        assert psutil.Process(status["pid"]).num_fds() < hard
    is_served(home, status)
    assert logs_bytes(home) < 200_000


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(home: Path, start: Start) -> None:
    status = start(200, 3_000)
    assert resource.prlimit(status["pid"], resource.RLIMIT_NOFILE) == (3_000, 3_000)


def test_a_daemon_without_a_descriptor_left_serves_again_when_there_is_one(
    home: Path, start: Start
) -> None:
    status = start(1_024, 1_024)
    pid = status["pid"]
    is_served(home, status)
    used = max(int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir()) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, 1_024))
    holes = used - psutil.Process(pid).num_fds()
    with ExitStack() as strangers:
        for _ in range(holes + 40):
            strangers.enter_context(socket.create_connection(address_of(status), timeout=20))
            strangers.enter_context(unix(home))
        waiting = strangers.enter_context(unix(home))
        waiting.sendall(HOOK + b"\n")
        deadline = time.monotonic() + 20
        log = home / "logs" / "daemon.log"
        while "could not be accepted" not in log.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline, "it did not run out of descriptors"
            time.sleep(0.05)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1_024, 1_024))
        assert "context" in json.loads(waiting.makefile("rb").readline())
    is_served(home, status)
    assert logs_bytes(home) < 200_000


def test_strangers_close_no_relay_no_stream_and_no_call(home: Path, start: Start) -> None:
    status = start(1_024, 1_024)
    address = address_of(status)
    with (
        ExitStack() as held,
        httpx2.Client(base_url=status["http"], headers=token_of(home)) as http,
    ):
        relays = [held.enter_context(unix(home)) for _ in range(150)]  # 30 assistants
        answers = [held.enter_context(relay.makefile("rb")) for relay in relays]
        for relay, answer in zip(relays, answers, strict=True):
            relay.sendall(b'{"arsenale":1,"server":"telemetry","version":"0.1.0"}\n')
            assert b"version" in answer.readline()
        stream = held.enter_context(http.stream("GET", "/telemetry/sse", timeout=20))
        events = stream.iter_lines()
        assert next(events).startswith("event: endpoint")
        for _ in range(1_000):
            held.enter_context(socket.create_connection(address, timeout=20))
        for _ in range(400):
            held.enter_context(unix(home))
        ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"
        for relay, answer in zip(relays, answers, strict=True):
            relay.sendall(ping)
            assert json.loads(answer.readline())["id"] == 1
        assert status["pid"] == (control.ask(home, "status") or {})["pid"]
        where = next(line for line in events if line.startswith("data:")).removeprefix("data: ")
        message = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
        assert http.post(where, json=message).status_code == 202


def test_more_relays_than_there_is_room_for_close_the_longest_idle_one_and_say_so(
    home: Path, start: Start
) -> None:
    start(256, 256)  # room for 64
    with ExitStack() as held:
        relays: list[socket.socket] = []
        answers: list[Any] = []
        for _ in range(80):
            relays.append(held.enter_context(unix(home)))
            answers.append(held.enter_context(relays[-1].makefile("rb")))
            relays[-1].sendall(b'{"arsenale":1,"server":"telemetry","version":"0.1.0"}\n')
            assert b"version" in answers[-1].readline()
        said = json.loads(answers[0].readline())
        assert said["goodbye"] == "full"
        assert "made room" in said["reason"]
        relays[-1].sendall(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        assert json.loads(answers[-1].readline())["id"] == 1


def test_the_daemon_ends_in_time_whoever_is_connected(home: Path, start: Start) -> None:
    status = start(1_024, 1_024)
    with ExitStack() as strangers:
        for number in range(300):
            one = strangers.enter_context(socket.create_connection(address_of(status), timeout=20))
            strangers.enter_context(unix(home))
            if number % 2:  # asks much and reads nothing
                one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        assert control.down(home)
    assert not (home / "run" / "daemon.json").exists()


# How slow.


def test_silent_and_trickling_clients_are_closed_with_a_reason(home: Path, start: Start) -> None:
    status = start(1_024, 1_024)
    address = address_of(status)
    token = token_of(home)["Authorization"].encode()
    head = b"POST /telemetry/mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    full = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    begins: dict[str, tuple[bytes, bytes]] = {
        "silent": (b"", b""),
        "half a line": (b"GET / HT", b""),
        "head by bytes": (head + b"X-Slow: ", b"x"),
        "a second head by bytes": (full + b"GET /", b"x"),
        "headers without end": (head, b"X: y\r\n"),
        "body by bytes, no token": (head + b"\r\n", b"x"),
        "body by bytes": (head + b"Authorization: " + token + b"\r\n\r\n", b"x"),
        "chunks by bytes": (
            b"POST /telemetry/mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: " + token + b"\r\n\r\n", b"1\r\nx\r\n",
        ),
    }  # fmt: skip
    with ExitStack() as held:
        slow = {name: held.enter_context(socket.create_connection(address)) for name in begins}
        on_socket = held.enter_context(unix(home))
        for name, (begin, _) in begins.items():
            slow[name].sendall(begin)
        begun = time.monotonic()
        ended: dict[str, float] = {}
        heard: dict[str, bytes] = dict.fromkeys(slow, b"")
        while len(ended) < len(slow):
            assert time.monotonic() - begun < BODY_S + 8, set(slow) - set(ended)
            for name in set(slow) - set(ended):
                slow[name].settimeout(0.05)
                try:
                    slow[name].sendall(begins[name][1])
                    part = slow[name].recv(65_536)
                except TimeoutError:
                    continue
                except OSError:
                    part = b""
                heard[name] += part
                if not part:
                    ended[name] = time.monotonic() - begun
            is_served(home, status) if len(ended) == 1 else None
        assert b"no hello within 10 s" in on_socket.makefile("rb").readline()
    for name, after_s in ended.items():
        assert after_s < (BODY_S if "body" in name or "chunks" in name else HEAD_S) + 6, name
    assert b"408" in heard["silent"]
    assert b"408" in heard["head by bytes"]
    assert b"did not arrive in time" in heard["body by bytes"]
    is_served(home, status)
    assert "Traceback" not in (home / "logs" / "daemon.err").read_text(encoding="utf-8")


def test_an_honest_upload_in_pieces_is_taken(home: Path, start: Start) -> None:
    status = start(1_024, 1_024)

    def pieces() -> Iterator[bytes]:
        for number in range(20):
            time.sleep(0.05)
            yield b" " * 1_000 if number < 19 else b'{"jsonrpc":"2.0","id":1,"method":"ping"}'

    headers = {**token_of(home), "Content-Type": "application/json"}
    answer = httpx2.post(
        f"{status['http']}/telemetry/mcp", content=pieces(), headers=headers, timeout=20
    )
    assert answer.status_code < 500


# How broken.

GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "an endless head": b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
    "a thousand headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    "a bad chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ZZ\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "a length of digits that are none": "POST / HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Length: ²\r\n\r\n".encode("latin-1"),
    "a long length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5_000
    + b"\r\n\r\n",
    "a WebSocket": b"GET /telemetry/mcp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    "a pipeline of garbage": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    + b"\0\0\r\n\r\n",
    "HEAD with a body that does not come": b"HEAD / HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 5\r\nConnection: close\r\n\r\n",
}  # fmt: skip


ODD_HELLOS: dict[str, dict[str, Any]] = {
    "a version of 5,000 digits": {"server": "telemetry", "version": "9" * 5_000},
    "a version of 5,000 parts": {"server": "telemetry", "version": "9." * 5_000},
    "a version that is a number": {"server": "telemetry", "version": 1},
    "a version that is a list": {"server": "telemetry", "version": [1, 2]},
    "a version with superscript digits": {"server": "telemetry", "version": "²"},
    "a version of two lines": {"server": "telemetry", "version": "1.0\n"},
    "a server that is an object": {"server": {"a": 1}},
    "a server name of a megabyte": {"server": "x" * 1_000_000},
    "a session that is a number": {"server": "telemetry", "session": 5},
    "a project that is a list": {"server": "telemetry", "project": ["/"]},
    "a project of a megabyte": {"server": "telemetry", "project": "/" * 1_000_000},
    "a hook that is a list": {"hook": [1]},
    "a hook that is a text": {"hook": "x"},
    "a guard that is a number": {"guard": 3},
    "a command that is unknown": {"control": "explode"},
    "a command that is an object": {"control": {"stop": True}},
    "starts that is a text": {"hook": {}, "starts": "yes"},
    "another protocol version": {"arsenale": 2, "server": "telemetry"},
    "a protocol version that is a float": {"arsenale": 1.5, "server": "telemetry"},
}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose daemon many tests may ask."""
    path = tmp_path_factory.mktemp("home")
    (path / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
    control.up(path)
    yield path
    control.down(path)


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE.keys())
def test_broken_requests_leave_no_traceback(shared_home: Path, said: bytes) -> None:
    status = control.ask(shared_home, "status")
    assert status
    for _ in range(10):
        stranger = socket.create_connection(address_of(status), timeout=20)
        with stranger, suppress(OSError):
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(65_536):
                pass
    is_served(shared_home, status)
    for name in ("daemon.err", "daemon.log"):
        text = (shared_home / "logs" / name).read_text(encoding="utf-8")
        assert "Traceback" not in text, text[-3_000:]


@pytest.mark.parametrize("hello", ODD_HELLOS.values(), ids=ODD_HELLOS.keys())
def test_an_odd_hello_is_refused_with_what_is_wrong(
    shared_home: Path, hello: dict[str, Any]
) -> None:
    answer = asked(shared_home, json.dumps({"arsenale": 1, **hello}).encode())
    assert answer["final"] is True
    assert str(answer["error"]).startswith("invalid hello: ")
    assert len(answer["error"]) < 500
    for name in ("daemon.err", "daemon.log"):
        assert "Traceback" not in (shared_home / "logs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"null", b"1", b"\xff\xfe", b"[" * 5_000, b'{"a":' * 5_000, b"GET / HTTP/1.1"],
)
def test_a_first_line_that_is_no_object_is_refused(shared_home: Path, line: bytes) -> None:
    answer = asked(shared_home, line)
    assert "the first line must be a relay's hello" in answer["error"]


def test_a_deep_event_of_a_hook_is_answered(shared_home: Path) -> None:
    deep = b'{"arsenale":1,"hook":{"prompt":' + b"[" * 900 + b"]" * 900 + b"}}"
    assert asked(shared_home, deep)
