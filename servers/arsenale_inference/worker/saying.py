"""What generations say: the next token of each, as text that may be sent, on its way out."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from arsenale_inference.engine import samplers
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Event, Finish, Generate, Piece, Pieces
from arsenale_inference.worker.echo import Echo, texts_of
from arsenale_inference.worker.generation import Generation
from arsenale_inference.worker.text import joined

HOLD_S = 0.004
"""Tokens of steps shorter than this travel together, but the first of an answer: each line and
each chunk costs the sidecar and the client as much as a small model's step."""


class Saying:
    """Chooses tokens of one model and sends their text.

    Args:
        send: Takes each event, in order.
        now: A steady clock, seconds.

    Attributes:
        generated: How many tokens were chosen.
    """

    def __init__(
        self, model: Model, send: Callable[[Event], None], now: Callable[[], float]
    ) -> None:
        self._model, self._send, self._now = model, send, now
        self._ends = cache(model.ends)
        self._bytes = cache(model.piece)
        self._said: dict[str, list[Piece]] = {}
        self._sent_s = 0.0
        self.generated = 0

    @property
    def is_due(self) -> bool:
        """Say whether what was said has waited long enough for more."""
        return self._now() - self._sent_s >= HOLD_S

    def flush(self) -> None:
        """Send what was said since the last time."""
        if self._said:
            said = tuple(joined(pieces) for pieces in self._said.values())
            self._said.clear()
            self._send(Pieces(pieces=said))
        self._sent_s = self._now()

    def next(self, generation: Generation, logits: Any) -> Finish | None:
        """Choose the next token of GENERATION and say it; return why it ends, if it does.

        Raises:
            ArsenaleError: Its grammar or JSON schema allows no token.
        """
        request = generation.request
        token = generation.sampler.choose(logits)
        self.generated += 1
        if not request.ignore_end and self._ends(token):
            return "stop"
        generation.tokens.append(token)
        said = generation.answer.add(self._bytes(token))
        shown = self._logprobs(logits, token, request.sampling.logprobs)
        reason: Finish | None = None
        if generation.answer.stopped or generation.sampler.is_finished:
            reason = "stop"
        elif generation.generated >= generation.most:
            reason = "length"
        self._add(Piece(id=generation.id, text=said, tokens=(token,), logprobs=shown))
        return reason

    def echo_of(self, request: Generate, tokens: Sequence[int]) -> Echo | None:
        """Return the prompt of REQUEST on its way back, if that is asked for."""
        if not request.echo:
            return None
        texts = texts_of(self._model, request, tokens)
        return Echo(tokens, texts, request.sampling.logprobs, self._shown)

    def prompt(self, generation: Generation) -> None:
        """Say the text of the prompt of GENERATION, if it is given back."""
        if generation.echo is not None:
            self._add(Piece(id=generation.id, text=generation.echo.text, tokens=()))

    def scores(self, generation: Generation, logits: Iterable[Any]) -> None:
        """Say what LOGITS, the next rows of GENERATION, score of its prompt."""
        if generation.echo is not None and generation.is_scored:
            shown = tuple(generation.echo.scored(generation.computed, logits))
            if shown:
                self._add(Piece(id=generation.id, text="", tokens=(), logprobs=shown))

    def finish(self, generation: Generation) -> None:
        """Say what was held back of GENERATION, whatever it ends for, and send all that was said.

        Text waits while it may become a stop text, and half a character for its other half.
        """
        if held := generation.answer.finish():
            self._add(Piece(id=generation.id, text=held, tokens=()))
        self.flush()

    def _add(self, piece: Piece) -> None:
        self._said.setdefault(piece.id, []).append(piece)

    def _logprobs(self, logits: Any, token: int, most: int) -> tuple[dict[str, Any], ...]:
        if most < 0:
            return ()
        chosen, best = samplers.log_probabilities(logits, token, most)
        top = [self._shown(t, value) for t, value in best]
        return ({**self._shown(token, chosen), "top_logprobs": top},)

    def _shown(self, token: int, value: float) -> dict[str, Any]:
        data = self._model.piece(token, special=True)
        return {
            "token": data.decode("utf-8", "replace"), "logprob": value, "bytes": list(data),
            "id": token,
        }  # fmt: skip
