"""A prompt given back before its answer: its text, and how likely each of its tokens was."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from arsenale_inference.engine import samplers
from arsenale_inference.engine.llama import Floats
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Generate

SCORED_ROWS = 64
"""Rows of a scored prompt in a step: each has logits of the whole vocabulary, 0.6 MB for 152,000
tokens. Larger steps are not faster (256 tokens: the same time in steps of 64 and of 256)."""

Shown = dict[str, Any]


def texts_of(model: Model, request: Generate, tokens: Sequence[int]) -> list[bytes]:
    """Return the bytes of each of TOKENS, the prompt of REQUEST; together they are its text.

    Tokens that the tokenizer put around a text have none, nor has the blank that some vocabularies
    put before its first word.
    """
    pieces = [model.piece(token, special=True) for token in tokens]
    if request.text is None:
        return pieces
    plain = model.tokenize(request.text, start=False, special=True).tolist()
    given = list(tokens)
    start = next((i for i in range(len(given)) if given[i : i + len(plain)] == plain), 0)
    added = (*range(start), *range(start + len(plain), len(given)))
    for place in added if plain else range(len(given)):
        pieces[place] = b""
    whole, wanted = b"".join(pieces), request.text.encode()
    if whole != wanted and whole == b" " + wanted and start < len(pieces):
        pieces[start] = pieces[start][1:]
    return pieces


class Echo:
    """The prompt of one request on its way back.

    Args:
        tokens: The prompt.
        texts: As `texts_of` gives them.
        most: So many of the likeliest tokens come with each.
        show: Makes the entry of a token of its log-probability.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        texts: Sequence[bytes],
        most: int,
        show: Callable[[int, float], Shown],
    ) -> None:
        self._tokens, self._texts, self._most, self._show = tokens, texts, most, show
        self._next = 0

    @property
    def text(self) -> str:
        """Return the whole text."""
        return b"".join(self._texts).decode("utf-8", "replace")

    def scored(self, start: int, logits: Iterable[Floats]) -> list[Shown]:
        """Return the entries of the tokens that LOGITS, the rows from position START on, score.

        The row of a token scores the one after it; nothing scores the first. A row that comes
        again, because the KV cache was full meanwhile, gives nothing new.
        """
        found = [self._first()] if self._next == 0 else []
        for place, row in enumerate(logits, start + 1):
            if place == self._next and place < len(self._tokens):
                found.append(self._entry(place, row))
                self._next = place + 1
        return found

    def _first(self) -> Shown:
        self._next = 1
        entry = self._show(self._tokens[0], 0.0)
        return {**entry, **self._text(0), "logprob": None, "top_logprobs": None}

    def _entry(self, place: int, row: Floats) -> Shown:
        token = self._tokens[place]
        chosen, best = samplers.log_probabilities(row, token, self._most)
        top = [self._show(each, value) for each, value in best]
        return {**self._show(token, chosen), **self._text(place), "top_logprobs": top}

    def _text(self, place: int) -> Shown:
        data = self._texts[place]
        return {"token": data.decode("utf-8", "replace"), "bytes": list(data)}
