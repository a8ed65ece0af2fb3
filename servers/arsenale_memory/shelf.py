"""What a process knows of one namespace between searches: columns of numbers, and its vectors.

It is a cache that follows the store: nothing is lost with it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arsenale_memory.record import Filter
from arsenale_memory.vectors import Ids, VectorIndex

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEVER = np.iinfo(np.int64).max
"""A moment that does not come: the end of what has not ended."""

_DTYPE = np.dtype(
    [
        ("part", "i8"), ("memory", "i8"), ("session", "i4"), ("subject", "i4"),
        ("importance", "f4"), ("written", "i8"), ("ended", "i8"), ("from", "i8"), ("to", "i8"),
        ("recalled", "?"),
    ]
)  # fmt: skip


class Shelf:
    """The parts of one namespace by rising id, and the index of their vectors."""

    def __init__(self, namespace_id: int, index: VectorIndex) -> None:
        self.namespace_id = namespace_id
        self.index = index
        self._rows = np.empty(0, _DTYPE)
        self._sessions: dict[str, int] = {}
        self._subjects: dict[str, int] = {}
        self._prev: Rows | None = None
        self._next: Rows | None = None
        self._places: Rows | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def subjects(self) -> Sequence[str]:
        """Return every subject that has a memory here, in the order of their codes."""
        return list(self._subjects)

    def column(self, name: str) -> NDArray[Any]:
        """Return one column of all rows."""
        return self._rows[name]

    def replace(self, memory_ids: Sequence[int] | None, found: Sequence[Any]) -> None:
        """Take FOUND (`reading.SHELF_COLUMNS`) as all there is, or all of MEMORY_IDS."""
        fresh = self._coded(found)
        if memory_ids is None:
            self._rows = fresh
        else:
            kept = self._rows[~np.isin(self._rows["memory"], np.asarray(memory_ids, np.int64))]
            rising = not len(kept) or not len(fresh) or fresh["part"][0] > kept["part"][-1]
            merged = np.concatenate([kept, fresh])
            self._rows = merged if rising else merged[np.argsort(merged["part"])]
        self._prev = self._next = self._places = None

    def rows_of(self, part_ids: Ids) -> Rows:
        """Return the rows of PART_IDS; of an unknown one -1."""
        at = np.searchsorted(self._rows["part"], part_ids)
        known = at < len(self._rows)
        known[known] = self._rows["part"][at[known]] == part_ids[known]
        return np.where(known, at, -1)

    def neighbours(self) -> tuple[Rows, Rows]:
        """Return for each row the rows before and after it in its session; -1 for none."""
        if self._prev is None or self._next is None:
            session = self._rows["session"]
            order = np.argsort(session, kind="stable")
            same = (session[order][1:] == session[order][:-1]) & (session[order][1:] >= 0)
            self._prev, self._next = np.full((2, len(session)), -1, np.int64)
            self._prev[order[1:][same]] = order[:-1][same]
            self._next[order[:-1][same]] = order[1:][same]
        return self._prev, self._next

    def places(self) -> Rows:
        """Return which turn of its session each row is, from 0; 0 where there is no session."""
        if self._places is None:
            session = self._rows["session"]
            order = np.argsort(session, kind="stable")
            ordered = session[order]
            first = np.r_[True, ordered[1:] != ordered[:-1]] if len(ordered) else np.empty(0, bool)
            starts = np.flatnonzero(first)
            place = np.arange(len(ordered)) - np.repeat(
                starts, np.diff(np.r_[starts, len(ordered)])
            )
            self._places = np.zeros(len(session), np.int64)
            self._places[order] = np.where(ordered >= 0, place, 0)
        return self._places

    def mask(self, wanted: Filter, memory_ids: Sequence[int] | None) -> Mask:
        """Return which rows fit WANTED; MEMORY_IDS are those that its labels allow, rising."""
        rows = self._rows
        if wanted.as_of_us is None:
            fits = rows["ended"] == NEVER
        else:
            at = wanted.as_of_us
            fits = (rows["written"] <= at) & (rows["ended"] > at)
            fits &= (rows["from"] <= at) & (rows["to"] > at)
        if not wanted.include_recalled:
            fits &= ~rows["recalled"]
        if wanted.since_us is not None:
            fits &= rows["from"] >= wanted.since_us
        if wanted.until_us is not None:
            fits &= rows["from"] < wanted.until_us
        if wanted.min_importance:
            fits &= rows["importance"] >= wanted.min_importance
        if wanted.session is not None:
            fits &= rows["session"] == self._sessions.get(wanted.session, -2)
        if memory_ids is not None:
            fits &= np.isin(rows["memory"], np.asarray(memory_ids, np.int64))
        return fits

    def _coded(self, found: Sequence[Any]) -> NDArray[Any]:
        out = np.empty(len(found), _DTYPE)
        for i, row in enumerate(found):
            (part, memory, _n, _size, session, subject, importance, written, ended, begun, to,
             recalled) = row  # fmt: skip
            out[i] = (
                part, memory, _code(self._sessions, session), _code(self._subjects, subject),
                importance, written, NEVER if ended is None else ended, begun,
                NEVER if to is None else to, bool(recalled),
            )  # fmt: skip
        return out


def _code(codes: dict[str, int], name: str | None) -> int:
    return -1 if name is None else codes.setdefault(name, len(codes))
