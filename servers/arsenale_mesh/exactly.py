"""Bytes of a stream in the portions that a frame asks for, read in large ones."""

from typing import Final

from anyio.abc import ByteReceiveStream

CHUNK_BYTES: Final = 64 << 10
"""Read at once: a message of many small parts is one read, and not one for each."""


class Reader:
    """Reads STREAM, which nobody else reads."""

    def __init__(self, stream: ByteReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def exactly(self, size: int) -> bytes:
        """Return the next SIZE bytes.

        Raises:
            anyio.EndOfStream: It ended before.
        """
        buffer = self._buffer
        while (missing := size - len(buffer)) > 0:
            buffer += await self._stream.receive(max(missing, CHUNK_BYTES))
        found = bytes(memoryview(buffer)[:size])
        del buffer[:size]
        return found
