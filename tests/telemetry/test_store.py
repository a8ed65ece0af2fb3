"""Events become calls and sums: once, in any order, on SQLite and PostgreSQL."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arsenale_core.events import HookEvent
from arsenale_telemetry import reading
from arsenale_telemetry.store import TelemetryStore
from arsenale_telemetry.window import parse

Make = Callable[..., HookEvent]
NOON = 1_795_262_400


def sums(store: TelemetryStore) -> list[reading.Group]:
    window = parse("all", NOON + 3600, None)
    with store.reading() as db:
        return reading.groups(db, reading.Scope(window=window), "tool", buckets=True)


def test_an_event_that_comes_twice_counts_once(store: TelemetryStore, event: Make) -> None:
    batch = [event(call="a"), event("PostToolUse", "a", duration_us=5_000)]
    assert store.add(batch) == 2
    assert store.add(batch) == 0
    assert store.add([*batch, *batch]) == 0
    [bash] = sums(store)
    assert (bash.calls, bash.timed, bash.total_us) == (1, 1, 5_000)
    with store.reading() as db:
        assert reading.counters(db) == {"duplicates": 6}


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_starts_and_ends_pair_in_whatever_order_they_come(
    order: tuple[int, ...], store: TelemetryStore, event: Make
) -> None:
    at = NOON * 1_000_000
    events = [
        event(call="a", at_us=at),
        event("PostToolUse", "a", at_us=at + 7_000),
        event(call="b", at_us=at),
        event("PostToolUseFailure", "b", at_us=at + 9_000, error="Exit code 1"),
    ]
    for index in order:
        store.add([events[index]])
    [bash] = sums(store)
    assert (bash.calls, bash.errors, bash.timed, bash.total_us) == (2, 1, 2, 16_000)


def test_the_hosts_own_duration_beats_the_difference_of_file_times(
    store: TelemetryStore, event: Make
) -> None:
    at = NOON * 1_000_000
    store.add([event(call="a", at_us=at)])
    store.add([event("PostToolUse", "a", at_us=at + 50_000, duration_us=1_234)])
    assert sums(store)[0].total_us == 1_234


def test_without_call_ids_the_oldest_start_with_the_same_arguments_is_paired(
    store: TelemetryStore, event: Make
) -> None:
    at = NOON * 1_000_000
    store.add([event(at_us=at), event(at_us=at + 1_000)])
    store.add([event("PostToolUse", at_us=at + 5_000)])
    store.add([event("PostToolUse", at_us=at + 8_000)])
    assert sums(store)[0].total_us == 5_000 + 7_000


def test_a_start_without_an_end_is_reported_as_unfinished(
    store: TelemetryStore, event: Make
) -> None:
    store.add([event(call="a")])
    with store.reading() as db:
        count, [oldest] = reading.unfinished(db, reading.Scope(window=parse("all", NOON, None)), 5)
    assert (count, oldest["tool"], oldest["subject"]) == (1, "Bash", "make test")


def test_retention_deletes_events_and_calls_and_keeps_their_sums(
    store: TelemetryStore, event: Make
) -> None:
    at = NOON * 1_000_000
    store.add([event(call="a", at_us=at), event("PostToolUse", "a", at_us=at, duration_us=9)])
    store.add([event(call="lost", at_us=at)])
    assert store.forget_before(at) == 0
    assert store.forget_before(at + 1) == 5
    assert sums(store)[0].calls == 1
    with store.reading() as db:
        assert reading.last_event_us(db) is None


def test_a_batch_that_fails_leaves_nothing_and_can_come_again(
    store: TelemetryStore, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [event(call="a"), event("PostToolUse", "a", duration_us=5_000)]

    def fail(*_: Any) -> None:
        raise RuntimeError("the disk went")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_add_sums", fail)
        with pytest.raises(RuntimeError):
            store.add(batch)
    assert sums(store) == []
    assert store.add(batch) == 2
    assert sums(store)[0].calls == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_however_events_are_shuffled_split_and_repeated_the_sums_are_the_same(
    data: st.DataObject, event: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = NOON * 1_000_000
    events = [
        made
        for n in range(6)
        for made in (
            event(call=f"c{n}", at_us=at + n * 1_000),
            event("PostToolUse", f"c{n}", at_us=at + n * 2_000 + 500),
        )
    ]
    order = data.draw(st.permutations(events))
    repeated = order + data.draw(st.lists(st.sampled_from(events), max_size=6))
    with TelemetryStore(tmp_path_factory.mktemp("store")) as store:
        while repeated:
            cut = data.draw(st.integers(1, len(repeated)))
            store.add(repeated[:cut])
            repeated = repeated[cut:]
        [bash] = sums(store)
    expected = sum(n * 1_000 + 500 for n in range(6))
    assert (bash.calls, bash.timed, bash.total_us) == (6, 6, expected)
    assert sum(bash.buckets.values()) == 6
