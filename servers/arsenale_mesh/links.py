"""The way between a node and its gateway: messages, whatever carries them.

This is the seam for other transports: who gives a `Link` for each node that comes, and one to each
node that asks, carries the mesh. Here are streams (a unix socket, or TLS) and memory.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import anyio
import orjson
from anyio.abc import ByteStream, ObjectReceiveStream, ObjectSendStream

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh.exactly import Reader

HEAD_BYTES: Final = 4 << 20
"""At most, of what a message says beside its blobs."""

BLOB_BYTES: Final = 96 << 20
"""At most, of all blobs of a message: a module and an input of the largest."""

MOST_BLOBS: Final = 1_024

NARROW_BYTES: Final = 256 << 10
"""At most, of a message of somebody who was not admitted yet; blobs they send none."""

SEND_S: Final = 20.0
SLOWEST: Final = 256 << 10
"""Bytes a second: who takes a message more slowly than this, after SEND_S, is cut off."""

_LENGTH = struct.Struct(">I")
_LOST = (
    anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError,
    OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is said: its kind, a JSON object, and bytes that it speaks of by their place.

    `head_bytes`: of what came beside the blobs.
    """

    kind: str
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    blobs: tuple[bytes, ...] = ()
    head_bytes: int = field(default=200, compare=False)

    @property
    def size(self) -> int:
        """Roughly, bytes on the way."""
        return self.head_bytes + sum(len(blob) for blob in self.blobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What is known of a link by itself.

    Attributes:
        local: Only who may open our home's folder can be at the other end.
        channel: Names the encrypted channel: SHA-256 of the gateway's certificate, else "local".
        gateway: The did:key that the certificate holds; "" where there is none.
    """

    local: bool
    channel: str = "local"
    gateway: str = ""


class Link(Protocol):
    """Two ends, each sends and receives; messages come whole, once and in their order."""

    @property
    def way(self) -> Way:
        """What is known of the link."""
        ...

    async def send(self, message: Message) -> None:
        """Send MESSAGE.

        Raises:
            UnavailableError: The other end is gone.
        """
        ...

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            UnavailableError: The other end is gone.
            InvalidError: What came is no message.
        """
        ...

    def widen(self) -> None:
        """Take messages of any size from now on: who is at the other end was admitted."""
        ...

    async def aclose(self) -> None:
        """Close it; the other end learns of it."""
        ...


class StreamLink:
    """Messages over a stream of bytes: a length, a head as JSON, its blobs.

    Args:
        stream: Nobody else uses it.
        way: What is known of it.
        widened: Is told when the other end was admitted; until then only short messages are
            taken. `None` takes all from the start.
    """

    def __init__(
        self, stream: ByteStream, way: Way, widened: Callable[[], None] | None = None
    ) -> None:
        self._widened = widened
        self._stream = stream
        self._reader = Reader(stream)
        self._sending = anyio.Lock()
        self._way = way

    @property
    def way(self) -> Way:
        """What is known of the link."""
        return self._way

    async def send(self, message: Message) -> None:
        """Send MESSAGE; see `Link`."""
        data = pack(message)
        try:
            async with self._sending:
                with anyio.fail_after(SEND_S + len(data) / SLOWEST):
                    await self._stream.send(data)
        except TimeoutError as exc:
            await anyio.aclose_forcefully(self._stream)
            raise UnavailableError("the other end takes nothing", hint="connect again") from exc
        except _LOST as exc:
            raise UnavailableError("the other end is gone", hint="connect again") from exc

    async def receive(self) -> Message:
        """Return the next message; see `Link`."""
        try:
            [size] = _LENGTH.unpack(await self._reader.exactly(_LENGTH.size))
            if size > (HEAD_BYTES if self._widened is None else NARROW_BYTES):
                raise InvalidError("the head of a message is too long", hint="it is cut off")
            kind, body, sizes = parse(await self._reader.exactly(size))
            if sizes and self._widened is not None:
                raise InvalidError("a newcomer sends no blobs", hint="it is cut off")
            blobs = tuple([await self._reader.exactly(one) for one in sizes])
        except _LOST as exc:
            raise UnavailableError("the other end is gone", hint="connect again") from exc
        return Message(kind=kind, body=body, blobs=blobs, head_bytes=size)

    def widen(self) -> None:
        """Take messages of any size; see `Link`."""
        if self._widened is not None:
            self._widened()
        self._widened = None

    async def aclose(self) -> None:
        """Close the stream."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            try:
                await self._stream.aclose()
            except _LOST:
                return


@dataclass(slots=True)
class MemoryLink:
    """One end of a link within a process."""

    way: Way
    outward: ObjectSendStream[Message]
    inward: ObjectReceiveStream[Message]

    async def send(self, message: Message) -> None:
        """Send MESSAGE; see `Link`."""
        try:
            await self.outward.send(message)
        except _LOST as exc:
            raise UnavailableError("the other end is gone", hint="connect again") from exc

    async def receive(self) -> Message:
        """Return the next message; see `Link`."""
        try:
            return await self.inward.receive()
        except _LOST as exc:
            raise UnavailableError("the other end is gone", hint="connect again") from exc

    def widen(self) -> None:
        """Take messages of any size, as before."""

    async def aclose(self) -> None:
        """Close both directions."""
        await self.outward.aclose()
        await self.inward.aclose()


def memory_links(waiting: int = 64) -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a link on which WAITING messages may lie."""
    to_gateway, at_gateway = anyio.create_memory_object_stream[Message](waiting)
    to_node, at_node = anyio.create_memory_object_stream[Message](waiting)
    way = Way(local=True)
    return (
        MemoryLink(way, to_gateway, at_node),
        MemoryLink(way, to_node, at_gateway),
    )


def pack(message: Message) -> bytes:
    """Return MESSAGE as it goes on the way."""
    sizes = [len(blob) for blob in message.blobs]
    head = orjson.dumps({"kind": message.kind, "body": message.body, "blobs": sizes})
    return b"".join((_LENGTH.pack(len(head)), head, *message.blobs))


def parse(head: bytes) -> tuple[str, dict[str, Any], Sequence[int]]:
    """Return kind, body and sizes of the blobs of a message's head.

    Raises:
        InvalidError: It is none.
    """
    try:
        said: object = orjson.loads(head)
    except ValueError as exc:
        raise InvalidError("a message is no JSON", hint="it is cut off") from exc
    if not isinstance(said, dict):
        raise InvalidError("a message is no object", hint="it is cut off")
    given = cast("dict[str, Any]", said)
    kind, body, sizes = (given.get(name) for name in ("kind", "body", "blobs"))
    if not isinstance(kind, str) or not isinstance(body, dict) or not isinstance(sizes, list):
        raise InvalidError("a message has no kind, body or blobs", hint="it is cut off")
    checked = [size for size in cast("list[Any]", sizes) if type(size) is int and size >= 0]
    if len(checked) != len(cast("list[Any]", sizes)) or len(checked) > MOST_BLOBS:
        raise InvalidError("a message's blobs are wrong", hint="it is cut off")
    if sum(checked) > BLOB_BYTES:
        raise InvalidError(f"a message has more than {BLOB_BYTES:,} bytes", hint="it is cut off")
    return kind, cast("dict[str, Any]", body), checked
