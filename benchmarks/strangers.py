"""2,000 connections that mean no good, kept up from one process: silent, slow and broken ones.

    python benchmarks/strangers.py PORT SOCKET COUNT SECONDS

Prints `ready` when all have connected once. Whoever is closed comes again after `AGAIN_S`.
"""

import asyncio
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from arsenale_core.descriptors import raise_limit

AGAIN_S = 5.0
TRICKLE_S = 1.0

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Kind = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"POST /telemetry/mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing until closed."""
    await reader.read()


async def trickle(writer: asyncio.StreamWriter, text: bytes) -> None:
    """Send TEXT a byte at a time, and go on for ever."""
    for byte in text + b"x" * 100_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(TRICKLE_S)


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the head of a request a byte a second."""
    await trickle(writer, HEAD + b"X-Slow: ")


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the body of a request without the token a byte a second."""
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
    await trickle(writer, b"")


async def wrong_token(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Guess the token, again and again."""
    while not reader.at_eof():
        guess = random.randbytes(16).hex().encode()
        writer.write(HEAD + b"Content-Length: 0\r\nAuthorization: Bearer " + guess + b"\r\n\r\n")
        if not await reader.read(65_536):
            return
        await asyncio.sleep(TRICKLE_S)


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send what is no protocol."""
    writer.write(random.randbytes(200) + b"\r\n\r\n\n")
    await reader.read()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Break the connection in the middle of a line."""
    writer.write(b"GET / HT")
    await writer.drain()
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask much at once and read nothing."""
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    await asyncio.sleep(3_600)


OVER_HTTP: list[Kind] = [silent, slow_head, slow_body, wrong_token, garbage, reset, deaf]
OVER_SOCKET: list[Kind] = [silent, slow_head, garbage, reset]


class Strangers:
    """COUNT connections, three quarters over HTTP and one over the unix socket."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._port, self._path = port, path
        self._to_come = count * 99 // 100
        self.there = asyncio.Event()
        self.failed: Counter[str] = Counter()

    async def _opened(self, number: int) -> tuple[Kind, Stream]:
        if number % 4:
            kind = OVER_HTTP[number % len(OVER_HTTP)]
            return kind, await asyncio.open_connection("127.0.0.1", self._port)
        return OVER_SOCKET[number // 4 % len(OVER_SOCKET)], await asyncio.open_unix_connection(
            self._path
        )

    async def keep(self, number: int) -> None:
        """Keep up one connection."""
        first = True
        while True:
            try:
                kind, (reader, writer) = await self._opened(number)
                self._to_come -= first
                first = False
                if self._to_come <= 0:
                    self.there.set()
                try:
                    await kind(reader, writer)
                finally:
                    writer.transport.abort()
            except (OSError, asyncio.IncompleteReadError) as exc:
                self.failed[type(exc).__name__] += 1
            await asyncio.sleep(AGAIN_S * random.uniform(0.5, 1.5))


async def main(port: int, path: str, count: int, seconds: float) -> None:
    """Keep COUNT connections up for SECONDS after they are there."""
    strangers = Strangers(port, path, count)
    kept: list[asyncio.Task[None]] = []
    for number in range(count):
        kept.append(asyncio.create_task(strangers.keep(number)))
        if number % 20 == 0:
            await asyncio.sleep(0.01)
    await strangers.there.wait()
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    for task in kept:
        task.cancel()


if __name__ == "__main__":
    raise_limit()
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
