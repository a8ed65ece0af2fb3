"""One server in the foreground, in its own process: containers, debugging, the MCP Inspector."""

import sys
from typing import Literal, TypeAlias

import anyio

from arsenale_core import descriptors, logs
from arsenale_core.config import Settings
from arsenale_core.errors import UnavailableError
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_core.terminal_text import write
from arsenale_daemon import discovery, http_server, paths, web

Transport: TypeAlias = Literal["stdio", "sse", "streamable-http"]


def serve(name: str, transport: Transport, settings: Settings) -> None:
    """Serve NAME until the client goes (stdio) or a signal comes (HTTP).

    Raises:
        NotFoundError: No such server is installed.
        UnavailableError: The home or the port cannot be had.
    """
    discovery.load(name)  # a name of no server makes no log
    logs.configure(settings.log_level, file=settings.home / "logs" / f"{name}.log")
    descriptors.raise_limit()
    anyio.run(_serve, name, transport, settings)


async def _serve(name: str, transport: Transport, settings: Settings) -> None:
    spec = discovery.load(name)
    runtime = Runtime(settings=settings)
    async with spec.open(runtime) as service:
        mcp = spec.mount(service, runtime, CallMetrics(runtime.registry))
        if transport == "stdio":
            await mcp.run_stdio_async()
            return
        try:
            bound = http_server.bind(settings.http_host, settings.http_port)
        except OSError as exc:
            raise UnavailableError(
                f"port {settings.http_port}: {exc.strerror}", hint="add --port 0 for a free one"
            ) from exc
        path = "sse" if transport == "sse" else "mcp"
        address = f"http://{settings.http_host}:{bound.getsockname()[1]}/{name}/{path}"
        write(f"serving {address} (token: {settings.home / 'token'})\n", to=sys.stderr)
        token = paths.token(settings.home)
        clients = web.Clients(seen=lambda: None)
        app = web.build(settings, token, {name: mcp}, runtime.registry, clients)
        await http_server.WebServer(app, handle_signals=True).serve(sockets=[bound])
