"""Grams of CO2e a kilowatt-hour: from a setting, a file of a time series, or a service.

A service is asked in the background (`Service.keep_fresh`); whoever samples gets the last value
and its age. Nothing here reads a clock: `now` is Unix seconds, UTC, from the caller.
"""

import csv
import io
import json
import math
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeAlias, cast

import anyio
import httpx2
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from arsenale_core.errors import InvalidError

STALE_S: Final = 2 * 3600.0
"""So old, a value says little: grids swing within hours."""

MOST_GRAMS: Final = 3000.0
"""A kilowatt-hour has no more: from coal it has 740 to 910 (IPCC AR5 WG3, annex III, table 2)."""

FRESH_S: Final = 300.0
"""A service is asked no more often: they tell of quarters of an hour at best."""

RETRY_S: Final = 60.0
TIMEOUT_S: Final = 10.0

_SERIES_BYTES: Final = 16 << 20
_ANSWER_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Carbon:
    """A carbon intensity and where it is from.

    Attributes:
        grams_per_kwh: Of CO2e; None for unknown.
        origin: `setting`, `file NAME`, `service HOST`, with `forecast` or `estimated` where so.
        age_s: How long ago it held; None where nothing is known.
        is_stale: Whether it is older than `STALE_S`.
        problem: Why there is nothing newer, for people; empty when all is well.
    """

    grams_per_kwh: float | None
    origin: str
    age_s: float | None
    is_stale: bool = False
    problem: str = ""

    @property
    def fresh(self) -> float | None:
        """The value, or None where it is stale."""
        return None if self.is_stale else self.grams_per_kwh


UNKNOWN_CARBON: Final = Carbon(grams_per_kwh=None, origin="unknown", age_s=None)


class CarbonSource(Protocol):
    """Where carbon intensity comes from."""

    def at(self, now: float) -> Carbon:
        """Return what is known at NOW, at once; raises nothing."""
        ...


