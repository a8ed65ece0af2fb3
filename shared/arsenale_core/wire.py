"""Newline-delimited JSON-RPC over a byte stream: how a server speaks on the unix socket.

The same framing as MCP's stdio transport (specification 2026-07-28, "Transports"): one message a
line, UTF-8, no newline inside a message.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server import MCPServer
from mcp.shared.message import SessionMessage
from mcp.types import (
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from arsenale_core.errors import InvalidError
from arsenale_relay.messages import find_id

CHUNK_BYTES = 65_536
"""How much is read from a socket at a time."""

CANCELLED = "notifications/cancelled"


async def read_lines(
    receive: Callable[[int], Awaitable[bytes]], max_bytes: int
) -> AsyncGenerator[bytes]:
    """Yield the lines that RECEIVE brings, without their newline, until it ends.

    A last piece without newline was cut off with its writer and is dropped.

    Raises:
        InvalidError: A line is longer than MAX_BYTES.
    """
    pending = bytearray()
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while chunk := await receive(CHUNK_BYTES):
            start = len(pending)
            pending += chunk
            if pending.find(b"\n", start) < 0:
                if len(pending) > max_bytes:
                    raise InvalidError(f"a line is longer than {max_bytes:,} bytes")
                continue
            *lines, rest = bytes(pending).split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                if len(line) > max_bytes:
                    raise InvalidError(f"a line is longer than {max_bytes:,} bytes")
                if line.strip():
                    yield line


class Traffic:
    """Which requests of one connection are being worked on; a subscription is none of them."""

    def __init__(self) -> None:
        self._open: set[object] = set()

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer."""
        return bool(self._open)

    def came(self, message: JSONRPCMessage) -> None:
        """Note a message of the client."""
        if isinstance(message, JSONRPCRequest):
            if message.method != "subscriptions/listen":
                self._open.add(message.id)
        elif isinstance(message, JSONRPCNotification) and message.method == CANCELLED:
            cancelled: object = (message.params or {}).get("requestId")
            if isinstance(cancelled, str | int):
                self._open.discard(cancelled)

    def went(self, message: JSONRPCMessage) -> None:
        """Note a message of the server."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._open.discard(message.id)


async def serve_lines(
    mcp: MCPServer[Any],
    lines: AsyncIterator[bytes],
    send: Callable[[bytes], Awaitable[None]],
    traffic: Traffic,
) -> None:
    """Serve one client: its messages are LINES, the answers go to SEND, until LINES ends.

    A line that is not a JSON-RPC message is reported to the SDK, which logs it, and answered with
    an error: a client that sent half a character would wait for ever. The connection goes on.
    Back-pressure: no line is taken while the server does not accept it.
    """
    low = mcp._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # no public way in mcp 2.3
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, lines, to_server, to_client.clone(), traffic)
        tasks.start_soon(_answer, from_server, send, traffic)
        await low.run(from_client, to_client, low.create_initialization_options())
        tasks.cancel_scope.cancel()


async def _feed(
    lines: AsyncIterator[bytes],
    to_server: ObjectSendStream[SessionMessage | Exception],
    to_client: ObjectSendStream[SessionMessage],
    traffic: Traffic,
) -> None:
    async with to_server, to_client:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for line in lines:
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValidationError as exc:
                    fault = ErrorData(code=PARSE_ERROR, message=f"invalid message: {_first(exc)}")
                    refusal = JSONRPCError(jsonrpc="2.0", id=_request_id(line), error=fault)
                    await to_client.send(SessionMessage(refusal))
                    await to_server.send(exc)
                else:
                    traffic.came(message)
                    await to_server.send(SessionMessage(message))


def _line(message: JSONRPCMessage) -> bytes:
    """Return MESSAGE as a line; half a character, which a client sent, goes back as an escape."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except PydanticSerializationError:
        return json.dumps(message.model_dump(by_alias=True, exclude_unset=True)).encode() + b"\n"


def _request_id(line: bytes) -> int | str | None:
    """Return the id of a request that cannot be read as a whole, if it can be found."""
    return json.loads(find_id(line))


def _first(exc: ValidationError) -> str:
    return str(exc.errors(include_url=False, include_input=False)[0]["msg"])[:200]


async def _answer(
    from_server: ObjectReceiveStream[SessionMessage],
    send: Callable[[bytes], Awaitable[None]],
    traffic: Traffic,
) -> None:
    async with from_server:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for reply in from_server:
                await send(_line(reply.message))
                traffic.went(reply.message)
