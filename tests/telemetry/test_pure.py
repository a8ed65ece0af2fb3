"""Histograms and windows."""

import math
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError
from arsenale_telemetry.histogram import MAX_RELATIVE_ERROR, bucket, quantile_us
from arsenale_telemetry.rollup import Days
from arsenale_telemetry.tables import DAY, HOUR
from arsenale_telemetry.window import iso, parse

NOON = 1_795_262_400
VIENNA = ZoneInfo("Europe/Vienna")


@given(
    st.lists(st.integers(1, 10**10), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99])
)
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(
    durations: list[int], q: float
) -> None:
    counts: dict[int, int] = {}
    for duration in durations:
        counts[bucket(duration)] = counts.get(bucket(duration), 0) + 1
    exact = sorted(durations)[max(1, math.ceil(q * len(durations))) - 1]
    found = quantile_us(counts, q)
    assert found is not None
    assert abs(found - exact) / exact <= MAX_RELATIVE_ERROR + 1e-9


def test_no_durations_have_no_quantile() -> None:
    assert quantile_us({}, 0.5) is None


@pytest.mark.parametrize(
    ("since", "grain", "start"),
    [
        ("24h", HOUR, "2026-11-20T12:00:00.000Z"),
        ("90m", HOUR, "2026-11-21T10:00:00.000Z"),
        ("today", HOUR, "2026-11-20T23:00:00.000Z"),
        ("7d", DAY, "2026-11-13T23:00:00.000Z"),
        ("2026-11-01", DAY, "2026-10-31T23:00:00.000Z"),
        ("2026-11-21T08:30:00Z", HOUR, "2026-11-21T08:00:00.000Z"),
    ],
)
def test_a_span_begins_on_a_whole_hour_or_local_day(since: str, grain: int, start: str) -> None:
    window = parse(since, NOON, VIENNA)
    assert (window.grain, iso(window.start_us)) == (grain, start)


@pytest.mark.parametrize("since", ["", "soon", "-3d", "7y", "99999999d", "2099-01-01"])
def test_a_span_that_is_none_is_refused(since: str) -> None:
    with pytest.raises(InvalidError):
        parse(since, NOON, VIENNA)


@given(st.integers(0, 4_000_000_000))
def test_a_day_is_the_local_date(at_s: int) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    day = Days(VIENNA)(at_s * 1_000_000)
    assert day == datetime.fromtimestamp(at_s, UTC).astimezone(VIENNA).toordinal()
