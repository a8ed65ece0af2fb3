"""What happened to the mesh that somebody may ask about later: a chain, as the ledger is; pure."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from arsenale_mesh.canonical import canonical, digest
from arsenale_mesh.ledger import GENESIS

What: TypeAlias = Literal[
    "node.admitted", "node.banned", "node.pardoned", "invitation.made", "module.submitted",
    "receipt.forged", "result.wrong", "result.withdrawn", "task.undecided", "mesh.restored",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One event: what happened to whom, in a sentence."""

    number: int
    at_us: int
    kind: What
    subject: str
    body: str
    before: str

    @property
    def hash(self) -> str:
        """SHA-256 of the note, the hash before it included."""
        return digest(canonical(asdict(self)))


def following(last: Note | None, *, at_us: int, kind: What, subject: str, body: str) -> Note:
    """Return the note that comes after LAST."""
    return Note(
        number=last.number + 1 if last else 1, at_us=at_us, kind=kind, subject=subject, body=body,
        before=last.hash if last else GENESIS,
    )  # fmt: skip
