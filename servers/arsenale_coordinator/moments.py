"""Moments and spans as people and models write them; pure."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from arsenale_core.errors import InvalidError

_SPAN = re.compile(
    r"(?:in\s+)?(\d{1,6}(?:\.\d+)?)\s*"
    r"(?:(s)(?:ec(?:ond)?s?)?|(m)(?:in(?:ute)?s?)?|(h)(?:(?:ou)?rs?)?|(d)(?:ays?)?|(w)(?:eeks?)?)"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def told(at_us: int) -> str:
    """Return a moment (microseconds since the epoch) as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def asked(text: str, now_us: int, zone: tzinfo = UTC) -> int:
    """Return the moment that TEXT means, microseconds since the epoch.

    Args:
        text: ISO 8601, or a span from now on: 90m, 2h, 3d.
        now_us: Now.
        zone: Of a moment that names none.

    Raises:
        InvalidError: It is neither, or lies beyond the year 9999.
    """
    hint = "give an ISO date and time as 2026-11-30T17:00, or a span as 90m, 2h, 3d"
    if span := _SPAN.fullmatch(text.strip().lower()):
        unit = next(one for one in span.groups()[1:] if one)
        return now_us + int(float(span[1]) * _SECONDS[unit] * 1e6)
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as exc:
        raise InvalidError(f"{text!r} is not a date or a time", hint=hint) from exc


def span(seconds: float) -> str:
    """Return a span in words: 40 s, 12 min, 3.5 h, 2 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.0f} d"
