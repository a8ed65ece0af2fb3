"""What a text is about, by documented rules: entities, domains, subject. Pure; no model.

Rules that a reader can check beat a model that a laptop cannot run beside the assistant's work.
`tests/memory/labelled.json` is the labelled set on which they are measured.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

from arsenale_memory.words import STOP_WORDS, words

LOOKED_BACK = 8
"""So many characters before a name tell whether it begins a sentence."""

MOST_ENTITIES = 12
MOST_DOMAINS = 3
MIN_DOMAIN_SCORE = 1.0
"""A domain needs one word of its own, or two that it shares."""

_CODE = re.compile(r"`([^`\n]{2,60})`")
_URL = re.compile(r"https?://([^\s/:>)\]]+)")
_FILE = re.compile(
    r"(?<![\w/.-])(?:[\w.-]{1,60}/){0,12}[\w-]{1,60}\.(?:[a-z]{1,4}\d?|toml|json|yaml)\b(?!\.\w)"
)
_HANDLE = re.compile(r"(?<![\w@])@[A-Za-z][\w-]{1,38}")
_IDENTIFIER = re.compile(
    r"\b(?:[a-z]+(?:_[a-z0-9]+)+|[a-z]+[A-Z]\w+|[A-Z][a-z]+[A-Z]\w*|[A-Z]{2,}[a-z0-9]+\w*)\b"
)
_ACRONYM = re.compile(r"\b[A-Z][A-Z0-9]{1,7}\b")
_NAME = re.compile(r"\b[A-Z][\w'’-]*(?:[ ](?:(?:of|the|de|van|von)[ ])?[A-Z][\w'’-]*)*")
_SENTENCE_START = re.compile(r"(?:[.!?:;\n]\s*|[\"“(*#>-]\s*)$")
_SPEAKER = re.compile(r"^\s*(?:\[[^\]]{1,40}\]\s*)?([A-Z][\w'’-]*(?: [A-Z][\w'’-]*)?): \S")

_NO_NAMES = frozenset(
    "i i'm i've i'll i'd ok okay yes no hi hey hello thanks thank wow yeah please note todo fixme "
    "monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays "
    "thursdays fridays saturdays sundays january february march april may june july august "
    "september october november december today yesterday tomorrow".split()
)


def entities(text: str) -> tuple[str, ...]:
    """Return who and what TEXT names, most often named first, at most MOST_ENTITIES.

    Names are capitalised words within a sentence, or at its start when they come again elsewhere
    or are several words; besides: code in backticks, files, hosts of URLs, @handles, identifiers.
    """
    found: Counter[str] = Counter()
    for pattern in (_CODE, _URL):
        found.update(m.group(1) for m in pattern.finditer(text))
    rest = _URL.sub(" ", _CODE.sub(" ", text))
    for pattern in (_FILE, _HANDLE, _IDENTIFIER, _ACRONYM):
        found.update(m.group(0) for m in pattern.finditer(rest))
    found.update(_names(_FILE.sub(" ", rest)))
    ranked = sorted(found, key=lambda name: (-found[name], -len(name), name))
    return tuple(sorted(_without_repetition(ranked)[:MOST_ENTITIES]))


def subject(text: str, found: tuple[str, ...]) -> str | None:
    """Return whom or what TEXT is about: its speaker, else its first name among FOUND."""
    if speaker := _SPEAKER.match(text):
        return speaker.group(1)
    at = {name: text.find(name) for name in found if name[:1].isupper()}
    return min(at, key=lambda name: at[name], default=None)


def domains(text: str) -> tuple[str, ...]:
    """Return the domains that TEXT belongs to, at most MOST_DOMAINS, sorted.

    Each domain has words of its own, which count 1, and words that it shares, which count 1/2;
    `domains.json` has them, as stems.
    """
    here = {word for word in words(text) if word not in STOP_WORDS}
    scores = {
        name: sum(_hit(stem, here) for stem in own) + 0.5 * sum(_hit(s, here) for s in shared)
        for name, (own, shared) in _prototypes().items()
    }
    strong = [name for name, score in scores.items() if score >= MIN_DOMAIN_SCORE]
    return tuple(sorted(sorted(strong, key=lambda name: (-scores[name], name))[:MOST_DOMAINS]))


@cache
def _prototypes() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    said = json.loads(Path(__file__).with_name("domains.json").read_text(encoding="utf-8"))
    return {
        name: (tuple(each["own"].split()), tuple(each["shared"].split()))
        for name, each in said.items()
    }


def _hit(stem: str, here: set[str]) -> bool:
    """Say whether a word of HERE is STEM: a stem that ends in `*` stands for all that begin so."""
    if stem.endswith("*"):
        return any(word.startswith(stem[:-1]) for word in here)
    return stem in here or f"{stem}s" in here


def _names(text: str) -> Counter[str]:
    inside: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for match in _NAME.finditer(text):
        name = re.sub(r"['’]s$", "", match.group(0))
        before = text[max(match.start() - LOOKED_BACK, 0) : match.start()]
        starts = match.start() == 0 or bool(_SENTENCE_START.search(before))
        if starts and " " in name and name.split()[0].lower() in STOP_WORDS | _NO_NAMES:
            name, starts = name.partition(" ")[2], False
        if len(name) < 2 or name.lower() in _NO_NAMES or name.lower() in STOP_WORDS:
            continue
        (first if starts and " " not in name else inside)[name] += 1
    again = {name: n for name, n in first.items() if name in inside or n > 1}
    return inside + Counter(again)


def _without_repetition(ranked: list[str]) -> list[str]:
    """Leave out what differs in case only from what came before."""
    seen: dict[str, str] = {}
    for name in ranked:
        seen.setdefault(name.lower(), name)
    return list(seen.values())
