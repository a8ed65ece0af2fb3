"""LoRA layers as arrays: what a model can take, what a layer brings, and how it lies in memory.

A layer changes a weight W by `weight * alpha / rank * B A` (Hu et al., LoRA, 2021).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference.engine.llama import Floats

Pair: TypeAlias = tuple[Floats, Floats]
"""A, shape `(rank, n_in)`, and B, shape `(n_out, rank)`, rows as the GGUF of the model has them."""

ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A weight that the model's graph multiplies by."""

    name: str
    n_in: int
    n_out: int
    gathered: bool
    """Sees only the rows of a step that want logits."""

    waits: bool = False
    """A later site with the same input can serve it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A LoRA layer, checked against the sites of a model."""

    name: str
    pairs: Mapping[str, Pair]
    alpha: float

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return sum(a.size + b.size for a, b in self.pairs.values())

    def scale(self, rank: int) -> float:
        """Return alpha / RANK; an alpha of 0 leaves B A as it is."""
        return self.alpha / rank if self.alpha else 1.0


@dataclass(frozen=True, slots=True)
class Packed:
    """One pair as `compose.c` reads it; elements are float32, float16 or int8."""

    rank: int
    scale: Floats
    """Shape `(rank,)`: what the sum over A's row r is multiplied by."""

    a: NDArray[Any]
    """Shape `(rank, n_in)`."""

    b: NDArray[Any]
    """Shape `(blocks, rank, block)`: columns of B in blocks, zeros behind the last."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return self.a.nbytes + self.b.nbytes + self.scale.nbytes

    def pair(self, n_out: int) -> Pair:
        """Return A and B in 32 bits, the scale in B."""
        b = self.b.astype(np.float32).swapaxes(1, 2).reshape(-1, self.rank)[:n_out]
        return self.a.astype(np.float32), b * self.scale


def check(name: str, pairs: Mapping[str, Pair], alpha: float, sites: Iterable[Site]) -> Layer:
    """Return the layer as 32-bit floats.

    Raises:
        InvalidError: A pair names no weight of the model, has other shapes, or is not finite.
    """
    known = {site.name: site for site in sites}
    if not pairs:
        raise InvalidError(f"layer {name} changes nothing", hint="give at least one pair A, B")
    checked = {weight: _pair(name, weight, pair, known) for weight, pair in pairs.items()}
    return Layer(name=name, pairs=checked, alpha=float(alpha))


def _pair(name: str, weight: str, pair: Pair, known: Mapping[str, Site]) -> Pair:
    site = known.get(weight)
    if site is None or weight == "token_embd.weight":
        raise InvalidError(
            f"layer {name} changes {weight}, which this model cannot change by a layer",
            hint=f"train it for linear weights of this model, like {next(iter(known), 'none')}",
        )
    a, b = (np.ascontiguousarray(side, np.float32) for side in pair)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != site.n_in or b.shape != (site.n_out, len(a)):
        raise InvalidError(
            f"layer {name}: {weight} has A {a.shape} and B {b.shape}",
            hint=f"this model needs A (rank, {site.n_in}) and B ({site.n_out}, rank)",
        )
    if len(a) == 0 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InvalidError(
            f"layer {name}: {weight} is empty or not finite", hint="train it again, more slowly"
        )
    return a, b


def pack(layer: Layer, weight: str, *, block: int, halves: bool, compact: bool) -> Packed:
    """Lay out a pair for `compose.c`.

    Args:
        layer: Where the pair is.
        weight: Its name.
        block: Columns of B that stand together.
        halves: Use 16 bits where no value changes by it.
        compact: Use 8 bits: each row of A and of B's transpose has its own scale, max |x| / 127.
    """
    a, b = layer.pairs[weight]
    scale = np.full(len(a), layer.scale(len(a)), np.float32)
    if compact:
        a, of_a = _bytes(a, axis=1)
        b, of_b = _bytes(b, axis=0)
        return Packed(len(a), scale * of_a * of_b, a.astype(np.int8), _blocks(b, block, np.int8))
    kind = np.float16 if halves and _fits_half(a) and _fits_half(b) else np.float32
    return Packed(len(a), scale, a.astype(kind), _blocks(b, block, kind))


def _fits_half(array: Floats) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float16).astype(np.float32), array))


def _bytes(array: Floats, *, axis: int) -> tuple[Floats, Floats]:
    """Return whole numbers of -127 to 127, and the scale of each row (or column)."""
    scale = np.abs(array).max(axis=axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(array / scale), scale.ravel()


def _blocks(b: Floats, block: int, kind: type[Any]) -> NDArray[Any]:
    n_out, rank = b.shape
    blocks = -(-n_out // block)
    padded = np.zeros((blocks * block, rank), np.float32)
    padded[:n_out] = b
    return padded.reshape(blocks, block, rank).swapaxes(1, 2).astype(kind, order="C")


def together(pairs: Sequence[Packed | None]) -> list[Packed | None]:
    """Move PAIRS into one piece of memory, in their order: the system can give it large pages."""
    arrays = [side for pair in pairs if pair for side in (pair.a, pair.b)]
    starts = np.cumsum([0, *(_padded(array.nbytes) for array in arrays)])
    room = np.empty(int(starts[-1]) + ALIGNMENT_BYTES, np.uint8)
    room = room[-room.ctypes.data % ALIGNMENT_BYTES :]
    moved = iter([_moved(array, room, int(at)) for array, at in zip(arrays, starts, strict=False)])
    return [pair and replace(pair, a=next(moved), b=next(moved)) for pair in pairs]


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _moved(array: NDArray[Any], room: NDArray[np.uint8], start: int) -> NDArray[Any]:
    made = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made
