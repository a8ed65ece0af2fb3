"""all-MiniLM-L6-v2 in int8 through ONNX Runtime: 384 dimensions, no torch.

The model is a sentence encoder of 6 layers (Wang et al., MiniLM, 2020; trained as by Reimers &
Gurevych, Sentence-BERT, 2019). `export.py` makes the file. Texts go through one at a time: nothing
is padded, and as the scale of dynamic int8 is taken over a batch, a text's vector would otherwise
depend on its company (cosine .992). On a CPU a batch costs as much (2.4 ms a text of 30 tokens).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# onnxruntime has no types.

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from arsenale_core.embedding.vectors import Vectors

MODEL_FILE = "model-int8.onnx"
TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENS = 256
"""What the model was trained with."""


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
        """Return unit vectors, shape `(len(texts), dim)`; each depends on its text alone."""
        out = np.empty((len(texts), self.dim), np.float32)
        for row, encoding in zip(out, self._tokenizer.encode_batch(list(texts)), strict=True):
            ids = np.array([encoding.ids], np.int64)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            row[:] = np.asarray(self._session.run(["embedding"], inputs)[0], np.float32)[0]
        return out
