"""Many writes, one commit: whoever waits meanwhile is in the next one (group commit).

A commit costs as much for one change as for fifty. What `do` has returned is in the database.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from arsenale_core.errors import ArsenaleError, UnavailableError
from arsenale_core.store import Sql
from arsenale_mesh.rows import Change
from arsenale_mesh.store import MeshStore

T = TypeVar("T")

MOST_AT_ONCE = 64
"""Changes in a commit: more would let the first of them wait for long."""

_BEGIN, _KEEP, _UNDO = Sql("SAVEPOINT one"), Sql("RELEASE one"), Sql("ROLLBACK TO one")


@dataclass(slots=True, eq=False)
class _Wish:
    work: Callable[[Change], Any]
    done: anyio.Event = field(default_factory=anyio.Event)
    result: Any = None
    error: BaseException | None = None


class Committer:
    """Writes to STORE for everybody in this process; `run` has to run."""

    def __init__(self, store: MeshStore) -> None:
        self._store = store
        self._wishes: deque[_Wish] = deque()
        self._more = anyio.Event()
        self._ended = False

    async def do(self, work: Callable[[Change], T]) -> T:
        """Do WORK within a transaction; return what it returns when that is committed.

        WORK runs in another thread. Where it raises, what it wrote is undone and nothing else.

        Raises:
            UnavailableError: `run` has ended, and nothing was written.
        """
        if self._ended:
            raise _ended()
        wish = _Wish(work)
        self._wishes.append(wish)
        self._more.set()
        await wish.done.wait()
        if wish.error is not None:
            raise wish.error
        return wish.result

    async def run(self) -> None:
        """Serve for ever. Who still waits when this is cancelled is told so, and waits no more."""
        try:
            while True:
                await self._serve()
        finally:
            self._ended = True
            for wish in self._wishes:
                wish.error = _ended()
                wish.done.set()

    async def _serve(self) -> None:
        if not self._wishes:
            self._more = anyio.Event()
            await self._more.wait()
        count = min(len(self._wishes), MOST_AT_ONCE)
        batch = [self._wishes.popleft() for _ in range(count)]
        try:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._commit, batch)
        finally:
            for wish in batch:
                wish.done.set()

    def _commit(self, batch: list[_Wish]) -> None:
        try:
            with self._store.changing() as c:
                for wish in batch:
                    _try(c, wish)
        except Exception as exc:  # noqa: BLE001  # told to each who waits
            for wish in batch:
                wish.error = exc


def _ended() -> UnavailableError:
    return UnavailableError("the mesh is ending", hint="call again when it is back")


def _try(c: Change, wish: _Wish) -> None:
    _BEGIN.run(c.db)
    try:
        wish.result = wish.work(c)
    except ArsenaleError as exc:
        _UNDO.run(c.db)
        wish.error = exc
    _KEEP.run(c.db)
