"""The Node tools that `make tools` installs, and an HTTP server for the conformance suite."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from arsenale_core.config import Settings
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_daemon import http_server, web
from arsenale_telemetry.server import SERVER

TOOLS = Path(__file__).parents[2] / ".venv" / "node"
Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def node() -> Tool:
    """Run an installed Node tool."""
    if not (TOOLS / "bin" / "node").exists():
        pytest.skip("no Node tools: `make tools` installs them")

    def run(tool: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        path = f"{TOOLS / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            [str(TOOLS / "bin" / "node"), str(TOOLS / "node_modules" / ".bin" / tool), *words],
            env={"PATH": path, "HOME": str(TOOLS), **env}, capture_output=True, text=True,
            check=False, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


class _WithToken:
    """Our application behind a client that knows the token: the suite cannot send headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [*scope["headers"], (b"authorization", b"Bearer known")]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


@pytest.fixture
def open_url(home: Path) -> Iterator[str]:
    """The URL of telemetry's MCP endpoint, with gate, limits and all, that needs no token."""
    settings = Settings.read({"ARSENALE_HOME": str(home)})
    bound = http_server.bind("127.0.0.1", 0)
    holder: dict[str, Any] = {}
    ready = threading.Event()

    async def serve() -> None:
        runtime = Runtime(settings=settings)
        async with SERVER.open(runtime) as service:
            mcp = SERVER.mount(service, runtime, CallMetrics(runtime.registry))
            clients = web.Clients(seen=lambda: None)
            app = web.build(settings, "known", {"telemetry": mcp}, runtime.registry, clients)
            holder["server"] = http_server.WebServer(_WithToken(app))  # type: ignore[arg-type]
            ready.set()
            await holder["server"].serve(sockets=[bound])

    thread = threading.Thread(target=anyio.run, args=[serve])
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/telemetry/mcp"
    holder["server"].should_exit = True
    thread.join(20)
