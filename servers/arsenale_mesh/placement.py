"""Which node gets the next task: the best by a score whose terms are told; pure.

    score = health - LOAD_WEIGHT x in flight / slots

and where the greener is preferred, the weight of the efficiency term goes to grams of CO2e:

    score = health + w (green - efficiency) - LOAD_WEIGHT x in flight / slots
    green = HALF_GRAMS / (HALF_GRAMS + grams of CO2e for 10**9 fuel)

with w the efficiency term's weight. Among equals the least loaded is chosen, then who was chosen
longest ago, so that equals share. A change of a node costs the same however many there are; a
choice is a few passes over columns, shape `(n,)` with `n` nodes.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arsenale_mesh.health import HALF_JOULES, Health, Term, believed, clamp, joules_of, known_number
from arsenale_mesh.measuring.energy import grams_co2e

LOAD_WEIGHT: Final = 0.25
"""What a node loses whose slots are all taken: an idle one that is worse by less is chosen."""

HALF_CARBON: Final = 475.0
"""Grams of CO2e a kilowatt-hour where it is not known: about the mean of the world's grids."""

HALF_GRAMS: Final = grams_co2e(HALF_JOULES, HALF_CARBON)
"""Grams of CO2e for 10**9 fuel that count as 1/2: what is unknown in both counts 1/2."""

MASKS: Final = 256
"""Engines, kinds and labels of which is noted who has them; beyond, all are noted anew."""

_MOST: Final = 2**62
_UNKNOWN_CARBON: Final = np.inf

