"""Nearest vectors. An index is a cache: the store has every vector."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from arsenale_core.embedding.vectors import Vectors

Ids = NDArray[np.int64]


Close = list[tuple[int, float]]
"""Ids with their cosines, the nearest first."""

QUERIES_AT_ONCE = 32
"""Queries in one product: 100,000 vectors give 13 MB of cosines."""


class IndexLostError(Exception):
    """The index cannot be used any more: read the store again and make another."""


class VectorIndex(Protocol):
    """Vectors of one namespace by part id."""

    @property
    def dim(self) -> int:
        """Return how many numbers a vector has."""
        ...

    def put(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Add or replace vectors; IDS rise."""
        ...

    def remove(self, ids: Sequence[int]) -> None:
        """Take vectors out; unknown ids are passed over."""
        ...

    def nearest(self, query: Vectors, limit: int, allowed: Ids | None) -> Ids:
        """Return the ids of the LIMIT vectors nearest to QUERY by cosine, best first.

        Args:
            query: Unit vector, shape `(dim,)`.
            limit: At most this many ids.
            allowed: When given, rising ids; no other comes back.
        """
        ...

    def close(self, queries: Vectors, least: float, most: int) -> "list[Close]":
        """Return for each of QUERIES, `(n, dim)`, the MOST ids whose cosine is LEAST or more.

        Each with its cosine, the nearest first.
        """
        ...

    def get(self, ids: Ids) -> Vectors:
        """Return the vectors of IDS, shape `(len(ids), dim)`; zeros where there is none."""
        ...

    def __len__(self) -> int:
        """Return how many vectors there are."""
        ...


class ExactIndex:
    """All vectors in one matrix: one product a question, no approximation."""

    def __init__(self, dim: int) -> None:
        self._ids = np.empty(0, np.int64)
        self._rows = np.empty((0, dim), np.float32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def dim(self) -> int:
        """Return how many numbers a vector has."""
        return self._rows.shape[1]

    @property
    def ids(self) -> Ids:
        """Return the ids, rising."""
        return self._ids[: self._n].copy()

    def put(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Add or replace vectors; IDS rise."""
        given = np.asarray(ids, np.int64)
        at = np.searchsorted(self._ids[: self._n], given)
        known = at < self._n
        known[known] = self._ids[at[known]] == given[known]
        self._rows[at[known]] = vectors[known]
        fresh = ~known
        if fresh.any():
            self._append(given[fresh], vectors[fresh])

    def remove(self, ids: Sequence[int]) -> None:
        """Take vectors out; unknown ids are passed over."""
        keep = ~np.isin(self._ids[: self._n], np.asarray(ids, np.int64))
        self._ids = self._ids[: self._n][keep]
        self._rows = self._rows[: self._n][keep]
        self._n = len(self._ids)

    def nearest(self, query: Vectors, limit: int, allowed: Ids | None) -> Ids:
        """Return the ids of the LIMIT vectors nearest to QUERY by cosine, best first."""
        ids, rows = self._ids[: self._n], self._rows[: self._n]
        if allowed is not None:
            at, _ = self._find(allowed)
            ids = ids[at]
            # A product over all is faster than a copy of more than a small share of the rows.
            scores = rows[at] @ query if len(at) < self._n // 8 else (rows @ query)[at]
        else:
            scores = rows @ query
        if len(ids) > limit:
            best = np.argpartition(-scores, limit)[:limit]
            ids, scores = ids[best], scores[best]
        return ids[np.argsort(-scores, kind="stable")]

    def close(self, queries: Vectors, least: float, most: int) -> "list[Close]":
        """Return for each of QUERIES the MOST ids whose cosine is LEAST or more, nearest first."""
        ids, rows = self._ids[: self._n], self._rows[: self._n]
        found: list[Close] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            for scores in queries[start : start + QUERIES_AT_ONCE] @ rows.T:
                near = np.flatnonzero(scores >= least)
                best = near[np.argsort(-scores[near], kind="stable")[:most]]
                found.append([(int(ids[i]), float(scores[i])) for i in best])
        return found

    def get(self, ids: Ids) -> Vectors:
        """Return the vectors of IDS, shape `(len(ids), dim)`; zeros where there is none."""
        out = np.zeros((len(ids), self._rows.shape[1]), np.float32)
        at, known = self._find(ids)
        out[known] = self._rows[at]
        return out

    def _find(self, ids: Ids) -> tuple[Ids, NDArray[np.bool_]]:
        """Return where the known ones of IDS stand, and which of IDS are known."""
        at = np.searchsorted(self._ids[: self._n], ids)
        known = at < self._n
        known[known] = self._ids[at[known]] == ids[known]
        return at[known], known

    def _append(self, ids: Ids, vectors: Vectors) -> None:
        if self._n and ids[0] < self._ids[self._n - 1]:  # a vector that came late: sort it in
            merged = np.concatenate([self._ids[: self._n], ids])
            order = np.argsort(merged, kind="stable")
            self._rows = np.concatenate([self._rows[: self._n], vectors])[order]
            self._ids, self._n = merged[order], len(merged)
            return
        wanted = self._n + len(ids)
        if wanted > len(self._ids):
            room = max(wanted, min(2 * self._n, self._n + 16_384), 256)
            self._ids = np.concatenate([self._ids[: self._n], np.empty(room - self._n, np.int64)])
            grown = np.empty((room, self._rows.shape[1]), np.float32)
            grown[: self._n] = self._rows[: self._n]
            self._rows = grown
        self._ids[self._n : wanted] = ids
        self._rows[self._n : wanted] = vectors
        self._n = wanted
