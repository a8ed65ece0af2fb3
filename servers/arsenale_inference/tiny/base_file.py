"""The tiny base as a GGUF file that llama.cpp runs: numbers, vocabulary, chat template."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from arsenale_core.lora.adapters import Matrix
from arsenale_core.lora.gguf_files import write_whole
from arsenale_inference.tiny.corpus import CHAT_TEMPLATE, END, SPECIAL, TURN_END

NAME = "arsenale-tiny"

VOCABULARY = 768
"""Tokens at most: 3 of control, 256 of bytes, the rest merged from the corpus."""

VOCABULARY_STEP = 32
"""The vocabulary is filled up to a multiple of this: Q8_0 packs 32 numbers in a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the file says of the network besides its tensors."""

    context: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    rope_base: float
    epsilon: float


def make_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE on TEXTS: any string encodes, and decodes to itself.

    Its splitting is GPT-2's, which llama.cpp knows as `gpt-2`, so both give the same ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def padded_vocabulary(tokenizer: Tokenizer) -> int:
    """Return the number of rows of the embedding for TOKENIZER."""
    return -(-tokenizer.get_vocab_size() // VOCABULARY_STEP) * VOCABULARY_STEP


def write_base(
    path: Path, tensors: Mapping[str, Matrix], sizes: Sizes, tokenizer: Tokenizer
) -> None:
    """Write the base to PATH: matrices in Q8_0 (8.5 bits a number), vectors in float32.

    Args:
        path: Where; what lies there is replaced.
        tensors: GGUF name -> `(out, in)` or `(dim,)`, rows in llama.cpp's order.
        sizes: Of the network.
        tokenizer: A byte-level BPE.
    """
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(NAME)
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_sizes(writer, sizes)
    _add_vocabulary(writer, tokenizer, sizes.vocab)
    packed = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            writer.add_tensor(name, gguf.quantize(tensor, packed), raw_dtype=packed)
        else:
            writer.add_tensor(name, tensor)
    write_whole(writer, path)


def _add_sizes(writer: gguf.GGUFWriter, sizes: Sizes) -> None:
    head_dim = sizes.dim // sizes.heads
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.dim)
    writer.add_block_count(sizes.layers)
    writer.add_feed_forward_length(sizes.hidden)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(sizes.rope_base)
    writer.add_layer_norm_rms_eps(sizes.epsilon)
    writer.add_vocab_size(sizes.vocab)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, rows: int) -> None:
    known = tokenizer.get_vocab()
    tokens = sorted(known, key=known.__getitem__)
    tokens += [f"<|unused{i}|>" for i in range(rows - len(tokens))]
    control = {*SPECIAL, *tokens[len(known) :]}
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(known[END])
    writer.add_eos_token_id(known[TURN_END])
    writer.add_pad_token_id(known[END])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
