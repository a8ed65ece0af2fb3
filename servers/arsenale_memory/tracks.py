"""The two tracks: what is proven is on; what is research runs by the user's recorded consent. Pure.

Each research feature has a hypothesis, a metric that would refute it, and a text that says what it
does with the user's data. Consent is to a version of that text: a new text asks anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One research feature.

    Attributes:
        hypothesis: Its document, within the repository.
        text: What one consents to.
        text_version: Raised whenever the text changes.
        least_uses: So many uses are needed before the metric says anything.
    """

    name: str
    hypothesis: str
    text: str
    text_version: int
    least_uses: int

    @property
    def text_sha(self) -> bytes:
        """Return the SHA-256 of the text, as a consent records it."""
        return sha256(self.text.encode()).digest()


NAMED_EMBEDDINGS = Feature(
    name="named-embeddings",
    hypothesis="docs/hypotheses/0001-named-embeddings.md",
    text=(
        "Each memory gets a second vector, made on this machine of its text and that of its "
        "neighbours, kept in the memory database. When a memory that a search showed is read "
        "afterwards, the places at which both vectors had it are recorded, without the question. "
        "Nothing leaves this machine. Withdrawing deletes the vectors and the records."
    ),
    text_version=1,
    least_uses=200,
)

FEATURES: Mapping[str, Feature] = {NAMED_EMBEDDINGS.name: NAMED_EMBEDDINGS}

CONTEXT = "context"
"""The named embedding of `named-embeddings`: a part with what comes before and after it."""


def space_name(embedder: str, space: str) -> str:
    """Return under which name the vectors of a named embedding are kept."""
    return f"{embedder}#{space}"


def context_view(before: str, body: str, after: str) -> str:
    """Return the text of which the named embedding `context` is made."""
    return " ".join(part for part in (before, body, after) if part)
