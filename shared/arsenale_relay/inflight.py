"""What the host asked and the daemon has not answered: the relay's memory of a connection. Pure."""

import json
from typing import Any, cast

REPLAYABLE = frozenset(
    {
        "initialize",
        "server/discover",
        "ping",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "prompts/list",
        "subscriptions/listen",
    }
)
"""Requests without effect: asked again of the next daemon, once, instead of failed."""

LOST = -32000
"""JSON-RPC error code (implementation-defined server error, JSON-RPC 2.0 section 5.1)."""

MAX_ID_BYTES = 2_000
"""Longest id that is looked for at the head of an answer; hosts use small numbers."""

_DECODER = json.JSONDecoder()
_RESPONSE = b'{"jsonrpc":"2.0","id":'
_FROM_SERVER = b'{"jsonrpc":"2.0","method":'


class InFlight:
    """Follows the lines of one MCP session, so that it can go on with another daemon."""

    def __init__(self) -> None:
        self._handshake: list[bytes] = []
        self._initialize_id: str | None = None
        self._open: dict[str, tuple[str, bytes]] = {}
        self._replayed: set[str] = set()
        self._asked: set[str] = set()
        self._swallow: str | None = None

    @property
    def waiting(self) -> bool:
        """Whether the host waits for an answer."""
        return bool(self._open)

    @property
    def handshaking(self) -> bool:
        """Whether a replayed handshake is not answered yet: nothing else may be sent."""
        return self._swallow is not None

    def asks(self, line: bytes) -> bool:
        """Whether LINE, of the host, wants an answer; what is no JSON is told so in one."""
        message = _parse(line)
        return message is None or ("method" in message and message.get("id") is not None)

    def sent(self, line: bytes) -> bool:
        """Note that LINE, of the host, goes to the daemon; false when it is to be dropped.

        Dropped is an answer to a question that only a dead daemon asked.
        """
        message = _parse(line)
        if message is None:
            return True
        method, id = message.get("method"), message.get("id")
        if method is None:
            key = _key(id)
            known = key in self._asked
            self._asked.discard(key)
            return known
        if method == "notifications/initialized":
            self._handshake[1:] = [line]
        elif method == "notifications/cancelled":
            params: Any = message.get("params")
            if isinstance(params, dict):
                self._open.pop(_key(cast("dict[str, object]", params).get("requestId")), None)
        if id is not None:
            self._open[_key(id)] = (str(method), line)
            if method == "initialize":
                self._handshake[:] = [line]
                self._initialize_id = _key(id)
        return True

    def received(self, line: bytes) -> bool:
        """Note that LINE came from the daemon; false when the host must not see it.

        Not seen is the answer to a handshake that was replayed.
        """
        if line.startswith(_FROM_SERVER) and b'"id":' not in line:
            return True
        if line.startswith(_RESPONSE):
            key = _key(_leading_value(line[len(_RESPONSE) : len(_RESPONSE) + MAX_ID_BYTES]))
        else:
            message = _parse(line)
            if message is None or "id" not in message:
                return True
            key = _key(message["id"])
            if "method" in message:
                self._asked.add(key)
                return True
        if key == self._swallow:
            self._swallow = None
            return False
        self._open.pop(key, None)
        self._replayed.discard(key)
        return True

    def lost(self, why: str) -> list[bytes]:
        """Note that the daemon has gone; return an error for each request that died with it.

        What has no effect is kept, to be asked again once: `opening` has it.
        """
        self._asked.clear()
        self._swallow = None
        errors: list[bytes] = []
        for key, (method, _) in list(self._open.items()):
            if method in REPLAYABLE and key not in self._replayed:
                self._replayed.add(key)
            else:
                del self._open[key]
                self._replayed.discard(key)
                errors.append(error(key, f"{method}: {why}"))
        return errors

    def opening(self) -> tuple[bytes | None, list[bytes]]:
        """Return what a new daemon is told before anything else.

        Returns:
            The line of a handshake that was answered once already, whose answer must come before
            anything else is sent; and the lines to send then.
        """
        waiting = [line for _, line in self._open.values()]
        if not self._handshake or self._initialize_id in self._open:
            return None, waiting
        self._swallow = self._initialize_id
        return self._handshake[0], [*self._handshake[1:], *waiting]

    def give_up(self, why: str) -> list[bytes]:
        """Return an error for every request that still waits: no daemon can be had."""
        errors = [error(key, f"{method}: {why}") for key, (method, _) in self._open.items()]
        self._open.clear()
        self._replayed.clear()
        return errors

    def listening(self) -> bool:
        """Whether a subscription is open, for which the daemon should be running."""
        return any(method == "subscriptions/listen" for method, _ in self._open.values())

    def refuse(self, line: bytes, why: str) -> bytes | None:
        """Return the error that answers LINE, never sent; `None` if it wants no answer."""
        message = _parse(line)
        if message is None or message.get("method") is None or message.get("id") is None:
            return None
        return error(_key(message["id"]), f"{message['method']}: {why}")


def error(id: str, message: str) -> bytes:
    """Return a JSON-RPC error line for the request whose id, as JSON, is ID."""
    text = json.dumps(message)
    body = f'"error":{{"code":{LOST},"message":{text},"data":{{"retry":true}}}}'
    return f'{{"jsonrpc":"2.0","id":{id},{body}}}\n'.encode()


def _key(id: object) -> str:
    return json.dumps(id)


def _leading_value(text: bytes) -> object:
    """Return the JSON value that TEXT begins with: a large answer is not read for its id."""
    try:
        return _DECODER.raw_decode(text.decode(errors="replace"))[0]
    except ValueError:
        return None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", message) if isinstance(message, dict) else None
