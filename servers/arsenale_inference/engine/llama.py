"""Every call into llama.cpp, typed; only `bindings` and this module know `llama_cpp`.

Handles are addresses. Structures stay here; arrays go in and come out as numpy's. What each call
does is said in llama.h and ggml.h of llama.cpp (https://github.com/ggml-org/llama.cpp).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# numpy types its ctypes in part.

import ctypes
import logging
import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arsenale_inference.engine import bindings

Handle: TypeAlias = int
Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int32]

L: Any = bindings.load()
LIBRARIES = bindings.libraries()
GGML = ctypes.CDLL(str(next(LIBRARIES.glob("libggml.*"))))
VERSION = str(L.__version__)
INCLUDE = LIBRARIES.parents[1] / "include"
"""ggml.h of the very build that is loaded."""

DECODED, NO_ROOM, ABORTED = 0, 1, 2
"""What `llama_decode` answers; anything else refuses the batch."""

F16, F32 = 1, 0
POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3}
UNKNOWN_NAME = -1

log = logging.getLogger(__name__)

_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}

_listeners: list[list[str]] = []


def _pass_on(level: int, text: bytes, _data: object) -> None:
    said = text.decode("utf-8", "replace").strip()
    if said:
        log.log(_LEVELS.get(level, logging.DEBUG), "llama.cpp: %s", said)
    if said and _LEVELS.get(level) == logging.ERROR:
        for listener in _listeners:
            listener.append(said)


_passing_on: Any = L.llama_log_callback(_pass_on)
"""llama.cpp keeps the address: it must live as long as the process."""


def start() -> None:
    """Make llama.cpp ready; it logs through `logging` from now on. May be called again."""
    L.llama_log_set(_passing_on, ctypes.c_void_p(0))


@contextmanager
def errors() -> Generator[list[str]]:
    """Collect the errors that llama.cpp logs inside the block, one line each."""
    found: list[str] = []
    _listeners.append(found)
    try:
        yield found
    finally:
        _listeners[:] = [each for each in _listeners if each is not found]


@contextmanager
def printed() -> Generator[list[str]]:
    """Collect what native code writes to stderr inside the block; the list is filled at its end.

    llama.cpp's parser of grammars prints its reason instead of logging it.
    """
    found: list[str] = []
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield found
            finally:
                os.dup2(kept, 2)
                file.seek(0)
                found.append(file.read().decode("utf-8", "replace"))
    finally:
        os.close(kept)


# ---------------------------------------------------------------- models
def load_model(path: Path, *, gpu_layers: int, mmap: bool) -> Handle | None:
    """Load a GGUF; None where it is not one that llama.cpp can run, and `errors` has the reason."""
    params = L.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.load_mode = L.LLAMA_LOAD_MODE_MMAP if mmap else L.LLAMA_LOAD_MODE_NONE
    return L.llama_model_load_from_file(str(path).encode(), params)


def free_model(model: Handle) -> None:
    """Give a model back; no context and no adapter of it may be in use."""
    L.llama_model_free(model)


def count(what: str, model: Handle) -> int:
    """Return `llama_model_WHAT`, a number."""
    return int(getattr(L, f"llama_model_{what}")(model))


def vocabulary(model: Handle) -> Handle:
    """Return the vocabulary of a model; it lives as long as the model."""
    return L.llama_model_get_vocab(model)


def vocabulary_size(vocab: Handle) -> int:
    """Return the number of tokens."""
    return int(L.llama_vocab_n_tokens(vocab))


def metadata(model: Handle, key: str) -> str | None:
    """Return a value of the GGUF's header as text."""
    size = 1 << 10
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = int(L.llama_model_meta_val_str(model, key.encode(), buffer, size))
        if length < size:
            return buffer.value.decode("utf-8", "replace") if length >= 0 else None
        size = length + 1


def chat_template(model: Handle) -> str | None:
    """Return the chat template of the GGUF."""
    text: bytes | None = L.llama_model_chat_template(model, None)
    return None if text is None else text.decode("utf-8", "replace")


def tokenize(vocab: Handle, text: bytes, *, start: bool, special: bool) -> NDArray[np.int32]:
    """Return the tokens of TEXT, shape `(n,)`; START adds what the model wants in front."""
    size = len(text) + 8
    while True:
        buffer = (ctypes.c_int32 * size)()
        n = int(L.llama_tokenize(vocab, text, len(text), buffer, size, start, special))
        if n >= 0:
            return np.array(buffer[:n], np.int32)
        size = -n


