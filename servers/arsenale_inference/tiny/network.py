"""The llama network in torch, as a function of its weights, with LoRA layers added as they are.

Weights lie under their GGUF names and in GGUF's row order (llama.cpp's `LLM_ARCH_LLAMA`): rotary
position embedding turns neighbouring rows of q and k (Su et al., 2021, arXiv:2104.09864), where
Hugging Face's models turn rows half a head apart. So nothing is permuted on the way out.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false
# torch is an extra: it may be absent, and says little about its types where it is.

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Weights: TypeAlias = Mapping[str, Tensor]
"""GGUF name -> matrix `(out, in)` or vector `(dim,)`, float32."""

MATRICES = (
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
"""The linear maps of a block, by their GGUF names: what a LoRA layer sits on."""

EPSILON = 1e-5
ROPE_BASE = 10_000.0
INITIAL_STD = 0.02
"""Standard deviation of fresh weights, as GPT-2 and Llama have it."""

EMBEDDING_STD = 0.08
"""Of the fresh embedding, which is also the output. A layer does not change it, so a word that the
base never says is as likely as the length of its row allows: with 0.02 at most one in five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a network is."""

    vocab: int
    dim: int = 192
    layers: int = 4
    heads: int = 3
    kv_heads: int = 1
    hidden: int = 512
    context: int = 2048

    @property
    def head_dim(self) -> int:
        """Rows of q that belong to one head."""
        return self.dim // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return name -> `(out, in)` of every linear map in the blocks."""
        key = self.kv_heads * self.head_dim
        sizes = {
            "attn_q": (self.dim, self.dim),
            "attn_k": (key, self.dim),
            "attn_v": (key, self.dim),
            "attn_output": (self.dim, self.dim),
            "ffn_gate": (self.hidden, self.dim),
            "ffn_up": (self.hidden, self.dim),
            "ffn_down": (self.dim, self.hidden),
        }
        return {f"blk.{i}.{m}.weight": sizes[m] for i in range(self.layers) for m in MATRICES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A LoRA layer (Hu et al., 2021, arXiv:2106.09685): it adds `alpha / rank * B @ A`.

    Args:
        a: GGUF name -> `(rank, in)`.
        b: GGUF name -> `(out, rank)`.
        alpha: Numerator of the scale.
    """

    a: dict[str, Tensor]
    b: dict[str, Tensor]
    alpha: float

    def parameters(self) -> list[Tensor]:
        """Return what training changes."""
        return [*self.a.values(), *self.b.values()]


def fresh_weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Return random weights of SHAPE that can be trained; the embedding is also the output."""
    source = torch.Generator().manual_seed(seed)

    def matrix(size: tuple[int, int], std: float) -> Tensor:
        return (torch.randn(size, generator=source) * std).requires_grad_()

    weights = {"token_embd.weight": matrix((shape.vocab, shape.dim), EMBEDDING_STD)}
    weights |= {name: matrix(size, INITIAL_STD) for name, size in shape.matrices().items()}
    norms = [f"blk.{i}.{n}.weight" for i in range(shape.layers) for n in ("attn_norm", "ffn_norm")]
    ones = {name: torch.ones(shape.dim).requires_grad_() for name in [*norms, "output_norm.weight"]}
    return weights | ones


def fresh_layer(shape: Shape, *, rank: int, alpha: float, seed: int) -> Layer:
    """Return a layer on every linear map of SHAPE that changes nothing yet: its B are zero."""
    source = torch.Generator().manual_seed(seed)
    a, b = {}, {}
    for name, (out, inner) in shape.matrices().items():
        a[name] = (torch.randn(rank, inner, generator=source) / math.sqrt(inner)).requires_grad_()
        b[name] = torch.zeros(out, rank).requires_grad_()
    return Layer(a=a, b=b, alpha=alpha)


def logits(weights: Weights, shape: Shape, tokens: Tensor, stack: Sequence[Layer] = ()) -> Tensor:
    """Return the next token's scores at each place, `(batch, length, vocab)`.

    Args:
        weights: The base.
        shape: Its size.
        tokens: Ids, int64 `(batch, length)`; rows are padded on the right.
        stack: Layers that are on, each with weight 1.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        y = F.linear(x, weights[name])
        for layer in stack:
            a, b = layer.a[name], layer.b[name]
            y = y + layer.alpha / a.shape[0] * F.linear(F.linear(x, a), b)
        return y

    turn = _rotation(tokens.shape[1], shape.head_dim)
    x = F.embedding(tokens, weights["token_embd.weight"])
    for i in range(shape.layers):
        block = f"blk.{i}."
        h = _normed(x, weights[f"{block}attn_norm.weight"])
        q, k, v = (
            linear(h, f"{block}attn_{m}.weight").unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
            for m in "qkv"
        )
        seen = F.scaled_dot_product_attention(
            _turned(q, turn), _turned(k, turn), v, is_causal=True, enable_gqa=True
        )
        x = x + linear(seen.transpose(1, 2).flatten(-2), f"{block}attn_output.weight")
        h = _normed(x, weights[f"{block}ffn_norm.weight"])
        gate = F.silu(linear(h, f"{block}ffn_gate.weight"))
        x = x + linear(gate * linear(h, f"{block}ffn_up.weight"), f"{block}ffn_down.weight")
    return F.linear(_normed(x, weights["output_norm.weight"]), weights["token_embd.weight"])


def _normed(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * gain


def _rotation(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    steps = torch.arange(0, head_dim, 2) / head_dim
    angles = torch.outer(torch.arange(length), ROPE_BASE**-steps)
    return angles.cos(), angles.sin()


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
