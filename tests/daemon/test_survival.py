"""Real daemons and real relays: who starts, who dies, who goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from arsenale_daemon import control

pytestmark = pytest.mark.slow

Hosts = Callable[..., Any]
LONG_TEXT = "x" * 200


def test_a_kill_between_request_and_answer_is_one_clear_error_and_the_next_call_works(
    raw_host: Hosts, daemon_pid: Callable[[], int]
) -> None:
    host = raw_host()
    host.shake_hands()
    first = daemon_pid()
    os.kill(first, signal.SIGSTOP)  # so that the request is surely taken and not answered
    host.send(id=1, method="tools/call", params={"name": "usage_report", "arguments": {}})
    time.sleep(0.2)
    os.kill(first, signal.SIGKILL)

    lost = host.receive()
    assert (lost["id"], lost["error"]["code"]) == (1, -32000)
    assert "daemon ended" in lost["error"]["message"]
    assert "result" in host.call(2, "usage_report")
    assert daemon_pid() != first
    assert host.close()[:2] == (0, b"")


KILLED_AS_IT_LETS_IN = """
import socket, sys
from arsenale_relay import __main__, relay

real, ends = relay.connect_or_start, []

def connect_or_start(*given):
    if len(ends) < 3:
        ours, theirs = socket.socketpair()
        theirs.close()
        ends.append(ours)
        return ours
    return real(*given)

