"""Latencies as counts in logarithmic buckets: small, additive, with a known error."""

import math
from collections.abc import Mapping, Sequence

PER_OCTAVE = 8
"""Buckets for each doubling. A bucket is 2^(1/8) = 9.05 % wide."""

MAX_RELATIVE_ERROR = 2 ** (1 / (2 * PER_OCTAVE)) - 1
"""A quantile is off by at most this share, 4.4 %: half a bucket, taken geometrically."""


def bucket(duration_us: int) -> int:
    """Return the bucket of a duration in microseconds; everything up to 1 us is in bucket 0."""
    return int(math.log2(duration_us) * PER_OCTAVE) if duration_us > 1 else 0


def middle_us(index: int) -> float:
    """Return the geometric middle of bucket INDEX, microseconds."""
    return 2 ** ((index + 0.5) / PER_OCTAVE)


EXACT_UP_TO = 20
"""Of so few durations a quantile is computed from each: a p95 of them is one of the largest two."""


def exact_quantile_us(durations_us: Sequence[int], q: float) -> float | None:
    """Return the Q-quantile of DURATIONS_US, sorted, by nearest rank; `None` of none."""
    if not durations_us:
        return None
    return float(durations_us[max(1, math.ceil(q * len(durations_us))) - 1])


def quantile_us(counts: Mapping[int, int], q: float) -> float | None:
    """Return the Q-quantile of the durations counted by bucket, microseconds.

    Nearest rank (Hyndman & Fan 1996, type 1) over bucket middles, so within `MAX_RELATIVE_ERROR`
    of the exact nearest-rank quantile. `None` when nothing was counted.

    Args:
        counts: How many durations, by bucket index.
        q: In 0..1.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank = max(1, math.ceil(q * total))
    seen = 0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= rank:
            return middle_us(index)
    raise AssertionError("ranks end with the last bucket")
