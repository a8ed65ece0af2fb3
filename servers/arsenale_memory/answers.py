"""From versions and hits to what the tools answer, small enough for a model to read. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from arsenale_core.errors import InvalidError
from arsenale_memory import codec, moments
from arsenale_memory.models import (
    Detail,
    FoundMemory,
    KeptMemory,
    MemoryVersion,
    Related,
    WholeMemory,
)
from arsenale_memory.record import Labels, Link, Version

if TYPE_CHECKING:
    from arsenale_memory.search import Hit

HANDLE_CHARS = 12
"""An id is shown by its last characters: 48 random bits, for a third of the tokens."""

LEAST_RELEVANCE, LEAST_SHARE = 0.15, 0.2
"""A hit below both, of the best hit's words, is chance: there is always a nearest memory."""

MANY_ITEMS = 30
"""From so many items on only the failed ones are told one by one."""

HANDLE = re.compile(r"[0-9a-f-]{6,36}")
"""What may name a memory: the last characters of its id, 6 at least."""

CHARS_PER_TOKEN = 4
"""English text and common tokenizers; close enough for a budget."""

ROW_TOKENS = 40
"""What a found memory costs beside its content: names of fields, id, moment."""

RECALL_TAG = "recalled-memories"
"""What we inject stands within this tag, so that it is known when it comes back."""

SHOWN_CHARS = 1_200
"""Longest content in a list; `read` gives the whole."""

READ_CHARS = 20_000
"""Longest content that `read` gives at a time."""

_IN_NAME = r"\x00-\x1f\x7f-\x9f\ud800-\udfff,*"
NAMESPACE = re.compile(rf"[^\s{_IN_NAME}](?:[^{_IN_NAME}]{{0,118}}[^\s{_IN_NAME}])?")
"""Up to 120 characters, no space at the ends, and nothing that a filter or a file cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a revision changes; `None` leaves a field as it is."""

    content: str | None = None
    subject: str | None = None
    tags: Sequence[str] | None = None
    importance: float | None = None
    valid_to: str | None = None


def handle(uid: str) -> str:
    """Return how a memory is named to a model."""
    return uid[-HANDLE_CHARS:]


def tokens(text: str) -> int:
    """Return about how many tokens TEXT has."""
    return len(text) // CHARS_PER_TOKEN + 1


def namespace_name(name: str) -> str:
    """Return NAME when it can be a namespace's.

    Raises:
        InvalidError: It cannot.
    """
    if not NAMESPACE.fullmatch(name):
        raise InvalidError(
            f"{name!r} is no name for a namespace",
            hint="up to 120 characters, without comma, asterisk or control characters",
        )
    return name


def found(hit: "Hit", version: Version, detail: Detail, several: bool) -> FoundMemory:
    """Return a hit; SEVERAL namespaces were searched when it is to name its own."""
    row = listed(version, several)
    if len(version.content) > SHOWN_CHARS:  # show the part that answers
        row.content = _cut(version.content, hit.start, hit.start + len(hit.body))
    row.relevance = round(hit.relevance, 3)
    if detail == "full":
        row.importance = version.importance
        row.valid_to = None if version.valid_to_us is None else moments.iso(version.valid_to_us)
        row.why = {name: round(value, 3) for name, value in hit.features.items() if value}
        row.why["score"] = round(hit.score, 3)
    return row


def says_something(hit: "Hit") -> bool:
    """Say whether a hit has to do with the question: by a word, in it or near, or by meaning."""
    near = max(hit.features["keywords"], hit.features["neighbours"])
    return hit.relevance >= LEAST_RELEVANCE or near >= LEAST_SHARE


def listed(version: Version, several: bool) -> FoundMemory:
    """Return VERSION as a row of a list."""
    return FoundMemory(
        id=handle(version.uid),
        content=_cut(version.content, 0, SHOWN_CHARS),
        subject=version.subject,
        at=moments.iso(version.valid_from_us),
        kind=version.kind,
        tags=list(version.labels.tags),
        relevance=0,
        namespace=version.namespace if several else None,
    )


