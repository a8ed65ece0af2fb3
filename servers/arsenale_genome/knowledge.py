"""What a persona knows: memories of its namespace that fit a question, numbered to be quoted. Pure.

Retrieval-augmented generation (Lewis et al., NeurIPS 2020): the memories go before the question,
each with a number that the answer is asked to name.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from arsenale_genome.models import Quoted

QUOTE = (
    "Answer from these notes where they fit, and name those you use by their numbers, as [1]. "
    "Say so when they do not hold the answer."
)
SHOWN_CHARS = 300
"""So much of a memory is shown beside the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A memory that fits: its id, text, moment and namespace."""

    id: str
    text: str
    at: str
    namespace: str


Recall: TypeAlias = Callable[[str, str, int], Awaitable[list[Known]]]
"""Gives the memories for (a question, a namespace, a budget of tokens), best first."""


def found(rows: Sequence[Mapping[str, Any]], namespace: str) -> list[Known]:
    """Return the memories of ROWS, as the memory server's `recall` gives them."""
    return [
        Known(
            id=str(row["id"]), text=str(row["content"]), at=str(row.get("at", "")),
            namespace=str(row.get("namespace") or namespace),
        )
        for row in rows
    ]  # fmt: skip


def context(known: Sequence[Known]) -> tuple[str, ...]:
    """Return the notes that go before the question, numbered from 1, and how to quote them."""
    if not known:
        return ()
    notes = (f"[{n}] ({each.at[:10]}) {each.text}" for n, each in enumerate(known, 1))
    return (*notes, QUOTE)


def quoted(answer: str, known: Sequence[Known]) -> list[Quoted]:
    """Return the memories that were given, and whether ANSWER names each."""
    return [
        Quoted(
            number=n, id=each.id, text=each.text[:SHOWN_CHARS], at=each.at,
            namespace=each.namespace, named=f"[{n}]" in answer,
        )
        for n, each in enumerate(known, 1)
    ]  # fmt: skip
