"""An honest client beside 2,000 silent, slow and broken connections of strangers.

Limit: the p99 of each kind of request is within 2 x of the same without strangers. Rounds without
and with them alternate; the requests are a tool call of a relay, a prompt's hook, and a scrape
over HTTP on a connection of its own. The strangers' process shares the machine's processors: what
it takes from the client by that alone is measured with as many strangers at another daemon.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from measuring import machine, quantile, verdict

from arsenale_daemon import control
from arsenale_daemon.temporary_home import temporary_home
from arsenale_relay import endpoint

STRANGERS = int(os.environ.get("STRANGERS", "2000"))
ROUNDS, REQUESTS = 4, 250
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


def attacked(home: Path, status: dict[str, Any], measure: Callable[[], None]) -> None:
    """Run MEASURE while strangers are at the daemon of HOME."""
    script = str(Path(__file__).with_name("strangers.py"))
    port = str(status["http"]).rpartition(":")[2]
    words = [script, port, endpoint.socket_path(str(home)), str(STRANGERS), "600"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as attack:
        assert attack.stdout and attack.stdout.readline() == b"ready\n"
        measure()
        attack.kill()
    time.sleep(1)


def main() -> None:
    """Measure and print."""
    print(machine())
    os.environ["ARSENALE_HTTP_RATE_PER_MINUTE"] = "100000"
    with temporary_home() as home, temporary_home() as other_home:
        status, other = control.up(home), control.up(other_home)
        client = Client(home, int(str(status["http"]).rpartition(":")[2]))
        requests = {"relay call": client.call, "hook": client.hook, "HTTP": client.scrape}
        taken: dict[tuple[str, str], list[float]] = defaultdict(list)

        def measure(when: str) -> None:
            for name, request in requests.items():
                taken[name, when] += timed(request)

        measure("warm-up")
        for _ in range(ROUNDS):
            measure("alone")
            attacked(other_home, other, partial(measure, "strangers elsewhere"))
            attacked(home, status, partial(measure, "strangers here"))
        for name in requests:
            report(name, {when: seconds for (one, when), seconds in taken.items() if one == name})
        print(f"  logs after {ROUNDS} rounds: {size_mb(home):.3f} MB; {machine()}")


def report(name: str, taken: dict[str, list[float]]) -> None:
    """Print the quantiles of a kind of request, and the verdict on it."""
    p99 = {when: quantile(seconds, 0.99) for when, seconds in taken.items()}
    for when in ("alone", "strangers elsewhere", "strangers here"):
        p50 = quantile(taken[when], 0.5)
        print(f"  {name}, {when}: p50 {p50 * 1e3:.2f} ms, p99 {p99[when] * 1e3:.2f} ms")
    what = f"{name}, p99 beside {STRANGERS:,} strangers"
    verdict(f"{what} / alone", p99["strangers here"] / p99["alone"], 2, " x")
    ratio = p99["strangers here"] / p99["strangers elsewhere"]
    verdict(f"{what} / with as many at another daemon", ratio, 2, " x")


if __name__ == "__main__":
    main()
