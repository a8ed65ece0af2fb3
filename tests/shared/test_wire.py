from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError
from arsenale_core.wire import read_lines


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
