"""How much a memory matters, before anyone has used it. Pure.

A sum of documented cues around a base, clipped to 0..1. It decides what a briefing shows first and
what a filter leaves out; it is no part of the ranking of a search. Who knows better says so: a
given importance is kept as it is.
"""

import re
from collections.abc import Mapping

from arsenale_memory.record import Kind

BASE: Mapping[Kind, float] = {
    "decision": 0.65,
    "preference": 0.6,
    "fact": 0.5,
    "reflection": 0.5,
    "summary": 0.45,
    "note": 0.4,
    "turn": 0.25,
}

CUES: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), weight)
    for pattern, weight in (
        (r"\b(always|never|must(?:n't)?|do not|don't|required?|forbidden|make sure)\b", 0.15),
        (r"\b(decided|decision|agreed|we will|we'll use|chose|chosen|instead of)\b", 0.15),
        (r"\b(prefers?|likes?|hates?|wants?|favou?rite|rather)\b", 0.1),
        (
            r"\b(password|secret|credential|licen[cs]e|deadline|due|release|production|outage)\b",
            0.1,
        ),
        (r"\b(because|root cause|the reason|turns out|lesson|learned|fixed by|workaround)\b", 0.1),
        (r"\b(remember|important|note that|critical|warning)\b", 0.1),
        (r"\b(ok|okay|thanks|thank you|bye|hello|hi|lol|haha|sure|great|nice)\b[.!]*$", -0.15),
    )
)
"""What raises or lowers it, each once: rules, decisions, preferences, risks, causes, asking to be
remembered; pleasantries lower it."""

SHORT_WORDS, LONG_WORDS = 4, 20
"""Below the first a memory can hardly say much (-0.15); from the second on it says something
(+0.05)."""


def importance(content: str, kind: Kind, *, named: int = 0) -> float:
    """Return how much CONTENT of KIND matters, 0..1; NAMED is how many entities it has."""
    size = len(content.split())
    value = BASE[kind]
    value += sum(weight for pattern, weight in CUES if pattern.search(content))
    value += 0.02 * min(named, 5)
    value += -0.15 if size < SHORT_WORDS else 0.05 if size >= LONG_WORDS else 0.0
    return round(min(max(value, 0.0), 1.0), 3)
