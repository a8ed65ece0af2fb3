"""The gate of HTTP: loopback names only, a bearer token, bounded bodies and rates."""

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arsenale_core.config import LOOPBACK

OPEN_PATHS = frozenset({"/healthz"})
"""What answers without a token: that the process lives, and nothing more."""

MAX_CLIENTS = 1_000
"""Clients whose rate is remembered; the longest silent are forgotten first."""


class RateLimiter:
    """A token bucket for each client: PER_MINUTE on average, a tenth of that at once.

    Source: the generic cell rate algorithm, ITU-T I.371, kept as one time for each client.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 60 / per_minute
        self._burst_s = max(1, per_minute // 10) * self._interval_s
        self._now = now
        self._due: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Count a request of CLIENT; return 0, or after how many seconds it may come again."""
        now = self._now()
        due = max(self._due.get(client, now), now)
        if due - now > self._burst_s:
            return due - now - self._burst_s
        self._due[client] = due + self._interval_s
        self._due.move_to_end(client)
        if len(self._due) > MAX_CLIENTS:
            self._due.popitem(last=False)
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    status: int
    text: str
    headers: dict[str, str] | None = None


class Gate:
    """ASGI middleware: refuses before the application sees anything of the request."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        max_body_bytes: int,
        rate: RateLimiter,
        shape: Callable[[int, str], object] = lambda status, text: {"error": text},
    ) -> None:
        """Guard APP; SHAPE makes the body of a refusal of its status and text."""
        self._app = app
        self._shape = shape
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403, 413, 421 or 429 with a reason."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            body = self._shape(refusal.status, refusal.text)
            response = JSONResponse(body, status_code=refusal.status, headers=refusal.headers)
            await response(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive, self._max_body_bytes), send)

    def _refusal(self, scope: Scope, headers: Headers) -> _Refusal | None:
        if _host_name(headers.get("host", "")) not in LOOPBACK:
            return _Refusal(status=421, text="only loopback names are served: use 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and _host_name(origin.partition("://")[2]) not in LOOPBACK:
            return _Refusal(status=403, text="requests from web pages elsewhere are refused")
        if scope["path"] not in OPEN_PATHS and not self._authorized(headers):
            return _Refusal(
                status=401,
                text="send `Authorization: Bearer` with the token in ARSENALE_HOME/token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return self._too_much(scope, headers)

    def _too_much(self, scope: Scope, headers: Headers) -> _Refusal | None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            return _Refusal(status=413, text=f"a body may have {self._max_body_bytes:,} bytes")
        wait_s = self._rate.wait_s(_client(scope, headers))
        if wait_s > 0:
            after = str(math.ceil(wait_s))
            return _Refusal(
                status=429,
                text=f"too many requests: try again in {after} s",
                headers={"Retry-After": after},
            )
        return None

    def _authorized(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), self._token
        )


class _Bounded:
    """A `receive` that ends the connection of a chunked body past the limit."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._left = max_bytes

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                return {"type": "http.disconnect"}
        return message


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _client(scope: Scope, headers: Headers) -> str:
    address = scope.get("client") or ("?", 0)
    session = headers.get("mcp-session-id") or headers.get("user-agent", "")
    return f"{address[0]} {session[:200]}"
