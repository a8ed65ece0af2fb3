"""The relay, as a process, between a host and daemons that end when it suits nobody."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import RawHost

from arsenale_core import locks
from arsenale_daemon import control, paths
from arsenale_relay import __version__, endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

Hosts = Callable[..., RawHost]


def test_an_answer_is_not_lost_where_the_daemon_goes_while_a_request_is_written(
    raw_host: Hosts, home: Path
) -> None:
    text = "x" * 100_000  # more than the relay reads at a time
    listener = endpoint.listen(str(home))

    def answer_one_and_go() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            lines.readline()  # the hello
            welcome = {"arsenale": 1, "version": __version__, "pid": 1}
            connection.sendall(json.dumps(welcome).encode() + b"\n")
            lines.readline()
            lines.read(500_000)  # of the second: the relay is in the middle of it
            os.kill(host.process.pid, signal.SIGSTOP)  # it hears all at once
            connection.sendall(b'{"jsonrpc":"2.0","id":1,"result":"' + text.encode() + b'"}\n')
            listener.close()
        os.kill(host.process.pid, signal.SIGCONT)

    host = raw_host()
    thread = threading.Thread(target=answer_one_and_go)
    thread.start()
    host.send(id=1, method="tools/call")
    host.send(id=2, method="tools/call", params={"padding": "x" * 2_000_000})
    first, second = host.receive(), host.receive()
    thread.join()
    assert first == {"jsonrpc": "2.0", "id": 1, "result": text}
    assert (second["id"], "ended meanwhile" in second["error"]["message"]) == (2, True)


def test_what_asks_nothing_starts_no_daemon_again_and_is_told_the_next(
    raw_host: Hosts, home: Path
) -> None:
    host = raw_host()
    host.ask(0, "initialize", protocolVersion="2025-06-18", capabilities={},
             clientInfo={"name": "test", "version": "1"})  # fmt: skip
    host.call(9, "usage_report")  # the daemon is up
    assert control.down(home)
    host.send(method="notifications/initialized")
    time.sleep(1.0)
    assert not locks.is_held(paths.daemon_lock(home))
    assert "tools" in host.ask(1, "tools/list")["result"]


def test_a_host_that_goes_after_a_notice_for_nobody_lets_the_relay_end(
    raw_host: Hosts, home: Path
) -> None:
    host = raw_host()
    host.shake_hands()
    assert control.down(home)
    host.send(method="notifications/initialized")
    begun = time.monotonic()
    assert host.close()[0] == 0
    assert time.monotonic() - begun < 3
    assert not locks.is_held(paths.daemon_lock(home))


def test_a_call_sent_right_before_the_end_of_the_input_is_answered(
    raw_host: Hosts, home: Path
) -> None:
    control.up(home)
    for number in range(12):
        host = raw_host()
        host.greet()
        params = {"name": "usage_report", "arguments": {"group_by": "tool"}}
        host.send(id=number, method="tools/call", params=params)
        status, out, _ = host.close()
        answer = json.loads(out)
        assert (status, answer["id"], "result" in answer) == (0, number, True), answer


def test_a_call_that_waits_is_cancelled_soon_after_its_host_has_gone(
    raw_host: Hosts, home: Path
) -> None:
    control.up(home)
    gone, other = raw_host("coordinator"), raw_host("coordinator")
    for host in (gone, other):
        host.greet()
    come = {"agent": "gone", "description": "x", "wait_s": 60}
    gone.send(id=1, method="tools/call", params={"name": "check_in", "arguments": come})
    deadline = time.monotonic() + 20
    while "gone" not in str(other.call("look", "check_workforce")):
        assert time.monotonic() < deadline
    begun = time.monotonic()
    assert gone.close()[0] == 0
    assert time.monotonic() - begun < 8  # not the minute it asked to wait
    other.call("make", "assign_task", tasks=[{"title": "One"}], assign=False)
    got = other.call("take", "check_in", agent="other", description="y")
    assert [work["title"] for work in got["result"]["structuredContent"]["work"]] == ["One"]
