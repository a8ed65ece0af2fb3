"""From a question to memories in order: candidates of both indexes, features, weighted sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arsenale_core.embedding.vectors import Vectors
from arsenale_core.store import Connection
from arsenale_memory import ranking, reading, tables, words
from arsenale_memory.library import Library
from arsenale_memory.ranking import Candidates
from arsenale_memory.record import Filter, Mode
from arsenale_memory.shelf import Mask, Shelf
from arsenale_memory.vectors import Ids

BY_KEYWORD, BY_VECTOR, BY_FOCUS = 120, 80, 40
"""How many candidates each index gives: 95 of 100 right answers are among them."""

SCORED = 800
"""So many keyword scores are asked for: a candidate of the vectors has its words counted too."""

FEW = 5_000
"""So many rows or fewer are given to the full-text index one by one when a filter leaves them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """What is looked for.

    Attributes:
        vector: Unit vector of the text; `None` where there is no embedder now.
        focus: Unit vector of `words.focus` of the text.
    """

    text: str
    vector: Vectors | None
    focus: Vectors | None
    wanted: Filter
    mode: Mode
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A memory that a question found, by its best part.

    Attributes:
        memory_id: The row of its version.
        start: Where in its text the part begins.
        score: Order among the hits of one question; says nothing across questions.
        relevance: 0..1, how far it answers by itself.
        features: What the score is the weighted sum of, by name.
    """

    memory_id: int
    start: int
    body: str
    score: float
    relevance: float
    features: Mapping[str, float]


@dataclass(slots=True, eq=False)
class _Found:
    """The candidates of one shelf."""

    shelf: Shelf
    parts: Ids
    keyword: Mapping[int, float]


def search(
    db: Connection,
    library: Library,
    question: Question,
    weights: ranking.Column | None = None,
) -> list[Hit]:
    """Return the best memories for QUESTION, best first; other processes' writes are seen."""
    names = question.wanted.namespaces
    ids = [id for _, id in sorted(reading.namespace_ids(db, names).items())]
    found = [_candidates(db, shelf, question) for shelf in library.shelves(db, ids)]
    found = [each for each in found if len(each.parts)]
    if not found:
        return []
    texts = reading.texts(db, [int(id) for each in found for id in each.parts])
    known = _gathered(found, texts, question)
    return _ranked(found, texts, known, question, weights)


def features_of(
    db: Connection, library: Library, question: Question
) -> tuple[list[int], ranking.Column]:
    """Return the candidates' memory ids and features: what the weights are fitted on."""
    ids = list(reading.namespace_ids(db, question.wanted.namespaces).values())
    found = [_candidates(db, shelf, question) for shelf in library.shelves(db, ids)]
    texts = reading.texts(db, [int(id) for each in found for id in each.parts])
    known = _gathered(found, texts, question)
    assert question.vector is not None and question.focus is not None
    table = ranking.features(question.text, question.vector, question.focus, known)
    return [texts[int(id)].memory_id for each in found for id in each.parts], table


def _candidates(db: Connection, shelf: Shelf, question: Question) -> _Found:
    wanted = question.wanted
    labelled = wanted.tags or wanted.domains or wanted.entities or wanted.kinds or wanted.owner
    memory_ids = reading.matching_ids(db, wanted) if labelled else None
    mask = shelf.mask(wanted, memory_ids)
    parts = shelf.column("part")
    if not mask.any():
        return _Found(shelf, parts[:0], {})
    keyword = {} if question.mode == "semantic" else _by_keyword(db, shelf, question, mask)
    chosen = set(list(keyword)[:BY_KEYWORD])
    if question.vector is not None and question.mode != "keyword":
        allowed = None if mask.all() else parts[mask]
        chosen |= set(shelf.index.nearest(question.vector, BY_VECTOR, allowed).tolist())
        if question.focus is not None and question.mode == "hybrid":
            chosen |= set(shelf.index.nearest(question.focus, BY_FOCUS, allowed).tolist())
    ids = np.array(sorted(chosen), np.int64)
    rows = shelf.rows_of(ids)
    return _Found(shelf, ids[(rows >= 0) & mask[rows]], keyword)


