"""Token buckets: the rate holds, whatever the clock does, and nobody waits longer than told."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_mesh.rates import Bucket, NodeRates, Rate

RATES = st.builds(Rate, a_second=st.floats(0.01, 1e6), burst=st.floats(0.5, 1e9))


def test_a_burst_passes_at_once_and_then_the_rate_holds() -> None:
    bucket = Bucket(Rate(a_second=2, burst=3))
    assert [bucket.allow(10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.allow(10.25) == pytest.approx(0.25)
    assert bucket.allow(10.5) == 0
    assert bucket.allow(10.5) == pytest.approx(0.5)


def test_being_refused_costs_nothing() -> None:
    bucket = Bucket(Rate(a_second=1, burst=1))
    bucket.allow(0.0)
    assert {bucket.allow(0.5) for _ in range(100)} == {0.5}
    assert bucket.allow(1.0) == 0


@given(RATES, st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e6)), max_size=40))
def test_no_more_passes_than_burst_and_rate_give(
    rate: Rate, asked: list[tuple[float, float]]
) -> None:
    bucket, now, passed, largest = Bucket(rate), 0.0, 0.0, 0.0
    for pause, cost in asked:
        now += pause
        if bucket.allow(now, cost) == 0:
            passed += cost
            largest = max(largest, cost)
    debt = max(largest - rate.burst, 0.0)
    assert passed <= (rate.burst + now * rate.a_second + debt) * (1 + 1e-6)


@given(RATES, st.lists(st.floats(-1e4, 1e6), min_size=1, max_size=20), st.floats(0, 1e6))
def test_who_waits_as_long_as_told_is_let_through(
    rate: Rate, clock: list[float], cost: float
) -> None:
    bucket = Bucket(rate)
    wait = [bucket.allow(now, cost) for now in clock][-1]
    assert math.isfinite(wait) and wait >= 0
    assert wait == 0 or bucket.allow(clock[-1] + wait * (1 + 1e-9) + 1e-9, cost) == 0


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_a_clock_that_trembles_gives_nothing(steps: list[float]) -> None:
    bucket = Bucket(Rate(a_second=1, burst=5))
    allowed = sum(bucket.allow(100 - step) == 0 for step in steps)
    assert allowed <= 5 + 5


def test_a_clock_set_back_fills_nothing_and_stops_nobody_for_long() -> None:
    bucket = Bucket(Rate(a_second=1, burst=2))
    assert bucket.allow(1e6, 2) == 0
    assert bucket.allow(1e6 - 1, 1) == pytest.approx(2)
    assert bucket.allow(50.0, 1) == pytest.approx(1)
    assert bucket.allow(51.0, 1) == 0


@pytest.mark.parametrize("gap", [1e9, 1e300, math.inf, math.nan])
def test_a_huge_gap_gives_one_burst_and_no_more(gap: float) -> None:
    bucket = Bucket(Rate(a_second=1, burst=2))
    bucket.allow(0.0, 2)
    later = bucket.allow(gap, 2)
    assert later == (0 if math.isfinite(gap) else 2)
    if later == 0:
        assert bucket.allow(gap, 2) == 2


def test_what_is_more_than_a_burst_passes_when_full_and_is_paid_for() -> None:
    bucket = Bucket(Rate(a_second=10, burst=10))
    assert bucket.allow(0.0, 100) == 0
    assert bucket.allow(0.0, 1) == pytest.approx(9.1)
    assert bucket.allow(0.0, 100) == pytest.approx(10.0)
    assert bucket.allow(9.2, 1) == 0


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_a_cost_that_is_none_is_refused(cost: float) -> None:
    bucket = Bucket(Rate(a_second=1, burst=1))
    with pytest.raises(ValueError, match="a cost is"):
        bucket.allow(0.0, cost)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Rate(a_second=value, burst=1)
    with pytest.raises(ValueError, match="above 0"):
        Rate(a_second=1, burst=value)


def test_a_node_is_held_to_messages_and_to_bytes_and_another_is_not_touched() -> None:
    rates = NodeRates(Rate(a_second=1, burst=3), Rate(a_second=100, burst=1000))
    assert rates.allow("a", 0.0, 1000) == 0
    assert rates.allow("a", 0.0, 500) == pytest.approx(5.0)
    assert rates.allow("a", 0.0, 0) == 0  # what was refused for its bytes took no message
    assert rates.allow("a", 0.0, 0) == 0
    assert rates.allow("a", 0.0, 0) == pytest.approx(1.0)
    assert rates.allow("b", 0.0, 1000) == 0


def test_account_is_kept_of_so_many_nodes_and_the_longest_silent_goes() -> None:
    rates = NodeRates(Rate(a_second=1, burst=1), Rate(a_second=1, burst=1), nodes=2)
    for node in ("a", "b", "a", "c"):
        rates.allow(node, 0.0, 0)
    assert len(rates) == 2
    assert rates.allow("a", 0.0, 0) > 0
    rates.forget("a")
    assert rates.allow("a", 0.0, 0) == 0
