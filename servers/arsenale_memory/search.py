"""From a question to memories in order: candidates of both indexes, features, weighted sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arsenale_core.embedding.vectors import Vectors
from arsenale_core.store import Connection
from arsenale_memory import ranking, reading, tables, words
from arsenale_memory.asking import Asked
from arsenale_memory.library import Library, unpacked
from arsenale_memory.ranking import Candidates
from arsenale_memory.record import Filter, Mode
from arsenale_memory.shelf import Mask, Shelf
from arsenale_memory.vectors import Ids

BY_KEYWORD, BY_VECTOR, BY_YOU = 120, 80, 40
"""How many candidates each index gives: 95 of 100 right answers are among them."""

SCORED = 800
"""So many keyword scores are asked for: a candidate of the vectors has its words counted too."""

MOST_READ = 6_000
"""So many entries of the full-text index are scored for a question: words that are in more parts
are not looked for when there are rarer ones. It bounds the time in a large store."""

FEW = 5_000
"""So many rows or fewer are given to the full-text index one by one when a filter leaves them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """What is looked for.

    Attributes:
        vector: Unit vector of the text; `None` where there is no embedder now.
        you: Unit vector of the text in the second person.
    """

    asked: Asked
    vector: Vectors | None
    you: Vectors | None
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
    found = [_candidates(db, library, shelf, question) for shelf in library.shelves(db, ids)]
    found = [each for each in found if len(each.parts)]
    if not found:
        return []
    texts = reading.texts(db, [int(id) for each in found for id in each.parts])
    known = _gathered(db, library, found, texts, question)
    return _ranked(found, texts, known, question, weights)


def features_of(
    db: Connection, library: Library, question: Question
) -> tuple[list[int], ranking.Column]:
    """Return the candidates' memory ids and features: what the weights are fitted on."""
    ids = list(reading.namespace_ids(db, question.wanted.namespaces).values())
    found = [_candidates(db, library, shelf, question) for shelf in library.shelves(db, ids)]
    texts = reading.texts(db, [int(id) for each in found for id in each.parts])
    known = _gathered(db, library, found, texts, question)
    assert question.vector is not None and question.you is not None
    table = ranking.features(question.asked, question.vector, question.you, known)
    return [texts[int(id)].memory_id for each in found for id in each.parts], table


def _candidates(db: Connection, library: Library, shelf: Shelf, question: Question) -> _Found:
    wanted = question.wanted
    labelled = wanted.tags or wanted.domains or wanted.entities or wanted.kinds or wanted.owner
    memory_ids = reading.matching_ids(db, wanted) if labelled else None
    mask = shelf.mask(wanted, memory_ids)
    parts = shelf.column("part")
    if not mask.any():
        return _Found(shelf, parts[:0], {})
    keyword = {} if question.mode == "semantic" else _by_keyword(db, library, shelf, question, mask)
    chosen = set(list(keyword)[:BY_KEYWORD])
    if question.vector is not None and question.mode != "keyword":
        allowed = None if mask.all() else parts[mask]
        chosen |= set(shelf.index.nearest(question.vector, BY_VECTOR, allowed).tolist())
        if question.you is not None and question.mode == "hybrid":
            chosen |= set(shelf.index.nearest(question.you, BY_YOU, allowed).tolist())
    ids = np.array(sorted(chosen), np.int64)
    rows = shelf.rows_of(ids)
    return _Found(shelf, ids[(rows >= 0) & mask[rows]], keyword)


