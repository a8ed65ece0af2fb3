"""A stream of given bytes, for parsers that read streams."""

import anyio
from anyio.abc import ByteStream


class Bytes(ByteStream):
    """A stream whose other end has sent DATA and is gone."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Return up to MAX_BYTES."""
        if not self._left:
            raise anyio.EndOfStream
        taken, self._left = self._left[:max_bytes], self._left[max_bytes:]
        return taken

    async def send(self, item: bytes) -> None:
        """Refuse: nobody is there."""
        raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""
