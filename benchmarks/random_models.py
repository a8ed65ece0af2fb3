"""Random models of the Llama architecture, and random LoRA layers for them: speed, not sense."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a model; `d` is a multiple of 32 and of `heads`."""

    d: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    quantized: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return `(n_out, n_in)` of the seven linear weights of a block."""
        kv = self.kv_heads * (self.d // self.heads)
        return {
            "attn_q": (self.d, self.d), "attn_k": (kv, self.d), "attn_v": (kv, self.d),
            "attn_output": (self.d, self.d), "ffn_gate": (self.ff, self.d),
            "ffn_up": (self.ff, self.d), "ffn_down": (self.d, self.ff),
        }  # fmt: skip


TINY = Shape(d=256, layers=4, heads=4, kv_heads=2, ff=704, vocab=768, quantized=False)
"""3 M parameters in 32 bits."""

SMALL = Shape(d=896, layers=24, heads=14, kv_heads=2, ff=4864, vocab=32_000, quantized=True)
"""0.39 B parameters in Q8_0, 411 MB: the sizes of a 0.5 B chat model."""


def write_model(path: Path, shape: Shape) -> None:
    """Write a GGUF of SHAPE."""
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    _header(writer, shape)
    chance = np.random.default_rng(0)
    _matrix(writer, "token_embd.weight", (shape.vocab, shape.d), 1.0, shape, chance)
    writer.add_tensor("output_norm.weight", np.ones(shape.d, np.float32))
    for block in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{norm}.weight", np.ones(shape.d, np.float32))
        for name, size in shape.linears().items():
            _matrix(writer, f"blk.{block}.{name}.weight", size, size[1] ** -0.5, shape, chance)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _header(writer: Any, shape: Shape) -> None:
    head = shape.d // shape.heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.d)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{i}" for i in range(shape.vocab)])
    writer.add_token_types([gguf.TokenType.NORMAL] * shape.vocab)
    writer.add_token_merges(["w 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _matrix(
    writer: Any, name: str, size: tuple[int, int], std: float, shape: Shape,
    chance: np.random.Generator,
) -> None:  # fmt: skip
    if not shape.quantized:
        writer.add_tensor(name, chance.standard_normal(size, dtype=np.float32) * np.float32(std))
        return
    # Q8_0: blocks of 32 int8 behind their scale in 16 bits.
    count = size[0] * size[1] // 32
    blocks = np.empty((count, 34), np.uint8)
    blocks[:, :2] = np.full(count, std / 73.0, np.float16).view(np.uint8).reshape(count, 2)
    blocks[:, 2:] = chance.integers(-127, 128, (count, 32), dtype=np.int8).view(np.uint8)
    rows = blocks.reshape(size[0], size[1] // 32 * 34)
    writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def random_layer(shape: Shape, rank: int, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """Return pairs for all seven linears of all blocks, of values that 16 bits hold."""
    chance = np.random.default_rng(seed)

    def drawn(rows: int, columns: int, std: float) -> Floats:
        values = chance.standard_normal((rows, columns), dtype=np.float32) * np.float32(std)
        return values.astype(np.float16).astype(np.float32)

    return {
        f"blk.{block}.{name}.weight": (drawn(rank, n_in, n_in**-0.5), drawn(n_out, rank, 0.02))
        for block in range(shape.layers)
        for name, (n_out, n_in) in shape.linears().items()
    }
