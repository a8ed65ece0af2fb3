"""Which layers a worker has loaded: least recently used out, never one that is in use. Pure."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What has to be done before a stack can be used."""

    load: tuple[str, ...]
    drop: tuple[str, ...]


@dataclass(slots=True)
class _Loaded:
    size_bytes: int
    users: int = 0


class LayerCache:
    """The layers of one worker.

    Args:
        most: So many layers at once.
        most_bytes: So many bytes of them; a single larger one is still loaded, alone.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self.hits = self.misses = 0

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of each layer, the one unused for the longest time first."""
        return {name: each.size_bytes for name, each in self._loaded.items()}

    def plan(self, names: Sequence[str], sizes: Mapping[str, int]) -> Change | None:
        """Return what to load and to drop for a stack of NAMES; `None` while layers are in use.

        Args:
            names: Each layer once.
            sizes: Their bytes, as far as they are known.
        """
        load = tuple(name for name in names if name not in self._loaded)
        count = len(self._loaded) + len(load)
        total = sum(each.size_bytes for each in self._loaded.values())
        total += sum(sizes.get(name, 0) for name in load)
        drop: list[str] = []
        for name, each in self._loaded.items():
            if count <= self._most and total <= self._most_bytes:
                break
            if name not in names and not each.users:
                drop.append(name)
                count, total = count - 1, total - each.size_bytes
        if load and count > self._most and len(names) < count:
            return None
        if load and total > self._most_bytes and any(e.users for e in self._loaded.values()):
            return None
        return Change(load=load, drop=tuple(drop))

    def apply(self, change: Change, sizes: Mapping[str, int]) -> None:
        """Note that CHANGE is under way; what loads is in use until it is `measured` or `lost`."""
        for name in change.drop:
            del self._loaded[name]
        for name in change.load:
            self._loaded[name] = _Loaded(sizes.get(name, 0), users=1)

    def use(self, names: Sequence[str], change: Change) -> None:
        """Keep NAMES from being dropped until `release`; CHANGE was needed for them."""
        self.misses += len(change.load)
        self.hits += len(names) - len(change.load)
        for name in names:
            self._loaded[name].users += 1
            self._loaded.move_to_end(name)

    def release(self, names: Sequence[str]) -> None:
        """Let NAMES be dropped again, by this user."""
        for name in names:
            if name in self._loaded:
                self._loaded[name].users -= 1

    def measured(self, name: str, size_bytes: int) -> None:
        """Note that a layer is loaded, and how large it is in memory."""
        if name in self._loaded:
            self._loaded[name].size_bytes = size_bytes
            self._loaded[name].users -= 1

    def lost(self, name: str) -> None:
        """Note that a layer could not be loaded."""
        self._loaded.pop(name, None)
