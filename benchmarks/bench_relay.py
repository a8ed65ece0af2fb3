"""The relay and the daemon against a bare SDK server on stdio with the same trivial tool.

Limits: spawn to first result <= 0.06 x, round trip p50 <= 1.0 x, one relay <= 15 MB. With nothing
running, to the tool list <= 0.1 x and to the first result <= 1.2 x. Interleaved rounds; minimum and
median are shown.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import children_cpu_s, machine, verdict

from arsenale_daemon import control
from arsenale_daemon.install import relay_path

ROUNDS, CALLS = 7, 300

BARE = """
from mcp.server import MCPServer
mcp = MCPServer("echo", log_level="WARNING")
@mcp.tool()
async def echo(text: str) -> str:
    "Echo text."
    return text
mcp.run()
"""

OURS = """
from contextlib import asynccontextmanager
from arsenale_core.surface import READS, ServerSpec, surface, tool
async def echo(text: str) -> str:
    "Echo text."
    return text
@asynccontextmanager
async def opened(runtime):
    yield None
def build(service):
    mcp = surface("echo", service, version="1", instructions="")
    mcp.add_tool(tool(echo), annotations=READS)
    return mcp
SERVER = ServerSpec(name="echo", open=opened, build=build)
"""


class Host:
    """A host of bare lines."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )

    def ask(self, id: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self.process.stdin and self.process.stdout
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def first_result(self, tool: str, arguments: dict[str, Any]) -> float:
        """Shake hands and call once; return the seconds since the spawn."""
        assert self.process.stdin
        hello = {"protocolVersion": "2025-06-18", "capabilities": {},
                 "clientInfo": {"name": "bench", "version": "1"}}  # fmt: skip
        self.ask(0, "initialize", hello)
        self.process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        answer = self.ask(1, "tools/call", {"name": tool, "arguments": arguments})
        assert "result" in answer and not answer["result"].get("isError"), answer
        return time.perf_counter() - self.begun

    def list_of_tools(self) -> float:
        """Shake hands and list the tools; return the seconds since the spawn."""
        assert self.process.stdin
        hello = {"protocolVersion": "2025-06-18", "capabilities": {},
                 "clientInfo": {"name": "bench", "version": "1"}}  # fmt: skip
        self.ask(0, "initialize", hello)
        self.process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        assert self.ask(1, "tools/list", {})["result"]["tools"]
        return time.perf_counter() - self.begun

    def round_trips(self) -> list[float]:
        """Return the seconds of `CALLS` calls of echo."""
        taken: list[float] = []
        for number in range(CALLS):
            begun = time.perf_counter()
            self.ask(2 + number, "tools/call", {"name": "echo", "arguments": {"text": "hi"}})
            taken.append(time.perf_counter() - begun)
        return taken

    def memory_mb(self) -> float:
        """Return the resident memory, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1000

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def install_echo(folder: Path) -> None:
    """Lay out a distribution with one server in FOLDER, as pip would."""
    (folder / "bench_echo.py").write_text(OURS, encoding="utf-8")
    info = folder / "bench_echo-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: bench-echo\nVersion: 1\n", encoding="utf-8")
    entry = "[arsenale.servers]\necho = bench_echo:SERVER\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")


def cold_starts(
    bare_command: list[str], relay: list[str], env: dict[str, str], home: Path
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return the seconds to the tool list and to the first result: relay, then bare server."""
    cold: list[float] = []
    cold_list: list[float] = []
    bare_first: list[float] = []
    bare_list: list[float] = []
    for _ in range(ROUNDS):
        for command, lists, results in (
            (bare_command, bare_list, bare_first),
            ([*relay, "telemetry"], cold_list, cold),
        ):
            host = Host(command, env)
            lists.append(host.list_of_tools())
            host.close()
            control.down(home)
            host = Host(command, env)
            if command is bare_command:
                results.append(host.first_result("echo", {"text": "hi"}))
            else:
                results.append(host.first_result("usage_report", {}))
            host.close()
            control.down(home)
    return cold_list, cold, bare_list, bare_first


def main() -> None:
    """Measure and print."""
    print(machine())
    folder = Path(tempfile.mkdtemp(prefix="arsenale-bench-"))
    home = folder / "home"
    home.mkdir()
    install_echo(folder)
    (folder / "bare.py").write_text(BARE, encoding="utf-8")
    env = {**os.environ, "ARSENALE_HOME": str(home), "ARSENALE_HTTP_PORT": "0",
           "PYTHONPATH": str(folder)}  # fmt: skip
    relay = [sys.executable, "-I", "-S", str(relay_path())]
    bare_command = [sys.executable, str(folder / "bare.py")]
    daemon = subprocess.Popen([sys.executable, "-m", "arsenale_daemon"], env=env)
    while control.ask(home, "status") is None:
        time.sleep(0.02)
    firsts: dict[str, list[float]] = {"bare": [], "relay": []}
    trips: dict[str, list[float]] = {"bare": [], "relay": []}
    cpu: dict[str, list[float]] = {"bare": [], "relay": []}
    memory = 0.0
    for _ in range(ROUNDS):
        for name, command in (("bare", bare_command), ("relay", [*relay, "echo"])):
            before = children_cpu_s()
            host = Host(command, env)
            firsts[name].append(host.first_result("echo", {"text": "hi"}))
            trips[name].append(statistics.median(host.round_trips()))
            memory = host.memory_mb() if name == "relay" else memory
            host.close()
            cpu[name].append(children_cpu_s() - before)
    control.down(home)
    daemon.wait()
    cold_list, cold, bare_list, bare_first = cold_starts(bare_command, relay, env, home)
    shutil.rmtree(folder)

    def line(name: str, seconds: list[float]) -> None:
        print(f"  {name}: min {min(seconds) * 1e3:.2f} ms, "
              f"median {statistics.median(seconds) * 1e3:.2f} ms")  # fmt: skip

    line("bare SDK server, spawn to first result", firsts["bare"])
    line("relay, daemon warm, spawn to first result", firsts["relay"])
    line("bare SDK server, spawn to tool list", bare_list)
    line("relay, nothing running, spawn to tool list", cold_list)
    line("relay, nothing running, spawn to first result", cold)
    line("bare SDK server, round trip", trips["bare"])
    line("relay, round trip", trips["relay"])
    for name, seconds in cpu.items():
        print(f"  {name}: CPU of one process with {CALLS} calls {statistics.median(seconds):.3f} s")
    median = statistics.median
    verdict("warm start / bare", median(firsts["relay"]) / median(firsts["bare"]), 0.06, " x")
    verdict("round trip / bare", median(trips["relay"]) / median(trips["bare"]), 1.0, " x")
    verdict("memory of one relay", memory, 15, " MB")
    verdict("cold tool list / bare", median(cold_list) / median(bare_list), 0.1, " x")
    verdict("cold start / bare", median(cold) / median(bare_first), 1.2, " x")


if __name__ == "__main__":
    main()
