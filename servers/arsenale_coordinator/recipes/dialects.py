"""Schedules as other schedulers write them: why ours does not take one, and what to write. Pure.

Every suggestion is checked with the parser that will read it.
"""

import re
import unicodedata
from collections.abc import Callable
from itertools import chain

from arsenale_core.errors import InvalidError

EXAMPLE = "0 9 * * 1-5"
FIELDS = "five fields: minute, hour, day of month, month, day of week"

_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_NAMED = re.compile(
    rf"\b({'|'.join((*_DAYS, *_MONTHS))})(?:day|sday|nesday|rsday|urday|uary|ruary|ch|il|e|y|ust"
    r"|t|tember|ober|ember)?\b",
    re.IGNORECASE,
)
_NAMES = re.compile(
    rf"(?:{'|'.join((*_DAYS, *_MONTHS))})[a-z]*(?:[-,/#].*|L)?", re.IGNORECASE | re.ASCII
)
_FIRST_AND_LAST = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))

_WRAPPED = re.compile(r"cron\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_EVERY = re.compile(
    r"(?:@every|every|rate\s*\()\s*(?:(\d{1,4})\s*)?"
    r"(s|sec|secs|seconds?|m|min|mins|minutes?|h|hrs?|hours?|d|days?)\s*\)?",
    re.IGNORECASE,
)
_CRONISH = re.compile(r"[\d*/?,\-#LW]+", re.IGNORECASE)


def is_cron_like(text: str) -> bool:
    """Say whether TEXT was meant as a cron expression of some dialect, not as a moment."""
    words = text.split()
    begins = text.lstrip().lower().startswith(("@", "cron(", "cron (", "rate(", "rate (", "every"))
    cronish = sum(_CRONISH.fullmatch(word) is not None for word in words)
    wild = any(char in text for char in "*?")
    return begins or len(words) == 5 or (len(words) > 5 and cronish >= 3) or (wild and cronish >= 2)


def is_day_or_month(word: str) -> bool:
    """Say whether WORD is a field of names, as MON-FRI, and so not a time zone."""
    return _NAMES.fullmatch(word) is not None


def refused(text: str, problem: Callable[[str], str | None]) -> InvalidError:
    """Return the error for TEXT, with an expression that means the same where there is one.

    Args:
        text: What was given as a schedule, without its time zone.
        problem: Says why an expression of five fields cannot be read or never occurs; else `None`.
    """
    reason, wanted = _read(text.strip())
    if not reason:
        reason = problem(text) or "it cannot be read"
    wanted = [*wanted, *(_last_day(one) for one in wanted)]
    known = next((one for one in wanted if problem(one) is None), None)
    hint = f"use `{known}`" if known else f"as `{EXAMPLE}` (9:00, Monday to Friday)"
    return InvalidError(f"{text!r} is not a cron expression of {FIELDS}; {reason}", hint=hint)


def _read(text: str) -> tuple[str, list[str]]:
    """Return why TEXT is not taken (empty: a field is wrong), and what may be meant by it."""
    if every := _EVERY.fullmatch(text):
        reason, wanted = _interval(int(every[1] or 1), every[2].lower()[0])
        return reason, [wanted] if wanted else []
    if text.lower() == "@reboot":
        return "a start of the machine is not a time", ["@hourly"]
    if text.startswith("@"):
        return "known names: @hourly, @daily, @weekly, @monthly, @yearly", ["@daily"]
    wrapped = _WRAPPED.fullmatch(text)
    plain = unicodedata.normalize("NFKC", wrapped[1] if wrapped else text).replace("\u2013", "-")
    fields = plain.split()
    reason = "" if len(fields) == 5 and not wrapped else f"it has {len(fields)} fields"
    if len(fields) >= 6:
        reason, fields = _cut(fields, at_end=wrapped is not None)
    if len(fields) != 5:
        return reason, []
    reasons = [*([reason] if reason else []), *_unknown(fields)]
    fixed = [_field(one, place) for place, one in enumerate(fields)]
    return "; ".join(reasons), [" ".join(fixed)]


