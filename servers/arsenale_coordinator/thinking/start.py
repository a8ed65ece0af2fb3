"""At which level to begin, from the prompt: what the user asks for, else a modest guess. Pure.

Text predicts difficulty badly (on 500 issues with people's times: Spearman 0.16 for keywords and
for length, 0.19 for the best model of text), so a guess never starts above MOST_GUESSED and the
rest is left to evidence (`evidence`).
"""

import re
from dataclasses import dataclass

from arsenale_coordinator.thinking.levels import Level, clamped
from arsenale_coordinator.thinking.prior import Predicted
from arsenale_coordinator.thinking.wishes import wished_level

MOST_GUESSED = Level.MODERATE
"""No guess from text starts higher."""

LONG_PROMPT = 1_500
"""Characters from which a prompt counts as long: about the upper third of issues."""

MANY_POINTS = 4
"""List items from which a prompt counts as having many parts."""

LEAST_HISTORY = 5
"""So many turns must have been seen before a project's history is believed."""

LITTLE_TOKENS = 1_000
"""Where hardly a turn thinks for so many tokens, structure alone is no reason to think more."""

_CRITICAL_WORDS = (
    r"\b(?:critical|production outage|security|vulnerabilit\w+|data loss|race condition|deadlock)\b"
)
_COMPLEX_WORDS = r"\b(?:architect\w*|redesign|refactor\w*|migrat\w+|concurren\w+|distributed|optimi[sz]e|algorithm)\b"  # noqa: E501
_MODERATE_WORDS = r"\b(?:implement|add|debug|fix|integrat\w+|test\w*|feature)\b"

_POINTS = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
_TRACE = re.compile(r"Traceback \(most recent call last\)|^\s+at .+:\d+|panicked at", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One reason for a level and by how much it raises it."""

    reason: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where to begin.

    Attributes:
        level: The level.
        wished: Whether the user asked for it: then nothing goes below it.
        terms: Why.
    """

    level: Level
    wished: bool
    terms: tuple[Term, ...]


def keyword_level(prompt: str) -> Level:
    """Return the level of the plain keyword rule: the baseline that ours is compared to."""
    text = prompt.lower()
    for level, pattern in (
        (Level.CRITICAL, _CRITICAL_WORDS),
        (Level.COMPLEX, _COMPLEX_WORDS),
        (Level.MODERATE, _MODERATE_WORDS),
    ):
        if re.search(pattern, text):
            return level
    return Level.SIMPLE


def start_level(prompt: str, history: Predicted | None = None) -> Start:
    """Return where to begin with PROMPT.

    Args:
        prompt: What the user wrote.
        history: How much thinking turns of this project and kind took.
    """
    wished = wished_level(prompt)
    if wished is not None:
        said = f"the prompt asks to {wished.word}" if wished else "the prompt asks for little"
        term = Term(reason=said, steps=int(wished))
        return Start(level=wished, wished=True, terms=(term,))
    terms = [*_structure(prompt), *_history(history)]
    level = clamped(sum(term.steps for term in terms))
    return Start(level=min(level, MOST_GUESSED), wished=False, terms=tuple(terms))


def _structure(prompt: str) -> list[Term]:
    points = len(_POINTS.findall(prompt))
    terms: list[Term] = []
    if points >= MANY_POINTS:
        terms.append(Term(reason=f"{points} points", steps=1))
    if len(prompt) >= LONG_PROMPT:
        terms.append(Term(reason=f"{len(prompt):,} characters", steps=1))
    if _TRACE.search(prompt):
        terms.append(Term(reason="a stack trace", steps=1))
    return terms


def _history(history: Predicted | None) -> list[Term]:
    if history is None or history.turns < LEAST_HISTORY:
        return []
    reason = f"{history.basis}: {history.p50:,.0f} tokens of thinking as a rule"
    if history.p50 > Level.SIMPLE.budget_tokens:
        return [Term(reason=reason, steps=1)]
    return [Term(reason=reason, steps=-1)] if history.high < LITTLE_TOKENS else []
