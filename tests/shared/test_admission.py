"""Who keeps a connection when there are too many, and what a listener survives."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
import pytest
from anyio.abc import SocketListener, SocketStream, TaskGroup

from arsenale_core import logs
from arsenale_core.admission import BROKEN_BEFORE, SHORTAGE, Admission, Scoped, accept
from arsenale_core.descriptors import Room, raise_limit, room

LOG = logs.get("test.admission")


@dataclass(eq=False)
class Visitor:
    busy: bool = False
    is_gone: bool = False

    def evict(self) -> None:
        self.is_gone = True


def test_the_oldest_stranger_makes_room_and_no_client_does() -> None:
    admission = Admission(Room(strangers=3, known=3), LOG)
    client = Visitor()
    admission.arrive(client)
    assert admission.recognise(client)
    strangers = [Visitor() for _ in range(50)]
    for one in strangers:
        admission.arrive(one)
    assert [one.is_gone for one in strangers] == [True] * 47 + [False] * 3
    assert not client.is_gone


def test_the_longest_idle_client_makes_room_and_none_that_waits_for_an_answer() -> None:
    admission = Admission(Room(strangers=3, known=3), LOG)
    first, busy, third, fourth, fifth = (Visitor(busy=number == 1) for number in range(5))
    for one in (first, busy, third):
        admission.arrive(one)
        assert admission.recognise(one)
    admission.heard(first)
    admission.arrive(fourth)
    assert admission.recognise(fourth)
    assert (first.is_gone, busy.is_gone, third.is_gone) == (False, False, True)
    admission.arrive(fifth)
    assert admission.recognise(fifth)
    assert (first.is_gone, busy.is_gone) == (True, False)


def test_a_client_is_refused_only_where_all_others_are_busy() -> None:
    admission = Admission(Room(strangers=3, known=2), LOG)
    busy = [Visitor(busy=True) for _ in range(2)]
    for one in busy:
        admission.arrive(one)
        assert admission.recognise(one)
        assert admission.recognise(one), "once more is no other place"
    late = Visitor()
    admission.arrive(late)
    assert not admission.recognise(late)
    admission.depart(busy[0])
    assert admission.recognise(late)
    assert not any(one.is_gone for one in (*busy, late))


def test_the_room_leaves_descriptors_for_everything_else() -> None:
    assert raise_limit() >= 256
    here = room()
    assert here.strangers >= 8
    assert here.known >= 16


class Faulty(SocketListener):
    """A real listener of the system, whose first calls of `accept` fail as the kernel's would."""

    def __init__(self, listener: SocketListener, faults: list[BaseException]) -> None:
        self._listener, self._faults = listener, faults

    @property
    def _raw_socket(self) -> Any:
        return self._listener._raw_socket  # pyright: ignore[reportPrivateUsage]

    async def accept(self) -> SocketStream:
        if self._faults:
            raise self._faults.pop()
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


def as_anyio_does(number: int) -> anyio.BrokenResourceError:
    """Return what a unix listener of anyio 4 raises where `accept` fails with NUMBER."""
    broken = anyio.BrokenResourceError()
    broken.__cause__ = OSError(number, os.strerror(number))
    return broken


@pytest.mark.parametrize("number", sorted(SHORTAGE | BROKEN_BEFORE), ids=errno.errorcode.get)
async def test_a_listener_outlives_what_is_no_fault_of_its_own(tmp_path: Path, number: int) -> None:
    path = f"{tmp_path}/s"
    faults: list[BaseException] = [OSError(number, os.strerror(number)), as_anyio_does(number)]
    admission = Admission(Room(strangers=8, known=8), LOG)
    stranger = Scoped()
    admission.arrive(stranger)

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"here")

    listener = Faulty(await anyio.create_unix_listener(path), list(faults))
    async with anyio.create_task_group() as tasks, listener:
        tasks.start_soon(accept, listener, answer, tasks, admission, LOG)
        with anyio.fail_after(10):
            async with await anyio.connect_unix(path) as client:
                assert await client.receive() == b"here"
    assert stranger.evicted == (number in SHORTAGE)


async def test_a_listener_that_is_itself_broken_says_so(tmp_path: Path) -> None:
    faults: list[BaseException] = [as_anyio_does(errno.EBADF)]
    admission = Admission(Room(strangers=8, known=8), LOG)

    async def nobody(stream: SocketStream) -> None:
        raise AssertionError

    async def run(tasks: TaskGroup) -> None:
        async with Faulty(await anyio.create_unix_listener(f"{tmp_path}/s"), faults) as listener:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await accept(listener, nobody, tasks, admission, LOG)

    async with anyio.create_task_group() as tasks:
        await run(tasks)
