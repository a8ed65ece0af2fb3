"""The way between node and gateway: one contract over memory, unix sockets and TLS."""

import secrets
import struct
from typing import Any

import anyio
import orjson
import pytest
from tests.mesh.wires import ends, listening_unix

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_mesh import links
from arsenale_mesh.links import Link, Message, StreamLink

KINDS = pytest.mark.parametrize("kind", ["memory", "unix", "tls"])
STREAMS = pytest.mark.parametrize("kind", ["unix", "tls"])
pytestmark = pytest.mark.timeout(60)


# The contract.


@KINDS
async def test_messages_come_whole_and_in_their_order_both_ways(kind: str) -> None:
    async with ends(kind) as (node, gateway):
        sent = [
            Message(kind="a", body={"text": "grüße\u2028", "n": [1, None, 2.5, {"x": True}]}),
            Message(kind="", blobs=(b"", b"\0" * 10, b"x")),
            Message(kind="kind", body={"kind": "not this", "blobs": "nor this"}, blobs=(b"1",)),
        ]
        for one, other in ((node, gateway), (gateway, node)):
            for message in sent:
                await one.send(message)
            with anyio.fail_after(10):
                assert [await other.receive() for _ in sent] == sent


@KINDS
async def test_thousands_of_small_ones_come_all(kind: str) -> None:
    async with ends(kind) as (node, gateway):

        async def send() -> None:
            for number in range(3_000):
                await node.send(Message(kind="n", body={"n": number}))

        found = list[int]()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                found = [(await gateway.receive()).body["n"] for _ in range(3_000)]
        assert found == list(range(3_000))


@KINDS
async def test_many_that_send_at_once_do_not_mix_their_bytes(kind: str) -> None:
    async with ends(kind) as (node, gateway):

        async def send(number: int) -> None:
            await node.send(Message(kind="n", blobs=(bytes([number]) * 300_000,)))

        found = set[bytes]()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(send, number)
                found = {(await gateway.receive()).blobs[0] for _ in range(20)}
        assert found == {bytes([number]) * 300_000 for number in range(20)}


@KINDS
async def test_the_largest_blobs_come_whole(kind: str) -> None:
    half = secrets.token_bytes(1 << 20) * 24
    message = Message(kind="big", blobs=(half, b"", half))
    async with ends(kind) as (node, gateway), anyio.create_task_group() as tasks:
        tasks.start_soon(node.send, message)
        with anyio.fail_after(50):
            assert await gateway.receive() == message


@KINDS
async def test_who_waits_learns_that_the_other_end_went(kind: str) -> None:
    async with ends(kind) as (node, gateway):
        await node.send(Message(kind="last"))
        await node.aclose()
        with anyio.fail_after(10):
            assert (await gateway.receive()).kind == "last"
            with pytest.raises(UnavailableError):
                await gateway.receive()
            with pytest.raises(UnavailableError):
                for _ in range(100):  # a socket may take some before it knows
                    await gateway.send(Message(kind="x", blobs=(bytes(100_000),)))


@KINDS
async def test_closing_twice_is_closing(kind: str) -> None:
    async with ends(kind) as (node, gateway):
        await node.aclose()
        await node.aclose()
        await gateway.aclose()
        with pytest.raises(UnavailableError):
            await node.send(Message(kind="x"))


# What is no message.

HEAD = struct.Struct(">I")


def framed(head: bytes) -> bytes:
    return HEAD.pack(len(head)) + head


def said(**parts: Any) -> bytes:
    return framed(orjson.dumps({"kind": "k", "body": {}, "blobs": [], **parts}))


GARBAGE = {
    "no JSON": framed(b"hello"),
    "half a character": framed(b'{"kind":"\xff"}'),
    "a list": framed(b"[]"),
    "nested": framed(b"[" * 100_000),
    "nothing": framed(b""),
    "no kind": framed(b'{"body":{},"blobs":[]}'),
    "a body that is none": said(body=[]),
    "a head too long": HEAD.pack(links.HEAD_BYTES + 1),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "negative": said(blobs=[-1]),
    "true": said(blobs=[True]),
    "fraction": said(blobs=[1.5]),
    "too large": said(blobs=[links.BLOB_BYTES + 1]),
    "too large together": said(blobs=[links.BLOB_BYTES // 2 + 1] * 2),
    "endless": framed(b'{"kind":"k","body":{},"blobs":[1208925819614629174706176]}'),
    "too many": said(blobs=[0] * (links.MOST_BLOBS + 1)),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_what_is_no_message_is_said_to_be_none(what: str) -> None:
    async def serve(link: Link) -> None:
        with anyio.fail_after(10), pytest.raises(InvalidError):
            await link.receive()
        done.set()

    done = anyio.Event()
    async with listening_unix(serve) as gateway:
        assert gateway.path
        async with await anyio.connect_unix(gateway.path) as raw:
            await raw.send(GARBAGE[what])
            with anyio.fail_after(10):
                await done.wait()


@STREAMS
async def test_a_message_that_is_cut_off_is_an_end_and_no_message(kind: str) -> None:
    whole = links.pack(Message(kind="k", blobs=(b"x" * 100,)))
    for cut in (1, 3, 5, len(whole) - 1):
        async with ends(kind) as (node, gateway):
            assert isinstance(node, StreamLink)
            await node._stream.send(whole[:cut])  # pyright: ignore[reportPrivateUsage]
            await node.aclose()
            with anyio.fail_after(10), pytest.raises(UnavailableError):
                await gateway.receive()
