"""How much a node may send: a token bucket, and two of them for each node; pure.

A bucket holds up to `burst` tokens and gains `rate` of them a second; what is sent takes as many as
it costs (Turner, "New directions in communications", IEEE Communications 24(10), 1986: the leaky
bucket as a meter). Time comes from the caller and should be a monotonic clock.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

FORGOTTEN_BEYOND = 20_000
"""Nodes of which buckets are kept; who was not heard of for longest goes first."""

_SLACK = 1e-9
"""Share of a burst that rounding may take: who waits as long as told is let through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What is allowed.

    Attributes:
        a_second: Tokens gained in a second, above 0.
        burst: Tokens that a bucket holds, above 0.
    """

    a_second: float
    burst: float

    def __post_init__(self) -> None:
        for value in (self.a_second, self.burst):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"a rate and a burst are finite and above 0, not {value}")


class Bucket:
    """A token bucket; full at first.

    A cost above the burst passes when the bucket is full and leaves it in debt, so that the rate
    holds over time and nothing waits for ever.
    """

    __slots__ = ("_last", "_rate", "_tokens")

    def __init__(self, rate: Rate) -> None:
        """Make a full one."""
        self._rate = rate
        self._tokens = rate.burst
        self._last: float | None = None

    def allow(self, now: float, cost: float = 1.0) -> float:
        """Take COST tokens, or say how long to wait.

        A clock that goes back fills nothing. One that goes back further than a whole burst takes
        was set anew, and is followed from there.

        Args:
            now: Seconds; what is no finite number fills nothing.
            cost: Tokens, at least 0.

        Returns:
            0 where they were taken; else seconds after which the same call takes them, if nobody
            else takes any.

        Raises:
            ValueError: COST is no finite number of at least 0.
        """
        wait = self.wait(now, cost)
        if wait == 0:
            self._tokens -= cost
        return wait

    def wait(self, now: float, cost: float = 1.0) -> float:
        """Say what `allow` would, and take nothing."""
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(f"a cost is finite and at least 0, not {cost}")
        behind = self._fill(now)
        lacking = min(cost, self._rate.burst) - self._tokens
        if lacking <= _SLACK * self._rate.burst:
            return 0.0
        return behind + lacking / self._rate.a_second

    def _fill(self, now: float) -> float:
        """Add what NOW brings. Return how far the clock is behind what it was, seconds."""
        if not math.isfinite(now):
            return 0.0
        if self._last is None:
            self._last = now
        gone = now - self._last
        if gone < 0:
            if -gone <= self._rate.burst / self._rate.a_second:
                return -gone
            gone = 0.0
        self._last = now
        self._tokens = min(self._rate.burst, self._tokens + gone * self._rate.a_second)
        return 0.0


class NodeRates:
    """Buckets of messages and of bytes for each node."""

    def __init__(self, messages: Rate, size: Rate, *, nodes: int = FORGOTTEN_BEYOND) -> None:
        """Allow each node MESSAGES of together SIZE bytes; keep account of so many NODES."""
        self._messages = messages
        self._size = size
        self._nodes = nodes
        self._buckets: OrderedDict[Hashable, tuple[Bucket, Bucket]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, node: Hashable, now: float, size_bytes: int) -> float:
        """Take a message of so many bytes from both buckets, or from neither.

        Returns:
            0 where it is allowed; else seconds to wait.

        Raises:
            ValueError: SIZE_BYTES is negative.
        """
        found = self._buckets.get(node)
        if found is None:
            found = self._buckets[node] = (Bucket(self._messages), Bucket(self._size))
            if len(self._buckets) > self._nodes:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(node)
        messages, size = found
        wait = max(messages.wait(now, 1), size.wait(now, size_bytes))
        if wait == 0:
            messages.allow(now, 1)
            size.allow(now, size_bytes)
        return wait

    def forget(self, node: Hashable) -> None:
        """Drop the buckets of a node that left."""
        self._buckets.pop(node, None)
