"""The ledger of credits: each entry holds the hash of the one before; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

from arsenale_mesh.canonical import canonical, digest

Kind: TypeAlias = Literal["reward", "penalty", "correction"]

GENESIS = "0" * 64
"""What the first entry has in place of a hash."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A change of a node's credits, whole numbers. `task` and `node` and `kind` come once."""

    number: int
    at_us: int
    kind: Kind
    node: str
    credits: int
    task: str
    receipt: str
    before: str

    @property
    def hash(self) -> str:
        """SHA-256 of the entry, the hash before it included."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        said = {name: getattr(self, name) for name in _FIELDS}
        return digest(canonical(said))


_FIELDS = tuple(field.name for field in fields(Entry))


class Link(Protocol):
    """One of a chain."""

    @property
    def number(self) -> int:
        """Its place, from 1."""
        ...

    @property
    def before(self) -> str:
        """The hash of the one before it."""
        ...

    @property
    def hash(self) -> str:
        """Its own, of all that it says."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first entry that does not fit, and why."""

    number: int
    reason: str


def following(last: Entry | None, *, at_us: int, kind: Kind, node: str, credits: int, task: str,
              receipt: str) -> Entry:  # fmt: skip
    """Return the entry that comes after LAST."""
    return Entry(
        number=last.number + 1 if last else 1, at_us=at_us, kind=kind, node=node, credits=credits,
        task=task, receipt=receipt, before=last.hash if last else GENESIS,
    )  # fmt: skip


def fault(entries: Iterable[tuple[Link, str]]) -> Fault | None:
    """Return the first fault of a chain, given with the hash stored beside each entry."""
    before = GENESIS
    for number, (entry, stored) in enumerate(entries, 1):
        if entry.number != number:
            return Fault(number=number, reason=f"entry {entry.number} stands in its place")
        if entry.before != before:
            return Fault(number=number, reason="it does not follow the one before it")
        if entry.hash != stored:
            return Fault(number=number, reason="it was changed")
        before = stored
    return None


def balances(entries: Iterable[Entry]) -> Mapping[str, int]:
    """Return the credits of each node."""
    found: dict[str, int] = {}
    for entry in entries:
        found[entry.node] = found.get(entry.node, 0) + entry.credits
    return found
