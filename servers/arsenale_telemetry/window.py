"""The time a report covers, from the words a person or a model would use. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from arsenale_core.errors import InvalidError
from arsenale_telemetry.rollup import HOUR_US
from arsenale_telemetry.tables import DAY, EVER, HOUR

HOURLY_SPAN = timedelta(hours=48)
"""Up to here a report is exact to the hour; beyond, to the local day."""

LAST_DAY = 2**31 - 1
"""An ordinal beyond every day that a clock may show."""

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_HINT = "use 24h, 7d, 4w, today, all, or a date such as 2026-11-20"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From START_US on, to now: events of a clock that runs ahead lie outside, except for `all`.

    Attributes:
        grain: Which sums answer it, `HOUR`, `DAY` or `EVER`.
        period: First period of that grain; START_US is where it begins.
        end_us: Now.
        last_period: Last period of the grain.
        last_day: Ordinal of the last local day.
        until_us: Where the last period ends.
    """

    label: str
    grain: int
    period: int
    start_us: int
    end_us: int
    last_period: int
    last_day: int
    until_us: int


def parse(since: str, now: float, zone: tzinfo | None) -> Window:
    """Return the window that SINCE names, rounded down to a whole hour or local day.

    Args:
        since: `24h`, `7d`, `4w`, `90m`, `today`, `all`, or an ISO date or date-time.
        now: Unix seconds.
        zone: The zone of local days; `None` for the system's.

    Raises:
        InvalidError: SINCE is none of these, or lies in the future.
    """
    end = datetime.fromtimestamp(now, UTC).astimezone(zone)
    wanted = since.strip().lower()
    if wanted == "all":
        return Window(
            label=since, grain=EVER, period=0, start_us=0, end_us=int(now * 1e6), last_period=0,
            last_day=LAST_DAY, until_us=2**63 - 1,
        )  # fmt: skip
    start = _start(wanted, end)
    if start > end:
        raise InvalidError(f"since={since!r} lies in the future", hint=_HINT)
    end_us = int(now * 1e6)
    if end - start <= HOURLY_SPAN:
        period = int(start.timestamp() * 1e6) // HOUR_US
        return Window(
            label=since, grain=HOUR, period=period, start_us=period * HOUR_US, end_us=end_us,
            last_period=end_us // HOUR_US, last_day=end.toordinal(),
            until_us=(end_us // HOUR_US + 1) * HOUR_US,
        )  # fmt: skip
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(
        label=since,
        grain=DAY,
        period=midnight.toordinal(),
        start_us=int(midnight.timestamp() * 1e6),
        end_us=end_us,
        last_period=end.toordinal(),
        last_day=end.toordinal(),
        until_us=int(_next_midnight(end).timestamp() * 1e6),
    )


def _next_midnight(moment: datetime) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=1)  # in the local calendar, whatever the day's length


def _start(since: str, end: datetime) -> datetime:
    if since == "today":
        return end.replace(hour=0, minute=0, second=0, microsecond=0)
    if found := re.fullmatch(r"(\d{1,5})\s*([mhdw])", since):
        return end - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(since.upper())
    except ValueError:
        raise InvalidError(f"invalid time span since={since!r}", hint=_HINT) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=end.tzinfo)


def iso(at_us: int) -> str:
    """Return a moment as `2026-11-20T12:00:00.123Z`."""
    moment = datetime.fromtimestamp(at_us / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
