"""The handshake of a server that is not up yet: kept answers are those that the server gives."""

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from tests.conftest import RawHost

from arsenale_daemon import control, discovery, handshakes
from arsenale_relay import __version__, endpoint
from arsenale_relay.handshake import Answers, home_file, shipped_file

Hosts = Callable[..., RawHost]

INITIALIZE = {
    "protocolVersion": "2025-06-18", "capabilities": {},
    "clientInfo": {"name": "t", "version": "1"},
}  # fmt: skip
MODERN: dict[str, Any] = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    }
}
LISTS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")


def test_the_answers_in_the_package_are_those_of_the_servers() -> None:
    """Run `python -m arsenale_daemon.handshakes` after a change of a server's surface."""
    for name, answers in anyio.run(handshakes.capture_all).items():
        written = orjson.loads(Path(shipped_file(name)).read_bytes())
        assert written == orjson.loads(orjson.dumps(answers)), name


@pytest.fixture
def deaf(home: Path) -> Any:
    """A daemon that lets everybody in and says nothing: as one that is just starting."""
    listener = endpoint.listen(str(home))
    yield listener
    listener.close()


@pytest.mark.parametrize("server", discovery.names())
def test_a_cold_server_answers_like_a_warm_one(raw_host: Hosts, home: Path, server: str) -> None:
    cold = Answers(str(home), server)
    host = raw_host(server)
    control.up(home)
    asked = {"initialize": INITIALIZE} | {method: {} for method in LISTS}
    for id, (method, params) in enumerate(asked.items()):
        kept = cold.answer({"id": id, "method": method, "params": params})
        assert kept is not None
        assert json.loads(kept) == host.ask(id, method, **params)
        if method == "initialize":
            host.send(method="notifications/initialized")
    modern = raw_host(server)
    for id, method in enumerate(LISTS):
        kept = cold.answer({"id": id, "method": method, "params": MODERN})
        assert kept is not None
        assert json.loads(kept) == modern.ask(id, method, **MODERN)


@pytest.mark.parametrize("asked", ["2024-11-05", "2025-03-26", "2025-11-25", "2099-01-01", ""])
def test_a_cold_server_agrees_on_the_revision_that_a_warm_one_agrees_on(
    raw_host: Hosts, home: Path, asked: str
) -> None:
    hello = {**INITIALIZE, "protocolVersion": asked}
    kept = Answers(str(home), "mesh").answer({"id": 0, "method": "initialize", "params": hello})
    control.up(home)
    assert kept and json.loads(kept) == raw_host("mesh").ask(0, "initialize", **hello)


def test_a_host_is_served_its_lists_before_there_is_a_daemon(raw_host: Hosts, home: Path) -> None:
    host = raw_host("memory")
    begun = time.monotonic()
    assert host.greet()["result"]["serverInfo"]["name"] == "arsenale-memory"
    tools = host.ask(1, "tools/list")["result"]["tools"]
    took_s = time.monotonic() - begun
    assert not (home / "run" / "daemon.json").exists(), "the daemon was not up yet"
    assert {"remember", "recall"} <= {tool["name"] for tool in tools}
    assert took_s < 2
    answer = host.call(2, "remember", memories=[{"content": "The cold call arrived."}])
    assert not answer["result"].get("isError"), answer
    assert "ping" not in host.ask(3, "ping")


@pytest.mark.parametrize("warm", [False, True])
def test_a_client_that_discovers_and_then_shakes_hands_is_served(
    raw_host: Hosts, home: Path, warm: bool
) -> None:
    if warm:
        control.up(home)
    host = raw_host("telemetry")
    assert "capabilities" in host.ask("d", "server/discover", **MODERN)["result"]
    answer = host.ask(0, "initialize", **INITIALIZE)
    assert answer["result"]["protocolVersion"] == "2025-06-18"
    host.send(method="notifications/initialized")
    assert host.call(1, "usage_report")["id"] == 1


def test_a_client_of_the_stateless_revision_is_served_cold(raw_host: Hosts) -> None:
    host = raw_host("telemetry")
    found = host.ask(1, "server/discover", **MODERN)
    assert "2026-07-28" in json.dumps(found["result"])
    assert host.ask(2, "tools/list", **MODERN)["result"]["tools"]
    called = host.ask(3, "tools/call", name="usage_report", arguments={}, **MODERN)
    assert "structuredContent" in called["result"]


@pytest.mark.parametrize(
    "wanted",
    [
        {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True},
        {"resourceSubscriptions": ["telemetry://latest"]},
        {},
    ],
)
def test_a_subscription_is_acknowledged_cold_as_warm_and_once(
    raw_host: Hosts, home: Path, wanted: dict[str, Any]
) -> None:
    cold = raw_host("telemetry")
    listen = {**MODERN, "notifications": wanted}
    acknowledged = cold.ask("s", "subscriptions/listen", **listen)
    assert not (home / "run" / "daemon.json").exists(), "the daemon was not up yet"
    assert cold.ask(1, "server/discover", **MODERN)["id"] == 1
    called = cold.ask(2, "tools/call", name="usage_report", arguments={}, **MODERN)
    assert called["id"] == 2, "the daemon's own acknowledgement is not seen"
    assert raw_host("telemetry").ask("s", "subscriptions/listen", **listen) == acknowledged


