"""Random models of the Llama architecture and random LoRA layers for them: to test and to measure.

Names are those of the GGUF specification (docs/gguf.md of https://github.com/ggml-org/ggml).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from arsenale_inference.engine.context import ContextOptions
from arsenale_inference.engine.engine import Engine, EngineOptions, Stack
from arsenale_inference.engine.layers import Pair
from arsenale_inference.engine.llama import Floats

Pairs = dict[str, Pair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a model; `d` and `ff` are multiples of 32, `d` of `heads`."""

    d: int
    blocks: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    quantized: bool = False
    """Weights in Q8_0 instead of 32 bits."""

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return `(n_out, n_in)` of the seven linear weights of a block."""
        kv = self.kv_heads * (self.d // self.heads)
        return {
            "attn_q": (self.d, self.d), "attn_k": (kv, self.d), "attn_v": (kv, self.d),
            "attn_output": (self.d, self.d), "ffn_gate": (self.ff, self.d),
            "ffn_up": (self.ff, self.d), "ffn_down": (self.d, self.ff),
        }  # fmt: skip

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return `(n_out, n_in)` of all matrices."""
        outer = {"token_embd.weight": (self.vocab, self.d), "output.weight": (self.vocab, self.d)}
        return outer | {
            f"blk.{block}.{name}.weight": size
            for block in range(self.blocks)
            for name, size in self.linears().items()
        }

    def norms(self) -> list[str]:
        """Return the names of the norms, of `d` values each."""
        inner = [f"blk.{b}.{n}_norm.weight" for b in range(self.blocks) for n in ("attn", "ffn")]
        return ["output_norm.weight", *inner]


TINY = Shape(d=64, blocks=2, heads=4, kv_heads=2, ff=96, vocab=128)
"""For tests: a step takes 60 µs."""

LITTLE = Shape(d=256, blocks=4, heads=4, kv_heads=2, ff=704, vocab=768)
"""3 M parameters: what callbacks cost shows here."""

SMALL = Shape(d=896, blocks=24, heads=14, kv_heads=2, ff=4864, vocab=32_000, quantized=True)
"""0.4 B parameters: the sizes of a common chat model."""


def random_weights(shape: Shape) -> dict[str, Floats]:
    """Return matrices in 32 bits, whose products keep the length of their input."""
    chance = np.random.default_rng(7)
    return {
        name: chance.standard_normal(size, dtype=np.float32) / np.float32(size[1] ** 0.5)
        for name, size in shape.matrices().items()
    }


def write_model(
    path: Path,
    shape: Shape,
    weights: Mapping[str, Floats] | None = None,
    words: Sequence[str] = (),
) -> Path:
    """Write a GGUF of SHAPE whose vocabulary has WORDS; WEIGHTS are random where none are given."""
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    _header(writer, shape)
    _vocabulary(writer, shape.vocab, words)
    for norm in shape.norms():
        writer.add_tensor(norm, np.ones(shape.d, np.float32))
    if weights is None and shape.quantized:
        _add_quantized(writer, shape)
    else:
        for name, weight in (weights or random_weights(shape)).items():
            writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _header(writer: Any, shape: Shape) -> None:
    writer.add_type("model")
    writer.add_name("random")
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.d)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.d // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template("{{ messages }}")


