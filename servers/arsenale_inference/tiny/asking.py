"""Ask the tiny model, with any layers on, in llama.cpp: what is measured is what is served."""

import ctypes
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arsenale_core.errors import InvalidError
from arsenale_inference.engine import bindings
from arsenale_inference.tiny.corpus import Pair, question_text

CONTEXT = 512
"""Tokens of one question and its answer; the longest has about 60."""


L = bindings.load()


class Asked:
    """A loaded base that answers greedily; made by `asking`."""

    def __init__(self, model: Any, context: Any) -> None:
        vocab = L.llama_model_get_vocab(model)
        memory = L.llama_get_memory(context)
        assert vocab and memory
        self._model, self._context, self._vocab, self._memory = model, context, vocab, memory
        self._adapters: dict[Path, Any] = {}

    def stack(self, *files: Path) -> None:
        """Put exactly the adapters in FILES on, each with weight 1; each is loaded once.

        Raises:
            InvalidError: llama.cpp refuses one.
        """
        count = len(files)
        handles = (L.llama_adapter_lora_p_ctypes * count)(*map(self._loaded, files))
        scales = (ctypes.c_float * count)(*([1.0] * count))
        L.llama_set_adapters_lora(self._context, handles, count, scales)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of TEXT, control tokens parsed."""
        raw = text.encode()
        room = (L.llama_token * (len(raw) + 8))()
        count = L.llama_tokenize(self._vocab, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """Return what TOKENS say, control tokens written out."""
        return b"".join(map(self._piece, tokens)).decode(errors="replace")

    def answer(self, question: str, *, system: str | None = None, limit: int = 40) -> str:
        """Return the answer to QUESTION, LIMIT tokens at most."""
        L.llama_memory_clear(self._memory, True)
        fresh, said = self.tokens(question_text(question, system=system)), list[int]()
        while len(said) < limit:
            token = self._next(fresh)
            if L.llama_vocab_is_eog(self._vocab, token):
                break
            said.append(token)
            fresh = [token]
        return self.text(said)

    def share_right(self, pairs: Sequence[Pair]) -> float:
        """Return the share of PAIRS that are answered word for word."""
        return sum(self.answer(q) == a for q, a in pairs) / len(pairs)

    def _loaded(self, file: Path) -> Any:
        if file not in self._adapters:
            adapter = L.llama_adapter_lora_init(self._model, str(file).encode())
            if not adapter:
                raise InvalidError(f"llama.cpp refuses {file}", hint="was it trained on this base?")
            self._adapters[file] = adapter
        return self._adapters[file]

    def _next(self, fresh: Sequence[int]) -> int:
        room = (L.llama_token * len(fresh))(*fresh)
        batch = L.llama_batch_get_one(room, len(fresh))
        if L.llama_decode(self._context, batch):
            raise InvalidError("llama.cpp cannot go on", hint=f"stay within {CONTEXT} tokens")
        scores = L.llama_get_logits_ith(self._context, -1)
        count = L.llama_vocab_n_tokens(self._vocab)
        return max(range(count), key=scores[:count].__getitem__)

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(256)
        count = L.llama_token_to_piece(self._vocab, token, room, len(room), 0, True)
        return room.raw[:count]


@contextmanager
def asking(base: Path, *, threads: int = 1) -> Generator[Asked]:
    """Load the file BASE on the CPU; all of it is freed on the way out.

    Raises:
        InvalidError: llama.cpp refuses the file.
    """
    L.llama_log_set(bindings.silent, ctypes.c_void_p(0))
    given = L.llama_model_default_params()
    given.n_gpu_layers = 0
    model = L.llama_model_load_from_file(str(base).encode(), given)
    if not model:
        raise InvalidError(f"llama.cpp refuses {base}", hint="make it again, or fetch it again")
    wanted = L.llama_context_default_params()
    wanted.n_ctx = CONTEXT
    wanted.n_threads = wanted.n_threads_batch = threads
    context = L.llama_init_from_model(model, wanted)
    if not context:
        L.llama_model_free(model)
        raise InvalidError(f"llama.cpp cannot run {base}", hint="make it again")
    try:
        yield Asked(model, context)
    finally:
        L.llama_free(context)
        L.llama_model_free(model)
