"""How much inputs, outputs and modules may take in the database, and what goes when it is more."""

from collections.abc import Callable
from typing import Final

from arsenale_core.errors import UnavailableError
from arsenale_core.store import Sql
from arsenale_mesh.pruning import prune
from arsenale_mesh.store import MeshStore

LOOK_US: Final = 10_000_000
"""How long a look at the size is taken for true."""

KEPT_S: Final = (86_400.0, 3_600.0, 300.0)
"""Tasks that were over for so long go, one span after the other, until there is room."""

_SIZE = Sql("SELECT coalesce(sum(size), 0) FROM blob")


class Room:
    """Keeps the bytes of STORE below MOST_BYTES. TICKS_US is a clock that does not go back."""

    def __init__(self, store: MeshStore, most_bytes: int, ticks_us: Callable[[], int]) -> None:
        self._store = store
        self._most = most_bytes
        self._ticks_us = ticks_us
        self._looked_us: int | None = None
        self._size = 0

    def make(self) -> None:
        """See that there is room for a task more; what was over for longest goes for it.

        Raises:
            UnavailableError: There is none, though all that may go has gone.
        """
        now = self._ticks_us()
        if self._looked_us is None or now - self._looked_us > LOOK_US:
            self._looked_us = now
            self._size = self._now()
            for kept_s in KEPT_S:
                if self._size > self._most:
                    prune(self._store, int((self._store.now() - kept_s) * 1e6))
                    self._size = self._now()
        if self._size > self._most:
            raise UnavailableError(
                f"inputs and outputs take {self._size >> 20:,} MiB, more than mesh_store_mb",
                hint="wait until tasks are over for five minutes, or raise the setting",
            )

    def _now(self) -> int:
        with self._store.reading() as db:
            return int(_SIZE.value(db))
