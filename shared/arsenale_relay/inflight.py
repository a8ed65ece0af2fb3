"""What the host asked and the daemon has not answered: the relay's memory of a connection. Pure."""

import json
from typing import Any, cast

from arsenale_relay.handshake import ACKNOWLEDGED, SUBSCRIPTION_KEY
from arsenale_relay.messages import (
    BATCH_VERSION,
    INVALID_REQUEST,
    Fault,
    check,
    error,
    parse,
    sendable,
)

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

MAX_ID_BYTES = 2_000
"""Longest id that is looked for at the head of an answer; hosts use small numbers."""

_DECODER = json.JSONDecoder()
_RESPONSE = b'{"jsonrpc":"2.0","id":'
_FROM_SERVER = b'{"jsonrpc":"2.0","method":'

Message = dict[str, Any]


class Batch:
    """A batch of requests (MCP 2025-03-26) whose answers go back as one array."""

    def __init__(self, waiting: set[str], answers: list[bytes]) -> None:
        self.waiting, self.answers = waiting, answers

    def line(self) -> bytes:
        """Return the array of the answers; empty where there is none to give."""
        parts = b",".join(answer.strip() for answer in self.answers)
        return b"[" + parts + b"]\n" if parts else b""


class InFlight:
    """Follows the lines of one MCP session, so that it can go on with another daemon."""

    def __init__(self) -> None:
        self._handshake: list[bytes] = []
        self._initialize_id: str | None = None
        self._version: str | None = None
        self._open: dict[str, tuple[str, bytes]] = {}
        self._replayed: set[str] = set()
        self._asked: set[str] = set()
        self._swallow: str | None = None
        self._batches: dict[str, Batch] = {}
        self._acknowledged: set[str] = set()
        self._released = b""

    @property
    def waiting(self) -> bool:
        """Whether the host waits for an answer."""
        return bool(self._open)

    @property
    def unanswered(self) -> bool:
        """Whether a request is open that has an end of its own: a subscription has none."""
        return any(method != "subscriptions/listen" for method, _ in self._open.values())

    @property
    def handshaking(self) -> bool:
        """Whether a replayed handshake is not answered yet: nothing else may be sent."""
        return self._swallow is not None

    # From the host.

    def arrived(self, line: bytes) -> tuple[list[tuple[bytes, Message]], bytes]:
        """Read a LINE of the host.

        Returns:
            The messages to send on, each with its line, and what to answer at once.
        """
        try:
            value = parse(line)
            if isinstance(value, list):
                return self._batch(cast("list[object]", value))
            message = check(value)
            return [(sendable(line, message), message)], b""
        except Fault as fault:
            return [], fault.answer

    def _batch(self, members: list[object]) -> tuple[list[tuple[bytes, Message]], bytes]:
        if self._version != BATCH_VERSION:
            raise Fault(INVALID_REQUEST, "Invalid request: send one message a line, not a batch")
        if not members:
            raise Fault(INVALID_REQUEST, "Invalid request: the batch is empty")
        passed: list[tuple[bytes, Message]] = []
        batch = Batch(set(), [])
        for member in members:
            try:
                message = check(member)
                if message.get("method") == "initialize":
                    raise Fault(INVALID_REQUEST, "Invalid request: initialize is in a batch",
                                _key(message.get("id")))  # fmt: skip
            except Fault as fault:
                batch.answers.append(fault.answer)
                continue
            passed.append((sendable(json.dumps(message).encode() + b"\n", message), message))
            if asks(message):
                batch.waiting.add(_key(message["id"]))
        for key in batch.waiting:
            self._batches[key] = batch
        return passed, b"" if batch.waiting else batch.line()

    def sent(self, line: bytes, message: Message) -> bool:
        """Note that MESSAGE, of the host, goes to the daemon; false when it is to be dropped.

        Dropped is an answer to a question that only a dead daemon asked.
        """
        method, id = message.get("method"), message.get("id")
        if method is None:
            key = _key(id)
            known = key in self._asked
            self._asked.discard(key)
            return known
        if method == "notifications/initialized":
            self._handshake[1:] = [line]
        elif method == "notifications/cancelled":
            self._cancelled(message.get("params"))
        if id is not None:
            self._open[_key(id)] = (str(method), line)
            if method == "initialize":
                self._handshake[:] = [line]
                self._initialize_id = _key(id)
        return True

    def answered_here(self, line: bytes, message: Message, version: str | None) -> None:
        """Note that MESSAGE was answered without the daemon, which hears of a handshake later."""
        if message.get("method") == "initialize":
            self._handshake[:] = [line]
            self._initialize_id = _key(message.get("id"))
            self._version = version

    def _cancelled(self, params: object) -> None:
        if isinstance(params, dict):
            key = _key(cast("dict[str, object]", params).get("requestId"))
            self._open.pop(key, None)
            self._acknowledged.discard(key)
            batch = self._batches.pop(key, None)
            if batch is not None:
                batch.waiting.discard(key)
                if not batch.waiting:
                    self._released += batch.line()

    def release(self) -> bytes:
        """Return the answers of batches whose last open request the host cancelled, once."""
        line, self._released = self._released, b""
        return line

    # To the host.

    def received(self, line: bytes) -> bytes:
        """Note that LINE came from the daemon; return what the host is to see of it, if anything.

        Not seen is the answer to a handshake that was replayed. An answer to a member of a batch
        waits for the others.
        """
        if line.startswith(_FROM_SERVER) and b'"id":' not in line:
            return b"" if self._is_known(line) else line + b"\n"
        if line.startswith(_RESPONSE):
            id = _leading_value(line[len(_RESPONSE) : len(_RESPONSE) + MAX_ID_BYTES])
            key = _key((_read(line) or {}).get("id") if id is None else id)
        else:
            message = _read(line)
            if message is None or "id" not in message:
                return line + b"\n"
            key = _key(message["id"])
            if "method" in message:
                self._asked.add(key)
                return line + b"\n"
        if key == self._swallow:
            self._swallow = None
            return b""
        if key == self._initialize_id and key in self._open:
            self._version = _negotiated(line)
        self._open.pop(key, None)
        self._replayed.discard(key)
        self._acknowledged.discard(key)
        return self.to_host(key, line + b"\n")

    def acknowledge(self, id: object) -> bool:
        """Note that the host knows of its subscription ID; false when it knew already."""
        key = _key(id)
        if key in self._acknowledged:
            return False
        self._acknowledged.add(key)
        return True

    def _is_known(self, line: bytes) -> bool:
        """Say whether LINE acknowledges a subscription whose acknowledgement the host has."""
        if ACKNOWLEDGED.encode() not in line:
            return False
        message = _read(line) or {}
        params: Message = message.get("params") or {}
        meta: Message = params.get("_meta") or {}
        id = meta.get(SUBSCRIPTION_KEY)
        return message.get("method") == ACKNOWLEDGED and not self.acknowledge(id)

    def to_host(self, key: str, answer: bytes) -> bytes:
        """Return what the host gets now that the request KEY has its ANSWER."""
        batch = self._batches.pop(key, None)
        if batch is None:
            return answer
        batch.answers.append(answer)
        batch.waiting.discard(key)
        return b"" if batch.waiting else batch.line()

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
                errors.append(self.to_host(key, error(key, f"{method}: {why}")))
        return errors

    def opening(self) -> tuple[bytes | None, list[bytes]]:
        """Return what a new daemon gets before anything else.

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
        errors = [
            self.to_host(key, error(key, f"{method}: {why}"))
            for key, (method, _) in self._open.items()
        ]
        self._open.clear()
        self._replayed.clear()
        return errors

    def listening(self) -> bool:
        """Whether a subscription is open, for which the daemon should be running."""
        return any(method == "subscriptions/listen" for method, _ in self._open.values())

    def refuse(self, message: Message, why: str) -> bytes:
        """Return the error that answers MESSAGE, never sent; empty if it asks nothing."""
        if not asks(message):
            return b""
        key = _key(message["id"])
        return self.to_host(key, error(key, f"{message['method']}: {why}"))


def asks(message: Message) -> bool:
    """Whether MESSAGE, of the host, wants an answer."""
    return "method" in message and message.get("id") is not None


def _negotiated(line: bytes) -> str | None:
    result: Any = (_read(line) or {}).get("result")
    version = cast("Message", result).get("protocolVersion") if isinstance(result, dict) else None
    return version if isinstance(version, str) else None


def _key(id: object) -> str:
    return json.dumps(id)


def _leading_value(text: bytes) -> object:
    """Return the JSON value that TEXT begins with: a large answer is not read for its id."""
    try:
        return _DECODER.raw_decode(text.decode(errors="replace"))[0]
    except (ValueError, RecursionError):
        return None


def _read(line: bytes) -> Message | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Message", message) if isinstance(message, dict) else None