def _by_keyword(db: Connection, shelf: Shelf, question: Question, mask: Mask) -> dict[int, float]:
    spaces = [tables.current(shelf.namespace_id)]
    if question.wanted.as_of_us is not None:
        spaces.append(tables.past(shelf.namespace_id))
    asked = words.full_text(words.terms(question.text), spaces)
    if asked is None:
        return {}
    few = int(mask.sum()) <= min(FEW, len(mask) // 2)
    only: list[int] = shelf.column("part")[mask].tolist() if few else []
    query = asked.of(db.dialect.name)
    return dict(reading.keyword(db, query, ranking.COLUMN_WEIGHTS, SCORED, only))


def _gathered(
    found: Sequence[_Found], texts: Mapping[int, reading.PartText], question: Question
) -> Candidates:
    """Put the candidates of all shelves into one table."""
    ids = [int(id) for each in found for id in each.parts]
    place = {id: i for i, id in enumerate(ids)}
    own: list[Vectors] = []
    around: list[tuple[Ids, Ids]] = []
    beside: list[tuple[Vectors, Vectors]] = []
    sessions: list[Ids] = []
    about: list[Mask] = []
    names = _named(found, question.text)
    for number, each in enumerate(found):
        shelf, rows = each.shelf, each.shelf.rows_of(each.parts)
        before, after = (_part_ids(shelf, side[rows]) for side in shelf.neighbours())
        own.append(shelf.index.get(each.parts))
        beside.append((shelf.index.get(before), shelf.index.get(after)))
        around.append((before, after))
        session = shelf.column("session")[rows].astype(np.int64)
        sessions.append(np.where(session < 0, -1, session * len(found) + number))
        codes = [i for i, subject in enumerate(shelf.subjects) if subject in names]
        about.append(np.isin(shelf.column("subject")[rows], codes))
    dim = max(vectors.shape[1] for vectors in own)
    side = [np.concatenate([pair[i] for pair in around]) for i in (0, 1)]
    return Candidates(
        keyword=np.array([each.keyword.get(int(id), 0.0) for each in found for id in each.parts]),
        vectors=_stacked(own, dim),
        vectors_before=_stacked([pair[0] for pair in beside], dim),
        vectors_after=_stacked([pair[1] for pair in beside], dim),
        before=np.array([place.get(int(id), -1) for id in side[0]], np.int64),
        after=np.array([place.get(int(id), -1) for id in side[1]], np.int64),
        session=np.concatenate(sessions),
        about=np.concatenate(about),
        texts=[texts[id].body for id in ids],
    )


def _stacked(parts: Sequence[Vectors], dim: int) -> Vectors:
    """Return PARTS below one another; a namespace without vectors gives zeros."""
    return np.concatenate(
        [p if p.shape[1] == dim else np.zeros((len(p), dim), np.float32) for p in parts]
    )


def _named(found: Sequence[_Found], question: str) -> set[str]:
    """Return the one subject that the question names; nothing when it names several."""
    names = {n for each in found for n in words.named(question, each.shelf.subjects)}
    return names if len({name.lower() for name in names}) == 1 else set()


def _part_ids(shelf: Shelf, rows: Ids) -> Ids:
    return np.where(rows >= 0, shelf.column("part")[rows], -1)


def _ranked(
    found: Sequence[_Found],
    texts: Mapping[int, reading.PartText],
    known: Candidates,
    question: Question,
    weights: ranking.Column | None,
) -> list[Hit]:
    dim = known.vectors.shape[1]
    query = question.vector if _fits(question.vector, dim) else np.zeros(dim, np.float32)
    focus = question.focus if _fits(question.focus, dim) else query
    assert query is not None and focus is not None
    table = ranking.features(question.text, query, focus, known)
    if weights is None:
        weights = _weights(question, known)
    scores = table @ weights
    ids = [int(id) for each in found for id in each.parts]
    best: dict[int, int] = {}  # the best part of each memory
    for i in np.argsort(-scores, kind="stable").tolist():
        best.setdefault(texts[ids[i]].memory_id, i)
        if len(best) == question.limit:
            break
    chosen = list(best.values())
    bodies = [known.texts[i] for i in chosen]
    relevance = ranking.relevance(question.text, query, known.vectors[chosen], bodies)
    return [
        Hit(
            memory_id=memory_id,
            start=texts[ids[i]].start,
            body=texts[ids[i]].body,
            score=float(scores[i]),
            relevance=float(how_far),
            features=dict(zip(ranking.FEATURES, map(float, table[i]), strict=True)),
        )
        for (memory_id, i), how_far in zip(best.items(), relevance, strict=True)
    ]


def _fits(vector: Vectors | None, dim: int) -> bool:
    return vector is not None and len(vector) == dim


def _weights(question: Question, known: Candidates) -> ranking.Column:
    if question.mode == "keyword":
        return ranking.only("keywords")
    if question.mode == "semantic":
        return ranking.only("vector")
    connected = bool((known.session >= 0).any())
    return ranking.weights("conversation" if connected else "notes")