relay.connect_or_start = connect_or_start
sys.argv[1:] = ["telemetry"]
sys.exit(__main__.main())
"""


def test_a_relay_outlives_a_daemon_that_is_killed_as_it_lets_the_relay_in(
    environment: dict[str, str],
) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED_AS_IT_LETS_IN], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as relay:  # fmt: skip
        assert relay.stdin and relay.stdout
        relay.stdin.write(b'{"jsonrpc":"2.0","id":7,"method":"ping"}\n')
        relay.stdin.flush()
        answer = relay.stdout.readline()
        relay.stdin.close()
    assert answer and json.loads(answer)["id"] == 7
    assert relay.returncode == 0


def test_what_has_no_effect_is_asked_again_of_the_next_daemon(
    raw_host: Hosts, daemon_pid: Callable[[], int]
) -> None:
    host = raw_host()
    host.shake_hands()
    os.kill(daemon_pid(), signal.SIGSTOP)
    host.send(id="list", method="tools/list", params={})
    time.sleep(0.2)
    os.kill(daemon_pid(), signal.SIGKILL)
    answer = host.receive()
    assert answer["id"] == "list"
    assert len(answer["result"]["tools"]) == 5


def test_a_stateless_client_of_2026_survives_a_kill_as_well(
    raw_host: Hosts, daemon_pid: Callable[[], int], home: Path
) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    host = raw_host()
    assert "result" in host.ask(1, "server/discover", _meta=meta)
    first = daemon_pid()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: control.ask(home, "status") is None)
    time.sleep(0.1)
    answer = host.ask(2, "tools/call", name="usage_report", arguments={}, _meta=meta)
    assert answer["result"]["structuredContent"]["rows"] == []


def test_ten_cold_relays_at_once_start_one_daemon(
    raw_host: Hosts, home: Path, daemon_pid: Callable[[], int]
) -> None:
    hosts = [raw_host() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(host.shake_hands) for host in hosts]
        answers: list[dict[str, Any]] = [answer.result() for answer in waiting]
    assert all("result" in answer for answer in answers)
    log = (home / "logs" / "daemon.log").read_text(encoding="utf-8")
    assert [line for line in log.splitlines() if '"event": "up"' in line] != []
    assert log.count('"event": "up"') == 1
    status = control.ask(home, "status")
    assert status is not None
    assert status["servers"]["telemetry"]["connections"] == 10
    assert status["pid"] == daemon_pid()


async def test_two_relays_an_http_and_an_sse_client_are_served_at_once(
    raw_host: Hosts, home: Path
) -> None:
    hosts = [raw_host(), raw_host()]
    for host in hosts:
        host.shake_hands()
    status = control.ask(home, "status")
    assert status is not None
    url = status["http"]
    headers = {"Authorization": f"Bearer {(home / 'token').read_text(encoding='ascii').strip()}"}
    async with httpx2.AsyncClient(headers=headers) as http:
        modern = streamable_http_client(f"{url}/telemetry/mcp", http_client=http)
        old = sse_client(f"{url}/telemetry/sse", headers=headers)
        async with Client(modern) as over_http, Client(old, mode="legacy") as over_sse:
            for number, host in enumerate(hosts):
                host.send(
                    id=number + 10, method="tools/call",
                    params={"name": "usage_report", "arguments": {}},
                )  # fmt: skip
            for client in (over_http, over_sse):
                assert not (await client.call_tool("usage_report", {})).is_error
            for number, host in enumerate(hosts):
                assert host.receive()["id"] == number + 10
            assert over_http.protocol_version == "2026-07-28"
            assert over_sse.protocol_version == "2025-11-25"


def test_answers_keep_the_order_of_a_client_that_writes_before_it_reads(raw_host: Hosts) -> None:
    host = raw_host()
    host.shake_hands()
    count = 3_000  # far more than the pipes hold: both sides must stop reading, and none may hang
    for number in range(1, count + 1):
        host.send(id=number, method="ping", params={"padding": LONG_TEXT})
    answers = [host.receive() for _ in range(count)]
    assert {answer["id"] for answer in answers} == set(range(1, count + 1))
    assert all("result" in answer for answer in answers)


def test_a_line_of_four_megabytes_passes_whole(raw_host: Hosts) -> None:
    host = raw_host()
    host.shake_hands()
    answer = host.call(1, "search_events", text="é" * 2_000_000)
    assert "at most 200 characters" in answer["result"]["content"][0]["text"]


def test_a_line_past_the_limit_breaks_its_own_connection_and_no_other(
    raw_host: Hosts, home: Path, daemon_pid: Callable[[], int]
) -> None:
    (home / "config.toml").write_text("http = false\nline_max_bytes = 1000000\n", encoding="utf-8")
    other, host = raw_host(), raw_host()
    other.shake_hands()
    host.shake_hands()
    pid = daemon_pid()
    answer = host.ask(1, "ping", padding="x" * 1_500_000)
    assert "longer than 1,000,000 bytes" in answer["error"]["message"]
    assert "result" in host.ask(2, "ping")
    assert "result" in other.ask(2, "ping")
    assert daemon_pid() == pid


def test_a_planned_end_stays_ended_until_the_host_asks_again(raw_host: Hosts, home: Path) -> None:
    host = raw_host()
    host.shake_hands()
    assert control.down(home)
    time.sleep(0.3)
    assert control.ask(home, "status") is None
    assert not (home / "run" / "daemon.json").exists()
    assert "result" in host.call(1, "usage_report")


def test_sigterm_lets_what_runs_finish(
    raw_host: Hosts, daemon_pid: Callable[[], int], home: Path
) -> None:
    host = raw_host()
    host.shake_hands()
    pid = daemon_pid()
    for number in range(1, 51):
        host.send(id=number, method="tools/call", params={"name": "usage_report", "arguments": {}})
    os.kill(pid, signal.SIGTERM)
    answers = [host.receive() for _ in range(50)]
    assert [answer for answer in answers if "error" in answer] == []
    wait_until(lambda: not (home / "run" / "daemon.sock").exists() or daemon_pid() != pid)


def test_an_idle_daemon_exits_and_a_connected_one_does_not(
    raw_host: Hosts, home: Path, environment: dict[str, str]
) -> None:
    (home / "config.toml").write_text("http = false\nidle_exit_s = 1.0\n", encoding="utf-8")
    host = raw_host()
    host.shake_hands()
    time.sleep(2.0)
    assert control.ask(home, "status") is not None
    host.close()
    wait_until(lambda: not (home / "run" / "daemon.sock").exists())


def test_a_stale_socket_and_pid_file_do_not_keep_a_new_daemon_from_starting(
    raw_host: Hosts, home: Path, daemon_pid: Callable[[], int]
) -> None:
    host = raw_host()
    host.shake_hands()
    os.kill(daemon_pid(), signal.SIGKILL)
    host.process.kill()
    assert (home / "run" / "daemon.sock").exists()
    assert (home / "run" / "daemon.json").exists()
    assert "result" in raw_host().shake_hands()


def test_a_newer_relay_replaces_a_quiet_daemon_and_an_older_one_does_not(
    raw_host: Hosts, home: Path, daemon_pid: Callable[[], int]
) -> None:
    raw_host().shake_hands()
    first = daemon_pid()
    assert said_to(home, version="0.0.1")["version"] == "0.1.0"
    assert said_to(home, version="99.0.0") == {"arsenale": 1, "goodbye": "upgrade"}
    wait_until(lambda: control.ask(home, "status") is None)
    host = raw_host()
    host.shake_hands()
    assert daemon_pid() != first


def said_to(home: Path, version: str) -> dict[str, Any]:
    from arsenale_relay import endpoint  # noqa: PLC0415

    with endpoint.connect(str(home)) as connection, connection.makefile("rb") as answers:
        hello = {"arsenale": 1, "server": "telemetry", "version": version}
        connection.sendall(json.dumps(hello).encode() + b"\n")
        return json.loads(answers.readline())


def test_an_unknown_server_is_named_on_stderr_and_never_on_stdout(raw_host: Hosts) -> None:
    host = raw_host("telemetri")
    host.process.wait(15)
    status, out, err = host.close()
    assert (status, out) == (2, b"")
    assert (
        b"no server 'telemetri' is installed: there are coordinator, genome, memory, mesh,"
        b" telemetry" in err
    )


def test_the_relay_ends_with_its_host(raw_host: Hosts) -> None:
    host = raw_host()
    host.shake_hands()
    begun = time.monotonic()
    assert host.close()[0] == 0
    assert time.monotonic() - begun < 5


def test_a_script_that_writes_everything_and_closes_gets_every_answer(
    environment: dict[str, str], raw_host: Hosts
) -> None:
    raw_host().shake_hands()
    lines: list[dict[str, Any]] = [
        {"id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "sh", "version": "1"}}},
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/list", "params": {}},
    ]  # fmt: skip
    text = "".join(json.dumps({"jsonrpc": "2.0", **line}) + "\n" for line in lines)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("arsenale-stdio")), "telemetry"],
        input=text.encode(), capture_output=True, env=environment, timeout=30, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert {answer["id"] for answer in answers} >= {0}


def test_a_home_that_cannot_be_written_is_answered_with_an_error_that_names_it(
    raw_host: Hosts, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    host = raw_host(ARSENALE_HOME=str(blocked / "home"), ARSENALE_RELAY_BUDGET_S="2")
    host.greet()
    answer = host.call(1, "usage_report")
    assert str(blocked) in answer["error"]["message"]
    assert "was not made" in answer["error"]["message"]


def test_a_server_that_cannot_open_is_told_to_the_host_and_opened_when_it_can(
    raw_host: Hosts, home: Path
) -> None:
    (home / "telemetry.db").write_bytes(b"this is no database" * 100)
    host = raw_host()
    host.greet()
    answer = host.call(1, "usage_report")
    assert "server telemetry is not running" in answer["error"]["message"]
    assert "move the .db file" in answer["error"]["message"]
    (home / "telemetry.db").unlink()
    assert "result" in host.call(2, "usage_report")


def test_nothing_of_the_projects_folder_is_imported(
    raw_host: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("anyio", "json", "arsenale_core", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert "result" in raw_host(PYTHONPATH=str(tmp_path)).shake_hands()


def test_a_fresh_home_is_private(raw_host: Hosts, tmp_path: Path) -> None:
    fresh = tmp_path / "home"
    host = raw_host(ARSENALE_HOME=str(fresh), ARSENALE_HTTP="false")
    try:
        host.shake_hands()
        assert fresh.stat().st_mode & 0o777 == 0o700
    finally:
        host.close()  # first: what it just said would start another daemon
        control.down(fresh)


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount a tmpfs")
def test_a_read_only_home_is_an_error_that_names_it_and_no_hang(
    raw_host: Hosts, tmp_path: Path
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        host = raw_host(ARSENALE_HOME=str(tmp_path), ARSENALE_RELAY_BUDGET_S="2")
        host.greet()
        answer = host.call(1, "usage_report")
        assert "Read-only file system" in answer["error"]["message"]
        assert host.close()[:2] == (0, b"")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_home_whose_path_is_too_long_for_a_socket_works(raw_host: Hosts, tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 20) / ("path" * 20)
    deep.mkdir(parents=True)
    (deep / "config.toml").write_text("http = false\n", encoding="utf-8")
    host = raw_host(ARSENALE_HOME=str(deep))
    try:
        assert "result" in host.shake_hands()
    finally:
        assert control.down(deep)


def wait_until(condition: Callable[[], bool], limit_s: float = 15.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
