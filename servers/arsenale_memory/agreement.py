"""How far several views agree, computed from their texts' vectors and their positions. Pure.

A view has a position from -1 (no) to 1 (yes) and a text of which a unit vector is known.
"""

from collections.abc import Sequence

import numpy as np

from arsenale_core.embedding.vectors import Vectors


def coherence(vectors: Vectors) -> float:
    """Return the mean cosine of all pairs of VECTORS, 0..1; 1 for a single one.

    Args:
        vectors: Unit vectors of the texts, shape `(n, dim)`.
    """
    n = len(vectors)
    if n < 2:
        return 1.0
    cosines = np.clip(vectors @ vectors.T, 0.0, 1.0)
    return float((cosines.sum() - np.trace(cosines)) / (n * (n - 1)))


def polarization(positions: Sequence[float]) -> float:
    """Return how far POSITIONS lie apart, 0 (all equal) to 1 (half at -1, half at 1).

    It is their mean distance by pairs, divided by the largest that so many can have: for n
    positions that is `2 * floor(n/2) * ceil(n/2)` over the number of pairs.
    """
    n = len(positions)
    if n < 2:
        return 0.0
    apart = sum(abs(a - b) for i, a in enumerate(positions) for b in positions[i + 1 :])
    return min(1.0, apart / (2 * (n // 2) * (n - n // 2)))


def fracture(coherence: float, polarization: float) -> float:
    """Return the fracture index: 0 for agreement, 1 for complete disagreement.

    `1 - (1 - polarization) * (1 + coherence) / 2`: opposite positions are a full fracture whatever
    the texts, for texts that contradict each other are alike; equal positions with texts that have
    nothing in common are half of one.
    """
    return 1.0 - (1.0 - polarization) * (1.0 + coherence) / 2.0


def confidence(samples: Vectors, positions: Sequence[float], grounding: float | None) -> float:
    """Return how far a view can be relied on, 0..1.

    The mean of what is known of three: how alike its texts are when it is asked again
    (self-consistency, after Wang et al., ICLR 2023), how alike its positions, and how near its text
    is to the memories that it was given.

    Args:
        samples: Unit vectors of its answers to the same question, shape `(n, dim)`.
        positions: Their positions.
        grounding: See `grounding`; `None` where there were no memories.
    """
    known = [] if grounding is None else [grounding]
    if len(samples) > 1:
        known += [coherence(samples), 1.0 - polarization(positions)]
    return float(np.mean(known)) if known else 0.0


def grounding(sentences: Vectors, memories: Vectors) -> float | None:
    """Return the mean over SENTENCES of the largest cosine to one of MEMORIES; 0..1.

    Args:
        sentences: Unit vectors of a text's sentences, shape `(n, dim)`.
        memories: Of the memories that it was given, shape `(m, dim)`.
    """
    if not len(sentences) or not len(memories):
        return None
    return float(np.clip(sentences @ memories.T, 0.0, 1.0).max(axis=1).mean())
