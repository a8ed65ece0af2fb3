"""How memories are put in order: a weighted sum of a few features, each between 0 and 1. Pure.

A feature of strength (keywords, vector, ...) is divided by its best value among the candidates of a
question. That beats reciprocal rank fusion, which gives a weak leg as much say as a strong one
(docs/decisions/0004-ranking.md has the figures). The weights are fitted by
`benchmarks/fit_ranking.py`; where a feature is absent, as the session of memories that have none,
it is 0 for all candidates and changes nothing.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arsenale_core.embedding.vectors import Vectors
from arsenale_memory import words
from arsenale_memory.asking import Asked

Column = NDArray[np.float64]
Rows = NDArray[np.int64]

FEATURES = (
    "keywords", "coverage", "vector", "reply", "session", "neighbours", "subject", "question",
    "opening", "date", "name", "number", "month", "subject x reply", "many x session",
    "when x session",
)  # fmt: skip
"""Names of the features, in the order of their columns and weights."""

COLUMN_WEIGHTS = (0.0, 1.0, 1.0, 1.0, 0.6, 0.4)
"""What a word counts in each column of the full-text index (`tables.COLUMNS`), for BM25."""

BEST_OF_SESSION = 3
"""A session is as strong as the mean of so many of its best candidates."""

_VECTOR_SHARE = 0.5
"""What the vector counts beside the keywords where sessions and neighbours are judged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """What is known of the candidates of one question; `n` of them.

    Attributes:
        keyword: BM25, or 0 where no word fits; shape `(n,)`.
        vectors: Of themselves, of the part before and of the part after; zeros where there is
            none; each of shape `(n, dim)`.
        replies: Of each as a reply (`asking.as_reply`); of itself where it replies to nothing.
        before: Which candidate comes before each in its session, or -1; shape `(n,)`.
        after: Which candidate comes after each.
        session: A number for each session, -1 for none; shape `(n,)`.
        place: Which turn of its session each is, from 0; shape `(n,)`.
        about: Whether it is about the one subject that the question names; shape `(n,)`.
        texts: Their words.
        windows: Their words with those of two before and two after them in their session.
        months: When each holds from, in months from 1970-01; shape `(n,)`.
    """

    keyword: Column
    vectors: Vectors
    vectors_before: Vectors
    vectors_after: Vectors
    replies: Vectors
    before: Rows
    after: Rows
    session: Rows
    place: Rows
    about: NDArray[np.bool_]
    texts: Sequence[str]
    windows: Sequence[str]
    months: Rows


def features(asked: Asked, query: Vectors, you: Vectors, found: Candidates) -> Column:
    """Return the features of the candidates FOUND, shape `(n, len(FEATURES))`.

    Args:
        asked: The question.
        query: Unit vector of the question, shape `(dim,)`.
        you: Unit vector of the question in the second person.
        found: The candidates.
    """
    keywords = _share(found.keyword)
    cosine = _cosine(found.vectors, query)
    vector = _share(cosine)
    session = _share(_session_strength(keywords + _VECTOR_SHARE * vector, found.session))
    reply = _cosine(found.replies, you)
    about = found.about.astype(np.float64)
    return np.column_stack(
        [
            keywords,
            _coverage(asked.terms, found.windows),
            vector,
            reply,
            session,
            _neighbours(keywords, float(cosine.max(initial=0.0)), query, found),
            about,
            np.array([text.rstrip().endswith("?") for text in found.texts], np.float64),
            np.where(found.session >= 0, 1 / (1 + found.place), 0.0),
            _where(asked.when, found.texts, _says_date),
            _where(asked.name, found.texts, _says_name),
            _where(asked.number, found.texts, _says_number),
            _in_month(asked, found.months),
            about * reply,
            asked.many * session,
            asked.when * session,
        ]
    )


@cache
def weights(name: str) -> Column:
    """Return the weights called NAME of `weights.json`, in the order of FEATURES.

    `conversation` is for memories of which some belong to a session, `notes` for those of none.
    """
    said = json.loads(Path(__file__).with_name("weights.json").read_text(encoding="utf-8"))
    return np.array([said[name][feature] for feature in FEATURES])


