"""The HTTP face of a real daemon: who is let in, and what is served."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from arsenale_core import locks
from arsenale_daemon import control, paths
from arsenale_daemon.security import RateLimiter


@pytest.fixture
def url(home: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ARSENALE_HTTP_MAX_BODY_BYTES", "100000")
    return str(control.up(home)["http"])


@pytest.fixture
def token(home: Path, url: str) -> str:
    return (home / "token").read_text(encoding="ascii").strip()


@pytest.fixture
def http(url: str, token: str) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers) as client:
        yield client


def test_healthz_needs_no_token_and_tells_little(url: str) -> None:
    answer = httpx2.get(f"{url}/healthz")
    servers = ["coordinator", "genome", "memory", "mesh", "telemetry"]
    assert answer.json() == {"status": "ok", "servers": servers}


@pytest.mark.parametrize("path", ["/metrics", "/telemetry/mcp", "/telemetry/sse", "/nothing"])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}], ids=["none", "wrong"])
def test_everything_else_needs_the_token(url: str, path: str, header: dict[str, str]) -> None:
    answer = httpx2.get(url + path, headers=header)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "ARSENALE_HOME/token" in answer.json()["error"]


def test_another_host_name_is_refused(http: httpx2.Client) -> None:
    assert http.get("/healthz", headers={"Host": "evil.example"}).status_code == 421


def test_a_page_of_another_origin_is_refused(http: httpx2.Client) -> None:
    assert http.get("/metrics", headers={"Origin": "https://evil.example"}).status_code == 403
    assert http.get("/metrics", headers={"Origin": "null"}).status_code == 403
    assert http.get("/metrics", headers={"Origin": "http://localhost:3000"}).status_code == 200


def test_a_body_past_the_limit_is_refused_with_or_without_its_length(http: httpx2.Client) -> None:
    big = b"x" * 100_001
    assert http.post("/telemetry/mcp", content=big).status_code == 413
    try:
        answer = http.post("/telemetry/mcp", content=iter([big]))
    except httpx2.RemoteProtocolError:
        return  # cut off: as good a refusal
    assert answer.status_code >= 400


def test_metrics_are_prometheus_text(http: httpx2.Client) -> None:
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    assert "# TYPE ai_tool_calls counter" in answer.text or "# TYPE ai_tool_calls" in answer.text


def test_the_token_file_and_the_socket_are_private(home: Path, url: str) -> None:
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    assert (home / "run" / "daemon.sock").stat().st_mode & 0o777 == 0o600
    assert (home / "run").stat().st_mode & 0o777 == 0o700
    assert (home / "logs" / "daemon.log").stat().st_mode & 0o777 == 0o600


def test_a_client_past_its_rate_waits_and_another_does_not() -> None:
    now = [0.0]
    limiter = RateLimiter(60, now=lambda: now[0])
    allowed = 0
    while limiter.wait_s("a") == 0:
        allowed += 1
    assert 6 <= allowed <= 8
    assert limiter.wait_s("b") == 0
    wait_s = limiter.wait_s("a")
    assert 0 < wait_s <= 1
    now[0] += wait_s + 0.001
    assert limiter.wait_s("a") == 0


def test_a_token_that_others_can_read_keeps_http_off_and_says_so(
    home: Path, environment: dict[str, str]
) -> None:
    (home / "token").write_text("known\n", encoding="ascii")
    (home / "token").chmod(0o644)
    status = control.up(home)
    assert status["http"] is None or control.ask(home, "status")["http"] is None  # type: ignore[index]
    later = control.ask(home, "status")
    assert later is not None
    assert "chmod 600" in str(later["http_error"])


HELLO = {
    "jsonrpc": "2.0", "id": 0, "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}  # fmt: skip
BOTH = {"Accept": "application/json, text/event-stream"}


def session_of(http: httpx2.Client) -> dict[str, str]:
    """Begin an MCP session; return the headers of its further requests."""
    answer = http.post("/telemetry/mcp", json=HELLO, headers=BOTH)
    assert answer.status_code == 200
    return {**BOTH, "Mcp-Session-Id": answer.headers["mcp-session-id"]}


@pytest.mark.parametrize("last", ["", "0", "42", "abc", "3f0d_7", "x" * 2_000])
def test_a_client_that_resumes_a_stream_gets_a_new_one(http: httpx2.Client, last: str) -> None:
    headers = {**session_of(http), "Last-Event-ID": last}
    with http.stream("GET", "/telemetry/mcp", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_session_over_http_keeps_the_daemon_up(
    home: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARSENALE_IDLE_EXIT_S", "1")
    url = str(control.up(home)["http"])
    token = (home / "token").read_text(encoding="ascii").strip()
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as http:
        headers = session_of(http)
        time.sleep(3)
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert http.post("/telemetry/mcp", json=ping, headers=headers).status_code == 200
        assert http.delete("/telemetry/mcp", headers=headers).status_code == 200
    deadline = time.monotonic() + 10
    while locks.is_held(paths.daemon_lock(home)):
        assert time.monotonic() < deadline, "without a session it ends"
        time.sleep(0.05)
