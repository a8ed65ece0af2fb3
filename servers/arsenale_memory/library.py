"""The shelves a process has open, and how they follow what other processes write."""

from collections.abc import Callable, Sequence

import numpy as np

from arsenale_core.derived import Derived
from arsenale_core.embedding.vectors import Vectors
from arsenale_core.store import Connection
from arsenale_memory import reading
from arsenale_memory.shelf import Shelf
from arsenale_memory.vectors import ExactIndex, IndexLostError, VectorIndex


def reply_space(embedder: str) -> str:
    """Return under which name the vectors of replies are kept."""
    return f"{embedder}~reply"


WORDS_KEPT, WORDS_TTL_S = 4_096, 600.0
"""So many frequencies of words are kept, for so long."""

MakeIndex = Callable[[int, int, int], VectorIndex]
"""Gives the index of a namespace: (its id, how many vectors it will have, their `dim`)."""


def exact(namespace_id: int, size: int, dim: int) -> VectorIndex:
    """Return an exact index, whatever the size."""
    del namespace_id, size
    return ExactIndex(dim)


class Library:
    """Shelves by namespace, opened when they are asked for. Not for two threads at once."""

    def __init__(
        self,
        embedder: str,
        make_index: MakeIndex = exact,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.embedder = embedder
        self.replies = reply_space(embedder)
        self._make_index = make_index
        self._shelves: dict[int, Shelf] = {}
        self._seen = 0
        self.frequencies: Derived[str, int] = Derived(WORDS_KEPT, WORDS_TTL_S, now)
        """In how many parts a word is, by its full-text query; roughly: they are kept a while."""

    def release(self) -> None:
        """Forget all: the next search reads it again."""
        self._shelves.clear()
        self._seen = 0

    def describe(self) -> str:
        """Say which namespaces are open and how they are indexed."""
        if not self._shelves:
            return "nothing open: the next search reads the store"
        kinds = [f"{len(s)} parts, {type(s.index).__name__}" for s in self._shelves.values()]
        return "; ".join(kinds)

    def shelves(self, db: Connection, namespace_ids: Sequence[int]) -> list[Shelf]:
        """Return the shelves of NAMESPACE_IDS as the store is now."""
        try:
            self._follow(db)
        except IndexLostError:
            self.release()
        return [self._shelf(db, id) for id in namespace_ids]

    def _follow(self, db: Connection) -> None:
        newest, changed = reading.changes(db, self._seen)
        if changed is None:
            self._shelves.clear()
        elif self._shelves:
            for id, shelf in self._shelves.items():
                memory_ids = [memory_id for space, memory_id in changed if space == id]
                if memory_ids:
                    self._update(db, shelf, memory_ids)
        self._seen = newest

    def _shelf(self, db: Connection, namespace_id: int) -> Shelf:
        if namespace_id not in self._shelves:
            rows = reading.shelf(db, namespace_id)
            found = reading.vectors(db, self.embedder, namespace_id)
            dim = len(found[0][1]) // 2 if found else 1
            shelf = Shelf(namespace_id, self._make_index(namespace_id, len(found), dim))
            shelf.replace(None, rows)
            _put(shelf, found)
            self._shelves[namespace_id] = shelf
        return self._shelves[namespace_id]

    def _update(self, db: Connection, shelf: Shelf, memory_ids: Sequence[int]) -> None:
        known = shelf.column("memory")
        before = shelf.column("part")[np.isin(known, np.asarray(memory_ids, np.int64))]
        rows = reading.shelf(db, shelf.namespace_id, memory_ids)
        shelf.replace(memory_ids, rows)
        gone = set(before.tolist()) - {row[0] for row in rows}
        if gone:
            shelf.index.remove(sorted(gone))
        found = reading.vectors(db, self.embedder, shelf.namespace_id, memory_ids)
        if found and len(shelf.index) == 0:
            dim = len(found[0][1]) // 2
            shelf.index = self._make_index(shelf.namespace_id, len(found), dim)
        _put(shelf, found)


def _put(shelf: Shelf, found: Sequence[tuple[int, bytes]]) -> None:
    if found:
        found = sorted(found)
        shelf.index.put([id for id, _ in found], unpacked([data for _, data in found]))


def unpacked(data: Sequence[bytes]) -> Vectors:
    """Return vectors as the store keeps them, float16, for computing: `(len(data), dim)`."""
    return np.frombuffer(b"".join(data), "<f2").reshape(len(data), -1).astype(np.float32)
