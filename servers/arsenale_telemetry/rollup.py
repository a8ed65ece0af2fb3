"""Sums of a batch of calls by hour and by day, before they are added to the store's. Pure."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TypeAlias

from arsenale_telemetry.histogram import bucket
from arsenale_telemetry.pairing import Call, Effect
from arsenale_telemetry.tables import DAY, EVER, HOUR

Cell: TypeAlias = tuple[int, int, int, int]
"""`(grain, period, tool_id, project_id)`: what one row of the sums is about."""

HOUR_US = 3_600_000_000


@dataclass(slots=True)
class Sums:
    """What is added to one row of `usage`."""

    calls: int = 0
    errors: int = 0
    interrupted: int = 0
    timed: int = 0
    total_us: int = 0
    max_us: int = 0
    input_bytes: int = 0
    output_bytes: int = 0


@dataclass(slots=True)
class Rollup:
    """What a batch adds to the sums.

    Attributes:
        usage: By cell.
        latency: How many durations, by cell and bucket.
    """

    day_of: Callable[[int], int]
    usage: dict[Cell, Sums] = field(default_factory=dict[Cell, Sums])
    latency: Counter[tuple[Cell, int]] = field(default_factory=Counter[tuple[Cell, int]])

    def add(self, call: Call, effects: list[Effect]) -> None:
        """Add what EFFECTS say has newly become known of CALL, under the period of its end."""
        if not effects or call.ended_us is None:
            return
        hour = (HOUR, call.ended_us // HOUR_US, call.tool_id, call.project_id)
        day = (DAY, self.day_of(call.ended_us), call.tool_id, call.project_id)
        ever = (EVER, 0, call.tool_id, call.project_id)
        for cell in (hour, day, ever):
            sums = self.usage.setdefault(cell, Sums())
            if "counted" in effects:
                sums.calls += 1
                sums.errors += call.status == "error"
                sums.interrupted += call.status == "interrupted"
                sums.input_bytes += call.input_bytes or 0
                sums.output_bytes += call.output_bytes or 0
            if "timed" in effects and call.duration_us is not None:
                sums.timed += 1
                sums.total_us += call.duration_us
                sums.max_us = max(sums.max_us, call.duration_us)
                self.latency[cell, bucket(call.duration_us)] += 1


class Days:
    """Which local day a moment belongs to: `date.toordinal()` in ZONE, remembered by hour."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._known: dict[int, int] = {}

    def __call__(self, at_us: int) -> int:
        """Return the day of AT_US, microseconds since the epoch."""
        # A zone's offset changes on a quarter of an hour at the finest.
        quarter = at_us // (HOUR_US // 4)
        day = self._known.get(quarter)
        if day is None:
            moment = datetime.fromtimestamp(quarter * 900, UTC).astimezone(self._zone)
            day = self._known[quarter] = moment.toordinal()
        return day
