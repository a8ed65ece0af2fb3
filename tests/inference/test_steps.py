"""Which rows the next step has."""

from hypothesis import given
from hypothesis import strategies as st

from arsenale_inference.worker.steps import Turn, plan


def turn(waiting: int, priority: int = 5, order: int = 0) -> Turn:
    return Turn(waiting=waiting, priority=priority, order=order)


def test_who_generates_gets_one_row_and_prompts_share_the_budget() -> None:
    turns = [turn(0), turn(300, order=1), turn(0), turn(300, order=2)]
    assert plan(turns, batch=512, budget=128) == [1, 128, 1, 0]


def test_alone_a_prompt_fills_the_step() -> None:
    assert plan([turn(1_000)], batch=512, budget=128) == [512]
    assert plan([turn(300, order=0), turn(300, order=1)], batch=512, budget=128) == [300, 212]


def test_the_more_urgent_prompt_goes_first_and_then_who_came_first() -> None:
    turns = [turn(100, 5, 0), turn(100, 9, 1), turn(0), turn(100, 5, 2)]
    assert plan(turns, batch=512, budget=128) == [28, 100, 1, 0]


def test_a_prompt_moves_on_even_without_a_budget() -> None:
    assert plan([turn(0), turn(50)], batch=8, budget=0) == [1, 1]


def test_nobody_is_no_step() -> None:
    assert plan([], batch=8, budget=4) == []


Turns = st.lists(
    st.builds(Turn, waiting=st.integers(0, 600), priority=st.integers(0, 10), order=st.integers()),
    max_size=16,
)


@given(Turns, st.integers(16, 512), st.integers(0, 256))
def test_a_step_is_never_too_large_and_never_empty(
    turns: list[Turn], batch: int, budget: int
) -> None:
    rows = plan(turns, batch=batch, budget=budget)
    generating = sum(not each.waiting for each in turns)
    assert sum(rows) <= batch
    assert (sum(rows) > 0) == bool(turns)
    for each, n in zip(turns, rows, strict=True):
        assert n == 1 if not each.waiting else n <= each.waiting
    if generating:
        assert sum(rows) - generating <= max(budget, 1)