def within(rows: Sequence[FoundMemory], budget_tokens: int) -> list[FoundMemory]:
    """Return the first of ROWS that fit into BUDGET_TOKENS, at least the first, cut if need be."""
    shown: list[FoundMemory] = []
    left = budget_tokens
    for row in rows:
        cost = tokens(row.content) + ROW_TOKENS
        if cost > left and shown:
            break
        if cost > left:
            row.content = _cut(row.content, 0, max(left - ROW_TOKENS, 20) * CHARS_PER_TOKEN)
        shown.append(row)
        left -= cost
    return shown


def related(link: Link, other: Version) -> Related:
    """Return LINK with a glimpse of the OTHER memory."""
    return Related(id=handle(other.uid), kind=link.kind, content=_cut(other.content, 0, 200))


def remember_hint(rows: Sequence[KeptMemory]) -> str | None:
    """Return what to do about ROWS that need a look."""
    if any(other.kind == "contradicts" for row in rows for other in row.related):
        return "Some may contradict older memories: `revise` or `supersedes` what is wrong."
    if any(row.status == "failed" for row in rows):
        return "Nothing was kept of the failed items: mend them and send them again."
    return None


def whole(
    history: Sequence[Version],
    around: tuple[Sequence[Version], Sequence[Version]],
    links: Sequence[Link],
    known: Mapping[str, Version],
    *,
    start: int,
) -> WholeMemory:
    """Return a memory with its HISTORY, the newest version first."""
    version = history[0]
    content = version.content[start : start + READ_CHARS]
    return WholeMemory(
        id=handle(version.uid),
        content=content,
        namespace=version.namespace,
        owner=version.owner,
        kind=version.kind,
        subject=version.subject,
        session=version.session,
        importance=version.importance,
        tags=list(version.labels.tags),
        domains=list(version.labels.domains),
        entities=list(version.labels.entities),
        at=moments.iso(version.valid_from_us),
        created=moments.iso(version.created_us),
        valid_to=None if version.valid_to_us is None else moments.iso(version.valid_to_us),
        source=codec.source_out(version.source),
        state=version.ended or "current",
        history=[_of_history(old) for old in history[1:]],
        before=[listed(other, False) for other in around[0]],
        after=[listed(other, False) for other in around[1]],
        related=[
            related(link, known[other])
            for link in links
            if (other := link.target if link.source == version.uid else link.source) in known
        ],
        cut=max(0, len(version.content) - start - len(content)),
    )


def revised(
    before: Version,
    changes: Changes,
    now_us: int,
    moment: Callable[[str | None], int | None],
) -> Version:
    """Return the version that CHANGES make of BEFORE.

    Raises:
        InvalidError: Nothing changes, or a value cannot be.
    """
    new: dict[str, Any] = {}
    if changes.content is not None and changes.content.strip() != before.content:
        if not changes.content.strip():
            raise InvalidError("a memory cannot become empty", hint="forget it instead")
        new["content"] = changes.content.strip()
    if changes.subject is not None:
        new["subject"] = changes.subject or None
    if changes.tags is not None:
        tags = tuple(sorted({tag.strip().lstrip("#") for tag in changes.tags} - {""}))
        new["labels"] = Labels(
            tags=tags, domains=before.labels.domains, entities=before.labels.entities
        )
    if changes.importance is not None:
        new["importance"] = changes.importance
    if changes.valid_to is not None:
        new["valid_to_us"] = moment(changes.valid_to)
    if not new:
        raise InvalidError("nothing changes", hint="give new content, tags, importance, ...")
    return replace(
        before, **new, number=before.number + 1, written_us=now_us, ended_us=None, ended=None
    )


def _of_history(old: Version) -> MemoryVersion:
    return MemoryVersion(
        version=old.number,
        content=_cut(old.content, 0, SHOWN_CHARS),
        written=moments.iso(old.written_us),
        ended=None if old.ended_us is None else moments.iso(old.ended_us),
        why_ended=old.ended,
    )


def _cut(text: str, start: int, end: int) -> str:
    """Return TEXT from START to END with signs of what was cut."""
    left = "… " if start > 0 else ""
    right = " …" if end < len(text) else ""
    return f"{left}{text[start:end].strip()}{right}"
