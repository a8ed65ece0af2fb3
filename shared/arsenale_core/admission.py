"""Who may hold a connection: a bounded number each of strangers and of known clients.

A connection begins as a stranger and becomes known when its client has shown who it is: a token, a
hello, an invitation. Strangers can only push out strangers. Nobody is closed for being idle while
there is room.
"""

import errno
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import anyio
from anyio.abc import SocketListener, SocketStream, TaskGroup

from arsenale_core import logs
from arsenale_core.descriptors import Room

RETRY_S = 0.2
"""How long a listener waits before it accepts again when the system has no descriptor left."""

AGAIN_S = 0.001
"""How long it waits after a connection that broke before it was accepted: little, or a stranger who
breaks many would keep the others waiting."""

SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of `accept` for want of descriptors or memory."""

BROKEN_BEFORE = frozenset(
    {errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EINTR, errno.EAGAIN, errno.ENETDOWN,
     errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENOPROTOOPT,
     errno.ETIMEDOUT}
)  # fmt: skip
"""Errors of `accept` that concern one connection: it broke, or a firewall refused it (accept(2),
"Error handling")."""


class Guest(Protocol):
    """A connection, as its listener sees it."""

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer, or is being answered."""
        ...

    def evict(self) -> None:
        """Close the connection, with a reason where its protocol has a way to give one."""
        ...


class Admission:
    """The connections of one listener."""

    def __init__(self, room: Room, log: logs.Logger) -> None:
        """Hold at most ROOM; what is closed for want of it is reported to LOG."""
        self._room = room
        self._log = log
        self._strangers: OrderedDict[Guest, None] = OrderedDict()
        self._known: OrderedDict[Guest, None] = OrderedDict()

    def arrive(self, guest: Guest) -> None:
        """Admit a stranger; the oldest one is closed where there are too many."""
        self._strangers[guest] = None
        if len(self._strangers) > self._room.strangers:
            self._log.warning(
                "the oldest connection that did not say who it is was closed",
                most=self._room.strangers,
            )
            self.drop_oldest_stranger()

    def recognise(self, guest: Guest) -> bool:
        """Note that GUEST has shown who it is; false where all that is there is busy.

        The known client that has been silent for longest, and waits for nothing, makes room.
        """
        if guest in self._known:
            self._known.move_to_end(guest)
            return True
        if len(self._known) >= self._room.known and not self._drop_idle():
            self._log.warning("a client was refused: all are busy", most=self._room.known)
            return False
        self._strangers.pop(guest, None)
        self._known[guest] = None
        return True

    def heard(self, guest: Guest) -> None:
        """Note that a known GUEST sent something: it is the last to make room."""
        if guest in self._known:
            self._known.move_to_end(guest)

    def depart(self, guest: Guest) -> None:
        """Note that GUEST has gone, or needs no place any more."""
        self._strangers.pop(guest, None)
        self._known.pop(guest, None)

    def drop_oldest_stranger(self) -> bool:
        """Close the stranger that came first; false where there is none."""
        if not self._strangers:
            return False
        guest, _ = self._strangers.popitem(last=False)
        guest.evict()
        return True

    def _drop_idle(self) -> bool:
        idle = next((guest for guest in self._known if not guest.busy), None)
        if idle is None:
            return False
        self._log.warning("the longest idle client was closed", most=self._room.known)
        del self._known[idle]
        idle.evict()
        return True


class Scoped:
    """A guest that is served within a cancel scope; to evict it is to cancel that."""

    def __init__(self, *, busy: Callable[[], bool] = lambda: False) -> None:
        """Serve a guest; BUSY says whether it waits for an answer."""
        self.scope = anyio.CancelScope()
        self.evicted = False
        self._busy = busy

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer."""
        return self._busy()

    def busy_while(self, busy: Callable[[], bool]) -> None:
        """Let BUSY say from now on whether the client waits for an answer."""
        self._busy = busy

    def evict(self) -> None:
        """End the service of this guest."""
        self.evicted = True
        self.scope.cancel()


async def accept(
    listener: SocketListener,
    handle: Callable[[SocketStream], Coroutine[Any, Any, None]],
    tasks: TaskGroup,
    admission: Admission,
    log: logs.Logger,
) -> None:
    """Accept connections until LISTENER is closed; HANDLE serves each in TASKS.

    A shortage of descriptors or memory ends nothing: the oldest stranger makes room.

    Raises:
        OSError: The listening socket itself is broken.
    """
    while True:
        try:
            stream = await _accepted(listener)
        except anyio.ClosedResourceError:
            return
        except OSError as exc:
            await endure(exc, admission, log)
        else:
            tasks.start_soon(handle, stream)


async def _accepted(listener: SocketListener) -> SocketStream:
    """Return the next connection; what anyio makes of an `OSError` comes as that again."""
    try:
        return await listener.accept()
    except anyio.BrokenResourceError as exc:
        if isinstance(exc.__cause__, OSError):
            raise exc.__cause__ from None
        raise


async def endure(exc: OSError, admission: Admission, log: logs.Logger) -> None:
    """Wait until a failed `accept` is worth another try.

    Raises:
        OSError: EXC, where it is a fault of the listening socket itself.
    """
    if exc.errno not in SHORTAGE | BROKEN_BEFORE:
        raise exc
    log.warning("a connection could not be accepted", reason=str(exc))
    if exc.errno in SHORTAGE:
        admission.drop_oldest_stranger()
    await anyio.sleep(RETRY_S if exc.errno in SHORTAGE else AGAIN_S)