def _last_day(expression: str) -> str:
    """Return EXPRESSION on the last day of the month, for days that its month lacks."""
    fields = expression.split()
    if len(fields) == 5 and fields[2] in ("29", "30", "31"):
        fields[2] = "L"
    return " ".join(fields)


def _interval(count: int, unit: str) -> tuple[str, str | None]:
    """Return the nearest expression to an interval; cron starts anew each hour and each day."""
    if unit == "s":
        return "a minute is the shortest interval", "* * * * *"
    size = {"m": 60, "h": 24, "d": 31}[unit]
    if count == 0:
        return "an interval needs a number above 0", None
    if unit == "m" and count % 60 == 0:
        count, unit, size = count // 60, "h", 24
    if unit == "h" and count == 24:
        count, unit, size = 1, "d", 31
    if count >= size or (size % count and unit != "d"):
        return "an interval must divide the hour or the day", "0 * * * *"
    step = "*" if count == 1 else f"*/{count}"
    wanted = {"m": f"{step} * * * *", "h": f"0 {step} * * *", "d": f"0 0 {step} * *"}[unit]
    return "an interval is written as a step", wanted


def _cut(fields: list[str], *, at_end: bool) -> tuple[str, list[str]]:
    """Take seconds off the front, or a year off the end."""
    has_year = at_end or re.fullmatch(r"(?:19|20)\d\d(?:[-,/].*)?", fields[-1]) is not None
    if len(fields) == 6:
        reason = "leave out the year" if has_year else "leave out the seconds"
        return f"it has six fields: {reason}", fields[:5] if has_year else fields[1:]
    if len(fields) == 7:
        return "it has seven fields: leave out the seconds and the year", fields[1:6]
    return f"it has {len(fields)} fields", fields


def _unknown(fields: list[str]) -> list[str]:
    """Return what in FIELDS belongs to other dialects."""
    reasons: list[str] = []
    if "?" in fields:
        reasons.append("`?` is written `*`")
    if any(re.fullmatch(r"\d{1,2}W", one, re.IGNORECASE) for one in fields):
        reasons.append("`W` works only as `LW`, the last working day")
    if any(_wraps(part, place) for place, one in enumerate(fields) for part in one.split(",")):
        reasons.append("a range cannot pass its end")
    if any(re.match(r"H(?:\b|\()", one) for one in fields):
        reasons.append("`H` is Jenkins's: choose a number")
    return reasons


def _field(text: str, place: int) -> str:
    """Return a field as ours would write it."""
    text = _NAMED.sub(lambda match: match[1].upper(), text)
    text = re.sub(r"(?<=\d)W\b", "", text, flags=re.IGNORECASE)
    text = "*" if text == "?" else "0" if re.fullmatch(r"H(?:\(.*\))?", text) else text
    text = re.sub(r",+$|/0+$", "", text)
    text = "0" if (place, text) in ((0, "60"), (1, "24")) else text
    return ",".join(chain.from_iterable(_range(part, place) for part in text.split(",")))


def _range(part: str, place: int) -> list[str]:
    """Return PART; two ranges where it passes the end, as 22-23 and 0-2 for 22-2."""
    ends = _wraps(part, place)
    if ends is None:
        return [part]
    start, end = ends
    if place == 4:
        days = [*range(start, 7), *range(end + 1)]
        return [_DAYS[day] if part[:1].isalpha() else str(day) for day in days]
    first, last = _FIRST_AND_LAST[place]
    return [
        f"{low}-{high}" if low < high else str(low) for low, high in ((start, last), (first, end))
    ]


def _wraps(part: str, place: int) -> tuple[int, int] | None:
    """Return the ends of a range that passes the end of its field; nothing for others."""
    low, dash, high = part.upper().partition("-")
    names = _DAYS if place == 4 else _MONTHS if place == 3 else ()
    offset = 1 if place == 3 else 0
    ends = [
        names.index(x) + offset if x in names else int(x) if x.isdecimal() else -1
        for x in (low, high)
    ]
    first, last = _FIRST_AND_LAST[place]
    inside = all(first <= end <= last for end in ends)
    return (ends[0], ends[1]) if dash and inside and ends[0] > ends[1] else None