def piece(vocab: Handle, token: int, *, special: bool) -> bytes:
    """Return the bytes of a token; SPECIAL shows control tokens too."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = int(L.llama_token_to_piece(vocab, token, buffer, size, 0, special))
        if n >= 0:
            return buffer.raw[:n]
        size = -n


def is_special(vocab: Handle, token: int) -> bool:
    """Say whether TOKEN is no text: a control token, or one of the user's that looks like one."""
    kind = int(L.llama_vocab_get_attr(vocab, token))
    if kind & L.LLAMA_TOKEN_ATTR_CONTROL:
        return True
    text = piece(vocab, token, special=True)
    named = kind & L.LLAMA_TOKEN_ATTR_USER_DEFINED
    return bool(named) and text.startswith(b"<") and text.endswith(b">")


def tokenize_address() -> int:
    """Return where `llama_tokenize` is, for libraries that call it themselves."""
    return _address(L.llama_tokenize)


def is_end(vocab: Handle, token: int) -> bool:
    """Say whether TOKEN ends a generation."""
    return bool(L.llama_vocab_is_eog(vocab, token))


# ---------------------------------------------------------------- adapters
def load_adapter(model: Handle, path: Path) -> Handle | None:
    """Load a LoRA adapter; None where it does not fit the model."""
    return L.llama_adapter_lora_init(model, str(path).encode())


def free_adapter(adapter: Handle) -> None:
    """Give an adapter back; it may not be set on any context."""
    L.llama_adapter_lora_free(adapter)


def set_adapters(context: Handle, adapters: Sequence[tuple[Handle, float]]) -> None:
    """Make ADAPTERS, each with its weight, the stack of all rows; an equal stack costs nothing."""
    n = len(adapters)
    if n == 0:
        L.llama_set_adapters_lora(context, None, 0, None)
        return
    handles = (L.llama_adapter_lora_p_ctypes * n)(*[handle for handle, _ in adapters])
    weights = (ctypes.c_float * n)(*[weight for _, weight in adapters])
    L.llama_set_adapters_lora(context, handles, n, weights)


