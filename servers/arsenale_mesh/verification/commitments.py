"""The leaves that a receipt commits to: whether they are those, and one shown by a proof; pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from arsenale_mesh import merkle
from arsenale_mesh.receipts import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a receipt says of NAME, and what was found."""

    name: str
    said: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The leaf at PLACE, from 0, and its siblings up to the trace's root."""

    place: int
    leaf: bytes
    proof: merkle.Proof


def show(leaves: Sequence[bytes], place: int) -> Shown:
    """Return the leaf at PLACE with its proof.

    Raises:
        IndexError: There is none.
    """
    return Shown(place=place, leaf=leaves[place], proof=merkle.proof(leaves, place))


def count(receipt: Receipt) -> int:
    """Return how many leaves RECEIPT commits to: one a slice and one for the end, or none."""
    return 0 if receipt.body.trace == merkle.EMPTY.hex() else receipt.body.slices + 1


def is_shown(receipt: Receipt, shown: Shown) -> bool:
    """Say whether SHOWN belongs to the trace of RECEIPT."""
    root = bytes.fromhex(receipt.body.trace)
    if any(len(one) != len(root) for one in (shown.leaf, *(said for _, said in shown.proof))):
        return False  # else a longer one and a shorter one could be joined to the same bytes
    return merkle.holds(root, shown.leaf, shown.place, count(receipt), shown.proof)


def lacking(receipt: Receipt, leaves: Sequence[bytes]) -> Difference | None:
    """Return what keeps LEAVES from being those of RECEIPT: a fault of whoever gave them."""
    if len(leaves) != count(receipt):
        return Difference(name="leaves", said=str(count(receipt)), found=str(len(leaves)))
    found = merkle.root(leaves).hex()
    if found != receipt.body.trace:
        return Difference(name="trace", said=receipt.body.trace, found=found)
    return None


def place_of(draw: float, count: int) -> int:
    """Return the place, of COUNT, that DRAW names: uniform in 0..1, unknown to the node."""
    return min(int(draw * count), count - 1)
