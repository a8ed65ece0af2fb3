"""The gate of HTTP: loopback names only, a bearer token, bounded bodies and rates."""

import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arsenale_core import logs
from arsenale_daemon.http_server import RECOGNISE

OPEN_PATHS = frozenset({"/healthz"})
"""What answers without a token: that the process lives, and nothing more."""

MAX_CLIENTS = 1_000
"""Clients whose rate is remembered; the longest silent are forgotten first."""

ALL_CLIENTS = 10
"""So many times the rate of one client all clients at one address may have together."""

WRONG_TOKENS_PER_MINUTE = 120
"""From one address, a tenth of it at once. Who configures a client sees why it fails; who guesses
does so in vain: a token has 256 bits. It never concerns a request with the right token."""

STRANGERS_PER_S = 100
"""Requests without the token that are answered in a second, from all addresses: later ones wait.
A refusal costs a third of a millisecond, so strangers who keep their connections take 3 % of the
time of one core."""

STRANGER_WAIT_S = 2.0
"""The longest that such a request waits for its answer."""

_LOOPBACK = r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?"

_HOST = re.compile(_LOOPBACK, re.IGNORECASE)
"""`Host` of RFC 9110, section 7.2 (`uri-host [":" port]`), of the hosts that are served. Names are
matched, not taken apart: a user part, a path, a list and white space match nothing."""

_ORIGIN = re.compile(rf"https?://{_LOOPBACK}", re.IGNORECASE)
"""A serialized origin of RFC 6454, section 6.2, of a page on this machine."""


class RateLimiter:
    """A token bucket for each client: PER_MINUTE on average, a tenth of that at once.

    Source: the generic cell rate algorithm, ITU-T I.371, kept as one time for each client.
    """

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 60 / per_minute
        self._burst_s = max(1, per_minute // 10) * self._interval_s
        self._now = now
        self._due: OrderedDict[str, float] = OrderedDict()

    def times(self, factor: int) -> "RateLimiter":
        """Return a limiter of FACTOR times the rate."""
        return RateLimiter(round(60 / self._interval_s) * factor, self._now)

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


class Pacer:
    """Spreads events over time: PER_S on average, as many at once.

    Source: the generic cell rate algorithm as a shaper, ITU-T I.371.
    """

    def __init__(self, per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / per_s
        self._now = now
        self._due = now()

    def wait_s(self) -> float:
        """Count an event; return in how many seconds it may happen, `STRANGER_WAIT_S` at most."""
        now = self._now()
        self._due = min(max(self._due, now) + self._interval_s, now + 1 + STRANGER_WAIT_S)
        return max(0.0, self._due - now - 1)


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
        limited: Mapping[str, Sequence[str]] = MappingProxyType({}),
        key_file: str = "token",
        max_body_bytes: int,
        rate: RateLimiter,
        shape: Callable[[int, str], object] = lambda status, text: {"error": text},
        issued: Callable[[str], bool] = lambda session: False,
    ) -> None:
        """Guard APP; SHAPE makes the body of a refusal of its status and text.

        TOKEN opens everything. A LIMITED token opens the paths that begin with one of its prefixes.
        KEY_FILE, in ARSENALE_HOME, is what a client without a token is referred to.

        RATE counts the requests of one client: an MCP session that was ISSUED here, or else an
        address. What a client may choose, as `User-Agent`, makes no new one.
        """
        self._app = app
        self._shape = shape
        self._issued = issued
        self._prefixes = {token.encode(): ("",)} | {
            each.encode(): tuple(prefixes) for each, prefixes in limited.items()
        }
        self._key_file = key_file
        self._max_body_bytes = max_body_bytes
        self._rate = rate
        self._all = rate.times(ALL_CLIENTS)
        self._wrong = RateLimiter(WRONG_TOKENS_PER_MINUTE)
        self._pacer = Pacer(STRANGERS_PER_S)
        self._log = logs.get("arsenale.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403, 413, 421, 429 or 503 with a reason."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        opened = self._opened(headers)
        is_known = opened is not None
        refusal = self._elsewhere(headers)
        if refusal is None:
            ask = self._of_client if is_known else self._of_stranger
            refusal = ask(scope, headers)
        if refusal is None and opened is not None and not scope["path"].startswith(opened):
            text = f"this key opens {' and '.join(opened)} only: use the one in ARSENALE_HOME/token"
            refusal = _Refusal(status=403, text=text)
        if not is_known:
            await anyio.sleep(self._pacer.wait_s())
        if refusal is not None:
            body = self._shape(refusal.status, refusal.text)
            response = JSONResponse(body, status_code=refusal.status, headers=refusal.headers)
            await response(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive, self._max_body_bytes), send)

    def _elsewhere(self, headers: Headers) -> _Refusal | None:
        """Refuse what names another host, or comes from a page elsewhere, whoever asks."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return _Refusal(status=421, text="only loopback names are served: use 127.0.0.1")
        if len(origins) > 1 or not all(map(_ORIGIN.fullmatch, origins)):
            return _Refusal(status=403, text="requests from web pages elsewhere are refused")
        return None

    def _of_client(self, scope: Scope, headers: Headers) -> _Refusal | None:
        """Refuse a request with the token: there is no place, its body is too long, its rate."""
        recognise = cast("dict[str, Any]", scope.get("extensions") or {}).get(RECOGNISE)
        if recognise is not None and not recognise():
            text = "too many clients are being answered: try again"
            return _Refusal(status=503, text=text, headers={"Retry-After": "1"})
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self._max_body_bytes:
            return _Refusal(status=413, text=f"a body may have {self._max_body_bytes:,} bytes")
        address = _address(scope)
        session = headers.get("mcp-session-id", "")
        client = f"session {session}" if self._issued(session) else f"client {address}"
        wait_s = self._all.wait_s(address) or self._rate.wait_s(client)
        return _later(wait_s, "too many requests") if wait_s else None

    def _of_stranger(self, scope: Scope, headers: Headers) -> _Refusal | None:
        """Refuse a request without the token, but for what anybody may ask, within its rate."""
        address = _address(scope)
        if scope["path"] in OPEN_PATHS:
            wait_s = self._rate.wait_s(f"stranger {address}")
            return _later(wait_s, "too many requests without the token") if wait_s else None
        if "authorization" in headers:
            self._log.warning("a request with a wrong token", address=address)
            if wait_s := self._wrong.wait_s(address):
                return _later(wait_s, "wrong token, too often (the right one is let in at once)")
        return _Refusal(
            status=401,
            text=f"send `Authorization: Bearer` with the token in ARSENALE_HOME/{self._key_file}",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _opened(self, headers: Headers) -> tuple[str, ...] | None:
        """Return the prefixes of the paths that the request's token opens; None without a token."""
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        found = token.strip().encode() if scheme.lower() == "bearer" else b""
        opened = None
        for known, prefixes in self._prefixes.items():  # all of them: time tells nothing
            if hmac.compare_digest(found, known):
                opened = prefixes
        return opened


def _later(wait_s: float, what: str) -> _Refusal:
    after = str(math.ceil(wait_s))
    return _Refusal(
        status=429, text=f"{what}: try again in {after} s", headers={"Retry-After": after}
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


def _address(scope: Scope) -> str:
    """Return whose requests are counted together: all of loopback is one.

    A local user may connect from each of the 16 million addresses 127.x.y.z.
    """
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return "loopback" if address.is_loopback else str(address)
