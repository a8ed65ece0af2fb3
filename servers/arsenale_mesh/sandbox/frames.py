"""What goes through the pipes between the server and a worker: a JSON head, then blobs."""

import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import orjson

from arsenale_core.errors import InvalidError

HEAD_BYTES: Final = 64 << 10
"""At most, of a head."""

LENGTH: Final = struct.Struct("<I")


def pack(head: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return a frame."""
    text = orjson.dumps({**head, "blobs": [len(blob) for blob in blobs]})
    return b"".join((LENGTH.pack(len(text)), text, *blobs))


def head_size(prefix: bytes) -> int:
    """Return how long the head is that PREFIX announces.

    Raises:
        InvalidError: Longer than a head is.
    """
    [size] = LENGTH.unpack(prefix)
    if size > HEAD_BYTES:
        raise InvalidError("the head of a frame is too long", hint="the worker is ended")
    return size


def parse(text: bytes, most: int) -> tuple[dict[str, Any], list[int]]:
    """Return a head and the sizes of its blobs, MOST bytes in all.

    Raises:
        InvalidError: It is none. The other side may be in a guest's hands.
    """
    try:
        head: object = orjson.loads(text)
    except ValueError as exc:
        raise InvalidError("the head of a frame is no JSON", hint="the worker is ended") from exc
    if not isinstance(head, dict):
        raise InvalidError("the head of a frame is no object", hint="the worker is ended")
    said = cast("dict[str, Any]", head)
    sizes: Any = said.pop("blobs", None)
    if not isinstance(sizes, list) or len(cast("list[Any]", sizes)) > 8:
        raise InvalidError("a frame does not say its blobs", hint="the worker is ended")
    checked = [size for size in cast("list[Any]", sizes) if type(size) is int and size >= 0]
    if len(checked) != len(cast("list[Any]", sizes)) or sum(checked) > most:
        raise InvalidError("a frame is too large", hint="the worker is ended")
    return said, checked


async def receive(
    exactly: Callable[[int], Awaitable[bytes]], most: int
) -> tuple[dict[str, Any], list[bytes]]:
    """Read a frame with EXACTLY, of blobs of at most MOST bytes in all."""
    head = await exactly(head_size(await exactly(LENGTH.size)))
    said, sizes = parse(head, most)
    return said, [await exactly(size) if size else b"" for size in sizes]
