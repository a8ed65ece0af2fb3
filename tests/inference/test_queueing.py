"""Who waits for a worker, and who is next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_inference.queueing import AGING_S, PATIENCE_S, Queue, QueueFullError, Waiting

NEVER = None


def waiting(item: str, priority: int = 5, at: float = 0.0, lane: str = "") -> Waiting[str]:
    return Waiting(item=item, priority=priority, since_s=at, until_s=NEVER, lane=lane)


def taken(queue: Queue[str], now_s: float = 0.0) -> str | None:
    found = queue.take(now_s, lambda _: True)
    return found.item if found else None


def test_the_highest_priority_goes_first() -> None:
    queue = Queue[str](10)
    for priority in (5, 0, 10, 7):
        queue.push(waiting(str(priority), priority))
    assert [taken(queue) for _ in range(5)] == ["10", "7", "5", "0", None]


@given(st.lists(st.integers(0, 10), max_size=30))
def test_equals_go_in_the_order_in_which_they_came(priorities: list[int]) -> None:
    queue = Queue[str](30)
    for number, priority in enumerate(priorities):
        queue.push(waiting(f"{number}", priority, at=1.0))
    order = [int(item) for _ in priorities if (item := taken(queue, 2.0)) is not None]
    assert order == sorted(range(len(priorities)), key=lambda n: -priorities[n])


def test_the_least_urgent_is_served_in_20_s_of_a_flood_of_the_most_urgent() -> None:
    queue = Queue[str](1_000)
    queue.push(waiting("patient", 0, at=0.0))
    now_s, step_s = 0.0, 0.1
    while True:
        queue.push(waiting("urgent", 10, at=now_s))
        if taken(queue, now_s) == "patient":
            break
        now_s += step_s
    assert now_s <= 10 * AGING_S + step_s
    assert 10 * AGING_S < 30, "it would wait too long by default before it is served"


@given(st.integers(0, 10), st.integers(0, 10), st.floats(0, 1_000), st.floats(0, 1_000))
def test_nobody_waits_longer_than_its_lack_of_priority_is_worth(
    mine: int, other: int, came_s: float, later_s: float
) -> None:
    queue = Queue[str](2)
    queue.push(waiting("other", other, at=came_s + later_s))
    queue.push(waiting("mine", mine, at=came_s))
    if later_s > AGING_S * max(0, other - mine) + 1e-6:
        assert taken(queue, came_s + later_s) == "mine"


def test_who_has_waited_too_long_is_given_back_once() -> None:
    queue = Queue[str](3)
    queue.push(Waiting(item="short", priority=10, since_s=0, until_s=1.0))
    queue.push(Waiting(item="long", priority=0, since_s=0, until_s=5.0))
    queue.push(waiting("never"))
    assert queue.next_expiry_s() == 1.0
    assert queue.expired(0.999) == []
    assert [each.item for each in queue.expired(1.0)] == ["short"]
    assert queue.expired(1.0) == []
    assert queue.next_expiry_s() == 5.0
    assert [each.item for each in queue.expired(99)] == ["long"]
    assert queue.next_expiry_s() is None
    assert len(queue) == 1


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    queue = Queue[str](2)
    queue.push(waiting("a"))
    queue.push(waiting("b"))
    with pytest.raises(QueueFullError, match="2 requests wait already: try again in 1 s") as full:
        queue.push(waiting("c"))
    assert full.value.retry_after_s == 1
    assert len(queue) == 2


def test_when_to_come_again_follows_the_pace_of_the_last_ones_served() -> None:
    queue = Queue[str](1)
    for number in range(5):
        queue.push(waiting("x"))
        assert taken(queue, number * 7.0) == "x"
    queue.push(waiting("x"))
    with pytest.raises(QueueFullError) as full:
        queue.push(waiting("late"))
    assert full.value.retry_after_s == 7


def test_who_lost_its_worker_comes_back_to_a_full_queue() -> None:
    queue = Queue[str](1)
    queue.push(waiting("a"))
    queue.push(waiting("again", at=-1.0), again=True)
    assert taken(queue) == "again"


def test_who_leaves_is_forgotten() -> None:
    queue = Queue[str](2)
    one, other = "one", "other"
    queue.push(waiting(one))
    queue.push(waiting(other))
    assert queue.remove(one)
    assert not queue.remove(one)
    assert [taken(queue), taken(queue)] == ["other", None]


def test_who_does_not_fit_is_overtaken_only_for_a_while() -> None:
    queue = Queue[str](10)
    queue.push(waiting("large", at=0.0, lane="tiny"))
    queue.push(waiting("small", at=0.0, lane="tiny"))
    queue.push(waiting("small too", at=0.0, lane="tiny"))
    queue.push(waiting("elsewhere", at=0.0, lane="other"))

    def small(item: str) -> bool:
        return item != "large"

    first = queue.take(0.0, small)
    assert first is not None and first.item == "small"
    late_s = PATIENCE_S + 0.1
    second = queue.take(late_s, small)
    assert second is not None and second.item == "elsewhere"
    assert queue.take(late_s, small) is None, "the lane is kept free for the large one"
    assert taken(queue, late_s) == "large"


@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), max_size=40))
def test_everyone_who_came_is_taken_or_left_exactly_once(came: list[tuple[int, bool]]) -> None:
    queue = Queue[int](40)
    for number, (priority, _) in enumerate(came):
        queue.push(Waiting(item=number, priority=priority, since_s=number, until_s=None))
    gone = {number for number, (_, leaves) in enumerate(came) if leaves}
    for number in gone:
        assert queue.remove(number)
    out: list[int] = []
    while (found := queue.take(100.0, lambda _: True)) is not None:
        out.append(found.item)
    assert sorted(out) == sorted(set(range(len(came))) - gone)
    assert len(queue) == 0
