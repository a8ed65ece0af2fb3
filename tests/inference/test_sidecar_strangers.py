"""The sidecar and those without its token: it serves with the same HTTP server as the daemon."""

import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import httpx2
import pytest

from arsenale_core import sidecar
from arsenale_daemon.http_server import HEAD_S

if TYPE_CHECKING:
    from tests.inference.conftest import Sidecar


def connected(running: "Sidecar") -> socket.socket:
    port = int(running.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_more_connections_than_descriptors_keep_no_answer_back(
    start_sidecar: Callable[..., "Sidecar"],
) -> None:
    running = start_sidecar()
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (512, 512))
    with ExitStack() as strangers:
        for number in range(1_200):
            stranger = strangers.enter_context(connected(running))
            with suppress(OSError):  # the oldest have been closed
                stranger.sendall([b"", b"GET / HT", b"\0\r\n\r\n"][number % 3])
        assert running.chat().status_code == 200
        assert sidecar.address(running.home) == sidecar.ensure(running.home)
    assert running.process.poll() is None
    logs = (running.home / "logs").iterdir()
    assert sum(file.stat().st_size for file in logs) < 200_000
    assert "Traceback" not in (running.home / "logs" / "inference.log").read_text("utf-8")


def test_the_soft_limit_of_the_sidecar_is_raised(running: "Sidecar") -> None:
    soft, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_a_head_that_does_not_arrive_ends_with_a_reason(running: "Sidecar") -> None:
    with connected(running) as stranger:
        stranger.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        begun = time.monotonic()
        answer = stranger.makefile("rb").read()
        assert HEAD_S - 1 < time.monotonic() - begun < HEAD_S + 6
    assert answer.startswith(b"HTTP/1.1 408")


def test_wrong_tokens_are_limited_and_the_right_one_answers_meanwhile(running: "Sidecar") -> None:
    with httpx2.Client(base_url=running.url) as stranger:
        statuses = [
            stranger.get(
                "/v1/models", headers={"Authorization": f"Bearer {n}", "User-Agent": f"{n}"}
            ).status_code
            for n in range(60)
        ]
        assert {401, 429} == set(statuses)
        assert running.http.get("/v1/models").status_code == 200


def test_strangers_who_ask_for_its_health_do_not_make_it_look_dead(running: "Sidecar") -> None:
    with httpx2.Client(base_url=running.url) as stranger:
        for _ in range(150):
            stranger.get("/healthz")
        assert sidecar.ensure(running.home).pid == running.process.pid


@pytest.mark.parametrize(
    "head",
    ["Host: [::1].evil.com", "Host: localhost:80@evil.com", "Host: localhost\r\nOrigin: http://[::1].e",
     "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.com",
     "Host: localhost\r\nHost: evil.com"],
)  # fmt: skip
def test_hosts_and_origins_are_matched_whole(running: "Sidecar", head: str) -> None:
    with connected(running) as client:
        lines = (
            f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {running.token}\r\n{head}\r\n\r\n"
        )
        client.sendall(lines.encode())
        assert client.makefile("rb").readline().split()[1] in (b"400", b"403", b"421")
