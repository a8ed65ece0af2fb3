"""Many writes, one commit: whoever waits meanwhile is in the next one (group commit).

A commit costs as much for one change as for fifty. What `do` has returned is in the database.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from arsenale_core.errors import UnavailableError
from arsenale_mesh.rows import Change
from arsenale_mesh.store import MeshStore

T = TypeVar("T")

MOST_AT_ONCE = 64
"""Changes in a commit: more would let the first of them wait for long."""

GATHER_S = 0.002
"""How long it is waited for more where many write."""


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
        self._has_ended = False

    async def do(self, work: Callable[[Change], T]) -> T:
        """Do WORK within a transaction; return what it returns when that is committed.

        WORK runs in another thread. Where it raises, what it wrote is undone and nothing else.
        It may be called twice, the first time for nothing: see `_commit`.

        Raises:
            UnavailableError: `run` has ended.
        """
        if self._has_ended:
            raise _ended()
        wish = _Wish(work)
        self._wishes.append(wish)
        self._more.set()
        await wish.done.wait()
        if wish.error is not None:
            raise wish.error
        return wish.result

    async def run(self) -> None:
        """Serve for ever. Once it has ended, who waits is told so, and who comes."""
        try:
            while True:
                await self._serve()
        finally:
            self._has_ended = True
            for wish in self._wishes:
                wish.error = _ended()
                wish.done.set()
            self._wishes.clear()

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
        if count > 1:  # who was served comes again at once: with the others, not before them
            await anyio.sleep(GATHER_S)

    def _commit(self, batch: Sequence[_Wish]) -> None:
        """Do all of BATCH in one transaction; where one of them raises, in one each.

        A savepoint for each would cost all of them; an error is rare.
        """
        begun: _Wish | None = None
        try:
            with self._store.changing() as c:
                for wish in batch:
                    begun = wish
                    wish.result = wish.work(c)
                begun = None
        except Exception as exc:  # noqa: BLE001  # told to each who waits
            if begun is None or len(batch) == 1:  # the database does not answer
                for wish in batch:
                    wish.error = exc
                return
            for wish in batch:
                self._commit([wish])


def _ended() -> UnavailableError:
    return UnavailableError("the mesh is ending", hint="call again when it is back")
