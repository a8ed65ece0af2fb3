"""Moments as people and assistants write them. Pure."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from arsenale_core.errors import InvalidError

EARLIEST_US, LATEST_US = -62_104_060_800_000_000, 253_370_764_800_000_000
"""The years 2 to 9998: within them every time zone has a date."""

_SPAN = re.compile(r"(\d{1,5})\s*([mhdwy])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_557_600}


def parse(text: str, now_s: float, zone: tzinfo | None) -> int:
    """Return the moment TEXT as Unix microseconds.

    TEXT is an ISO 8601 date or time (a date begins at midnight of ZONE), `now`, `today`,
    `yesterday`, or a span before now: 90m, 24h, 7d, 4w, 1y.

    Raises:
        InvalidError: It is none of these.
    """
    found = _parsed(text, now_s, zone)
    if not EARLIEST_US <= found <= LATEST_US:
        raise InvalidError(f"{text!r} is out of range", hint="a moment lies in the years 2 to 9998")
    return found


def _parsed(text: str, now_s: float, zone: tzinfo | None) -> int:
    said = text.strip().lower()
    now = datetime.fromtimestamp(now_s, zone or UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    if said in named:
        return us(named[said])
    if span := _SPAN.fullmatch(said):
        return int((now_s - int(span[1]) * _UNITS[span[2]]) * 1e6)
    try:
        at = datetime.fromisoformat(text.strip())
        return us(at if at.tzinfo else at.replace(tzinfo=zone or UTC))
    except (ValueError, OverflowError) as exc:
        raise InvalidError(
            f"{text!r} is no moment", hint="write 2026-11-20, 2026-11-20T14:30, today, or 7d"
        ) from exc


def us(at: datetime) -> int:
    """Return AT as Unix microseconds."""
    return int(at.timestamp() * 1e6)


def iso(at_us: int) -> str:
    """Return AT_US as ISO 8601 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "out of range"


def day(at_us: int, zone: tzinfo | None) -> str:
    """Return the day of AT_US in ZONE, as 2026-11-20."""
    return datetime.fromtimestamp(at_us / 1e6, zone or UTC).date().isoformat()