def _vocabulary(writer: Any, size: int, words: Sequence[str]) -> None:
    """One token a printable ASCII character and one a word; the rest are words of control."""
    letters = [*(chr(33 + i) for i in range(94)), *words]
    control = ["<|im_end|>", *(f"<|{i}|>" for i in range(size - 1 - len(letters)))]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*control, *letters])
    writer.add_token_types([kinds.CONTROL] * len(control) + [kinds.NORMAL] * len(letters))
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _add_quantized(writer: Any, shape: Shape) -> None:
    chance = np.random.default_rng(7)
    for name, (n_out, n_in) in shape.matrices().items():
        # Q8_0: blocks of 32 int8 behind their scale in 16 bits.
        blocks = np.empty((n_out * n_in // 32, 34), np.uint8)
        scale = np.full(len(blocks), n_in**-0.5 / 73, np.float16)
        blocks[:, :2] = scale.view(np.uint8).reshape(-1, 2)
        values = chance.integers(-127, 128, (len(blocks), 32), dtype=np.int8)
        blocks[:, 2:] = values.view(np.uint8)
        rows = blocks.reshape(n_out, n_in // 32 * 34)
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def random_layer(
    shape: Shape,
    seed: int,
    *,
    rank: int,
    linears: Iterable[str] | None = None,
    size: float = 0.02,
    kind: Literal["f32", "f16"] = "f32",
) -> Pairs:
    """Return pairs for LINEARS (all seven) of all blocks.

    Args:
        shape: The model's.
        seed: Another one is another layer.
        rank: Of all pairs.
        linears: Names as in `Shape.linears`.
        size: Standard deviation of B; that of A is 1 / sqrt(n_in).
        kind: With `f16` the values are those that 16 bits hold.
    """
    chance = np.random.default_rng(seed)
    held = np.float16 if kind == "f16" else np.float32

    def drawn(rows: int, columns: int, std: float) -> Floats:
        values = chance.standard_normal((rows, columns), dtype=np.float32) * np.float32(std)
        return values.astype(held).astype(np.float32)

    sizes = shape.linears()
    return {
        f"blk.{block}.{name}.weight": (
            drawn(rank, sizes[name][1], sizes[name][1] ** -0.5), drawn(sizes[name][0], rank, size)
        )
        for block in range(shape.blocks)
        for name in linears or sizes
    }  # fmt: skip


def _some_layers() -> dict[str, tuple[Pairs, float]]:
    output, _ = random_layer(TINY, 4, rank=4, linears=["attn_q"])["blk.0.attn_q.weight"]
    upward: Floats = np.linspace(-1, 1, TINY.vocab, dtype=np.float32)[:, None]
    narrow = random_layer(TINY, 3, rank=6, linears=("attn_q", "attn_v"), size=0.1)
    return {
        "ops": (random_layer(TINY, 1, rank=4, size=0.1), 8.0),
        "tone": (random_layer(TINY, 2, rank=3, size=0.1), 4.0),
        "values": (narrow, 0.0),
        "output": ({"output.weight": (output, np.repeat(upward, 4, axis=1))}, 4.0),
    }


LAYERS = _some_layers()
"""Layers of `TINY` with their alphas: all linears, an odd rank, some linears, the output alone."""


def merged(weights: Mapping[str, Floats], stack: Stack) -> dict[str, Floats]:
    """Return the weights of the model that STACK, of `LAYERS`, stands for."""
    sums = dict(weights)
    for name, weight in stack:
        pairs, alpha = LAYERS[name]
        for site, (a, b) in pairs.items():
            scale = alpha / len(a) if alpha else 1.0
            sums[site] = (sums[site] + weight * scale * (b @ a)).astype(np.float32)
    return sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """Opens engines over one `TINY` model, and closes them."""

    model: Path
    weights: Mapping[str, Floats]
    folder: Path
    build_folder: Path
    opened: list[Engine] = field(default_factory=list[Engine])

    def options(
        self, composer: str = "c", *, compact: bool = False, **context: Any
    ) -> EngineOptions:
        """Return options of a small and exact context."""
        sizes: dict[str, Any] = {"tokens": 256, "sequences": 8, "batch": 64, "kv_f32": True}
        return EngineOptions(
            context=ContextOptions(**(sizes | context)),
            build_folder=self.build_folder if composer == "c" else None,
            compact=compact,
        )

    def engine(
        self,
        composer: str = "c",
        *,
        layers: Sequence[str] = tuple(LAYERS),
        path: Path | None = None,
        **options: Any,
    ) -> Engine:
        """Open an engine with some of `LAYERS`, over PATH where it is given."""
        engine = Engine.open(path or self.model, self.options(composer, **options))
        self.opened.append(engine)
        assert engine.describe().composer == composer
        for name in layers:
            pairs, alpha = LAYERS[name]
            engine.add_layer(name, pairs, alpha=alpha)
        return engine

    def merged(self, stack: Stack) -> Engine:
        """Open an engine over the model with STACK in its weights."""
        path = self.folder / f"merged-{len(self.opened)}.gguf"
        return self.engine(path=write_model(path, TINY, merged(self.weights, stack)), layers=())

    def close(self) -> None:
        """Close them all."""
        for engine in self.opened:
            engine.close()
