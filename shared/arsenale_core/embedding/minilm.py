"""all-MiniLM-L6-v2 in int8 through ONNX Runtime: 384 dimensions, no torch.

The model is a sentence encoder of 6 layers (Wang et al., MiniLM, 2020; trained as by Reimers &
Gurevych, Sentence-BERT, 2019). `export.py` makes the file. Each batch is padded to its own longest
text only: padding all to 256 tokens costs 2.6 times as much.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# onnxruntime has no types.

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from arsenale_core.embedding.vectors import Vectors

MODEL_FILE = "model-int8.onnx"
TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENS = 256
"""What the model was trained with."""
BATCH = 32

Ids = NDArray[np.int64]


class MiniLMEngine:
    """The encoder in FOLDER (`model-int8.onnx`, `tokenizer.json`)."""

    id = "minilm-l6-int8"

    def __init__(self, folder: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # it would keep the largest batch's memory for good
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self.dim = int(self._session.get_outputs()[0].shape[1])

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, shape `(len(texts), dim)`."""
        encoded = [list(e.ids) for e in self._tokenizer.encode_batch(list(texts))]
        out = np.empty((len(encoded), self.dim), np.float32)
        for rows, ids, mask in _batches(encoded):
            inputs = {"input_ids": ids, "attention_mask": mask}
            out[rows] = np.asarray(self._session.run(["embedding"], inputs)[0], np.float32)
        return out


def _batches(encoded: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Ids, Ids]]:
    """Give batches of like length: which texts, tokens and mask, both `(batch, longest)`."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = max(len(encoded[i]) for i in rows)
        ids, mask = np.zeros((2, len(rows), longest), np.int64)
        for row, i in enumerate(rows):
            ids[row, : len(encoded[i])] = encoded[i]
            mask[row, : len(encoded[i])] = 1
        yield rows, ids, mask
