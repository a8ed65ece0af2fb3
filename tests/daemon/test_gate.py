"""Who passes the gate of HTTP: names of loopback, whole; the token; a rate that nothing evades."""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from arsenale_daemon import control
from arsenale_daemon.security import STRANGER_WAIT_S, STRANGERS_PER_S, Pacer, RateLimiter


@pytest.fixture
def url(home: Path, environment: dict[str, str]) -> str:
    return str(control.up(home)["http"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port and the token of a daemon that many tests may ask."""
    path = tmp_path_factory.mktemp("home")
    (path / "config.toml").write_text("http_port = 0\nhttp_rate_per_minute = 100000\n", "utf-8")
    port = int(str(control.up(path)["http"]).rpartition(":")[2])
    yield port, (path / "token").read_text(encoding="ascii").strip()
    control.down(path)


def headers_of(home: Path) -> dict[str, str]:
    token = (home / "token").read_text(encoding="ascii").strip()
    return {"Authorization": f"Bearer {token}"}


def status_of(shared: tuple[int, str], *lines: str) -> int:
    """Return the status of a request whose head has LINES, as they are."""
    port, token = shared
    head = ["GET /metrics HTTP/1.1", f"Authorization: Bearer {token}", "Connection: close", *lines]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost", "127.0.0.1", "127.0.0.1:8724", "localhost:1", "[::1]", "[::1]:8724"],
)
def test_every_name_of_loopback_is_served(shared: tuple[int, str], host: str) -> None:
    assert status_of(shared, f"Host: {host}") == 200
    assert status_of(shared, "Host: localhost", f"Origin: http://{host}") == 200
    assert status_of(shared, "Host: localhost", f"Origin: https://{host}") == 200


ELSEWHERE = [
    "[::1].evil.com", "[::1]evil.com", "[::1", "::1", "[::1]]", "[::1]:80@evil.com",
    "[::1%25lo]", "[::1%lo]", "[::ffff:127.0.0.1]", "[::]", "[::2]",
    "localhost:80@evil.com", "localhost@evil.com", "evil.com@localhost", "user:localhost@evil.com",
    "localhost.evil.com", "localhost.", "localhostevil.com", "evil.com#localhost",
    "evil.com?localhost",
    "localhost/", "localhost/evil.com", "localhost\\evil.com", "localhost:80:90", "localhost:",
    "localhost:-1", "localhost:8o", "localhost:123456", "localhost:²", "localhost: 80",
    "localhost evil.com", "localhost, evil.com", "localhost,localhost", "127.0.0.1.evil.com",
    "127.0.0.1.nip.io", "127.1", "127.0.0.2", "0.0.0.0", "0x7f.0.0.1", "2130706433", "0",
    "127.0.0.01", "10.0.0.1", "evil.com", "%6cocalhost", "loc\xe4lhost", "http://localhost", "",
    "*", "null",
]  # fmt: skip


@pytest.mark.parametrize("host", ELSEWHERE)
def test_every_other_host_is_refused(shared: tuple[int, str], host: str) -> None:
    assert status_of(shared, f"Host: {host}") in (400, 421)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_page_of_every_other_origin_is_refused(shared: tuple[int, str], host: str) -> None:
    assert status_of(shared, "Host: localhost", f"Origin: http://{host}") in (400, 403)


@pytest.mark.parametrize(
    "origin",
    ["null", "localhost", "//localhost", "http:localhost", "http:///localhost", "file://localhost",
     "http://localhost http://evil.com", "http://localhost, http://evil.com", "http://localhost/",
     "javascript://localhost", "http//localhost", "ws://localhost", "http://http://localhost", ""],
)  # fmt: skip
def test_what_is_no_origin_of_this_machine_is_refused(shared: tuple[int, str], origin: str) -> None:
    assert status_of(shared, "Host: localhost", f"Origin: {origin}") == 403


@pytest.mark.parametrize(
    "pair", [*itertools.permutations(["localhost", "evil.com", "127.0.0.1"], 2)]
)
def test_two_hosts_or_two_origins_are_refused_in_any_order(
    shared: tuple[int, str], pair: tuple[str, str]
) -> None:
    assert status_of(shared, *(f"Host: {one}" for one in pair)) in (400, 421)
    origins = [f"Origin: http://{one}" for one in pair]
    assert status_of(shared, "Host: localhost", *origins) == 403


def test_a_request_of_old_http_without_a_host_is_refused(shared: tuple[int, str]) -> None:
    port, token = shared
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(
            f"GET /metrics HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        assert connection.makefile("rb").readline().split()[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "bearer x", "Basic {}", "Bearer {}x", "Bearer x{}", "Bearer {} {}",
     "{}", "Token {}", "Bearer\t{}", "Bearer \xfc"],
)  # fmt: skip
def test_only_the_token_itself_is_the_token(shared: tuple[int, str], given: str) -> None:
    port, token = shared
    text = given.replace("{}", token)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: {text}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        assert connection.makefile("rb").readline().split()[1] in (b"401", b"429")


def test_wrong_tokens_are_limited_and_the_right_one_is_let_in_meanwhile(
    home: Path, url: str
) -> None:
    answers: list[httpx2.Response] = []
    with httpx2.Client(base_url=url) as stranger, httpx2.Client(base_url=url) as honest:
        for number in range(150):
            wrong = {"Authorization": f"Bearer {number:043}", "User-Agent": f"guess {number}",
                     "Mcp-Session-Id": f"{number}",
                     "X-Forwarded-For": f"10.0.0.{number}"}  # fmt: skip
            answers.append(stranger.get("/metrics", headers=wrong))
            if number % 10 == 0:
                assert honest.get("/metrics", headers=headers_of(home)).status_code == 200
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses[:5] == [401] * 5
    assert statuses.count(401) < 75  # 12 at once, and two a second
    late = answers[statuses.index(429)]
    assert "Retry-After" in late.headers
    assert "the right one" in late.json()["error"]


def test_wrong_tokens_from_any_address_of_loopback_are_counted_together(url: str) -> None:
    port = int(url.rpartition(":")[2])
    statuses: list[bytes] = []
    for number in range(1, 60):
        with socket.socket() as connection:
            connection.bind((f"127.0.7.{number}", 0))
            connection.settimeout(20)
            connection.connect(("127.0.0.1", port))
            head = (
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n"
            )
            connection.sendall(head)
            statuses.append(connection.makefile("rb").readline().split()[1])
    assert statuses.count(b"429") > 5


def test_no_header_evades_the_rate_of_a_client(home: Path, url: str) -> None:
    with httpx2.Client(base_url=url, headers=headers_of(home)) as client:
        statuses = [
            client.get(
                "/healthz",
                headers={
                    "User-Agent": f"new {number}", "Mcp-Session-Id": f"{number:032x}",
                    "X-Forwarded-For": f"192.0.2.{number}", "X-Real-IP": f"192.0.2.{number}",
                    "Forwarded": f"for=192.0.2.{number}", "Cookie": f"session={number}",
                },
            ).status_code
            for number in range(200)
        ]  # fmt: skip
    assert statuses.count(429) > 40


def test_strangers_use_up_no_rate_of_a_client(home: Path, url: str) -> None:
    with httpx2.Client(base_url=url) as stranger, httpx2.Client(base_url=url) as honest:
        statuses = {stranger.get("/healthz").status_code for _ in range(250)}
        assert statuses == {200, 429}
        assert honest.get("/healthz", headers=headers_of(home)).status_code == 200


HELLO = {
    "jsonrpc": "2.0", "id": 0, "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}  # fmt: skip


def test_each_session_that_was_issued_has_a_rate_of_its_own(home: Path, url: str) -> None:
    headers = {**headers_of(home), "Accept": "application/json, text/event-stream"}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    with httpx2.Client(base_url=url, headers=headers) as http:
        sessions = [
            http.post("/telemetry/mcp", json=HELLO).headers["mcp-session-id"] for _ in range(2)
        ]
        statuses: list[list[int]] = [[], []]
        for _ in range(75):
            for number, session in enumerate(sessions):
                answer = http.post("/telemetry/mcp", json=ping, headers={"Mcp-Session-Id": session})
                statuses[number].append(answer.status_code)
    assert statuses == [[200] * 75] * 2  # 150 together, of which one client may have 120 at once


def test_requests_without_the_token_are_spread_over_time() -> None:
    now = [0.0]
    pacer = Pacer(STRANGERS_PER_S, now=lambda: now[0])
    waits = [pacer.wait_s() for _ in range(1_000)]
    assert waits[: STRANGERS_PER_S - 1] == [0.0] * (STRANGERS_PER_S - 1)
    assert waits[2 * STRANGERS_PER_S - 1] == pytest.approx(1.0)
    assert max(waits) <= STRANGER_WAIT_S
    now[0] += 60
    assert pacer.wait_s() == 0.0


def test_a_limiter_of_ten_times_the_rate_lets_ten_times_as_much_pass() -> None:
    one = RateLimiter(60, now=lambda: 0.0)
    ten = one.times(10)
    passed = [sum(each.wait_s("a") == 0 for _ in range(1_000)) for each in (one, ten)]
    assert passed == [7, 61]  # a tenth of the rate at once, and the one that is due
