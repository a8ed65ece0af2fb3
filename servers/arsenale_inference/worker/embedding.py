"""Embeddings of texts by the base model: a second, small context that pools."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from arsenale_core.errors import ArsenaleError, InvalidError
from arsenale_inference.engine.context import Context, ContextOptions, Decoded, Rows
from arsenale_inference.engine.engine import Engine
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Embed, Embedded, Failed, kind_of

MOST_TOKENS = 2_048
"""A longer text is refused: it is pooled in one step."""


@dataclass(slots=True, eq=False)
class _Job:
    request: Embed
    vectors: list[tuple[float, ...]] = field(default_factory=lambda: list[tuple[float, ...]]())
    tokens: int = 0


class Embeddings:
    """Opens its context when it is first asked; one text at a time, so that answers go on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._context: Context | None = None
        self._jobs: deque[_Job] = deque()

    @property
    def waiting(self) -> bool:
        """Say whether there is something to do."""
        return bool(self._jobs)

    def add(self, request: Embed) -> None:
        """Let REQUEST wait for its turn."""
        self._jobs.append(_Job(request))

    def drop(self, id: str) -> bool:
        """Forget the request ID; false when it does not wait."""
        found = [job for job in self._jobs if job.request.id == id]
        for job in found:
            self._jobs.remove(job)
        return bool(found)

    def step(self) -> Embedded | Failed | None:
        """Embed the next text; return what its request comes to when that was the last one."""
        job = self._jobs[0]
        request = job.request
        try:
            if len(job.vectors) < len(request.inputs):
                self._embed(job, request.inputs[len(job.vectors)])
        except ArsenaleError as exc:
            self._jobs.popleft()
            return Failed(id=request.id, kind=kind_of(exc), what=exc.what, hint=exc.hint)
        if len(job.vectors) < len(request.inputs):
            return None
        self._jobs.popleft()
        return Embedded(id=request.id, vectors=tuple(job.vectors), tokens=job.tokens)

    def _embed(self, job: _Job, given: str | tuple[int, ...]) -> None:
        context = self._opened()
        tokens = _tokens(self._engine.model, given, context.options.tokens)
        context.clear()
        if not isinstance(context.decode(Rows.prompt(tokens)), Decoded):
            raise InvalidError("the text does not fit", hint=f"{MOST_TOKENS} tokens at most")
        found = context.pooled(0).astype(np.float64)
        job.tokens += len(tokens)
        job.vectors.append(tuple((found / max(float(np.linalg.norm(found)), 1e-12)).tolist()))

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
    model: Model, given: str | tuple[int, ...], most: int
) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    if isinstance(given, str):
        tokens = model.tokenize(given, start=True, special=False)
    else:
        tokens = np.array(given, np.int64)
    if not 0 < len(tokens) <= most:
        raise InvalidError(f"an input of {len(tokens)} tokens", hint=f"give 1 to {most} each")
    if ((tokens < 0) | (tokens >= model.info.n_vocab)).any():
        raise InvalidError("an input has a token that does not exist", hint="send text")
    return tokens.astype(np.int32)
