"""When schedules are due: cron in a time zone, daylight saving, missed runs."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_coordinator import moments
from arsenale_coordinator.recipes import timing
from arsenale_core.errors import InvalidError

VIENNA = ZoneInfo("Europe/Vienna")
MINUTE = 60_000_000


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1e6)


def local(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, VIENNA).isoformat()


@pytest.mark.parametrize(
    ("cron", "after", "comes"),
    [
        ("0 9 * * 1-5", "2026-11-20T10:00+01:00", "2026-11-23T09:00:00+01:00"),
        ("0 9 * * *", "2026-03-28T12:00+01:00", "2026-03-29T09:00:00+02:00"),
        ("0 9 * * *", "2026-10-24T12:00+02:00", "2026-10-25T09:00:00+01:00"),
        ("30 2 29 3 *", "2026-03-28T12:00+01:00", "2026-03-29T03:00:00+02:00"),
        ("*/15 * * * *", "2026-11-20T10:01+01:00", "2026-11-20T10:15:00+01:00"),
        ("0 0 29 2 *", "2026-11-20T10:01+01:00", "2028-02-29T00:00:00+01:00"),
    ],
)
def test_cron_follows_the_wall_clock_of_its_zone(cron: str, after: str, comes: str) -> None:
    assert local(timing.following(cron, us(after), VIENNA)) == comes


def test_an_hour_that_comes_twice_runs_once() -> None:
    first = timing.following("30 2 * * *", us("2026-10-24T12:00+02:00"), VIENNA)
    second = timing.following("30 2 * * *", first, VIENNA)
    assert local(first)[:16] == "2026-10-25T02:30"
    assert local(second) == "2026-10-26T02:30:00+01:00"


@pytest.mark.parametrize("text", ["61 * * * *", "* * * * 9", "a b c d e"])
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        timing.cron(text)


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(InvalidError, match="not a cron expression"):
        timing.following("0 0 31 2 *", us("2026-01-01T00:00+00:00"), VIENNA)


@pytest.mark.parametrize(
    ("missed", "runs"), [("once", 1), ("skip", 0), ("all", 5)]
)  # fmt: skip
def test_what_was_missed_is_made_up_for_as_asked(missed: timing.Missed, runs: int) -> None:
    start, now = us("2026-11-20T10:00+00:00"), us("2026-11-20T14:30+00:00")
    came, following = timing.due("0 * * * *", start, now, UTC)
    assert len(came) == 5
    assert following == us("2026-11-20T15:00+00:00")
    assert len(timing.to_run(came, now, missed, MINUTE)) == runs
    fresh = timing.to_run(came, us("2026-11-20T14:00:20+00:00"), missed, MINUTE)
    assert fresh[-1] == us("2026-11-20T14:00+00:00")


@given(st.integers(0, 4_000_000_000), st.integers(0, 60 * 24 * 40))
def test_due_moments_rise_and_lie_between(start_s: int, minutes: int) -> None:
    start = timing.following("*/7 3-5 * * *", start_s * 1_000_000, VIENNA)
    now = start + minutes * MINUTE
    came, following = timing.due("*/7 3-5 * * *", start, now, VIENNA)
    assert came == sorted(set(came))
    assert all(moment <= now for moment in came) and following > now
    assert len(came) <= timing.MOST_MISSED


def test_moments_are_iso_or_spans_and_a_zone_may_follow() -> None:
    now = us("2026-11-20T10:00+00:00")
    assert moments.asked("90m", now) == now + 90 * MINUTE
    assert moments.asked("in 2h", now) == now + 120 * MINUTE
    assert moments.asked("2026-11-20T12:00", now, VIENNA) == us("2026-11-20T11:00+00:00")
    assert timing.with_zone("0 9 * * 1-5 Europe/Vienna") == ("0 9 * * 1-5", "Europe/Vienna")
    assert timing.with_zone("0 9 * * 1-5") == ("0 9 * * 1-5", "")
    for wrong in ("soon", "2026-13-01", "9999999999d", "", "1e9h"):
        with pytest.raises(InvalidError):
            moments.asked(wrong, now)
    with pytest.raises(InvalidError, match="unknown time zone"):
        timing.zone_of("Mars/Base", None)


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"), ("@monthly", "0 0 1 * *"), ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"), ("@Midnight", "0 0 * * *"), (" @daily ", "0 0 * * *"),
        ("0  9\t* * 1-5", "0 9 * * 1-5"),
    ],
)  # fmt: skip
def test_the_names_of_crontab_are_taken(name: str, expression: str) -> None:
    assert timing.cron(name) == expression


@pytest.mark.parametrize(
    ("text", "when", "zone"),
    [
        ("0 9 * * 1-5 CET", "0 9 * * 1-5", "CET"),
        ("0 9 * * 1-5 EST5EDT", "0 9 * * 1-5", "EST5EDT"),
        ("0 9 * * 1-5 Japan", "0 9 * * 1-5", "Japan"),
        ("0 9 * * 1-5 utc", "0 9 * * 1-5", "utc"),
        ("0 9 * * 1-5 europe/vienna", "0 9 * * 1-5", "europe/vienna"),
        ("0 9 * * 1-5 (Europe/Vienna)", "0 9 * * 1-5", "Europe/Vienna"),
        ("0 9 * * 1-5 [Europe/Vienna]", "0 9 * * 1-5", "Europe/Vienna"),
        ("CRON_TZ=Europe/Berlin 0 9 * * *", "0 9 * * *", "Europe/Berlin"),
        ("TZ=Europe/Berlin 0 9 * * *", "0 9 * * *", "Europe/Berlin"),
        ("tz='Asia/Tokyo' @daily", "@daily", "Asia/Tokyo"),
        ("CRON_TZ=CET 0 9 * * * cet", "0 9 * * *", "CET"),
        ("@midnight GB", "@midnight", "GB"),
        ("2026-12-24 09:00 NZ", "2026-12-24 09:00", "NZ"),
        ("0 9 * * MON-FRI", "0 9 * * MON-FRI", ""),
        ("0 0 9 * * MON-FRI", "0 0 9 * * MON-FRI", ""),
        ("0 9 * * Sunday", "0 9 * * Sunday", ""),
        ("in 2 hours", "in 2 hours", ""),
    ],
)
def test_a_time_zone_stands_before_or_after_in_any_case(text: str, when: str, zone: str) -> None:
    assert timing.with_zone(text) == (when, zone)
    assert timing.zone_of(zone, UTC)


@pytest.mark.parametrize(
    "text", ["0 9 * * * PST", "0 9 * * * UTC+2", "@daily +02:00", "1 1 * * * A/B"]
)
def test_an_unknown_time_zone_is_named_as_one(text: str) -> None:
    _, zone = timing.with_zone(text)
    with pytest.raises(InvalidError, match=r"unknown time zone .*America/New_York"):
        timing.zone_of(zone, UTC)


def test_two_time_zones_are_refused() -> None:
    with pytest.raises(InvalidError, match="two time zones"):
        timing.with_zone("CRON_TZ=Europe/Berlin 0 9 * * * Asia/Tokyo")


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("@reboot", "@hourly"),
        ("@every 5m", "*/5 * * * *"),
        ("@every 1h", "0 * * * *"),
        ("@every 90m", "0 * * * *"),
        ("@every 24h", "0 0 * * *"),
        ("@every_minute", "@daily"),
        ("every 5 minutes", "*/5 * * * *"),
        ("rate(2 hours)", "0 */2 * * *"),
        ("*/30 * * * * *", "* * * * *"),
        ("0 0 9 * * ?", "0 9 * * *"),
        ("0 0 9 * * MON-FRI", "0 9 * * MON-FRI"),
        ("0 30 9 ? * 2 2027", "30 9 * * 2"),
        ("0 9 * * 1-5 2027", "0 9 * * 1-5"),
        ("cron(0 9 ? * MON-FRI *)", "0 9 * * MON-FRI"),
        ("0 9 ? * MON-FRI", "0 9 * * MON-FRI"),
        ("0 0 15W * *", "0 0 15 * *"),
        ("0 9 * * FRI-MON", "0 9 * * FRI,SAT,SUN,MON"),
        ("0 22-2 * * *", "0 22-23,0-2 * * *"),
        ("0 0 1 NOV-FEB *", "0 0 1 11-12,1-2 *"),
        ("0 9 * * Monday-Friday", "0 9 * * MON-FRI"),
        ("H H * * *", "0 0 * * *"),
        ("60 * * * *", "0 * * * *"),
        ("0 0 31 2 *", "0 0 L 2 *"),
        ("0 9 * * 1,", "0 9 * * 1"),
        ("\uff10 \uff19 * * *", "0 9 * * *"),
        ("a b c d e", "0 9 * * 1-5"),
        ("* * *", "0 9 * * 1-5"),
    ],
)
def test_another_dialect_of_cron_gets_an_example_that_works(text: str, example: str) -> None:
    with pytest.raises(InvalidError, match="cron expression of five fields") as caught:
        timing.cron(text)
    assert f"`{example}`" in str(caught.value)
    assert timing.cron(example)


@pytest.mark.parametrize("text", ["5m", "in 2 hours", "2026-12-24", "2026-12-24 09:00", "soon"])
def test_what_is_not_cron_at_all_is_left_to_moments(text: str) -> None:
    assert timing.cron(text) is None


@pytest.mark.parametrize(
    ("text", "minutes"), [("90 minutes", 90), ("2 hrs", 120), ("in 1 day", 1440)]
)
def test_a_span_may_name_its_unit_in_full(text: str, minutes: int) -> None:
    assert moments.asked(text, 0) == minutes * MINUTE
