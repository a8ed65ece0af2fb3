"""Static embeddings: the mean of token vectors. Nothing but numpy; the weights come with wordllama.

Tens of microseconds a text; no word order, one sense a word. wordllama's vectors are distilled from
the token embeddings of large language models (Miller, WordLlama, 2024).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# tokenizers and safetensors say little about their types.

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from arsenale_core.embedding.vectors import Vectors
from arsenale_core.errors import UnavailableError

DIM = 256
MAX_TOKENS = 512
"""Tokens past this are not read: the server splits long texts before."""


class StaticEngine:
    """Mean of wordllama's token vectors, `dim` 256."""

    id = "wordllama-256"

    def __init__(self) -> None:
        folder = _weights_folder()
        with safe_open(folder / "weights" / "l2_supercat_256.safetensors", "numpy") as file:
            self._vectors: Vectors = file.get_tensor("embedding.weight")  # float16, (tokens, dim)
        self._tokenizer = Tokenizer.from_file(
            str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
        )
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, shape `(len(texts), 256)`; of a text without tokens, zeros."""
        out = np.zeros((len(texts), DIM), np.float32)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for row, encoding in zip(out, encoded, strict=True):
            if encoding.ids:
                row[:] = self._vectors[encoding.ids].astype(np.float32).mean(0)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def _weights_folder() -> Path:
    spec = find_spec("wordllama")  # found, not imported: its import loads more than we need
    if spec is None or spec.origin is None:
        raise UnavailableError(
            "wordllama is not installed", hint="run `pip install --force-reinstall arsenale`"
        )
    return Path(spec.origin).parent
