"""How the next token is chosen of the logits: llama.cpp's samplers, in its usual order."""

import re
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference.engine import llama
from arsenale_inference.engine.constraints import Constraint
from arsenale_inference.engine.llama import Floats
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Sampling

PENALTY_WINDOW = 4_096
"""So many of the last generated tokens are counted for the penalties."""

REASON_CHARS = 300
"""llama.cpp's parser quotes the rest of the grammar."""

CERTAIN = 1e-6
"""A temperature below this takes the likeliest token."""


class Sampler:
    """Chooses the tokens of one answer.

    The order is that of llama.cpp's own server: bias, penalties, top-k, top-p, min-p, temperature,
    draw. A JSON schema leaves only the tokens that fit before all of these. A grammar is tried on
    the token that was drawn; only when that does not fit are all tokens held against it, and one
    is drawn of the rest (as llama.cpp's server does: the distribution is that of the rest alone).
    Without any of these the likeliest token is taken without a copy.
    """

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        grammar: str | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """Make a sampler.

        Raises:
            InvalidError: GRAMMAR is not valid GBNF, or a biased token does not exist.
        """
        self._n_vocab = model.info.n_vocab
        self._all = np.arange(self._n_vocab, dtype=np.int32)
        self._chain: llama.Handle | None = None
        self._grammar: llama.Handle | None = None
        self._constraint = constraint
        plain = sampling.temperature < CERTAIN and not (sampling.bias or _has_penalty(sampling))
        if not plain or grammar is not None:
            self._chain = _chain(model, sampling)
            self._candidates = np.zeros(self._n_vocab, llama.TOKEN_DATA)
        if grammar is not None:
            try:
                self._grammar = _grammar_chain(model, grammar)
            except InvalidError:
                self.close()
                raise

    @property
    def is_finished(self) -> bool:
        """Say whether the JSON schema is satisfied and allows nothing more."""
        return self._constraint is not None and self._constraint.is_finished

    def choose(self, logits: Floats) -> int:
        """Return the next token and count it; LOGITS has the shape `(n_vocab,)`.

        Raises:
            InvalidError: The grammar or the JSON schema allows no token.
        """
        allowed = None if self._constraint is None else self._constraint.allowed()
        if self._chain is None:
            token = _likeliest(logits, allowed)
        else:
            token = self._drawn(self._chain, logits, allowed)
            for chain in (self._chain, self._grammar):
                if chain is not None:
                    llama.accept(chain, token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def _drawn(
        self, chain: llama.Handle, logits: Floats, allowed: "NDArray[np.intp] | None"
    ) -> int:
        candidates = self._filled(logits, allowed)
        token = llama.sample(chain, candidates)
        if self._grammar is None or self._fits(self._grammar, token):
            return token
        candidates = self._filled(logits, allowed)
        llama.sample(self._grammar, candidates)
        if not np.isfinite(candidates["logit"]).any():
            raise InvalidError(
                "the grammar allows no token", hint="make it end where the answer may end"
            )
        return llama.sample(chain, candidates)

    def _filled(self, logits: Floats, allowed: "NDArray[np.intp] | None") -> NDArray[Any]:
        ids = self._all if allowed is None else allowed
        candidates = self._candidates[: len(ids)]
        candidates["id"] = ids
        candidates["logit"] = logits if allowed is None else logits[allowed]
        return candidates

    def _fits(self, grammar: llama.Handle, token: int) -> bool:
        one = np.zeros(1, llama.TOKEN_DATA)
        one["id"] = token
        llama.sample(grammar, one)
        return bool(np.isfinite(one["logit"][0]))

    def close(self) -> None:
        """Give the chains back."""
        for chain in (self._chain, self._grammar):
            if chain is not None:
                llama.free_sampler(chain)
        self._chain = self._grammar = None


def _likeliest(logits: Floats, allowed: "NDArray[np.intp] | None") -> int:
    if allowed is None:
        return int(logits.argmax())
    return int(allowed[logits[allowed].argmax()])


def _grammar_chain(model: Model, grammar: str) -> llama.Handle:
    chain = llama.sampler_chain()
    with llama.errors() as logged, llama.printed() as printed:
        made = llama.add_sampler(chain, "grammar", model.vocabulary, grammar.encode(), b"root")
    if not made:
        llama.free_sampler(chain)
        raise InvalidError(
            f"the grammar is not valid GBNF ({grammar_reason(logged, printed)})",
            hint="see grammars/README.md of llama.cpp for its form; its first rule is `root`",
        )
    return chain


def grammar_reason(logged: Sequence[str], printed: Sequence[str]) -> str:
    """Return why llama.cpp refuses a grammar: what its parser PRINTED, else what it LOGGED."""
    found = re.search(r"error parsing grammar: (.*)", "".join(printed))
    reason = found[1] if found else "; ".join(logged)
    return reason[:REASON_CHARS] or "it gives no reason"


def _has_penalty(sampling: Sampling) -> bool:
    return bool(
        sampling.frequency_penalty
        or sampling.presence_penalty
        or sampling.repetition_penalty != 1.0
    )


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
    if _has_penalty(sampling):
        llama.add_sampler(
            chain, "penalties", n_vocab, PENALTY_WINDOW, sampling.repetition_penalty,
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
