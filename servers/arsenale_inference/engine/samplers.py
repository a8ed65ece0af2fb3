"""How the next token is chosen of the logits: llama.cpp's samplers, in its usual order."""

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference.engine import llama
from arsenale_inference.engine.llama import Floats
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Sampling

PENALTY_WINDOW = 4_096
"""So many of the last generated tokens are counted for the penalties."""

CERTAIN = 1e-6
"""A temperature below this takes the likeliest token."""


class Sampler:
    """Chooses the tokens of one answer.

    The order is that of llama.cpp's own server: bias, penalties, grammar, top-k, top-p, min-p,
    temperature, draw. Without any of these the likeliest token is taken without a copy.
    """

    def __init__(self, model: Model, sampling: Sampling, grammar: str | None = None) -> None:
        """Make a sampler.

        Raises:
            InvalidError: GRAMMAR is no GBNF, or a biased token does not exist.
        """
        self._n_vocab = model.info.n_vocab
        self._chain: llama.Handle | None = None
        self._grammar: llama.Handle | None = None
        self._candidates: NDArray[Any] | None = None
        if grammar is not None:
            self._grammar = _grammar_chain(model, grammar)
        plain = sampling.temperature < CERTAIN and not (
            sampling.bias or sampling.frequency_penalty or sampling.presence_penalty
        )
        if not plain or grammar is not None:
            self._chain = _chain(model, sampling)
            self._candidates = np.zeros(self._n_vocab, llama.TOKEN_DATA)

    def choose(self, logits: Floats) -> int:
        """Return the next token and count it; LOGITS has the shape `(n_vocab,)`.

        Raises:
            InvalidError: The grammar allows no token.
        """
        if self._chain is None or self._candidates is None:
            return int(logits.argmax())
        token = self._drawn(logits, self._candidates)
        for chain in (self._chain, self._grammar):
            if chain is not None:
                llama.accept(chain, token)
        return token

    def _drawn(self, logits: Floats, candidates: NDArray[Any]) -> int:
        assert self._chain is not None
        candidates["id"] = np.arange(self._n_vocab, dtype=np.int32)
        candidates["logit"] = logits
        if self._grammar is not None:
            llama.sample(self._grammar, candidates)
            if not np.isfinite(candidates["logit"]).any():
                raise InvalidError(
                    "the grammar allows no token", hint="make it end where the answer may end"
                )
        return llama.sample(self._chain, candidates)

    def close(self) -> None:
        """Give the chains back."""
        for chain in (self._chain, self._grammar):
            if chain is not None:
                llama.free_sampler(chain)
        self._chain = self._grammar = None


def _grammar_chain(model: Model, grammar: str) -> llama.Handle:
    chain = llama.sampler_chain()
    if not llama.add_sampler(chain, "grammar", model.vocabulary, grammar.encode(), b"root"):
        llama.free_sampler(chain)
        raise InvalidError(
            "the grammar is not GBNF with a rule `root`",
            hint="see grammars/README.md of llama.cpp for its form",
        )
    return chain


def _chain(model: Model, sampling: Sampling) -> llama.Handle:
    n_vocab = model.info.n_vocab
    wrong = [token for token, _ in sampling.bias if not 0 <= token < n_vocab]
    if wrong:
        raise InvalidError(
            f"logit_bias names the token {wrong[0]}", hint=f"tokens are 0 to {n_vocab - 1}"
        )
    chain = llama.sampler_chain()
    if sampling.bias:
        llama.add_sampler(
            chain, "logit_bias", n_vocab, len(sampling.bias), llama.biases(sampling.bias)
        )
    if sampling.frequency_penalty or sampling.presence_penalty:
        llama.add_sampler(
            chain, "penalties", n_vocab, PENALTY_WINDOW, 1.0,
            sampling.frequency_penalty, sampling.presence_penalty,
        )  # fmt: skip
    if sampling.temperature < CERTAIN:
        llama.add_sampler(chain, "greedy")
        return chain
    if sampling.top_k > 0:
        llama.add_sampler(chain, "top_k", sampling.top_k)
    if sampling.top_p < 1:
        llama.add_sampler(chain, "top_p", sampling.top_p, 1)
    if sampling.min_p > 0:
        llama.add_sampler(chain, "min_p", sampling.min_p, 1)
    llama.add_sampler(chain, "temp", sampling.temperature)
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed & 0xFFFFFFFF
    llama.add_sampler(chain, "dist", seed)
    return chain


def log_probabilities(
    logits: Floats, token: int, most: int
) -> tuple[float, list[tuple[int, float]]]:
    """Return the natural log of TOKEN's probability, and the MOST likeliest tokens with theirs.

    They are of the model itself: before bias, penalties, grammar and temperature.
    """
    top = float(logits.max())
    total = top + float(np.log(np.exp(logits.astype(np.float64) - top).sum()))
    if most <= 0:
        return float(logits[token]) - total, []
    best = np.argpartition(-logits, min(most, len(logits) - 1))[:most]
    best = best[np.argsort(-logits[best], kind="stable")]
    return float(logits[token]) - total, [(int(t), float(logits[t]) - total) for t in best]
