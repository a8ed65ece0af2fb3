"""Ask the tiny model, with any layers on, in llama.cpp: what is measured is what is served."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUntypedFunctionDecorator=false
# llama-cpp-python is an extra: it may be absent, and says little about its types where it is.

import ctypes
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp

from arsenale_core.errors import InvalidError
from arsenale_inference.tiny.corpus import Pair, question_text

CONTEXT = 512
"""Tokens of one question and its answer; the longest has about 60."""


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: object) -> None:
    """Take a line of llama.cpp's log and drop it."""


class Asked:
    """A loaded base that answers greedily; made by `asking`."""

    def __init__(self, model: llama_cpp.llama_model_p, context: llama_cpp.llama_context_p) -> None:
        vocab = llama_cpp.llama_model_get_vocab(model)
        memory = llama_cpp.llama_get_memory(context)
        assert vocab and memory
        self._model, self._context, self._vocab, self._memory = model, context, vocab, memory
        self._adapters: dict[Path, llama_cpp.llama_adapter_lora_p] = {}

    def stack(self, *files: Path) -> None:
        """Put exactly the adapters in FILES on, each with weight 1; each is loaded once.

        Raises:
            InvalidError: llama.cpp refuses one.
        """
        count = len(files)
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * count)(*map(self._loaded, files))
        scales = (ctypes.c_float * count)(*([1.0] * count))
        llama_cpp.llama_set_adapters_lora(self._context, handles, count, scales)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of TEXT, control tokens parsed."""
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), room, len(room), False, True)
        return list(room[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """Return what TOKENS say, control tokens written out."""
        return b"".join(map(self._piece, tokens)).decode(errors="replace")

    def answer(self, question: str, *, system: str | None = None, limit: int = 40) -> str:
        """Return the answer to QUESTION, LIMIT tokens at most."""
        llama_cpp.llama_memory_clear(self._memory, True)
        fresh, said = self.tokens(question_text(question, system=system)), list[int]()
        while len(said) < limit:
            token = self._next(fresh)
            if llama_cpp.llama_vocab_is_eog(self._vocab, token):
                break
            said.append(token)
            fresh = [token]
        return self.text(said)

    def share_right(self, pairs: Sequence[Pair]) -> float:
        """Return the share of PAIRS that are answered word for word."""
        return sum(self.answer(q) == a for q, a in pairs) / len(pairs)

    def _loaded(self, file: Path) -> llama_cpp.llama_adapter_lora_p:
        if file not in self._adapters:
            adapter = llama_cpp.llama_adapter_lora_init(self._model, str(file).encode())
            if not adapter:
                raise InvalidError(f"llama.cpp refuses {file}", hint="was it trained on this base?")
            self._adapters[file] = adapter
        return self._adapters[file]

    def _next(self, fresh: Sequence[int]) -> int:
        room = (llama_cpp.llama_token * len(fresh))(*fresh)
        batch = llama_cpp.llama_batch_get_one(room, len(fresh))
        if llama_cpp.llama_decode(self._context, batch):
            raise InvalidError("llama.cpp cannot go on", hint=f"stay within {CONTEXT} tokens")
        scores = llama_cpp.llama_get_logits_ith(self._context, -1)
        count = llama_cpp.llama_vocab_n_tokens(self._vocab)
        return max(range(count), key=scores[:count].__getitem__)

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(256)
        count = llama_cpp.llama_token_to_piece(self._vocab, token, room, len(room), 0, True)
        return room.raw[:count]


@contextmanager
def asking(base: Path) -> Generator[Asked]:
    """Load the file BASE on one CPU thread; all of it is freed on the way out.

    Raises:
        InvalidError: llama.cpp refuses the file.
    """
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    given = llama_cpp.llama_model_default_params()
    given.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(base).encode(), given)
    if not model:
        raise InvalidError(f"llama.cpp refuses {base}", hint="make it again, or fetch it again")
    wanted = llama_cpp.llama_context_default_params()
    wanted.n_ctx = CONTEXT
    wanted.n_threads = wanted.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, wanted)
    if not context:
        llama_cpp.llama_model_free(model)
        raise InvalidError(f"llama.cpp cannot run {base}", hint="make it again")
    try:
        yield Asked(model, context)
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
