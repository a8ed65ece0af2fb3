"""From what someone says to what is stored: the pure steps of the capture pipeline."""

import re
from dataclasses import dataclass, replace
from typing import get_args

from arsenale_core.errors import InvalidError
from arsenale_memory import metadata, splitting
from arsenale_memory.answers import RECALL_TAG
from arsenale_memory.importance import importance
from arsenale_memory.record import Kind, Labels, Link, Part, Source, Version
from arsenale_memory.words import words

MAX_CONTENT_CHARS = 2_000_000
"""Longest memory. What is longer is a document: import it in pieces."""

MAX_LABEL_CHARS = 100
MAX_LABELS = 50

NEAR_COSINE = 0.9
"""Cosine from which on two memories are linked as near (measured on paraphrases: see README)."""

ECHO_SHARE = 0.8
"""A text that has this share of the words of a recalled memory, and no others, repeats it."""

_OPENING, _CLOSING = f"<{RECALL_TAG}>", f"</{RECALL_TAG}>"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NOT = re.compile(r"\b(?:not|no|never|cannot|without)\b|n't\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a caller gives; what it leaves out is found by rules."""

    content: str
    namespace: str
    owner: str
    source: Source
    kind: Kind = "note"
    uid: str | None = None
    subject: str | None = None
    session: str | None = None
    tags: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    importance: float | None = None
    at_us: int | None = None
    valid_to_us: int | None = None
    supersedes: tuple[str, ...] = ()


def checked(draft: Draft) -> Draft:
    """Return DRAFT without control characters and without what we injected ourselves.

    Raises:
        InvalidError: Nothing is left, or a limit is passed.
    """
    content = cleaned(draft.content)
    if draft.kind not in get_args(Kind):
        raise InvalidError(
            f"no kind {draft.kind!r}", hint=f"it is one of {', '.join(get_args(Kind))}"
        )
    if draft.importance is not None and not 0 <= draft.importance <= 1:
        raise InvalidError(f"importance {draft.importance} is not within 0..1")
    return replace(
        draft,
        content=content,
        tags=labels("tags", draft.tags),
        domains=labels("domains", draft.domains),
        entities=labels("entities", draft.entities),
    )


def cleaned(text: str) -> str:
    """Return TEXT without control characters and without what we injected ourselves.

    Raises:
        InvalidError: Nothing is left, or it is too long.
    """
    if len(text) > 2 * MAX_CONTENT_CHARS:
        raise InvalidError(f"the memory has {len(text):,} characters", hint="split it into several")
    content = _CONTROL.sub("", _without_injected(text)).strip()
    if not content:
        said = "only repeats what was recalled" if text.strip() else "is empty"
        raise InvalidError(f"the memory {said}", hint="say in a sentence what is to be kept")
    if len(content) > MAX_CONTENT_CHARS:
        raise InvalidError(
            f"the memory has {len(content):,} characters, more than {MAX_CONTENT_CHARS:,}",
            hint="split it into several",
        )
    return content


def plain(text: str) -> str:
    """Return TEXT without control characters and halves of surrogate pairs."""
    return _CONTROL.sub("", text)


def _without_injected(text: str) -> str:
    """Return TEXT without the blocks that injection writes; a mere mention of the tag stays."""
    parts: list[str] = []
    at = 0
    while (start := text.find(_OPENING, at)) >= 0:
        end = text.find(_CLOSING, start)
        if end < 0:
            break
        parts.append(text[at:start])
        at = end + len(_CLOSING)
    return "".join([*parts, text[at:]])


def version(draft: Draft, uid: str, now_us: int) -> Version:
    """Return DRAFT, checked, as the first version of memory UID, with all that rules can find."""
    head = draft.content[:20_000]  # what a long text is about shows at its beginning
    entities = draft.entities or metadata.entities(head)
    weight = draft.importance
    if weight is None:
        weight = importance(head, draft.kind, named=len(entities))
    return Version(
        uid=uid,
        number=1,
        namespace=draft.namespace,
        owner=draft.owner,
        kind=draft.kind,
        content=draft.content,
        subject=draft.subject or metadata.subject(head, entities),
        session=draft.session,
        importance=weight,
        labels=Labels(
            tags=draft.tags,
            domains=draft.domains or metadata.domains(head),
            entities=entities,
        ),
        source=draft.source,
        created_us=now_us,
        written_us=now_us,
        valid_from_us=now_us if draft.at_us is None else draft.at_us,
        valid_to_us=draft.valid_to_us,
    )


def parts(content: str) -> tuple[Part, ...]:
    """Return the parts of CONTENT that are indexed."""
    return splitting.split(content)


def relation(new: Version, old: Version, cosine: float) -> Link | None:
    """Return how NEW relates to OLD, whose vectors have this COSINE; `None` when they are apart.

    Two that are near and about the same contradict each other when one has a number that the other
    has not, or one says no where the other does not. That is a hint to look, and nothing is hidden.
    """
    if cosine < NEAR_COSINE:
        return None
    numbers = set(_NUMBER.findall(new.content)) ^ set(_NUMBER.findall(old.content))
    denied = bool(_NOT.search(new.content)) != bool(_NOT.search(old.content))
    same = new.subject == old.subject
    kind = "contradicts" if same and (numbers or denied) else "near"
    return Link(source=new.uid, target=old.uid, kind=kind, score=round(cosine, 4))


def is_echo(content: str, recalled: str, cosine: float) -> bool:
    """Say whether CONTENT only repeats RECALLED: nothing but its words in its order, most of them.

    A word, a number or a "not" that RECALLED has not is news, however near the two are.
    """
    ours, theirs = words(content), words(recalled)
    left = iter(theirs)
    return (
        cosine >= NEAR_COSINE
        and bool(ours)
        and len(ours) >= ECHO_SHARE * len(theirs)
        and all(word in left for word in ours)
    )


def labels(name: str, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels GIVEN, cleaned, sorted, each once; NAME is for the error."""
    cleaned = {_CONTROL.sub("", label).strip().lstrip("#") for label in given}
    found = sorted(label for label in cleaned if label)
    if len(found) > MAX_LABELS or any(len(label) > MAX_LABEL_CHARS for label in found):
        raise InvalidError(
            f"too many or too long {name}",
            hint=f"at most {MAX_LABELS}, of at most {MAX_LABEL_CHARS} characters each",
        )
    return tuple(found)