# ---------------------------------------------------------------- contexts
@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A function that llama.cpp calls, and the address that it passes; OWNER keeps both alive."""

    function: int
    data: int
    owner: object


def evaluation_callback(function: Callable[[int, bool, int | None], bool]) -> Callback:
    """Make a callback of `function(tensor, ask, data)`."""
    made = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)(
        function
    )
    return Callback(function=_address(made), data=0, owner=made)


def abort_callback(function: Callable[[], bool]) -> Callback:
    """Make a callback of `function()`."""

    def called(_data: object) -> bool:
        return function()

    made = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(called)
    return Callback(function=_address(made), data=0, owner=made)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def ggml_address(name: str) -> int:
    """Return where a function of ggml is."""
    return _address(getattr(GGML, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextParameters:
    """What `llama_init_from_model` is told."""

    tokens: int
    batch: int
    sequences: int
    threads: int
    kv_f32: bool
    pooling: str | None
    offload: bool
    evaluation: Callback | None
    abort: Callback


def open_context(model: Handle, wanted: ContextParameters) -> Handle | None:
    """Make a context; None where there is no memory for it."""
    p = L.llama_context_default_params()
    p.n_ctx, p.n_seq_max = wanted.tokens, wanted.sequences
    p.n_batch = p.n_ubatch = wanted.batch
    p.n_threads = p.n_threads_batch = wanted.threads
    p.kv_unified, p.no_perf = True, True
    p.op_offload = p.offload_kqv = wanted.offload
    if wanted.kv_f32:
        p.type_k = p.type_v = F32
        p.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if wanted.pooling is not None:
        p.embeddings, p.pooling_type = True, POOLING[wanted.pooling]
    if wanted.evaluation is not None:
        p.cb_eval = L.ggml_backend_sched_eval_callback(wanted.evaluation.function)
        p.cb_eval_user_data = wanted.evaluation.data
    p.abort_callback = L.ggml_abort_callback(wanted.abort.function)
    p.abort_callback_data = wanted.abort.data
    return L.llama_init_from_model(model, p)


def free_context(context: Handle) -> None:
    """Give a context and its memory back."""
    L.llama_free(context)


def context_tokens(context: Handle) -> int:
    """Return how many tokens the KV cache holds."""
    return int(L.llama_n_ctx(context))


class Batch:
    """A `llama_batch` over numpy arrays of SIZE rows, one sequence a row."""

    def __init__(self, size: int) -> None:
        self.token = np.zeros(size, np.int32)
        self.position = np.zeros(size, np.int32)
        self.sequence = np.zeros(size, np.int32)
        self.wants = np.zeros(size, np.int8)
        self._one = np.ones(size, np.int32)
        places = self.sequence.ctypes.data + 4 * np.arange(size + 1, dtype=np.uint64)
        self._places = places
        places[size] = 0
        self._struct = L.llama_batch(
            n_tokens=0, token=_as(self.token, L.llama_token), embd=None,
            pos=_as(self.position, L.llama_pos), n_seq_id=_as(self._one, ctypes.c_int32),
            seq_id=places.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(L.llama_seq_id))),
            logits=_as(self.wants, ctypes.c_int8),
        )  # fmt: skip

    def decode(self, context: Handle, n: int) -> int:
        """Decode the first N rows."""
        self._struct.n_tokens = n
        return int(L.llama_decode(context, self._struct))


def _as(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


def logits(context: Handle, rows: int, n_vocab: int) -> Floats:
    """Return the logits of the last decode, shape `(rows, n_vocab)`: a view till the next one."""
    return _view(L.llama_get_logits(context), rows * n_vocab).reshape(rows, n_vocab)


def pooled(context: Handle, sequence: int, n_embd: int) -> Floats | None:
    """Return the pooled embedding of a sequence, shape `(n_embd,)`: a view till the next decode."""
    found = L.llama_get_embeddings_seq(context, sequence)
    return _view(found, n_embd) if found else None


def _view(pointer: Any, n: int) -> Floats:
    place: Any = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * n)).contents
    return np.frombuffer(place, np.float32)


def copy_sequence(context: Handle, source: int, target: int, length: int) -> None:
    """Let TARGET share the first LENGTH positions of SOURCE."""
    L.llama_memory_seq_cp(L.llama_get_memory(context), source, target, 0, length)


def remove_sequence(context: Handle, sequence: int, start: int) -> bool:
    """Forget a sequence from position START on; False where this memory cannot do it in part."""
    return bool(L.llama_memory_seq_rm(L.llama_get_memory(context), sequence, start, -1))


def last_position(context: Handle, sequence: int) -> int:
    """Return the last position of a sequence, -1 where it is empty."""
    return int(L.llama_memory_seq_pos_max(L.llama_get_memory(context), sequence))


def clear(context: Handle) -> None:
    """Forget all sequences."""
    L.llama_memory_clear(L.llama_get_memory(context), True)


# ---------------------------------------------------------------- sampling
TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""`llama_token_data`."""


def sampler_chain() -> Handle:
    """Make an empty chain of samplers."""
    return L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())


def add_sampler(chain: Handle, name: str, *arguments: Any) -> bool:
    """Add `llama_sampler_init_NAME` to CHAIN, which owns it; False where it cannot be made."""
    made = getattr(L, f"llama_sampler_init_{name}")(*arguments)
    if made:
        L.llama_sampler_chain_add(chain, made)
    return bool(made)


def biases(bias: Sequence[tuple[int, float]]) -> Any:
    """Return BIAS, added to logits by token, as llama.cpp takes it."""
    return (L.llama_logit_bias * len(bias))(*[L.llama_logit_bias(t, b) for t, b in bias])


def sample(chain: Handle, candidates: NDArray[Any]) -> int:
    """Return the token that CHAIN chooses of CANDIDATES, an array of `TOKEN_DATA` that it sorts."""
    array = L.llama_token_data_array(
        data=candidates.ctypes.data_as(ctypes.POINTER(L.llama_token_data)),
        size=len(candidates), selected=-1, sorted=False,
    )  # fmt: skip
    L.llama_sampler_apply(chain, ctypes.byref(array))
    return int(candidates["id"][array.selected]) if array.selected >= 0 else -1


def accept(chain: Handle, token: int) -> None:
    """Tell CHAIN that TOKEN was taken."""
    L.llama_sampler_accept(chain, token)


def free_sampler(chain: Handle) -> None:
    """Give a chain back."""
    L.llama_sampler_free(chain)
