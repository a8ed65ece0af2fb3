"""Which genomes or layers are nearest to a description, by the cosine of their embeddings.

Vectors are made when first needed and kept; a text that changed, or another embedder, makes its
vector anew.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from anyio import to_thread

from arsenale_core.embedding.base import Embedder
from arsenale_genome import reading
from arsenale_genome.record import Genome, Layer
from arsenale_genome.store import GenomeStore

if TYPE_CHECKING:
    from arsenale_core.embedding.vectors import Vectors

BATCH = 256
"""Texts that are embedded and kept at a time."""


def text_of(item: Genome | Layer) -> str:
    """Return the words by which ITEM is found."""
    trait = item.trait.replace("_", " ") if isinstance(item, Layer) else item.persona
    words = item.name.replace("-", " ").replace("_", " ")
    return "\n".join(part for part in (words, trait, item.description, " ".join(item.tags)) if part)


async def ranked(
    query: str, items: Sequence[Genome | Layer], store: GenomeStore, embedder: Embedder
) -> list[tuple[Genome | Layer, float]]:
    """Return ITEMS with the cosine of QUERY and their text, the nearest first.

    Raises:
        UnavailableError: The embedder does not answer.
    """
    if not items:
        return []
    import numpy as np  # noqa: PLC0415  # 60 ms, when first needed

    asked = (await embedder.embed([query]))[0]
    vectors = await _vectors(items, store, embedder)
    scores = vectors @ asked
    order = np.argsort(-scores, kind="stable")
    return [(items[int(place)], float(scores[int(place)])) for place in order]


async def _vectors(
    items: Sequence[Genome | Layer], store: GenomeStore, embedder: Embedder
) -> "Vectors":
    """Return a unit vector for each of ITEMS, `(len(items), dim)`; those that lack are made."""
    import numpy as np  # noqa: PLC0415  # 60 ms, when first needed

    texts = [text_of(item) for item in items]
    shas = [sha256(text.encode()).hexdigest() for text in texts]

    def known() -> dict[str, tuple[str, bytes]]:
        with store.reading() as db:
            return reading.vectors(db, embedder.id, [item.id for item in items])

    there = await to_thread.run_sync(known)
    found = {
        place: np.frombuffer(there[item.id][1], "<f4")
        for place, item in enumerate(items)
        if item.id in there and there[item.id][0] == shas[place]
    }
    lack = [place for place in range(len(items)) if place not in found]
    for start in range(0, len(lack), BATCH):
        places = lack[start : start + BATCH]
        made = await embedder.embed([texts[place] for place in places])
        found |= dict(zip(places, made, strict=True))
        rows = [
            (items[place].id, shas[place], vector.astype("<f4").tobytes())
            for place, vector in zip(places, made, strict=True)
        ]
        await to_thread.run_sync(store.put_vectors, embedder.id, rows)
    return np.stack([found[place] for place in range(len(items))])
