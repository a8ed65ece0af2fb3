"""Fixtures for all: a home of its own, a daemon of its own, PostgreSQL where there is one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import arsenale_relay
from arsenale_daemon import control

settings.register_profile("ci", derandomize=True)  # the gate says the same of the same code
if os.environ.get("CI"):
    settings.load_profile("ci")

# A background job of a shell ignores Ctrl-C, and so would every process that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

MISSING_TOOLS = Path(sys.prefix, "missing-tools.txt")
"""What `tests/tools.py` could not install."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeat what is not installed, and so was not tested, where everybody looks."""
    if MISSING_TOOLS.exists() and (text := MISSING_TOOLS.read_text(encoding="utf-8")):
        terminalreporter.section("not installed on this machine")
        terminalreporter.write(text)


RELAY = Path(str(arsenale_relay.__file__)).with_name("__main__.py")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home() -> Iterator[Path]:
    """A fresh `ARSENALE_HOME` with a short path and any HTTP port; its daemon is ended after."""
    with tempfile.TemporaryDirectory(prefix="arsenale-", ignore_cleanup_errors=True) as folder:
        path = Path(folder)
        (path / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
        yield path
        end_daemon(path)


def end_daemon(home: Path) -> None:
    if (home / "run" / "daemon.lock").exists():
        try:
            control.down(home)
        except Exception:  # noqa: BLE001  # a test may have left it stopped or deaf
            text = (home / "run" / "daemon.lock").read_text(encoding="ascii")
            if text.strip():
                os.kill(int(text), signal.SIGKILL)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """The environment of a process that uses `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARSENALE_")}
    return {**kept, "ARSENALE_HOME": str(home)}


class RawHost:
    """An MCP host that speaks to a relay by bare lines, so that every byte is seen."""

    def __init__(self, environment: dict[str, str], server: str = "telemetry") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(RELAY), server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout

    def send(self, **message: Any) -> None:
        self._in.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._in.flush()

    def receive(self) -> dict[str, Any]:
        line = self._out.readline()
        assert line, "the relay closed stdout"
        return json.loads(line)

    def ask(self, id: int | str, method: str, **params: Any) -> dict[str, Any]:
        self.send(id=id, method=method, params=params)
        return self.receive()

    def call(self, id: int | str, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.ask(id, "tools/call", name=tool, arguments=arguments)

    def shake_hands(self) -> dict[str, Any]:
        """Shake hands and wait until the daemon is up: the relay may have answered for it."""
        answer = self.greet()
        assert self.ask("up", "resources/read", uri="none://none")["id"] == "up"
        return answer

    def greet(self) -> dict[str, Any]:
        """Shake hands, with the daemon or with a relay that starts one."""
        answer = self.ask(
            0,
            "initialize",
            protocolVersion="2025-06-18",
            capabilities={},
            clientInfo={"name": "test", "version": "1"},
        )
        self.send(method="notifications/initialized")
        return answer

    def close(self) -> tuple[int, bytes, bytes]:
        """Close stdin; return the exit status and what was still on stdout and stderr."""
        out, err = self.process.communicate(timeout=15)
        return self.process.returncode, out, err


@pytest.fixture
def raw_host(environment: dict[str, str]) -> Iterator[Callable[..., RawHost]]:
    hosts: list[RawHost] = []

    def start(server: str = "telemetry", **more: str) -> RawHost:
        hosts.append(RawHost({**environment, **more}, server))
        return hosts[-1]

    yield start
    for host in hosts:
        if host.process.poll() is None:
            host.process.kill()
        host.process.communicate()


@pytest.fixture
def daemon_pid(home: Path) -> Callable[[], int]:
    """The pid of the running daemon, which a relay may just be starting."""

    def pid() -> int:
        deadline = time.monotonic() + 30
        while not (home / "run" / "daemon.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(json.loads((home / "run" / "daemon.json").read_text(encoding="utf-8"))["pid"])

    return pid


def _postgres_binary(name: str) -> str | None:
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None
    )
    return str(Path(found).resolve()) if found else None


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """The URL of a real PostgreSQL, started for this run and thrown away after."""
    initdb, postgres = _postgres_binary("initdb"), _postgres_binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL server on this machine")
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        # PostgreSQL refuses to run as root.
        user = "nobody" if os.getuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        command = [initdb, "-D", data, "-U", "arsenale", "-A", "trust", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd="/")
        port = _free_port()
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        server = subprocess.Popen(
            [postgres, "-D", data, *options, "-c", "fsync=off"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            cwd="/",
        )
        try:
            _wait_for_port(port)
            yield f"postgresql://arsenale@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")
