"""Whether C = A B, without multiplying: Freivalds' check ("Fast probabilistic algorithms", 1979).

For vectors r of zeros and ones, drawn after C is known, A (B r) = C r is tested. That takes n^2
additions a vector, where the product takes n^3. A right product always passes. A wrong one passes
with at most 1/2 for each vector:

    Let D = A B - C and d = D[i, j] != 0. (D r)[i] = d r[j] + s, where s does not depend on r[j].
    For r[j] = 0 that is s, for r[j] = 1 it is s + d. As d != 0 they differ, so at most one is 0.

Only addition was used, so this holds in any abelian group: here in the integers modulo 2^64, which
have divisors of zero.
"""

import random
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]

ROUNDS: Final = 40
"""Vectors: a wrong product passes once in 10**12 times."""

MOST: Final = 4_096
"""Rows or columns that the guest `matmul` takes."""

REFUSED: Final = b"error: the input is no two matrices that fit\n"
"""What the guest says to any other input."""

_HEAD: Final = struct.Struct("<4I")
_TYPES: Final = {4: "<i4", 8: "<i8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The matrices A (n x k) and B (k x m), entries modulo 2^64."""

    a: Words
    b: Words


def holds(a: Words, b: Words, c: Words, rounds: int, rng: random.Random) -> bool:
    """Say whether C = A B modulo 2^64; wrongly yes with a chance of at most 2^-ROUNDS.

    Args:
        a: Shape `(n, k)`.
        b: Shape `(k, m)`.
        c: Shape `(n, m)`; of another shape it is no product.
        rounds: Vectors, at least 1.
        rng: Nobody who made C may foresee it: `random.SystemRandom()`.

    Raises:
        ValueError: A and B do not fit, or there are no rounds.
    """
    if rounds < 1 or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"{rounds} rounds over shapes {a.shape} and {b.shape}")
    if c.shape != (a.shape[0], b.shape[1]):
        return False
    drawn = np.frombuffer(rng.randbytes(rounds * b.shape[1]), dtype=np.uint8)
    vectors = (drawn & 1).astype(np.uint64).reshape(rounds, b.shape[1])
    return bool(np.array_equal(_times(a, _times(b, vectors)), _times(c, vectors)))


def check(
    input: bytes, output: bytes, *, rounds: int = ROUNDS, rng: random.Random | None = None
) -> bool:
    """Say whether OUTPUT is what the guest `matmul` says to INPUT, and of nothing else.

    What the run burnt is not checked: a claim of fuel is believed up to `fuel_at_most`.
    """
    factors = parse(input)
    if factors is None:
        return output == REFUSED
    n, m = factors.a.shape[0], factors.b.shape[1]
    if len(output) != 8 * n * m:
        return False
    product = np.frombuffer(output, dtype="<u8").reshape(n, m).astype(np.uint64, copy=False)
    return holds(factors.a, factors.b, product, rounds, rng or random.SystemRandom())


def pack(a: NDArray[Any], b: NDArray[Any], *, width: int = 8) -> bytes:
    """Return the input of the guest for A B.

    Args:
        a: Integers, shape `(n, k)`.
        b: Integers, shape `(k, m)`.
        width: Bytes of an entry, 4 or 8.

    Raises:
        ValueError: They do not fit, or are too large.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or width not in _TYPES:
        raise ValueError(f"shapes {a.shape} and {b.shape} with entries of {width} bytes")
    (n, k), m = a.shape, b.shape[1]
    if not all(1 <= size <= MOST for size in (n, k, m)):
        raise ValueError(f"1 to {MOST} rows and columns, not {n} x {k} x {m}")
    kind = _TYPES[width]
    return _HEAD.pack(width, n, k, m) + a.astype(kind).tobytes() + b.astype(kind).tobytes()


def parse(input: bytes) -> Factors | None:
    """Return the factors in an input of the guest; `None` where it refuses it."""
    if len(input) < _HEAD.size:
        return None
    width, n, k, m = cast("tuple[int, int, int, int]", _HEAD.unpack_from(input))
    if width not in _TYPES or not all(1 <= size <= MOST for size in (n, k, m)):
        return None
    if len(input) != _HEAD.size + width * (n * k + k * m):
        return None
    entries = np.frombuffer(input, dtype=_TYPES[width], offset=_HEAD.size)
    words = entries.astype(np.int64).view(np.uint64)
    return Factors(a=words[: n * k].reshape(n, k), b=words[n * k :].reshape(k, m))


def fuel_at_most(input: bytes) -> int:
    """Return fuel that the guest does not exceed on INPUT.

    Its way does not depend on the entries, so fuel is a polynomial of n, k and m; this is one above
    it by at most a quarter from 16 x 16 x 16 on, which the tests hold it to.
    """
    factors = parse(input)
    if factors is None:
        return 2_000
    (n, k), m = factors.a.shape, factors.b.shape[1]
    return 400 + 40 * n + 70 * n * k + 22 * n * k * m


def _times(matrix: Words, vectors: Words) -> Words:
    """Return MATRIX times each row of VECTORS, as rows; it wraps."""
    found: Words = np.einsum("ij,rj->ri", matrix, vectors)
    return found
