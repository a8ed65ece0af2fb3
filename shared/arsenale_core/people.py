"""What commands show to people: commands in place of tools, local times, columns that wrap."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from rich.table import Table

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")

TIMES = frozenset({"at", "when", "until", "deadline", "last seen", "next", "last", "began"})
"""Headings of columns that are never broken: half a time is of no use."""

T = TypeVar("T")


def with_commands(text: str, commands: Mapping[str, str]) -> str:
    """Return TEXT, a hint for models, with what a person types in place of each tool.

    Args:
        text: It names tools as `recall`.
        commands: By a phrase that names a tool; longer phrases win.
    """
    for phrase in sorted(commands, key=len, reverse=True):
        text = text.replace(phrase, commands[phrase])
    return text


def localised(value: T, zone: str | None) -> T:
    """Return VALUE, a report, with each field that is a moment in UTC as local time to the minute.

    Args:
        value: A model, or lists and objects of texts.
        zone: The setting `timezone`; empty for the system's.
    """
    return cast("T", _local(value, ZoneInfo(zone) if zone else None))


def _local(value: Any, zone: ZoneInfo | None) -> Any:
    if isinstance(value, str):
        if not _MOMENT.fullmatch(value):
            return value
        return f"{datetime.fromisoformat(value).astimezone(zone):%Y-%m-%d %H:%M}"
    if isinstance(value, BaseModel):
        names = type(value).model_fields
        changed = {name: _local(getattr(value, name), zone) for name in names}
        return value.model_copy(update=changed)
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return {key: _local(one, zone) for key, one in pairs.items()}
    if isinstance(value, list | tuple):
        return [_local(one, zone) for one in cast("list[Any]", value)]
    return value


def table(*headings: str) -> Table:
    """Return a table whose cells wrap instead of ending in an ellipsis."""
    made = Table()
    for heading in headings:
        made.add_column(heading, overflow="fold", no_wrap=heading in TIMES)
    return made


def whole(report: Mapping[str, Any] | BaseModel, *lists: str) -> dict[str, Any]:
    """Return REPORT for `--json`, with LISTS in it even where they are empty."""
    said = report.model_dump(mode="json") if isinstance(report, BaseModel) else dict(report)
    return {**said, **{name: said.get(name) or [] for name in lists}}
