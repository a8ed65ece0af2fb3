"""Two receipts of one job that differ: which slice is the first, and who is refuted by it.

A leaf's proof holds the roots of all subtrees beside it. So one probe of both nodes tells which is
the first subtree that differs, and the next probe goes there: after 1 + log2(n) probes of each it
is known which leaf is the first, also where states differ and agree again. Both proofs are checked
against the receipts, which are signed: a node cannot say otherwise later. Running the job as far as
that slice then says whose leaf is false (Canetti, Riva and Rothblum, "Practical delegation of
computation using multiple servers", CCS 2011).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from arsenale_core.errors import InvalidError
from arsenale_mesh.receipts import Body, Receipt
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.verification.commitments import Shown, count, is_shown, show
from arsenale_mesh.verification.reexecution import (
    Differs,
    Unsure,
    other_engine,
    reexecute,
    run_to,
)


class Prover(Protocol):
    """Who has the leaves: here, or far away."""

    async def leaf(self, place: int) -> Shown:
        """Return the leaf at PLACE with its proof."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """Leaves that are here."""

    leaves: Sequence[bytes]

    async def leaf(self, place: int) -> Shown:
        """Return the leaf at PLACE with its proof.

        Raises:
            IndexError: There is none.
        """
        return show(self.leaves, place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A receipt, and who shows its leaves."""

    receipt: Receipt
    prover: Prover


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first leaf that differs, each side's, after so many probes of each.

    Both are the same where one says that it ended there, and the other that it went on.
    """

    place: int
    leaves: tuple[bytes, bytes]
    probes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproved:
    """These nodes could not show what they committed to."""

    nodes: tuple[str, ...]
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """The traces are one. What else the receipts say is not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Who is refuted, and who is not: those are right up to PLACE, which says nothing of later."""

    place: int
    refuted: tuple[str, ...]
    standing: tuple[str, ...]
    probes: int
    fuel: int


Found: TypeAlias = Parting | Unproved | Same


async def first_difference(one: Claim, other: Claim) -> Found:
    """Return the first leaf in which two receipts of one job differ.

    Raises:
        InvalidError: They are not of one job, or one commits to nothing.
    """
    _check(one.receipt.body, other.receipt.body)
    counts = count(one.receipt), count(other.receipt)
    if not all(counts):
        raise InvalidError("a receipt commits to no leaf", hint="run its job again as a whole")
    if one.receipt.body.trace == other.receipt.body.trace and counts[0] == counts[1]:
        return Same()
    place, probes = 0, 0
    while True:
        shown = [await claim.prover.leaf(place) for claim in (one, other)]
        probes += 1
        lost = tuple(
            claim.receipt.body.node
            for claim, told in zip((one, other), shown, strict=True)
            if told.place != place or not is_shown(claim.receipt, told)
        )
        if lost:
            return Unproved(nodes=lost, place=place)
        mine, theirs = shown
        if mine.leaf != theirs.leaf or place == min(counts) - 1:
            return Parting(place=place, leaves=(mine.leaf, theirs.leaf), probes=probes)
        place = _next(_beside(mine, counts[0]), _beside(theirs, counts[1]), min(counts))


async def settle(
    one: Claim, other: Claim, module: bytes, input: bytes, pool: Pool
) -> Settled | Same | Unsure:
    """Find the first leaf that differs and run the job as far as that, to say who is refuted.

    Raises:
        InvalidError: They are not of one job, or MODULE or INPUT are not theirs.
        UnavailableError: Nothing can be run here now.
    """
    found = await first_difference(one, other)
    match found:
        case Same():
            if one.receipt.outcome == other.receipt.outcome:
                return found
            place, probes = one.receipt.body.slices, 0  # one of them is not what its trace says
        case Unproved():
            return _settled(one, other, found.place, found.nodes, 0, 0)
        case Parting():
            place, probes = found.place, found.probes
    judge = _Judge(module, input, pool)
    refuted = list[str]()
    for claim in (one, other):
        leaf = found.leaves[claim is other] if isinstance(found, Parting) else b""
        wrong = await judge.refutes(claim.receipt, place, leaf)
        if isinstance(wrong, Unsure):
            return replace(wrong, fuel=judge.fuel)
        if wrong:
            refuted.append(claim.receipt.body.node)
    return _settled(one, other, place, tuple(refuted), probes, judge.fuel)


@dataclass(slots=True)
class _Judge:
    """Runs a job as far as need be, once for both sides."""

    module: bytes
    input: bytes
    pool: Pool
    fuel: int = 0
    true: bytes | Unsure | None = None

    async def refutes(self, receipt: Receipt, place: int, leaf: bytes) -> bool | Unsure:
        """Say whether LEAF, which RECEIPT has at PLACE, is false."""
        if place == receipt.body.slices:
            finding = await reexecute(receipt, None, self.module, self.input, self.pool)
            self.fuel += finding.fuel
            return finding if isinstance(finding, Unsure) else isinstance(finding, Differs)
        if self.true is None:
            self.true, fuel = await run_to(receipt.body, place, self.module, self.input, self.pool)
            self.fuel += fuel
        if isinstance(self.true, Unsure):
            return self.true
        if self.true == leaf:
            return False
        return other_engine(receipt.body, "cranelift", self.fuel) or True


def _settled(
    one: Claim, other: Claim, place: int, refuted: tuple[str, ...], probes: int, fuel: int
) -> Settled:
    nodes = (one.receipt.body.node, other.receipt.body.node)
    standing = tuple(node for node in nodes if node not in refuted)
    return Settled(place=place, refuted=refuted, standing=standing, probes=probes, fuel=fuel)


def _check(one: Body, other: Body) -> None:
    names = ("module", "function", "input", "seed", "clock_us", "limits", "slice_fuel", "engine")
    odd = [name for name in names if getattr(one, name) != getattr(other, name)]
    if odd:
        raise InvalidError(f"two jobs: {', '.join(odd)} differ", hint="compare receipts of one")


def _beside(shown: Shown, leaves: int) -> list[tuple[int, int, bytes]]:
    """Return the subtrees to the right in a proof, the smallest first: start, end and root."""
    found, place, width, height = list[tuple[int, int, bytes]](), shown.place, leaves, 0
    siblings = iter(shown.proof)
    while width > 1:
        if place ^ 1 < width:
            is_left, root = next(siblings)
            if not is_left:
                start = (place ^ 1) << height
                found.append((start, min(start + (1 << height), leaves), root))
        place, width, height = place >> 1, (width + 1) >> 1, height + 1
    return found


def _next(
    mine: list[tuple[int, int, bytes]], theirs: list[tuple[int, int, bytes]], common: int
) -> int:
    """Return where the first subtree begins that is not the same in both."""
    for left, right in zip(mine, theirs, strict=False):
        if left != right:
            return left[0]
    return common - 1  # all that both have is the same: one has an end where the other goes on
