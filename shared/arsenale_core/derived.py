"""A cache of what is expensive to derive: bounded in number and age, and told to forget."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Derived(Generic[K, V]):
    """Values by key, the least recently used ones given up first.

    Args:
        most: How many values are kept.
        ttl_s: How long a value is good, seconds; 0 keeps none.
        now: The clock, seconds.
    """

    def __init__(self, most: int, ttl_s: float, now: Callable[[], float]) -> None:
        self._most = most
        self._ttl_s = ttl_s
        self._now = now
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return the value of KEY; `None` when there is none that is good."""
        found = self._values.get(key)
        if found is None:
            return None
        if self._now() - found[0] >= self._ttl_s:
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return found[1]

    def put(self, key: K, value: V) -> None:
        """Keep VALUE for KEY."""
        if self._ttl_s <= 0:
            return
        self._values[key] = (self._now(), value)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self) -> None:
        """Forget everything."""
        self._values.clear()
