"""When a schedule is due: cron expressions in a time zone, single moments, missed runs. Pure."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from arsenale_coordinator.recipes import dialects
from arsenale_core.errors import InvalidError

Missed: TypeAlias = Literal["once", "skip", "all"]
"""What follows when nobody was there at the time: one run for all that was missed, none, each."""

MOST_MISSED = 100
"""So many missed runs are made up for at most, the latest."""

NICKNAMES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}  # fmt: skip
"""The names of crontab(5); `@reboot` is not a time."""

_PREFIX = re.compile(r"(?:CRON_)?TZ\s*=\s*([\"']?)(\S+?)\1\s+", re.IGNORECASE)
_OFFSET = re.compile(r"(?:UTC|GMT)?[+-]\d{1,2}(?::?\d\d)?", re.IGNORECASE)


def with_zone(text: str) -> tuple[str, str]:
    """Cut a time zone off TEXT: a last word, or a prefix as `CRON_TZ=Europe/Vienna`.

    Raises:
        InvalidError: Both are there and differ.
    """
    text = text.strip()
    prefix = _PREFIX.match(text)
    if prefix is None:
        return _zone_behind(text)
    when, zone = _zone_behind(text[prefix.end() :].strip())
    if zone and _zone_name(zone) != _zone_name(prefix[2]):
        raise InvalidError(f"two time zones: {prefix[2]} and {zone}", hint="name one of them")
    return when, prefix[2]


def _zone_behind(text: str) -> tuple[str, str]:
    words = text.rsplit(None, 1)
    if len(words) < 2:
        return text, ""
    rest, last = words[0], words[1].strip("()[]")
    is_sixth = len(rest.split()) == 5 or rest.lower() in NICKNAMES
    is_name = (
        last[:1].isalpha() and ("/" in last or is_sixth) and not dialects.is_day_or_month(last)
    )
    if _zone_name(last) or is_name or (is_sixth and _OFFSET.fullmatch(last)):
        return rest, last
    return text, ""


def zone_of(name: str, default: tzinfo | None) -> tzinfo:
    """Return the time zone NAME, in any case; DEFAULT, else the system's, where it is empty.

    Raises:
        InvalidError: There is none of that name.
    """
    if not name:
        return default or datetime.now(UTC).astimezone().tzinfo or UTC
    try:
        return ZoneInfo(_zone_name(name) or name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        hint = "use a name of the IANA database, as Europe/Vienna, America/New_York or UTC"
        raise InvalidError(f"unknown time zone {name!r}", hint=hint) from exc


def _zone_name(text: str) -> str | None:
    """Return the name of the IANA database that TEXT spells in any case."""
    return _zone_names().get(text.lower())


@cache
def _zone_names() -> dict[str, str]:
    return {"z": "UTC"} | {name.lower(): name for name in available_timezones()}


def cron(text: str) -> str | None:
    """Return TEXT as a cron expression of five fields; `None` where it is none.

    Raises:
        InvalidError: It was meant as one and cannot be read, or never comes.
    """
    fields = " ".join(text.split())
    expression = NICKNAMES.get(fields.lower(), fields)
    if len(expression.split()) == 5 and _problem(expression) is None:
        return expression
    if dialects.is_cron_like(fields):
        raise dialects.refused(text.strip(), _problem)
    return None


def _problem(text: str) -> str | None:
    """Return why TEXT is no expression of five fields; nothing where it is one."""
    expression = NICKNAMES.get(text, text)
    if len(expression.split()) != 5:
        return "it has not five fields"
    try:
        _cronsim(expression, datetime(2026, 1, 1, tzinfo=UTC))
    except ValueError as exc:
        return str(exc)
    return None


def following(expression: str, after_us: int, zone: tzinfo) -> int:
    """Return when a cron expression is due next, after AFTER_US (UTC microseconds).

    By the wall clock of ZONE, as Debian's cron(8) has it: what falls into the hour that is skipped
    in spring runs at its end; what falls into the one that comes twice in autumn runs once, unless
    it runs every hour.

    Raises:
        InvalidError: It never comes.
    """
    start = datetime.fromtimestamp(after_us / 1e6, zone)
    found: datetime | None = next(_simulated(expression, start), None)
    if found is None:
        raise InvalidError(f"{expression!r} never occurs", hint="check its day and its month")
    return int(found.timestamp() * 1e6)


def _simulated(expression: str, start: datetime) -> Iterator[datetime]:
    try:
        return _cronsim(expression, start)
    except ValueError as exc:
        reason = f"{expression!r} is not a cron expression: {exc}"
        raise InvalidError(reason, hint=f"as `{dialects.EXAMPLE}`") from exc


def _cronsim(expression: str, start: datetime) -> Iterator[datetime]:
    """Return the moments of EXPRESSION.

    Raises:
        ValueError: It cannot be read, or its day never occurs.
    """
    module: Any = import_module("cronsim")
    try:
        return module.CronSim(expression, start)
    except module.CronSimError as exc:
        field = str(exc).removeprefix("Bad ").replace("-", " ")
        raise ValueError(f"its {field} is not valid") from exc


def due(expression: str, next_us: int, now_us: int, zone: tzinfo) -> tuple[list[int], int]:
    """Return the moments that have come, NEXT_US the first of them, and the one that follows."""
    found: list[int] = []
    for moment in _from(expression, next_us, zone):
        if moment > now_us:
            return found[-MOST_MISSED:], moment
        found.append(moment)
        if len(found) > 10 * MOST_MISSED:  # years of minutes: only the latest count
            return found[-MOST_MISSED:], following(expression, now_us, zone)
    raise AssertionError("cron never ends")


def to_run(moments: list[int], now_us: int, missed: Missed, late_us: int) -> list[int]:
    """Return for which of the due MOMENTS a run is made; those LATE_US ago and more were missed."""
    if missed == "all":
        return moments
    fresh = [moment for moment in moments if now_us - moment < late_us]
    if fresh:
        return fresh[-1:]
    return moments[-1:] if missed == "once" else []


def _from(expression: str, first_us: int, zone: tzinfo) -> Iterator[int]:
    moment = first_us
    while True:
        yield moment
        moment = following(expression, moment, zone)
