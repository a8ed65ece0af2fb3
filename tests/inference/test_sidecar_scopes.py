"""The key for chat opens chat: neither administration nor the daemon, whatever the spelling."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from arsenale_daemon import control, paths
from arsenale_inference.catalogue import TINY

if TYPE_CHECKING:
    from tests.inference.conftest import Sidecar

pytestmark = pytest.mark.slow


@pytest.fixture
def served(running: "Sidecar") -> "Sidecar":
    """The sidecar of the module."""
    return running


def with_key(served: "Sidecar", name: str) -> httpx2.Client:
    key = (served.home / name).read_text(encoding="ascii").strip()
    return httpx2.Client(
        base_url=served.http.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60
    )


def test_the_chat_key_is_private_and_not_the_token(served: "Sidecar") -> None:
    key, token = served.home / "chat-key", served.home / "token"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes() != token.read_bytes()


def test_the_chat_key_opens_chat_completions_and_models(served: "Sidecar") -> None:
    with with_key(served, "chat-key") as http:
        assert http.get("/v1/models").status_code == 200
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/status"), ("POST", "/admin/stop"), ("PUT", "/admin/models/x"),
        ("GET", "/metrics"), ("DELETE", "/admin/models/tiny"), ("GET", "/v1"),
        ("GET", "//admin/status"), ("GET", "/V1/models"), ("GET", "/admin/%2e%2e/v1/models"),
        ("GET", "/admin/status?/v1/"), ("GET", "/admin/status#/v1/"),
        ("POST", "/admin/load"), ("POST", "/admin/warm"),
    ],
)  # fmt: skip
def test_the_chat_key_opens_nothing_else(served: "Sidecar", method: str, path: str) -> None:
    with with_key(served, "chat-key") as http:
        answer = http.request(method, path, json={} if method != "GET" else None)
        assert answer.status_code == 403, answer.text
        assert "ARSENALE_HOME/token" in answer.text


@pytest.mark.parametrize(
    "target",
    ["/v1/../admin/status", "/v1/%2e%2e/admin/status", "/v1/..%2fadmin/status",
     "/v1//../admin/stop", "http://127.0.0.1/admin/status", "/v1/./../admin/status"],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_from_chat_to_administration(
    served: "Sidecar", target: str
) -> None:
    key = (served.home / "chat-key").read_text(encoding="ascii").strip()
    url = served.http.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=10) as raw:
        lines = [f"GET {target} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {key}",
                 "Connection: close", "", ""]  # fmt: skip
        raw.sendall("\r\n".join(lines).encode())
        answer = b""
        while chunk := raw.recv(65536):
            answer += chunk
    status = int(answer.split()[1])
    assert status in (400, 403, 404), answer[:300]
    assert b"workers" not in answer


def test_the_chat_key_opens_nothing_of_the_daemon(home: Path) -> None:
    key, url = paths.chat_key(home), control.up(home)["http"]
    for path in ("/memory/mcp", "/metrics", "/mesh/mcp", "/telemetry/mcp"):
        answer = httpx2.post(url + path, headers={"Authorization": f"Bearer {key}"}, json={})
        assert answer.status_code in (401, 429)


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/v1", "http://[fe80::1]/v1", "http://0xA9FEA9FE/", "http://2852039166",
     "http://[::ffff:169.254.169.254]/", "http://user:pw@127.0.0.1/", "http://[::1/"],
)  # fmt: skip
def test_administration_takes_no_link_local_address(served: "Sidecar", url: str) -> None:
    answer = served.http.put("/admin/models/evil", json={"url": url})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/dev/zero", "/dev/tty", "/proc/self/environ", "/"]
)
def test_administration_takes_model_files_only(served: "Sidecar", path: str) -> None:
    for group in ("models", "layers"):
        answer = served.http.put(f"/admin/{group}/evil", json={"path": path})
        assert answer.status_code == 400, answer.text


def test_a_link_to_a_model_is_a_model(served: "Sidecar", tmp_path: Path) -> None:
    link = tmp_path / "linked.gguf"
    link.symlink_to(TINY / "base-q8_0.gguf")
    assert served.http.put("/admin/models/linked", json={"path": str(link)}).status_code == 200
    assert served.http.delete("/admin/models/linked").status_code == 200
