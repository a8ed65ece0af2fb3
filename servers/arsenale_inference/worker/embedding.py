"""Embeddings of texts by the base model: a second, small context that pools."""

import numpy as np

from arsenale_core.errors import InvalidError
from arsenale_inference.engine.context import Context, ContextOptions, Decoded, Rows
from arsenale_inference.engine.engine import Engine
from arsenale_inference.engine.model import Model

MOST_TOKENS = 2_048
"""A longer text is refused: it is pooled in one step."""


class Embeddings:
    """Opens its context when it is first asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._context: Context | None = None

    def embed(
        self, inputs: tuple[str | tuple[int, ...], ...]
    ) -> tuple[tuple[tuple[float, ...], ...], int]:
        """Return a vector of unit length for each of INPUTS, and how many tokens they have.

        Raises:
            InvalidError: An input is empty, too long, or has a token that does not exist.
        """
        context = self._opened()
        vectors: list[tuple[float, ...]] = []
        total = 0
        for given in inputs:
            tokens = _tokens(self._engine.model, given)
            total += len(tokens)
            context.clear()
            if not isinstance(context.decode(Rows.prompt(tokens)), Decoded):
                raise InvalidError("the text does not fit", hint=f"{MOST_TOKENS} tokens at most")
            found = context.pooled(0).astype(np.float64)
            vectors.append(tuple((found / max(float(np.linalg.norm(found)), 1e-12)).tolist()))
        return tuple(vectors), total

    def _opened(self) -> Context:
        if self._context is None:
            size = min(MOST_TOKENS, max(self._engine.model.info.n_ctx_train, 1))
            threads = self._engine.options.context.threads
            options = ContextOptions(
                tokens=size, sequences=1, batch=size, threads=threads, pooling="mean"
            )
            self._context = Context(self._engine.model, options)
        return self._context


def _tokens(
    model: Model, given: str | tuple[int, ...]
) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    if isinstance(given, str):
        tokens = model.tokenize(given, start=True, special=False)
    else:
        tokens = np.array(given, np.int32)
    if not 0 < len(tokens) <= MOST_TOKENS:
        raise InvalidError(
            f"an input of {len(tokens)} tokens", hint=f"give 1 to {MOST_TOKENS} tokens each"
        )
    if ((tokens < 0) | (tokens >= model.info.n_vocab)).any():
        raise InvalidError("an input has a token that does not exist", hint="send text")
    return tokens
