"""What every embedder is. Light on purpose: importing it loads no engine and no numpy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from arsenale_core.embedding.vectors import Vectors


class Embedder(Protocol):
    """Gives texts as unit vectors.

    Attributes:
        id: Name of model and number format, stored with every vector: vectors of different ids are
            never compared.
    """

    @property
    def id(self) -> str:
        """Return the name of model and number format."""
        ...

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> "Vectors":
        """Return a unit vector for each of TEXTS, shape `(len(texts), dim)`.

        URGENT texts (someone waits) go before others.

        Raises:
            UnavailableError: The engine does not answer; the same call may succeed later.
        """
        ...


class Engine(Protocol):
    """The computing part of an embedder, as the worker process runs it."""

    id: str

    def __call__(self, texts: Sequence[str]) -> "Vectors":
        """Return a unit vector for each of TEXTS."""
        ...
