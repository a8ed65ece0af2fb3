"""A context of llama.cpp: a KV cache of several sequences and one batched step over them."""

import ctypes
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_inference.engine import llama
from arsenale_inference.engine.llama import Callback, Floats
from arsenale_inference.engine.model import Model

Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The tokens of one step; all four of shape `(n,)`, positions of a sequence consecutive."""

    tokens: Integers
    positions: Integers
    sequences: Integers
    wants: NDArray[np.bool_]
    """Rows whose logits are read afterwards."""

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, index: NDArray[np.intp]) -> "Rows":
        """Return the rows at INDEX, shape `(m,)`."""
        return Rows(tokens=self.tokens[index], positions=self.positions[index],
                    sequences=self.sequences[index], wants=self.wants[index])  # fmt: skip

    @classmethod
    def of(cls, rows: "list[tuple[int, int, int, bool]]") -> Self:
        """Make rows of `(token, position, sequence, wants)`."""
        tokens, positions, sequences, wants = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(
            tokens=np.array(tokens, np.int32),
            positions=np.array(positions, np.int32),
            sequences=np.array(sequences, np.int32),
            wants=np.array(wants, bool),
        )

    @classmethod
    def prompt(cls, tokens: Integers, *, sequence: int = 0, start: int = 0) -> Self:
        """Make rows of a prompt at position START; the last one wants logits."""
        n = len(tokens)
        return cls(
            tokens=np.asarray(tokens, np.int32),
            positions=np.arange(start, start + n, dtype=np.int32),
            sequences=np.full(n, sequence, np.int32),
            wants=np.arange(n) == n - 1,
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """The step is in the KV cache."""

    logits: Floats
    """Shape `(outputs, n_vocab)`: a row for each row that wants it, in their order.

    A view: it is valid until the next step of the context.
    """


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The KV cache is full; nothing was kept of the step."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The abort flag was set; nothing was kept of the step."""


Outcome: TypeAlias = Decoded | NoRoom | Aborted


class AbortFlag:
    """Stops a step from another thread, between two operations of its graph; set till cleared."""

    def __init__(self) -> None:
        self._cell = ctypes.c_int32(0)

    @property
    def address(self) -> int:
        """Where the int32 is that a native callback may read."""
        return ctypes.addressof(self._cell)

    def set(self) -> None:
        """Stop the step in progress, and every later one until `clear`."""
        self._cell.value = 1

    def clear(self) -> None:
        """Let steps run again."""
        self._cell.value = 0

    def is_set(self) -> bool:
        """Say whether steps are stopped."""
        return self._cell.value != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """How large a context is, and how exact."""

    tokens: int = 4096
    """Tokens that the KV cache holds, all sequences together."""

    sequences: int = 16
    """Sequence ids are 0 to `sequences - 1`."""

    batch: int = 512
    """Rows that a step has at most."""

    threads: int = 1
    kv_f32: bool = False
    """Keep keys and values in 32 bits, without flash attention: for exact comparisons."""

    pooling: Literal["mean", "cls", "last"] | None = None
    """Give one embedding a sequence instead of logits."""


