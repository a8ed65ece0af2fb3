"""Which log lines are written: a few equal and some similar ones a minute; others are counted."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

WINDOW_S = 60.0
"""Lines are counted for so long; then how many were left out is reported."""

MOST_EQUAL = 5
"""Lines with the same text in a window. What a loop repeats is as clear from five as from all."""

MOST_SIMILAR = 300
"""Lines with the same event and different details in a window: five a second, more than honest work
logs, while a stranger who varies a detail fills no file."""

MOST_KEYS = 2_000
"""Texts and events that are remembered; past it the oldest window ends early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What of a log line counts.

    Attributes:
        source: The logger and the level.
        event: What happened, without details.
        text: The event with its details, without time.
    """

    source: tuple[str, int]
    event: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """COUNT lines like EVENT of SOURCE were left out within WITHIN_S seconds."""

    source: tuple[str, int]
    event: str
    count: int
    within_s: float


@dataclass(slots=True)
class _Window:
    event: str
    begun: float
    written: int = 0
    left_out: int = 0


_Windows: TypeAlias = OrderedDict[tuple[tuple[str, int], str], _Window]


class Throttle:
    """Decides for each line whether it is written."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._equal: _Windows = OrderedDict()
        self._similar: _Windows = OrderedDict()
        self._early: list[Suppressed] = []

    def admits(self, line: Line) -> bool:
        """Count LINE; return whether it is written."""
        similar = self._window(self._similar, line.source, line.event, line.event)
        if similar.written >= MOST_SIMILAR:
            similar.left_out += 1
            return False
        equal = self._window(self._equal, line.source, line.text, line.event)
        if equal.written >= MOST_EQUAL:
            equal.left_out += 1
            return False
        equal.written += 1
        similar.written += 1
        return True

    def due_s(self) -> float | None:
        """Return in how many seconds something is to be reported; `None` when nothing is."""
        if self._early:
            return 0.0
        both = (*self._equal.values(), *self._similar.values())
        begun = [one.begun for one in both if one.left_out]
        return max(0.0, min(begun) + WINDOW_S - self._now()) if begun else None

    def over(self, *, at_once: bool = False) -> list[Suppressed]:
        """Return what was left out in windows that are over, or AT_ONCE in all; forget them."""
        reports, self._early = self._early, []
        until = self._now() - WINDOW_S
        for windows in (self._equal, self._similar):
            while windows:
                oldest = next(iter(windows.values()))  # they began in this order
                if not at_once and oldest.begun > until:
                    break
                reports += self._close(windows)
        return reports

    def _window(self, windows: _Windows, source: tuple[str, int], key: str, event: str) -> _Window:
        window = windows.get((source, key))
        if window is None:
            if len(windows) >= MOST_KEYS:
                self._early += self._close(windows)
            window = windows[source, key] = _Window(event, self._now())
        return window

    def _close(self, windows: _Windows) -> list[Suppressed]:
        (source, _), window = windows.popitem(last=False)
        if not window.left_out:
            return []
        within_s = round(self._now() - window.begun, 1)
        return [
            Suppressed(source=source, event=window.event, count=window.left_out, within_s=within_s)
        ]
