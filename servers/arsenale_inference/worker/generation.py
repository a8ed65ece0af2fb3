"""One answer in the making: what is computed of it, what was said of it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from arsenale_inference.engine.samplers import Sampler
from arsenale_inference.messages import Finish, Finished, Generate, Stack
from arsenale_inference.worker.echo import SCORED_ROWS, Echo
from arsenale_inference.worker.steps import Turn
from arsenale_inference.worker.text import Answer

RESERVED_TOKENS = 256
"""So much of an answer has its room in the KV cache promised before it starts."""


@dataclass(slots=True, eq=False, kw_only=True)
class Generation:
    """A request with its state.

    Attributes:
        stack: The layers that count, in one order for equal stacks.
        tokens: The prompt and what was generated.
        computed: How many of `tokens` are in the KV cache, in `sequence`.
        most: How many tokens may be generated.
        order: When it came, rising.
        deadline_s: On the clock of the worker.
        cached: How many tokens of the prompt were there already.
        echo: The prompt on its way back, where the request asks for it.
    """

    request: Generate
    stack: Stack
    tokens: list[int]
    prompt_tokens: int
    most: int
    sampler: Sampler
    order: int
    arrived_s: float
    deadline_s: float | None
    answer: Answer = field(default_factory=Answer)
    echo: Echo | None = None
    sequence: int | None = None
    computed: int = 0
    cached: int = 0
    started_s: float | None = None
    first_s: float | None = None
    cancelled: bool = False

    @property
    def id(self) -> str:
        """Return the id of the request."""
        return self.request.id

    @property
    def generated(self) -> int:
        """Return how many tokens were generated."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def promised(self) -> int:
        """Return how many tokens of the KV cache it has or is promised."""
        return len(self.tokens) + min(self.most - self.generated, RESERVED_TOKENS)

    @property
    def is_scored(self) -> bool:
        """Say whether the tokens of its prompt are given back with their log-probabilities."""
        return self.echo is not None and self.request.sampling.logprobs >= 0

    def scored_rows(self, n: int) -> int:
        """Return how many of the next N rows score a token of the prompt: the first ones."""
        return max(0, min(n, self.prompt_tokens - 1 - self.computed)) if self.is_scored else 0

    def turn(self) -> Turn:
        """Return what it needs of the next step."""
        left = len(self.tokens) - self.computed
        generating = left == 1 and self.generated > 0
        return Turn(
            waiting=0 if generating else left, priority=self.request.priority, order=self.order,
            most=SCORED_ROWS if self.scored_rows(left) else None,
        )  # fmt: skip

    def wants(self, n: int) -> NDArray[np.bool_]:
        """Return which of the next N rows need logits, shape `(n,)`."""
        found = np.arange(n) < self.scored_rows(n)
        found[-1] |= self.whole(n)
        return found

    def rows(self, n: int) -> NDArray[np.int32]:
        """Return its next N tokens."""
        return np.array(self.tokens[self.computed : self.computed + n], np.int32)

    def whole(self, n: int) -> bool:
        """Say whether N more rows compute all that is known of it."""
        return self.computed + n == len(self.tokens)

    def finished(self, reason: Finish, now_s: float) -> Finished:
        """Return the account of it."""
        started = now_s if self.started_s is None else self.started_s
        first = now_s if self.first_s is None else self.first_s
        return Finished(
            id=self.id, reason=reason, prompt_tokens=self.prompt_tokens,
            completion_tokens=self.generated, cached_tokens=self.cached,
            waited_s=started - self.arrived_s, prefill_s=first - started, decode_s=now_s - first,
        )  # fmt: skip


def canonical(stack: Stack) -> Stack:
    """Return STACK by name: the weights of a name summed, those of weight 0 left out."""
    weights: dict[str, float] = {}
    for name, weight in stack:
        weights[name] = weights.get(name, 0.0) + weight
    return tuple(sorted((name, weight) for name, weight in weights.items() if weight))
