"""A random model of two layers in 32 bits, random LoRA layers for it, and engines over it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from arsenale_inference.engine.context import ContextOptions
from arsenale_inference.engine.engine import Engine, EngineOptions

Floats = NDArray[np.float32]
Pairs = dict[str, tuple[Floats, Floats]]

D, BLOCKS, HEADS, KV_HEADS, FF, VOCAB = 64, 2, 4, 2, 96, 128
KV = KV_HEADS * (D // HEADS)
LINEARS = {
    "attn_q": (D, D), "attn_k": (KV, D), "attn_v": (KV, D), "attn_output": (D, D),
    "ffn_gate": (FF, D), "ffn_up": (FF, D), "ffn_down": (D, FF),
}  # fmt: skip
WORDS = [chr(33 + i) for i in range(VOCAB - 34)]


def random_weights() -> dict[str, Floats]:
    chance = np.random.default_rng(7)

    def drawn(*shape: int) -> Floats:
        return chance.standard_normal(shape, dtype=np.float32) / np.float32(shape[-1] ** 0.5)

    weights = {"token_embd.weight": drawn(VOCAB, D) * 8, "output.weight": drawn(VOCAB, D)}
    weights["output_norm.weight"] = np.ones(D, np.float32)
    for block in range(BLOCKS):
        weights |= {f"blk.{block}.{norm}_norm.weight": np.ones(D, np.float32) for norm in ("attn", "ffn")}
        weights |= {f"blk.{block}.{name}.weight": drawn(*size) for name, size in LINEARS.items()}
    return weights


def write_model(path: Path, weights: Mapping[str, Floats]) -> Path:
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("tiny")
    for add, value in (
        (writer.add_context_length, 256), (writer.add_embedding_length, D),
        (writer.add_block_count, BLOCKS), (writer.add_feed_forward_length, FF),
        (writer.add_head_count, HEADS), (writer.add_head_count_kv, KV_HEADS),
        (writer.add_rope_dimension_count, D // HEADS), (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "gpt-2"),
        (writer.add_chat_template, "{{ messages }}"),
    ):  # fmt: skip
        add(value)
    _vocabulary(writer)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(writer: Any) -> None:
    control = ["<|im_end|>", *(f"<|{i}|>" for i in range(VOCAB - 1 - len(WORDS)))]
    kinds = gguf.TokenType
    writer.add_token_list([*control, *WORDS])
    writer.add_token_types([kinds.CONTROL] * len(control) + [kinds.NORMAL] * len(WORDS))
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def random_layer(seed: int, *, rank: int = 4, linears: Sequence[str] = tuple(LINEARS)) -> Pairs:
    """A layer that moves logits by about as much as they are."""
    chance = np.random.default_rng(seed)
    return {
        f"blk.{block}.{name}.weight": (
            chance.standard_normal((rank, LINEARS[name][1]), dtype=np.float32) / 8,
            chance.standard_normal((LINEARS[name][0], rank), dtype=np.float32) / 8,
        )
        for block in range(BLOCKS)
        for name in linears
    }


LAYERS: dict[str, tuple[Pairs, float]] = {
    "ops": (random_layer(1), 8.0),
    "tone": (random_layer(2, rank=3), 4.0),
    "values": (random_layer(3, rank=6, linears=("attn_q", "attn_v")), 0.0),
    "output": ({"output.weight": random_layer(4)["blk.0.attn_q.weight"]}, 4.0),
}
LAYERS["output"] = (
    {"output.weight": (LAYERS["ops"][0]["blk.0.attn_q.weight"][0],
                       np.ones((VOCAB, 4), np.float32) * np.linspace(-1, 1, VOCAB, dtype=np.float32)[:, None])},
    4.0,
)  # fmt: skip
"""Each with its alpha: all linears, odd ranks, some linears, the output."""

Stack = tuple[tuple[str, float], ...]


def merged(weights: Mapping[str, Floats], stack: Stack) -> dict[str, Floats]:
    """The weights of the model that a stack stands for."""
    sums = dict(weights)
    for name, weight in stack:
        pairs, alpha = LAYERS[name]
        for site, (a, b) in pairs.items():
            scale = alpha / len(a) if alpha else 1.0
            sums[site] = sums[site] + np.float32(weight * scale) * (b @ a)
    return sums


@dataclass(frozen=True)
class Lab:
    """The model's file and weights, and what opens engines."""

    folder: Path
    model: Path
    weights: dict[str, Floats]
    build_folder: Path
    opened: list[Engine]

    def engine(self, composer: str = "c", *, layers: Sequence[str] = tuple(LAYERS), path: Path | None = None,
               compact: bool = False, **context: Any) -> Engine:  # fmt: skip
        sizes: dict[str, Any] = {"tokens": 256, "sequences": 8, "batch": 64, "kv_f32": True}
        options = EngineOptions(
            context=ContextOptions(**(sizes | context)),
            build_folder=self.build_folder if composer == "c" else None,
            compact=compact,
        )
        engine = Engine.open(path or self.model, options)
        self.opened.append(engine)
        assert engine.describe().composer == composer
        for name in layers:
            pairs, alpha = LAYERS[name]
            engine.add_layer(name, pairs, alpha=alpha)
        return engine

    def merged(self, stack: Stack) -> Engine:
        """An engine over the model with STACK in its weights."""
        path = write_model(self.folder / f"merged-{len(self.opened)}.gguf", merged(self.weights, stack))
        return self.engine(path=path, layers=())


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compose")


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Floats]]:
    weights = random_weights()
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", weights), weights


@pytest.fixture
def lab(tmp_path: Path, built: Path, model_file: tuple[Path, dict[str, Floats]]) -> Iterator[Lab]:
    lab = Lab(tmp_path, *model_file, built, [])
    yield lab
    for engine in lab.opened:
        engine.close()


Opener = Callable[..., Engine]
