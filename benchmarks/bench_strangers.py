"""An honest client beside 2,000 silent, slow and broken connections of strangers.

Limit: the p99 of each kind of request is within 2 x of the same without strangers. Rounds without
and with them alternate; the requests are a tool call of a relay, a prompt's hook, and a scrape
over HTTP on a connection of its own. The strangers' process shares the machine's processors.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import machine, quantile, verdict

from arsenale_daemon import control
from arsenale_daemon.temporary_home import temporary_home
from arsenale_relay import endpoint

STRANGERS = int(os.environ.get("STRANGERS", "2000"))
ROUNDS, REQUESTS = 5, 300
PAUSE_S = 0.01
"""Between two requests: an assistant thinks."""

HELLO = {
    "jsonrpc": "2.0", "id": 0, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {},
               "clientInfo": {"name": "bench", "version": "1"}},
}  # fmt: skip


class Client:
    """One who has the token and is in no hurry."""

    def __init__(self, home: Path, port: int) -> None:
        self._home, self._port = home, port
        token = (home / "token").read_text(encoding="ascii").strip()
        self._headers = {
            "Authorization": f"Bearer {token}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }  # fmt: skip
        self._relay = endpoint.connect(str(home))
        self._answers = self._relay.makefile("rb")
        self._say({"arsenale": 1, "server": "telemetry"})
        self._say(HELLO)
        self._relay.sendall(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        self._number = 0

    def _say(self, message: dict[str, Any]) -> dict[str, Any]:
        self._relay.sendall(json.dumps(message).encode() + b"\n")
        return json.loads(self._answers.readline())

    def call(self) -> None:
        """Call a tool as a relay does, on a connection that stays."""
        self._number += 1
        params: dict[str, Any] = {"name": "usage_report", "arguments": {}}
        answer = self._say(
            {"jsonrpc": "2.0", "id": self._number, "method": "tools/call", "params": params}
        )
        assert not answer["result"].get("isError"), answer

    def hook(self) -> None:
        """Ask what a prompt should know, as a hook does."""
        event = {"hook_event_name": "UserPromptSubmit", "prompt": "Where is it?", "cwd": "/"}
        with endpoint.connect(str(self._home)) as connection:
            connection.sendall(json.dumps({"arsenale": 1, "hook": event}).encode() + b"\n")
            assert "context" in json.loads(connection.makefile("rb").readline())

    def scrape(self) -> None:
        """Read the metrics over HTTP, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        connection.request("GET", "/metrics", headers=self._headers)
        answer = connection.getresponse()
        assert answer.status == 200, (answer.status, answer.read())
        answer.read()
        connection.close()


def timed(request: Callable[[], None]) -> list[float]:
    """Return the seconds that each of `REQUESTS` requests took."""
    taken: list[float] = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        request()
        taken.append(time.perf_counter() - begun)
        time.sleep(PAUSE_S)
    return taken


def size_mb(home: Path) -> float:
    """Return what the logs take, MB."""
    return sum(file.stat().st_size for file in (home / "logs").iterdir()) / 1e6


def main() -> None:
    """Measure and print."""
    print(machine())
    os.environ["ARSENALE_HTTP_RATE_PER_MINUTE"] = "100000"
    strangers = str(Path(__file__).with_name("strangers.py"))
    with temporary_home() as home:
        os.environ["ARSENALE_HOME"] = str(home)
        port = int(str(control.up(home)["http"]).rpartition(":")[2])
        path = endpoint.socket_path(str(home))
        client = Client(home, port)
        requests = {"relay call": client.call, "hook": client.hook, "HTTP": client.scrape}
        for request in requests.values():
            timed(request)
        alone: dict[str, list[float]] = defaultdict(list)
        beside: dict[str, list[float]] = defaultdict(list)
        for _ in range(ROUNDS):
            for name, request in requests.items():
                alone[name] += timed(request)
            words = [str(port), path, str(STRANGERS), "600"]
            with subprocess.Popen(
                [sys.executable, strangers, *words], stdout=subprocess.PIPE
            ) as attack:
                assert attack.stdout and attack.stdout.readline() == b"ready\n"
                for name, request in requests.items():
                    beside[name] += timed(request)
                attack.kill()
            time.sleep(1)
        for name in requests:
            before, after = quantile(alone[name], 0.99), quantile(beside[name], 0.99)
            print(
                f"  {name}: p50 {quantile(alone[name], 0.5) * 1e3:.2f} -> "
                f"{quantile(beside[name], 0.5) * 1e3:.2f} ms, "
                f"p99 {before * 1e3:.2f} -> {after * 1e3:.2f} ms"
            )
            verdict(f"{name}, p99 beside {STRANGERS:,} strangers / alone", after / before, 2, " x")
        print(f"  logs after {ROUNDS} rounds: {size_mb(home):.3f} MB; {machine()}")


if __name__ == "__main__":
    main()
