"""LoRA adapters as values, and whether one fits a base: pure, no files.

An adapter adds `scale * B @ A` to named matrices of its base (Hu et al., 2021, arXiv:2106.09685).
Here A and B are as llama.cpp takes them: under the GGUF names of the base's tensors, and with the
rows of q and k in the order of llama.cpp's rotary embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError

Matrix: TypeAlias = NDArray[np.float32]

PERMUTED = frozenset({"llama"})
"""Architectures whose q and k rows llama.cpp's converter reorders (`LlamaModel.permute`)."""

AS_THEY_ARE = frozenset({"gemma", "gemma2", "gemma3", "phi3", "qwen2", "qwen3", "starcoder2"})
"""Architectures whose rows it leaves in the order of Hugging Face."""

RETRAIN = "train it on this base, or name the base it was trained on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The two matrices of one adapted tensor.

    Args:
        a: `(rank, in)`, float32.
        b: `(out, rank)`, float32.
    """

    a: Matrix
    b: Matrix

    @property
    def rank(self) -> int:
        """Rows of A, which are the columns of B."""
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA layer in llama.cpp's form.

    Args:
        architecture: The base's `general.architecture`, as `llama`.
        alpha: Numerator of the scale; 0 says that the scale is 1.
        factors: GGUF name of the base's tensor, as `blk.0.attn_q.weight` -> its A and B.
        name: What people call it; may be empty.
    """

    architecture: str
    alpha: float
    factors: Mapping[str, Factors]
    name: str = ""

    @property
    def rank(self) -> int:
        """The largest rank of a tensor."""
        return max(pair.rank for pair in self.factors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all matrices as float32."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.factors.values())

    def scale(self, tensor: str) -> float:
        """Return what `B @ A` of TENSOR is multiplied by at weight 1 (llama.cpp's `get_scale`)."""
        return self.alpha / self.factors[tensor].rank if self.alpha else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What an adapter has to fit: the head of a base model's file.

    Args:
        architecture: `general.architecture`.
        layers: Number of blocks.
        heads: Attention heads of q.
        kv_heads: Attention heads of k and v.
        tensors: Name -> shape, `(out, in)` for a matrix, `(dim,)` for a vector.
        name: `general.name`; may be empty.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    tensors: Mapping[str, tuple[int, ...]]
    name: str = ""


def check_factors(tensor: str, pair: Factors) -> None:
    """Refuse factors that cannot be multiplied or hold no numbers.

    Raises:
        InvalidError: It names TENSOR.
    """
    if pair.a.ndim != 2 or pair.b.ndim != 2 or 0 in (*pair.a.shape, *pair.b.shape):
        raise InvalidError(
            f"{tensor}: A {pair.a.shape} and B {pair.b.shape} are no matrices",
            hint="the file is damaged or of another kind; export the adapter again",
        )
    if pair.a.shape[0] != pair.b.shape[1]:
        raise InvalidError(
            f"{tensor}: A has rank {pair.a.shape[0]}, B has rank {pair.b.shape[1]}",
            hint="A is (rank, in) and B is (out, rank); export the adapter again",
        )
    if not (np.isfinite(pair.a).all() and np.isfinite(pair.b).all()):
        raise InvalidError(
            f"{tensor}: holds values that are not finite",
            hint="its training diverged; train it again at a lower rate",
        )


def check_fits(adapter: Adapter, base: Base) -> None:
    """Refuse an ADAPTER that was not made for BASE.

    Raises:
        InvalidError: The architecture differs, or a tensor is missing or has another shape; it
            names the first such tensor.
    """
    if adapter.architecture != base.architecture:
        raise InvalidError(
            f"the adapter is for architecture {adapter.architecture!r}, "
            f"the base is {base.architecture!r}",
            hint=RETRAIN,
        )
    for tensor, pair in adapter.factors.items():
        shape = base.tensors.get(tensor)
        if shape is None:
            raise InvalidError(f"the base has no tensor {tensor!r}", hint=RETRAIN)
        meant = (pair.b.shape[0], pair.a.shape[1])
        if shape != meant:
            raise InvalidError(
                f"{tensor}: the adapter is for a matrix {meant}, the base's is {shape}",
                hint=RETRAIN,
            )


def permuted(rows: Matrix, heads: int) -> Matrix:
    """Return ROWS of q or k from Hugging Face's order to that of llama.cpp's `llama`.

    The rotary embedding turns pairs of rows: there half a head apart, here neighbours.

    Args:
        rows: `(heads * head_dim, any)`; rows of the matrix itself or of a LoRA's B.
        heads: Heads of q, or heads of k and v for k.

    Raises:
        InvalidError: The rows do not divide into HEADS heads of an even size.
    """
    if heads < 1 or rows.shape[0] % (2 * heads):
        raise InvalidError(f"{rows.shape[0]} rows do not divide into {heads} heads", hint=RETRAIN)
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def in_llama_order(tensor: str, pair: Factors, base: Base) -> Factors:
    """Return PAIR, as Hugging Face's models have it, with the rows that llama.cpp expects.

    Raises:
        InvalidError: How llama.cpp orders the rows of this architecture is not known here.
    """
    if base.architecture not in PERMUTED | AS_THEY_ARE:
        raise InvalidError(
            f"adapters for architecture {base.architecture!r} cannot be converted",
            hint="convert it with llama.cpp's convert_lora_to_gguf.py and give the GGUF file",
        )
    heads = {"attn_q": base.heads, "attn_k": base.kv_heads}.get(tensor.split(".")[-2])
    if heads is None or base.architecture in AS_THEY_ARE:
        return pair
    return replace(pair, b=permuted(pair.b, heads))
