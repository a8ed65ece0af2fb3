"""HTTP as the daemon serves it: MCP of every server, `/healthz`, `/metrics`, behind the gate."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from mcp.server import MCPServer
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from arsenale_core.config import Settings
from arsenale_daemon.security import Gate, RateLimiter

SCRAPE_TTL_S = 1.0
"""Rendered metrics are served again for so long: many scrapers cost one rendering."""


class Scrape:
    """The registry as text, rendered at most once a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._text = b""
        self._until = 0.0

    async def __call__(self, request: Request) -> Response:
        """Answer a scrape."""
        if time.monotonic() >= self._until:
            self._text = await to_thread.run_sync(generate_latest, self._registry)
            self._until = time.monotonic() + SCRAPE_TTL_S
        return Response(self._text, media_type=CONTENT_TYPE_PLAIN_1_0_0)


def build(
    settings: Settings,
    token: str,
    surfaces: Mapping[str, MCPServer[Any]],
    registry: CollectorRegistry,
    clients: "Clients",
) -> Starlette:
    """Return the application; CLIENTS counts who is here."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok", "servers": sorted(surfaces)})

    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/metrics", Scrape(registry).__call__),
    ]
    for name, mcp in surfaces.items():
        size, host = settings.http_max_body_bytes, settings.http_host
        modern = mcp.streamable_http_app(max_request_body_size=size, host=host)
        old = mcp.sse_app(max_request_body_size=size, host=host)
        routes.append(Mount(f"/{name}", routes=[*modern.routes, *old.routes]))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        # A mounted application's own lifespan is not run by Starlette.
        async with AsyncExitStack() as stack:
            for mcp in surfaces.values():
                await stack.enter_async_context(mcp.session_manager.run())
            yield

    gate = Middleware(
        Gate,
        token=token,
        max_body_bytes=settings.http_max_body_bytes,
        rate=RateLimiter(settings.http_rate_per_minute),
        issued=clients.has_session,
    )
    clients.surfaces = surfaces
    middleware = [gate, Middleware(_Counted, clients), Middleware(_Fresh)]
    return Starlette(routes=routes, lifespan=lifespan, middleware=middleware)


@dataclass(slots=True)
class Clients:
    """Who uses the daemon over HTTP.

    Attributes:
        open: Requests that are being answered, streams included.
        seen: Called at each request.
    """

    seen: Callable[[], None]
    open: int = 0
    surfaces: Mapping[str, MCPServer[Any]] = field(
        default_factory=lambda: dict[str, MCPServer[Any]]()
    )

    @property
    def present(self) -> bool:
        """Whether a request is being answered or an MCP session exists.

        The SDK closes a session that was not used for 30 minutes
        (`StreamableHTTPSessionManager.session_idle_timeout`).
        """
        return bool(self.open) or any(
            mcp.session_manager._server_instances  # pyright: ignore[reportPrivateUsage]  # no public way
            for mcp in self.surfaces.values()
        )

    def has_session(self, id: str) -> bool:
        """Whether an MCP session of this ID was issued and is open."""
        return bool(id) and any(
            id in mcp.session_manager._server_instances  # pyright: ignore[reportPrivateUsage]
            for mcp in self.surfaces.values()
        )


class _Counted:
    """Middleware that counts the open requests."""

    def __init__(self, app: ASGIApp, clients: Clients) -> None:
        self._app, self._clients = app, clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the lifespan of the application itself
            await self._app(scope, receive, send)
            return
        self._clients.seen()
        self._clients.open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._clients.open -= 1
            self._clients.seen()


class _Fresh:
    """Middleware that opens a new stream where a client asks to resume one.

    Events have no ids here, so that there is nothing to replay after a `Last-Event-ID`. The MCP SDK
    2.3 answers 500 to the header where it keeps no events.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [pair for pair in scope["headers"] if pair[0] != b"last-event-id"]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)
