"""A model of llama.cpp: its weights, its vocabulary and what its file says about it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference.engine import llama

Tokens = NDArray[np.int32]
"""Shape `(n,)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a GGUF says about its model."""

    architecture: str
    name: str
    n_vocab: int
    n_embd: int
    n_layer: int
    n_ctx_train: int
    size_bytes: int
    parameters: int
    chat_template: str | None
    one_kv_cache: bool
    """False where layers keep a state that is not a KV cache (Mamba, RWKV and hybrids)."""


class Model:
    """The weights of one GGUF, shared by all contexts over it."""

    def __init__(self, handle: llama.Handle, *, on_gpu: bool) -> None:
        self.handle, self.on_gpu = handle, on_gpu
        self._vocab = llama.vocabulary(handle)
        self.info = _info(handle, self._vocab)

    @classmethod
    def load(cls, path: Path, *, gpu_layers: int = 0, mmap: bool = True) -> Self:
        """Load the GGUF at PATH.

        Args:
            path: The file; of a split model the first part.
            gpu_layers: How many layers go to the GPU; -1 is all of them.
            mmap: Map the file: processes share its pages, and it is read when first used.

        Raises:
            InvalidError: There is no such file, or llama.cpp cannot load it. The error has its
                reason and a remedy.
        """
        if not path.is_file():
            raise InvalidError(f"there is no model file {path}", hint="name a .gguf file")
        llama.start()
        with llama.errors() as reasons:
            handle = llama.load_model(path, gpu_layers=gpu_layers, mmap=mmap)
        if not handle:
            reason = load_reason(reasons)
            raise InvalidError(
                f"llama.cpp cannot load {path.name} ({reason})", hint=load_hint(reason)
            )
        return cls(handle, on_gpu=gpu_layers != 0)

    @property
    def vocabulary(self) -> llama.Handle:
        """Return the vocabulary's handle, for samplers; it lives as long as the model."""
        return self._vocab

    def tokenize(self, text: str, *, start: bool = False, special: bool = True) -> Tokens:
        """Return the tokens of TEXT, shape `(n,)`.

        Args:
            text: What to cut.
            start: Put in front what the model expects at the start of a text.
            special: Read control tokens by name (`<|im_end|>`); else they are plain text.
        """
        return llama.tokenize(self._vocab, text.encode(), start=start, special=special)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of TOKEN, perhaps part of a character; SPECIAL shows control tokens."""
        return llama.piece(self._vocab, token, special=special)

    def text(self, tokens: Iterable[int]) -> str:
        """Return the text of TOKENS; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(token) for token in tokens).decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Say whether TOKEN ends a generation."""
        return llama.is_end(self._vocab, token)

    def metadata(self, key: str) -> str | None:
        """Return a value of the file's header as text, None where it has no such key."""
        return llama.metadata(self.handle, key)

    def close(self) -> None:
        """Give the weights back; close every context over them first."""
        if self.handle:
            llama.free_model(self.handle)
            self.handle = 0


_LOCATION = re.compile(r"^(\w+: )?(error loading model: )?(error loading model \w+: )?(\w+: )?")
"""The functions of llama.cpp that an error passed through."""

_EMPTY_WORDS = r"failed to (load model( from .*)?|read header)$"
"""What llama.cpp adds to the reason at each level."""

_REMEDIES = (
    (
        r"unknown (model architecture|pre-tokenizer)",
        f"the llama.cpp of llama-cpp-python {llama.VERSION} does not know this kind of model: use "
        "another model or a newer conversion of it, or update Arsenale",
    ),
    (r"key not found", "the file lacks this entry: convert the model again with all its files"),
    (r"(load|open) GGUF (split|file)|split count|expected \d+ split",
     "put all parts of the model (-00001-of-0000N.gguf) into one folder, under their own names"),
    (r"first split", "register the first part of the model (-00001-of-0000N.gguf)"),
    (r"endian", "use a little-endian conversion of the model"),
    (r"no longer supported", "convert the model again with a current llama.cpp"),
    (r"only supports up to version", "update Arsenale, or use an older conversion of the model"),
    (r"magic", "this is not a GGUF model: check where the file came from, then fetch it again"),
    (r"tensor '.*' (not found|has wrong)|missing tensor|wrong number of tensors",
     "the file lacks a part of the model: fetch or convert it again"),
    (r"alloc|out of memory|buffer",
     "use a smaller quantisation, or free memory and try again"),
)  # fmt: skip


def load_reason(lines: Sequence[str]) -> str:
    """Return why llama.cpp could not load a model, from the error LINES that it logged."""
    told = [_LOCATION.sub("", line, count=1) for line in lines]
    found = [line for line in dict.fromkeys(told) if line]
    kept = [line for line in found if not re.match(_EMPTY_WORDS, line)]
    return "; ".join(kept or found[:1]) or "it gives no reason"


def load_hint(reason: str) -> str:
    """Return what to do about REASON."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, reason):
            return remedy
    return "compare the file's checksum with its source, then fetch it again"


def _info(handle: llama.Handle, vocab: llama.Handle) -> ModelInfo:
    return ModelInfo(
        architecture=llama.metadata(handle, "general.architecture") or "",
        name=llama.metadata(handle, "general.name") or "",
        n_vocab=llama.vocabulary_size(vocab),
        n_embd=llama.count("n_embd", handle),
        n_layer=llama.count("n_layer", handle),
        n_ctx_train=llama.count("n_ctx_train", handle),
        size_bytes=llama.count("size", handle),
        parameters=llama.count("n_params", handle),
        chat_template=llama.chat_template(handle),
        one_kv_cache=not (llama.count("is_recurrent", handle) or llama.count("is_hybrid", handle)),
    )