class Context:
    """One `llama_context`. One thread calls it; only `abort` may be used from another."""

    def __init__(
        self,
        model: Model,
        options: ContextOptions,
        *,
        evaluation: Callback | None = None,
        abort_function: int | None = None,
    ) -> None:
        """Make a context over MODEL, which outlives it.

        Args:
            model: The weights.
            options: Its size.
            evaluation: Called for the nodes of each graph (`llama_context_params.cb_eval`).
            abort_function: Address of a native `bool (*)(void *)` that reads an int32; without it
                Python is asked at each node, about 1 µs.

        Raises:
            UnavailableError: There is no memory for it.
        """
        self.model, self.options = model, options
        self.abort = AbortFlag()
        self._callbacks = (evaluation, _abort_callback(self.abort, abort_function))
        handle = llama.open_context(
            model.handle, _parameters(options, model.on_gpu, *self._callbacks)
        )
        if not handle:
            raise UnavailableError(
                f"no memory for a context of {options.tokens} tokens",
                hint="ask for fewer tokens or end another model, then try again",
            )
        self.handle = handle
        self.tokens = llama.context_tokens(handle)
        self._batch = llama.Batch(options.batch)

    def decode(self, rows: Rows) -> Outcome:
        """Run one step over ROWS; what it computes joins the KV cache.

        Raises:
            InvalidError: There are no or too many rows, a token or a sequence does not exist, or
                the positions do not continue their sequence. Nothing was kept.
        """
        self._fill(rows)
        answer = self._batch.decode(self.handle, len(rows))
        match answer:
            case llama.DECODED:
                return Decoded(self._logits(int(np.count_nonzero(rows.wants))))
            case llama.NO_ROOM:
                return NoRoom()
            case llama.ABORTED:
                return Aborted()
            case _:
                raise InvalidError(
                    f"llama.cpp refused a batch of {len(rows)} rows ({answer})",
                    hint="tokens must exist and positions continue their sequence without a gap",
                )

    def _logits(self, outputs: int) -> Floats:
        n_vocab = self.model.info.n_vocab
        if outputs == 0 or self.options.pooling is not None:
            return np.empty((0, n_vocab), np.float32)
        return llama.logits(self.handle, outputs, n_vocab)

    def _fill(self, rows: Rows) -> None:
        n, batch = len(rows), self._batch
        if not 0 < n <= self.options.batch:
            raise InvalidError(
                f"a step of {n} rows", hint=f"send 1 to {self.options.batch} rows at once"
            )
        if rows.sequences.min() < 0 or rows.sequences.max() >= self.options.sequences:
            raise InvalidError(
                "no such sequence", hint=f"use ids from 0 to {self.options.sequences - 1}"
            )
        batch.token[:n], batch.position[:n] = rows.tokens, rows.positions
        batch.sequence[:n], batch.wants[:n] = rows.sequences, rows.wants

    def pooled(self, sequence: int) -> Floats:
        """Return the embedding of SEQUENCE of the last step, shape `(n_embd,)`: a view.

        Raises:
            InvalidError: The context does not pool, or the last step had no such sequence.
        """
        found = llama.pooled(self.handle, sequence, self.model.info.n_embd)
        if found is None:
            raise InvalidError(
                f"sequence {sequence} has no embedding",
                hint="open the context with `pooling` and decode the whole text in one step",
            )
        return found

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let TARGET, an empty sequence, share the first LENGTH positions of SOURCE: no copy."""
        llama.copy_sequence(self.handle, source, target, length)

    def remove(self, sequence: int, start: int = 0) -> bool:
        """Forget SEQUENCE from position START on; False where its state allows the whole only."""
        return llama.remove_sequence(self.handle, sequence, start)

    def length(self, sequence: int) -> int:
        """Return how many positions SEQUENCE has."""
        return llama.last_position(self.handle, sequence) + 1

    def clear(self) -> None:
        """Forget all sequences."""
        llama.clear(self.handle)

    def set_adapters(self, stack: list[tuple[llama.Handle, float]]) -> None:
        """Make STACK the native adapters of all rows; they stay loaded while they are set."""
        llama.set_adapters(self.handle, stack)

    def close(self) -> None:
        """Give the KV cache back."""
        if self.handle:
            llama.free_context(self.handle)
            self.handle = 0


def _abort_callback(flag: AbortFlag, function: int | None) -> Callback:
    if function is None:
        return llama.abort_callback(flag.is_set)
    return Callback(function=function, data=flag.address, owner=flag)


def _parameters(
    options: ContextOptions, offload: bool, evaluation: Callback | None, abort: Callback
) -> llama.ContextParameters:
    return llama.ContextParameters(
        tokens=options.tokens, batch=options.batch, sequences=options.sequences,
        threads=options.threads, kv_f32=options.kv_f32, pooling=options.pooling,
        offload=offload, evaluation=evaluation, abort=abort,
    )  # fmt: skip
