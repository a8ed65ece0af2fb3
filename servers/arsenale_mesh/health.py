"""How fit a node is for the next task: a weighted sum whose terms are told; pure.

score = 0.40 bandwidth + 0.30 latency + 0.20 efficiency + 0.10 reputation, each 0..1 (contract V1).
What a node says of itself is believed only where it lowers its score: its energy may take the
efficiency term below `UNKNOWN`, never above. Bandwidth and latency are measured by who gives it
tasks. Our own nodes are taken at their word. Processor, memory, watts, temperature and carbon are
shown and count for nothing here.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Source: TypeAlias = Literal["measured", "estimated", "unknown"]

FULL_BANDWIDTH = 125_000_000.0
"""Bytes a second that count as 1: a gigabit line."""

HALF_LATENCY_S = 0.05
"""Round trip that counts as 1/2: beyond, a person notices."""

HALF_JOULES = 10.0
"""Joules for 10**9 fuel that count as 1/2: about a second of a laptop's core."""

UNKNOWN = 0.5
"""What counts for a term of which nothing is known."""

MOST_BANDWIDTH = 1e12
"""Bytes a second beyond which a figure is a fault of measuring: ten times the fastest Ethernet."""

LEAST_JOULES = 1e-3
"""For 10**9 fuel, below which a figure is a fault: a watt would burn 10**12 fuel a second, where
the fastest core we saw burns 10**10."""

MOST_JOULES = 1e7
"""For 10**9 fuel, above which a figure is a fault: a kilowatt for three hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each term counts; they are divided by their sum."""

    bandwidth: float = 0.40
    latency: float = 0.30
    efficiency: float = 0.20
    reputation: float = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What is known of a node. `None` is unknown.

    Attributes:
        bandwidth: Bytes a second, to it, as measured by who gives it tasks.
        latency_s: Round trip, measured alike.
        joules_per_gfuel: Energy for 10**9 fuel, as the node says.
        energy: Where that comes from, as the node says.
        watts: Its power draw, as the node says; so are all below.
        celsius: Its temperature.
        carbon: Grams of CO2 for a kilowatt-hour where it is.
        cpu: Share of its processors in use, 0..1.
        memory_free: Bytes.
    """

    bandwidth: float | None = None
    latency_s: float | None = None
    joules_per_gfuel: float | None = None
    energy: Source = "unknown"
    watts: float | None = None
    celsius: float | None = None
    carbon: float | None = None
    cpu: float | None = None
    memory_free: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a score: `value` 0..1, times `weight`, and what it is made of."""

    name: str
    value: float
    weight: float
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A node's score, 0..1, and its terms."""

    score: float
    terms: tuple[Term, ...]


def health(
    seen: Telemetry, reputation: float, weights: Weights | None = None, *, is_ours: bool = False
) -> Health:
    """Return the health of a node.

    Args:
        seen: What is known of it; what cannot be counts as unknown.
        reputation: 0..1.
        weights: Of the terms.
        is_ours: Whether it is our own node, whose word is taken.
    """
    w = weights or Weights()
    efficiency = believed(efficiency_term(seen.joules_per_gfuel), is_ours=is_ours)
    values = (
        ("bandwidth", bandwidth_term(seen.bandwidth), w.bandwidth,
         _said(bandwidth_of(seen.bandwidth), "B/s")),
        ("latency", latency_term(seen.latency_s), w.latency, _said(seen.latency_s, "s")),
        ("efficiency", efficiency, w.efficiency, _energy_said(seen, is_ours=is_ours)),
        ("reputation", clamp(reputation), w.reputation, "verified work"),
    )  # fmt: skip
    total = sum(max(weight, 0.0) for _, _, weight, _ in values) or 1.0
    terms = tuple(
        Term(name=name, value=value, weight=max(weight, 0.0) / total, basis=basis)
        for name, value, weight, basis in values
    )
    score = sum(term.value * term.weight for term in terms)
    return Health(score=min(score, 1.0), terms=terms)  # weights of 1 may add up to a hair more


def believed(term: float, *, is_ours: bool) -> float:
    """Return what a TERM of a node's own word counts: of one not ours at most `UNKNOWN`."""
    return term if is_ours else min(term, UNKNOWN)


def bandwidth_term(value: float | None) -> float:
    """Return 0..1, by the logarithm: ten times more is a step, whichever."""
    known = bandwidth_of(value)
    if known is None:
        return UNKNOWN
    return clamp(math.log1p(known) / math.log1p(FULL_BANDWIDTH))


def latency_term(value: float | None) -> float:
    """Return 0..1, a half at `HALF_LATENCY_S`.

    No round trip is too long to be true: else who answers late enough would count as unknown.
    """
    known = known_number(value)
    return UNKNOWN if known is None else HALF_LATENCY_S / (HALF_LATENCY_S + known)


def efficiency_term(value: float | None) -> float:
    """Return 0..1, a half at `HALF_JOULES`."""
    known = joules_of(value)
    return UNKNOWN if known is None else HALF_JOULES / (HALF_JOULES + known)


def bandwidth_of(value: float | None) -> float | None:
    """Return VALUE, bytes a second, if it can be: 0 to `MOST_BANDWIDTH`."""
    known = known_number(value)
    return None if known is None or known > MOST_BANDWIDTH else known


def joules_of(value: float | None) -> float | None:
    """Return VALUE, for 10**9 fuel, if it can be: `LEAST_JOULES` to `MOST_JOULES`."""
    known = known_number(value)
    return None if known is None or not LEAST_JOULES <= known <= MOST_JOULES else known


def known_number(value: float | None) -> float | None:
    """Return VALUE if it is a finite number of at least 0."""
    if value is None or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def clamp(value: float) -> float:
    """Return VALUE within 0..1; what is no number is 0."""
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0


def _said(value: float | None, unit: str) -> str:
    known = known_number(value)
    return "unknown" if known is None else f"{known:.3g} {unit}"


def _energy_said(seen: Telemetry, *, is_ours: bool) -> str:
    known = joules_of(seen.joules_per_gfuel)
    said = f"{_said(known, 'J per 10^9 fuel')}, {seen.energy}"
    if is_ours or known is None:
        return said
    capped = efficiency_term(known) > UNKNOWN
    return f"{said} by its own word" + (", which lifts nothing" if capped else "")