def _by_keyword(
    db: Connection, library: Library, shelf: Shelf, question: Question, mask: Mask
) -> dict[int, float]:
    spaces = [tables.current(shelf.namespace_id)]
    if question.wanted.as_of_us is not None:
        spaces.append(tables.past(shelf.namespace_id))
    few = int(mask.sum()) <= min(FEW, len(mask) // 2)
    terms = words.terms(question.asked.text)
    if not few and len(mask) > MOST_READ:
        terms = _affordable(db, library, terms, spaces)
    asked = words.full_text(terms, spaces)
    if asked is None:
        return {}
    only: list[int] = shelf.column("part")[mask].tolist() if few else []
    query = asked.of(db.dialect.name)
    return dict(reading.keyword(db, query, ranking.COLUMN_WEIGHTS, SCORED, only))


def _affordable(
    db: Connection, library: Library, terms: Sequence[str], spaces: Sequence[str]
) -> list[str]:
    """Return those of TERMS, the rarest first, that together are in at most MOST_READ parts.

    The rarest one is always among them. A word that is left out is counted all the same where the
    candidates are scored: it is only not looked for.
    """
    counts = {term: _frequency(db, library, term, spaces) for term in terms}
    kept: list[str] = []
    total = 0
    for term in sorted(counts, key=lambda each: counts[each]):
        total += counts[term]
        if total > MOST_READ and any(counts[each] for each in kept):
            break
        kept.append(term)
    return kept


def _frequency(db: Connection, library: Library, term: str, spaces: Sequence[str]) -> int:
    query = words.full_text([term], spaces)
    assert query is not None
    text = query.of(db.dialect.name)
    known = library.frequencies.get(text)
    if known is None:
        known = reading.frequency(db, text, MOST_READ)
        library.frequencies.put(text, known)
    return known


def _gathered(
    db: Connection,
    library: Library,
    found: Sequence[_Found],
    texts: Mapping[int, reading.PartText],
    question: Question,
) -> Candidates:
    """Put the candidates of all shelves into one table."""
    ids = [int(id) for each in found for id in each.parts]
    place = {id: i for i, id in enumerate(ids)}
    own: list[Vectors] = []
    around: list[tuple[Ids, Ids]] = []
    beside: list[tuple[Vectors, Vectors]] = []
    sessions: list[Ids] = []
    about: list[Mask] = []
    places: list[Ids] = []
    months: list[Ids] = []
    names = _named(found, question.asked.text)
    for number, each in enumerate(found):
        shelf, rows = each.shelf, each.shelf.rows_of(each.parts)
        before, after = (_part_ids(shelf, side[rows]) for side in shelf.neighbours())
        own.append(shelf.index.get(each.parts))
        beside.append((shelf.index.get(before), shelf.index.get(after)))
        around.append((before, after))
        session = shelf.column("session")[rows].astype(np.int64)
        sessions.append(np.where(session < 0, -1, session * len(found) + number))
        places.append(shelf.places()[rows])
        months.append(_months(shelf.column("from")[rows]))
        codes = [i for i, subject in enumerate(shelf.subjects) if subject in names]
        about.append(np.isin(shelf.column("subject")[rows], codes))
    dim = max(vectors.shape[1] for vectors in own)
    side = [np.concatenate([pair[i] for pair in around]) for i in (0, 1)]
    vectors = _stacked(own, dim)
    return Candidates(
        keyword=np.array([each.keyword.get(int(id), 0.0) for each in found for id in each.parts]),
        vectors=vectors,
        vectors_before=_stacked([pair[0] for pair in beside], dim),
        vectors_after=_stacked([pair[1] for pair in beside], dim),
        replies=_replies(db, library, ids, vectors),
        before=np.array([place.get(int(id), -1) for id in side[0]], np.int64),
        after=np.array([place.get(int(id), -1) for id in side[1]], np.int64),
        session=np.concatenate(sessions),
        place=np.concatenate(places),
        about=np.concatenate(about),
        texts=[texts[id].body for id in ids],
        windows=_windows(db, texts, ids, *side),
        months=np.concatenate(months),
    )


def _windows(
    db: Connection,
    texts: Mapping[int, reading.PartText],
    ids: Sequence[int],
    before: Ids,
    after: Ids,
) -> list[str]:
    """Return the words of each part with those of two before and two after it."""
    beside = sorted({int(id) for id in (*before, *after) if id >= 0} - set(texts))
    known = {**texts, **reading.texts(db, beside)}
    none = reading.PartText(0, 0, "", "", "", "")
    return [
        "\n".join(
            (
                known.get(int(earlier), none).prev, texts[id].prev, texts[id].body,
                texts[id].next, known.get(int(later), none).next,
            )
        )
        for id, earlier, later in zip(ids, before, after, strict=True)
    ]  # fmt: skip


def _months(at_us: Ids) -> Ids:
    """Return the months of moments, counted from 1970-01."""
    return at_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


def _replies(db: Connection, library: Library, ids: Sequence[int], own: Vectors) -> Vectors:
    """Return the vectors of parts as replies; their OWN where there is none (yet)."""
    kept = reading.vectors_of(db, library.replies, ids)
    known = [i for i, id in enumerate(ids) if len(kept.get(id, b"")) == 2 * own.shape[1]]
    if not known:
        return own
    out = own.copy()
    out[known] = unpacked([kept[ids[i]] for i in known])
    return out


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
    you = question.you if _fits(question.you, dim) else query
    assert query is not None and you is not None
    table = ranking.features(question.asked, query, you, known)
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
    relevance = ranking.relevance(question.asked.text, query, known.vectors[chosen], bodies)
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
