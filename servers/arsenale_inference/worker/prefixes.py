"""Which sequence of the KV cache holds what: free, in use, or kept for a later prompt. Pure.

Keys and values depend on the layers, so only a prompt with the same stack may share a prefix.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arsenale_inference.messages import Stack

Tokens = NDArray[np.int32]

WORTH_SHARING = 8
"""A shared beginning of fewer tokens is computed anew."""


@dataclass(slots=True, eq=False)
class Held:
    """A sequence that holds `tokens` under `stack`; `used` says when it was last of use."""

    stack: Stack
    tokens: Tokens
    used: int
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The first `length` tokens of a prompt are in `sequence`; `whole` when it holds no others."""

    sequence: int
    length: int
    whole: bool


class Prefixes:
    """The sequences of one context and the tokens that each holds."""

    def __init__(self, sequences: int) -> None:
        self._free = list(range(sequences - 1, -1, -1))
        self._held: dict[int, Held] = {}
        self._tick = 0

    @property
    def kept_tokens(self) -> int:
        """Return how many tokens are kept for later, prefixes that are shared counted twice."""
        return sum(len(held.tokens) for held in self._held.values() if not held.live)

    def best(self, stack: Stack, prompt: Tokens) -> Share | None:
        """Return the longest prefix of PROMPT that some sequence holds; one token is left over.

        A live sequence counts with what it has computed so far.
        """
        best: Share | None = None
        for sequence, held in self._held.items():
            if held.stack == stack:
                length = min(shared(held.tokens, prompt), len(prompt) - 1)
                if length >= WORTH_SHARING and (best is None or length > best.length):
                    whole = not held.live and length == len(held.tokens)
                    best = Share(sequence=sequence, length=length, whole=whole)
        return best

    def take(self, stack: Stack) -> int | None:
        """Return a free sequence, which is live from now on; `None` when there is none."""
        if not self._free:
            return None
        sequence = self._free.pop()
        self._hold(sequence, stack, live=True)
        return sequence

    def revive(self, sequence: int) -> None:
        """Make a kept SEQUENCE live again."""
        self._held[sequence].live = True
        self._touch(sequence)

    def note(self, sequence: int, tokens: Tokens) -> None:
        """Note that SEQUENCE holds TOKENS now."""
        self._held[sequence].tokens = tokens
        self._touch(sequence)

    def keep(self, sequence: int) -> None:
        """Keep what a live SEQUENCE holds for later prompts."""
        self._held[sequence].live = False
        self._touch(sequence)

    def drop(self, sequence: int) -> None:
        """Make SEQUENCE free; who calls it removes its tokens from the context."""
        del self._held[sequence]
        self._free.append(sequence)

    def oldest_kept(self, but: int | None = None) -> int | None:
        """Return the kept sequence that was of no use for the longest time, other than BUT."""
        kept = [s for s, held in self._held.items() if not held.live and s != but]
        return min(kept, key=lambda s: self._held[s].used, default=None)

    def with_layer(self, name: str) -> list[int]:
        """Return the kept sequences whose stack has the layer NAME."""
        return [
            sequence
            for sequence, held in self._held.items()
            if not held.live and any(layer == name for layer, _ in held.stack)
        ]

    def _hold(self, sequence: int, stack: Stack, *, live: bool) -> None:
        self._held[sequence] = Held(stack, np.empty(0, np.int32), self._tick, live)
        self._touch(sequence)

    def _touch(self, sequence: int) -> None:
        self._tick += 1
        self._held[sequence].used = self._tick


def shared(first: Tokens, second: Tokens) -> int:
    """Return how many tokens FIRST and SECOND begin with in common."""
    n = min(len(first), len(second))
    differ = np.flatnonzero(first[:n] != second[:n])
    return int(differ[0]) if len(differ) else n