Where: TypeAlias = Literal["any", "ours", "others"]
Flags: TypeAlias = NDArray[np.bool_]
Column: TypeAlias = NDArray[np.float64]
Trait: TypeAlias = tuple[Literal["engine", "kind", "label"], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A node as placement sees it.

    Attributes:
        health: Its score and terms.
        joules_per_gfuel: Energy for 10**9 fuel, or None for unknown; so is `carbon`.
        carbon: Grams of CO2e a kilowatt-hour where it is; None too when the figure is stale.
        slots: How many tasks it runs at once.
        queue: How many more may wait there.
        memory_bytes: What a guest may have there.
        engine: Id of its engine.
        kind: What it is: gateway, pc, phone, ...
        labels: Words that a task may ask for.
        is_open: Whether it may take tasks: it is alive, not leaving, not banned.
        is_ours: Whether it belongs to the house.
        is_vouched: Whether energy and carbon of a node not ours were found by us. Its own word
            never makes it greener than unknown, and never brings it below a limit.
    """

    health: Health
    joules_per_gfuel: float | None = None
    carbon: float | None = None
    slots: int = 1
    queue: int = 0
    memory_bytes: int = 0
    engine: str = ""
    kind: str = ""
    labels: frozenset[str] = frozenset()
    is_open: bool = True
    is_ours: bool = False
    is_vouched: bool = False

    @property
    def is_believed(self) -> bool:
        """Whether its energy and carbon may lift it."""
        return self.is_ours or self.is_vouched

    @property
    def room(self) -> int:
        """How many tasks it may have, running and waiting."""
        return min(max(self.slots, 0) + max(self.queue, 0), _MOST) if self.slots > 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a task asks of a node.

    Attributes:
        memory_bytes: At least this.
        excluded: Nodes that may not have it, as those that gave a result already.
        engines: Ids of engines, one of which it must have; empty for any. So are `kinds`.
        labels: All of which it must have.
        where: Whether only nodes of the house, or only others.
        prefers_green: Whether CO2e counts in place of energy.
        most_carbon: Grams of CO2e a kilowatt-hour at most; a node of which it is unknown, or known
            by its own word only, is not below any. None for no limit.
    """

    memory_bytes: int = 0
    excluded: frozenset[int] = frozenset()
    engines: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    where: Where = "any"
    prefers_green: bool = False
    most_carbon: float | None = None


ANY: Final = Wanted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A node, its score, and the terms whose products with their weights add up to it."""

    node: int
    score: float
    terms: tuple[Term, ...]

    @property
    def why(self) -> str:
        """The terms in a line, for people."""
        parts = " ".join(
            f"{'-' if term.weight < 0 else '+'} {abs(term.weight):.2f} x {term.value:.3f} "
            f"{term.name} ({term.basis})"
            for term in self.terms
        )
        return f"{self.score:.3f} = {parts.removeprefix('+ ')}"


class _Columns:
    """What choosing reads, a row a node; rows beyond the last node mean nothing."""

    __slots__ = ("base", "carbon", "flight", "green", "green_base", "memory", "node", "ours",
                 "plain", "room", "slots", "takes", "turn", "wait")  # fmt: skip

    def __init__(self, capacity: int) -> None:
        self.node, self.flight, self.room, self.slots, self.memory, self.turn = (
            np.zeros(capacity, np.int64) for _ in range(6)
        )
        self.base, self.green_base, self.plain, self.green, self.wait, self.carbon = (
            np.zeros(capacity, np.float64) for _ in range(6)
        )
        self.takes, self.ours = (np.zeros(capacity, np.bool_) for _ in range(2))

    def grown(self) -> "_Columns":
        """Return columns of twice the capacity with the same rows."""
        more = _Columns(2 * len(self.node))
        for name in self.__slots__:
            getattr(more, name)[: len(self.node)] = getattr(self, name)
        return more

    def move(self, source: int, target: int) -> None:
        """Copy a row."""
        for name in self.__slots__:
            column = getattr(self, name)
            column[target] = column[source]


class Fleet:
    """All nodes, and who is best for a task."""

    def __init__(self) -> None:
        """Begin with no node."""
        self._columns = _Columns(64)
        self._entries: list[Entry] = []
        self._rows: dict[int, int] = {}
        self._masks: dict[Trait, Flags] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, node: int) -> bool:
        return node in self._rows

    def put(self, node: int, entry: Entry) -> None:
        """Take in a node that is new, or known and changed; tasks in flight stay counted."""
        row = self._rows.get(node)
        if row is None:
            row = self._added(node)
        self._entries[row] = entry
        c = self._columns
        c.slots[row] = min(max(entry.slots, 0), _MOST)
        c.room[row] = entry.room if entry.is_open else 0
        c.memory[row] = min(max(entry.memory_bytes, 0), _MOST)
        c.ours[row] = entry.is_ours
        carbon = known_number(entry.carbon) if entry.is_believed else None
        c.carbon[row] = _UNKNOWN_CARBON if carbon is None else carbon
        c.base[row] = base = clamp(entry.health.score)
        efficiency = _efficiency(entry.health)
        c.green_base[row] = base + efficiency.weight * (green_term(entry) - efficiency.value)
        for trait, mask in self._masks.items():
            mask[row] = _has(entry, trait)
        self._rescore(row)

    def remove(self, node: int) -> None:
        """Forget a node, and what it has in flight; one that is not there is no error."""
        row = self._rows.pop(node, None)
        if row is None:
            return
        last = len(self._entries) - 1
        if row != last:
            self._columns.move(last, row)
            self._entries[row] = self._entries[last]
            self._rows[int(self._columns.node[row])] = row
            for mask in self._masks.values():
                mask[row] = mask[last]
        self._entries.pop()

    def load(self, node: int, change: int) -> None:
        """Add CHANGE to the tasks that a node has in flight; they are never fewer than none.

        A node that is not there is no error: it may have left while its task ran.
        """
        row = self._rows.get(node)
        if row is not None:
            flight = self._columns.flight
            flight[row] = max(int(flight[row]) + change, 0)
            self._rescore(row)

    def in_flight(self, node: int) -> int:
        """Return how many tasks a node has; 0 of one that is not there."""
        row = self._rows.get(node)
        return 0 if row is None else int(self._columns.flight[row])

    def choose(self, wanted: Wanted = ANY) -> Choice | None:
        """Return the best node for a task, or None where none may have it.

        The caller tells by `load` that the node got it.
        """
        row = self._best(wanted)
        if row is None:
            return None
        self._turn += 1
        self._columns.turn[row] = self._turn
        return self._choice(row, wanted)

    def choose_many(self, wanted: Sequence[Wanted]) -> list[Choice | None]:
        """Return the best node for each task; each choice counts as load for those after it.

        Afterwards the load is as it was: the caller tells by `load` which nodes got theirs.
        """
        given: list[int] = []
        choices: list[Choice | None] = []
        for each in wanted:
            choice = self.choose(each)
            choices.append(choice)
            if choice is not None:
                self.load(choice.node, 1)
                given.append(choice.node)
        for node in given:
            self.load(node, -1)
        return choices

    def ranked(self, wanted: Wanted = ANY, limit: int = 10) -> list[Choice]:
        """Return the LIMIT best nodes, best first, in the order in which they would be chosen."""
        c, rows = self._columns, np.flatnonzero(self._able(wanted))
        order = np.lexsort((c.turn[rows], c.wait[rows], -self._scores(wanted)[rows]))
        return [self._choice(int(row), wanted) for row in rows[order[: max(limit, 0)]]]

    def lacking(self, wanted: Wanted = ANY) -> dict[str, int]:
        """Return how many nodes each condition of a task excludes, for who finds no node."""
        found = {name: int(np.count_nonzero(~mask)) for name, mask in self._conditions(wanted)}
        return {name: count for name, count in found.items() if count}

    def _added(self, node: int) -> int:
        row = self._rows[node] = len(self._entries)
        if row == len(self._columns.node):
            self._columns = self._columns.grown()
            self._masks.clear()
        self._columns.node[row] = node
        self._columns.flight[row] = 0
        self._columns.turn[row] = 0
        self._entries.append(_NOBODY)
        return row

    def _rescore(self, row: int) -> None:
        c = self._columns
        flight, slots = int(c.flight[row]), int(c.slots[row])
        wait = flight / slots if slots else 0.0
        c.wait[row] = wait
        c.plain[row] = c.base[row] - LOAD_WEIGHT * wait
        c.green[row] = c.green_base[row] - LOAD_WEIGHT * wait
        c.takes[row] = flight < c.room[row]

    def _best(self, wanted: Wanted) -> int | None:
        scores = np.where(self._able(wanted), self._scores(wanted), -np.inf)
        if not len(scores):
            return None
        top = scores[int(scores.argmax())]
        if top == -np.inf:
            return None
        tied = np.flatnonzero(scores == top)
        if len(tied) > 1:
            wait = self._columns.wait[tied]
            tied = tied[wait == wait.min()]
        return int(tied[self._columns.turn[tied].argmin()])

    def _scores(self, wanted: Wanted) -> Column:
        column = self._columns.green if wanted.prefers_green else self._columns.plain
        return column[: len(self._entries)]

    def _able(self, wanted: Wanted) -> Flags:
        able = np.ones(len(self._entries), np.bool_)
        for _, mask in self._conditions(wanted):
            able &= mask
        return able

    def _conditions(self, wanted: Wanted) -> Generator[tuple[str, Flags]]:
        n, c = len(self._entries), self._columns
        yield "closed or full", c.takes[:n]
        if wanted.memory_bytes > 0:
            yield "too small", c.memory[:n] >= wanted.memory_bytes
        if wanted.excluded:
            mask = np.ones(n, np.bool_)
            mask[[self._rows[node] for node in wanted.excluded if node in self._rows]] = False
            yield "excluded", mask
        if wanted.where != "any":
            yield f"not {wanted.where}", c.ours[:n] == (wanted.where == "ours")
        if wanted.most_carbon is not None:
            yield "carbon too high or unknown", c.carbon[:n] <= wanted.most_carbon
        if wanted.engines:
            yield "other engine", self._any_of([("engine", name) for name in wanted.engines])[:n]
        if wanted.kinds:
            yield "other kind", self._any_of([("kind", name) for name in wanted.kinds])[:n]
        for label in wanted.labels:
            yield f"not {label!r}", self._having(("label", label))[:n]

    def _any_of(self, traits: list[Trait]) -> Flags:
        return np.logical_or.reduce([self._having(trait) for trait in traits])

    def _having(self, trait: Trait) -> Flags:
        found = self._masks.get(trait)
        if found is None:
            if len(self._masks) >= MASKS:
                self._masks.clear()
            found = self._masks[trait] = np.zeros(len(self._columns.node), np.bool_)
            found[: len(self._entries)] = [_has(entry, trait) for entry in self._entries]
        return found

    def _choice(self, row: int, wanted: Wanted) -> Choice:
        c, entry = self._columns, self._entries[row]
        load = Term(
            name="load", value=float(c.wait[row]), weight=-LOAD_WEIGHT,
            basis=f"{c.flight[row]} in flight, {c.slots[row]} slots",
        )  # fmt: skip
        terms = entry.health.terms
        if wanted.prefers_green:
            terms = tuple(_carbon(entry, t) if t.name == "efficiency" else t for t in terms)
        score = float(self._scores(wanted)[row])
        return Choice(node=int(c.node[row]), score=score, terms=(*terms, load))


_NOBODY: Final = Entry(health=Health(score=0.0, terms=()), is_open=False)


def green_term(entry: Entry) -> float:
    """Return 0..1 for a node's CO2e, a half at `HALF_GRAMS` and where nothing is known.

    Where only energy or only carbon is known, `HALF_CARBON` or `HALF_JOULES` stands for the other.
    """
    term = HALF_GRAMS / (HALF_GRAMS + _grams(entry))
    return believed(term, is_ours=entry.is_believed)


def _grams(entry: Entry) -> float:
    energy, carbon = joules_of(entry.joules_per_gfuel), known_number(entry.carbon)
    return grams_co2e(
        HALF_JOULES if energy is None else energy, HALF_CARBON if carbon is None else carbon
    )


def _efficiency(health: Health) -> Term:
    for term in health.terms:
        if term.name == "efficiency":
            return term
    return Term(name="efficiency", value=0.0, weight=0.0, basis="unknown")


def _carbon(entry: Entry, replaced: Term) -> Term:
    energy, carbon = joules_of(entry.joules_per_gfuel), known_number(entry.carbon)
    said = "unknown energy" if energy is None else f"{energy:.3g} J"
    where = "unknown carbon" if carbon is None else f"{carbon:.3g} g a kWh"
    basis = f"{1000 * _grams(entry):.3g} mg CO2e for 10^9 fuel, of {said} at {where}"
    if not entry.is_believed and (energy, carbon) != (None, None):
        basis += ", by its own word"
    return Term(name="carbon", value=green_term(entry), weight=replaced.weight, basis=basis)


def _has(entry: Entry, trait: Trait) -> bool:
    match trait:
        case "engine", name:
            return entry.engine == name
        case "kind", name:
            return entry.kind == name
        case "label", name:
            return name in entry.labels