class Setting:
    """A number that the user gave; it does not age."""

    def __init__(self, grams_per_kwh: float) -> None:
        """Take the number.

        Raises:
            InvalidError: It is none between 0 and `MOST_GRAMS`.
        """
        if not (math.isfinite(grams_per_kwh) and 0 <= grams_per_kwh <= MOST_GRAMS):
            raise InvalidError(
                f"a carbon intensity of {grams_per_kwh}",
                hint=f"give grams of CO2e a kilowatt-hour, 0 to {MOST_GRAMS:.0f}",
            )
        self._carbon = Carbon(grams_per_kwh=grams_per_kwh, origin="setting", age_s=0.0)

    def at(self, now: float) -> Carbon:
        """Return the number."""
        return self._carbon


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A value and when it held, Unix seconds; `note` says what it is if not measured."""

    grams_per_kwh: float
    at: float
    note: str = ""

    def told(self, origin: str, now: float, problem: str = "") -> Carbon:
        """Return it as it is NOW."""
        age_s = max(now - self.at, 0.0)
        return Carbon(
            grams_per_kwh=self.grams_per_kwh,
            origin=f"{origin}, {self.note}" if self.note else origin,
            age_s=age_s,
            is_stale=age_s > STALE_S,
            problem=problem,
        )


Series: TypeAlias = tuple[Reading, ...]
"""In the order of time."""


def series(text: str) -> Series:
    """Read a time series: CSV of `time,value`, or JSON of `[time, value]` or {time, value}.

    Times are ISO 8601, UTC where they do not say; values are grams of CO2e a kilowatt-hour. A CSV
    may have a heading, empty lines, and lines that begin with #.

    Raises:
        InvalidError: It is neither, or a row is not like that.
    """
    try:
        rows = list(_json_rows(text) if text.lstrip().startswith(("[", "{")) else _csv_rows(text))
    except (ValueError, csv.Error) as exc:
        raise _unreadable(str(exc)) from exc
    return tuple(sorted((_reading(*row) for row in rows), key=lambda reading: reading.at))


def latest(known: Series, now: float) -> Reading | None:
    """Return the last value of KNOWN that is not after NOW."""
    place = bisect_right(known, now, key=lambda reading: reading.at)
    return known[place - 1] if place else None


class SeriesFile:
    """A file of a time series that something else keeps up; it is read anew when it changes."""

    def __init__(self, path: Path) -> None:
        """Note the file; it may come later."""
        self._path = path
        self._origin = f"file {path.name}"
        self._stamp: tuple[int, int] | None = None
        self._series: Series = ()
        self._problem = ""

    def at(self, now: float) -> Carbon:
        """Return the latest value not after NOW; what was read once is kept when reading fails."""
        self._refresh()
        found = latest(self._series, now)
        if found is None:
            problem = self._problem or "it has no value up to now"
            return Carbon(grams_per_kwh=None, origin=self._origin, age_s=None, problem=problem)
        return found.told(self._origin, now, self._problem)

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                self._stamp = stamp
                if stat.st_size > _SERIES_BYTES:
                    raise _unreadable(f"it has more than {_SERIES_BYTES} bytes")
                self._series = series(self._path.read_text(encoding="utf-8-sig"))
                self._problem = ""
        except (OSError, UnicodeDecodeError) as exc:
            self._stamp, self._problem = None, f"it cannot be read ({type(exc).__name__})"
        except InvalidError as exc:
            self._problem = str(exc)


Grams: TypeAlias = Annotated[float, Field(ge=0, le=MOST_GRAMS, allow_inf_nan=False)]


class _Maps(BaseModel):
    """An answer of Electricity Maps, /v3/carbon-intensity/latest."""

    grams: Grams = Field(alias="carbonIntensity")
    held_at: AwareDatetime | None = Field(default=None, alias="datetime")
    is_estimated: bool = Field(default=False, alias="isEstimated")

    def reading(self, now: float) -> Reading:
        return Reading(
            grams_per_kwh=self.grams,
            at=self.held_at.timestamp() if self.held_at else now,
            note="estimated" if self.is_estimated else "",
        )


class _Intensity(BaseModel):
    actual: Grams | None = None
    forecast: Grams | None = None


class _HalfHour(BaseModel):
    begins_at: AwareDatetime | None = Field(default=None, alias="from")
    intensity: _Intensity


class _Britain(BaseModel):
    """An answer of the Carbon Intensity API of Great Britain, /intensity."""

    data: list[_HalfHour] = Field(min_length=1)

    def reading(self, now: float) -> Reading:
        first = self.data[0]
        actual, forecast = first.intensity.actual, first.intensity.forecast
        grams = forecast if actual is None else actual
        if grams is None:
            raise ValueError("neither actual nor forecast")
        at = first.begins_at.timestamp() if first.begins_at else now
        note = "forecast" if actual is None else ""
        return Reading(grams_per_kwh=grams, at=at, note=note)


_ANSWERS: Final[TypeAdapter[_Maps | _Britain]] = TypeAdapter(_Maps | _Britain)


def answered(body: bytes, now: float) -> Reading:
    """Read a service's answer, received at NOW.

    Raises:
        ValueError: It is none that is known here.
    """
    return _ANSWERS.validate_json(body).reading(now)


class Service:
    """A service that is asked over HTTP, in the background.

    Run `keep_fresh` beside whatever samples. A failure keeps the value before, which ages.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Note whom to ask; nothing is asked yet.

        Args:
            http: By which client.
            url: Of a GET with an answer as Electricity Maps or Britain's Carbon Intensity give it.
            headers: Sent along, as `auth-token`.
            timeout_s: An answer takes at most this, all in all.

        Raises:
            InvalidError: URL is no address of HTTP.
        """
        self._http = http
        self._url = _http_url(url)
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._origin = f"service {self._url.host}"
        self._reading: Reading | None = None
        self._problem = "it was not asked yet"
        self._due_at = -math.inf

    def at(self, now: float) -> Carbon:
        """Return the last value that it gave, at once."""
        found, problem = self._reading, self._problem
        if found is None:
            return Carbon(grams_per_kwh=None, origin=self._origin, age_s=None, problem=problem)
        return found.told(self._origin, now, problem)

    async def refresh(self, now: float) -> float:
        """Ask, unless that was done just now. Return after how many seconds to do so again."""
        wait = self._due_at - now
        if 0 < wait <= FRESH_S:  # longer: the clock was set back
            return wait
        try:
            with anyio.fail_after(self._timeout_s):
                body = await self._get()
            found = answered(body, now)
            self._reading = replace(found, at=min(found.at, now))
            self._problem = ""
        except (httpx2.HTTPError, TimeoutError, ValueError) as exc:
            self._problem = _reason(exc)
        pause = RETRY_S if self._problem else FRESH_S
        self._due_at = now + pause
        return pause

    async def keep_fresh(
        self,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """Ask again and again until cancelled."""
        while True:
            await sleep(await self.refresh(now()))

    async def _get(self) -> bytes:
        body = bytearray()
        async with self._http.stream("GET", self._url, headers=self._headers) as answer:
            if answer.status_code != 200:
                raise ValueError(f"it answers {answer.status_code}")
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _ANSWER_BYTES:
                    raise ValueError("its answer is too large")
        return bytes(body)


def _reason(exc: Exception) -> str:
    match exc:
        case ValidationError():
            return "its answer is none of a carbon service"
        case ValueError():
            return str(exc)
        case _:
            return f"it does not answer ({type(exc).__name__})"


def _http_url(url: str) -> httpx2.URL:
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as exc:
        raise InvalidError("the carbon service's address is none", hint=str(exc)) from exc
    if found.scheme not in ("http", "https") or not found.host:
        raise InvalidError(
            "the carbon service's address is none of HTTP", hint="begin it with https://"
        )
    return found


def _json_rows(text: str) -> Iterable[tuple[str, Any, Any]]:
    rows: Any = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("it is no list")
    for number, row in enumerate(cast("list[Any]", rows), 1):
        match row:
            case {"time": time, "value": value}:
                yield f"row {number}", time, value
            case [time, value]:
                yield f"row {number}", time, value
            case _:
                raise ValueError(f"row {number} is no time and value")


def _csv_rows(text: str) -> Iterable[tuple[str, Any, Any]]:
    reader = csv.reader(io.StringIO(text))
    is_first = True
    for row in reader:
        if not row or row[0].lstrip().startswith("#") or not "".join(row).strip():
            continue
        is_heading = is_first and not row[0][:1].isdigit()
        is_first = False
        if is_heading:
            continue
        if len(row) != 2:
            raise ValueError(f"line {reader.line_num} is no time and value")
        yield f"line {reader.line_num}", row[0].strip(), row[1]


def _reading(where: str, time: Any, value: Any) -> Reading:
    try:
        at = datetime.fromisoformat(time)
        grams = float(value)
    except (TypeError, ValueError) as exc:
        raise _unreadable(f"{where} is no time and value") from exc
    if isinstance(value, bool) or not 0 <= grams <= MOST_GRAMS:
        raise _unreadable(f"{where} has {value}, not 0 to {MOST_GRAMS:.0f} g")
    zoned = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Reading(grams_per_kwh=grams, at=zoned.timestamp())


def _unreadable(why: str) -> InvalidError:
    return InvalidError(
        f"the time series cannot be read: {why}",
        hint="each row is an ISO 8601 time and grams of CO2e a kilowatt-hour",
    )