def only(feature: str) -> Column:
    """Return weights that count FEATURE alone."""
    return np.array([float(name == feature) for name in FEATURES])


def relevance(question: str, query: Vectors, vectors: Vectors, texts: Sequence[str]) -> Column:
    """Return how far each of TEXTS answers by itself, 0..1: what a threshold is put on.

    Scores tell candidates of one question apart and say nothing across questions. This does: the
    larger of the cosine to the question and the share of the question's words that it has.
    """
    cosine = _cosine(vectors, query)
    asked = words.terms(question)
    stems = [_stem(word) for word in asked]
    shares = [
        sum(stem in text for stem in stems) / len(stems) if stems else 0.0
        for text in ({_stem(w) for w in words.words(text)} for text in texts)
    ]
    return np.maximum(cosine, np.array(shares))


def _stem(word: str) -> str:
    """Return WORD without a common English ending: enough to count words in common."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _share(values: Column) -> Column:
    top = float(values.max(initial=0.0))
    return values / top if top > 1e-9 else np.zeros_like(values)


def _session_strength(strength: Column, session: Rows) -> Column:
    """Return for each candidate the mean strength of the three best of its session."""
    if not len(session):
        return strength
    order = np.lexsort((-strength, session))
    ordered = session[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    number = np.cumsum(first) - 1
    place = np.arange(len(order)) - np.flatnonzero(first)[number]
    best = place < BEST_OF_SESSION
    sums = np.bincount(number[best], strength[order][best])
    means = sums / np.bincount(number[best])
    out = np.empty_like(strength)
    out[order] = means[number]
    return np.where(session >= 0, out, 0.0)


def _neighbours(keywords: Column, best: float, query: Vectors, found: Candidates) -> Column:
    """Return the strength of the stronger neighbour; one that is no candidate has its vector."""
    sides = ((found.before, found.vectors_before), (found.after, found.vectors_after))
    return np.maximum(
        *(
            _at(keywords, rows)
            + _VECTOR_SHARE * np.maximum(vectors @ query, 0).astype(np.float64) / max(best, 1e-9)
            for rows, vectors in sides
        )
    )


def _at(values: Column, rows: Rows) -> Column:
    return np.where(rows >= 0, values[rows], 0.0)


def _cosine(vectors: Vectors, query: Vectors) -> Column:
    return np.maximum(vectors @ query, 0).astype(np.float64)


def _coverage(terms: Sequence[str], windows: Sequence[str]) -> Column:
    """Return which share of TERMS each of WINDOWS has, the rare ones counting more.

    Rarity is that among the candidates: the inverse document frequency of BM25 (Robertson & Spärck
    Jones, 1976).
    """
    stems = list(dict.fromkeys(_stem(term) for term in terms))
    has = np.zeros((len(windows), len(stems)))
    if not has.size:
        return np.zeros(len(windows))
    pattern = re.compile(rf"\b({'|'.join(re.escape(stem) for stem in stems)})")
    place = {stem: i for i, stem in enumerate(stems)}
    for i, window in enumerate(windows):
        for stem in set(pattern.findall(window.lower())):
            has[i, place[stem]] = 1.0
    times = has.sum(axis=0)
    rarity = np.log(1 + (len(windows) - times + 0.5) / (times + 0.5)) * (times > 0)
    return has @ rarity / max(float(rarity.sum()), 1e-9)


def _in_month(asked: Asked, months: Rows) -> Column:
    """Return 1 for what holds from a month and year that the question names, else 0."""
    if not asked.months and not asked.years:
        return np.zeros(len(months))
    fits = np.ones(len(months), np.bool_)
    if asked.months:
        fits &= np.isin(months % 12 + 1, asked.months)
    if asked.years:
        fits &= np.isin(months // 12 + 1970, asked.years)
    return fits.astype(np.float64)


def _where(asked: bool, texts: Sequence[str], says: Callable[[str], float]) -> Column:
    return np.array([says(text) for text in texts]) if asked else np.zeros(len(texts))


def _says_date(text: str) -> float:
    return float(bool(words.DATE_WORDS.search(text)))


def _says_number(text: str) -> float:
    return float(bool(words.NUMBER_WORDS.search(text)))


def _says_name(text: str) -> float:
    return min(words.names_in(text), 3) / 3