def test_a_kept_answer_of_another_version_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arsenale_relay.handshake.__version__", "99.0")
    assert Answers(str(home), "memory").answer({"id": 1, "method": "tools/list"}) is None


VERSION = __version__.encode()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"\xff", b'{"version": 1}', b"[" * 200_000,
        b'{"version": "' + VERSION + b'", "legacy": []}',
        b'{"version": "' + VERSION + b'", "legacy": {"tools/list": 3}}',
        b'{"version": "' + VERSION + b'", "modern": null}',
        b'{"version": "' + VERSION + b'", "versions": "x"}',
    ],
)  # fmt: skip
def test_a_damaged_file_in_the_home_is_ignored(home: Path, text: bytes) -> None:
    path = Path(home_file(str(home), "memory"))
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    answer = Answers(str(home), "memory").answer({"id": 1, "method": "tools/list"})
    assert answer and b'"remember"' in answer


def test_what_only_the_server_knows_is_not_answered_from_the_file(home: Path) -> None:
    answers = Answers(str(home), "memory")
    for message in (
        {"id": 1, "method": "tools/call"},
        {"id": 1, "method": "resources/read"},
        {"id": 1, "method": "tools/list", "params": {"cursor": "x"}},
        {"method": "tools/list"},
        {"id": 1, "method": "tools/list", "params": {"_meta": {
            "io.modelcontextprotocol/protocolVersion": "2031-01-01"}}},
    ):  # fmt: skip
        assert answers.answer(message) is None
    assert Answers(str(home), "nope").answer({"id": 1, "method": "tools/list"}) is None


def test_the_daemon_keeps_answers_that_differ_from_the_package(home: Path) -> None:
    """Take a copy of the package's file away from under a server: the home gets its own."""

    async def keep(surfaces: dict[str, Any]) -> None:
        await handshakes.keep(home, surfaces)

    (home / "run").mkdir()
    surface = _small_server()
    anyio.run(keep, {"small": surface})
    kept = Answers(str(home), "small").answer({"id": 1, "method": "tools/list"})
    assert kept and json.loads(kept)["result"]["tools"][0]["name"] == "hello"
    shutil.copy(home_file(str(home), "small"), home_file(str(home), "other"))
    assert Answers(str(home), "other").answer({"id": 1, "method": "tools/list"})


def _small_server() -> Any:
    from mcp.server import MCPServer  # noqa: PLC0415  # a second that other tests do not need

    server = MCPServer[Any]("small")

    def hello() -> str:
        """Say hello."""
        return "hello"

    server.add_tool(hello)
    return server


def test_calls_wait_in_order_while_the_daemon_starts_and_none_is_lost(raw_host: Hosts) -> None:
    host = raw_host("telemetry")
    host.send(id=0, method="initialize", params=INITIALIZE)
    host.send(method="notifications/initialized")
    for id in range(1, 6):
        host.send(id=id, method="tools/call", params={"name": "usage_report", "arguments": {}})
    host.send(id=6, method="tools/list")
    ids = [host.receive()["id"] for _ in range(7)]
    assert sorted(ids) == [0, 1, 2, 3, 4, 5, 6]
    assert ids[:2] == [0, 6], "the list needs no daemon"


def test_a_relay_whose_host_leaves_during_a_cold_start_ends(raw_host: Hosts) -> None:
    host = raw_host("memory")
    host.greet()
    begun = time.monotonic()
    status, out, err = host.close()
    assert (status, out, err) == (0, b"", b"")
    assert time.monotonic() - begun < 10


def test_a_daemon_that_accepts_and_stays_silent_costs_no_handshake(
    raw_host: Hosts, deaf: socket.socket
) -> None:
    accepted: list[socket.socket] = []
    thread = threading.Thread(target=lambda: accepted.append(deaf.accept()[0]))
    thread.start()
    host = raw_host("memory")
    thread.join()
    host.send(id=0, method="initialize", params=INITIALIZE)
    assert host.receive()["id"] == 0
    host.process.send_signal(signal.SIGTERM)
    accepted[0].close()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("last", "answer"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"ping"}', {"result": {}}),
        (b'{"jsonrpc":"2.0","id":5,"meth', -32700),
    ],
)
def test_a_last_line_without_its_end_is_answered(
    raw_host: Hosts, home: Path, last: bytes, answer: object, warm: bool
) -> None:
    if warm:
        control.up(home)
    host = raw_host("telemetry")
    host.shake_hands()
    assert host.process.stdin
    host.process.stdin.write(last)
    status, out, _ = host.close()
    said = json.loads(out)
    assert (status, said["id"]) == (0, 5)
    got = said["error"]["code"] if "error" in said else {"result": said["result"]}
    assert got == answer, said
