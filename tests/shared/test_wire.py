import json
from collections.abc import AsyncIterator
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server import MCPServer

from arsenale_core.errors import InvalidError
from arsenale_core.wire import Traffic, read_lines, serve_lines


def read(chunks: list[bytes], max_bytes: int = 1000) -> list[bytes]:
    async def lines() -> list[bytes]:
        waiting = [*chunks, b""]

        async def receive(_: int) -> bytes:
            return waiting.pop(0)

        return [line async for line in read_lines(receive, max_bytes)]

    return anyio.run(lines)


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b"\n" not in b)), st.data())
def test_lines_come_whole_however_the_bytes_are_cut(
    lines: list[bytes], data: st.DataObject
) -> None:
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    chunks = [text[a:b] for a, b in pairwise(edges) if text[a:b]]
    assert read(chunks) == [line for line in lines if line.strip()]


def test_a_last_piece_without_newline_is_dropped() -> None:
    assert read([b"one\ntw"]) == [b"one"]


@pytest.mark.parametrize("chunks", [[b"x" * 1001], [b"x" * 1001 + b"\n"], [b"x" * 600] * 2])
def test_a_line_past_the_limit_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(InvalidError, match="longer than 1,000 bytes"):
        read(chunks)


async def answers_to(*lines: bytes) -> list[bytes]:
    """Serve LINES to a real server; return what it sends until a ping after them is answered."""
    given = [*lines, b'{"jsonrpc":"2.0","id":"last","method":"ping"}']
    sent: list[bytes] = []
    over = anyio.Event()

    async def coming() -> AsyncIterator[bytes]:
        for line in given:
            yield line
        await over.wait()

    async def send(line: bytes) -> None:
        sent.append(line)
        if json.loads(line).get("id") == "last":
            over.set()

    with anyio.fail_after(20):
        await serve_lines(MCPServer("x"), coming(), send, Traffic())
    return sent


INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{},"clientInfo":{"name":"x","version":"1"}}}'
)


@pytest.mark.parametrize("id", [b"[]", b"{}", b'[1,"1",{}]', b"null", b"1.5", b"true"])
async def test_a_cancellation_of_no_id_costs_itself_only(id: bytes) -> None:
    odd = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}' % id
    assert json.loads((await answers_to(INITIALIZE, odd))[-1])["id"] == "last"


@pytest.mark.parametrize("half", [b"\xed\xa0\x80", b"\\ud800", b"\\udfff", b"a\xed\xb0\x80b"])
async def test_half_a_character_costs_its_message_only(half: bytes) -> None:
    id = b'{"jsonrpc":"2.0","id":"%s","method":"ping"}' % half
    name = b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"%s"}}' % half
    sent = await answers_to(INITIALIZE, id, name)
    assert json.loads(sent[-1])["id"] == "last"
    assert len(sent) == 4
