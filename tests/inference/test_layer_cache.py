"""Which layers a worker keeps loaded."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_inference.layer_cache import Change, LayerCache

SIZES = dict.fromkeys("abcdefgh", 10)


def used(cache: LayerCache, names: str, sizes: dict[str, int] | None = None) -> Change:
    """Load and use NAMES, as a worker does; they stay in use."""
    change = cache.plan(names, sizes or SIZES)
    assert change is not None
    cache.apply(change, sizes or SIZES)
    cache.use(names, change)
    for name in change.load:
        cache.measured(name, (sizes or SIZES)[name])
    return change


def passed(cache: LayerCache, names: str, sizes: dict[str, int] | None = None) -> Change:
    """Use NAMES and let them go."""
    change = used(cache, names, sizes)
    cache.release(names)
    return change


def test_the_least_recently_used_goes_first() -> None:
    cache = LayerCache(3, 1_000)
    for name in "abc":
        passed(cache, name)
    passed(cache, "a")
    assert passed(cache, "d").drop == ("b",)
    assert passed(cache, "ef").drop == ("c", "a")
    assert list(cache.sizes) == ["d", "e", "f"]


def test_what_is_in_use_is_never_dropped() -> None:
    cache = LayerCache(2, 1_000)
    used(cache, "a")
    passed(cache, "b")
    assert used(cache, "c").drop == ("b",)
    assert cache.plan("d", SIZES) is None
    cache.release("a")
    assert passed(cache, "d").drop == ("a",)


def test_a_layer_in_use_twice_stays_until_both_are_done() -> None:
    cache = LayerCache(1, 1_000)
    used(cache, "a")
    assert used(cache, "a") == Change(load=(), drop=())
    cache.release("a")
    assert cache.plan("b", SIZES) is None
    cache.release("a")
    assert cache.plan("b", SIZES) == Change(load=("b",), drop=("a",))


def test_what_is_being_loaded_is_in_use_even_when_its_user_left() -> None:
    cache = LayerCache(1, 1_000)
    change = cache.plan("a", SIZES)
    assert change is not None
    cache.apply(change, SIZES)
    cache.use("a", change)
    cache.release("a")
    assert cache.plan("b", SIZES) is None
    cache.measured("a", 12)
    assert cache.plan("b", SIZES) == Change(load=("b",), drop=("a",))


def test_the_bytes_are_limited_too() -> None:
    cache = LayerCache(10, 25)
    passed(cache, "a")
    passed(cache, "b")
    change = cache.plan("c", SIZES)
    assert change is not None and change.drop == ("a",)
    cache.apply(change, SIZES)
    cache.measured("c", 20)  # larger than its file
    assert cache.sizes == {"b": 10, "c": 20}
    assert passed(cache, "d").drop == ("b", "c")


def test_one_that_is_larger_than_all_room_is_loaded_alone() -> None:
    cache = LayerCache(10, 25)
    passed(cache, "a")
    sizes = {**SIZES, "x": 100}
    assert used(cache, "x", sizes).drop == ("a",)
    assert cache.plan("b", sizes) is None, "it waits until the large one is done"
    cache.release("x")
    assert passed(cache, "b", sizes).drop == ("x",)


def test_a_stack_larger_than_the_cache_is_loaded_whole_and_then_gone() -> None:
    cache = LayerCache(2, 1_000)
    passed(cache, "h")
    assert used(cache, "abcd").drop == ("h",)
    cache.release("abcd")
    assert passed(cache, "e").drop == ("a", "b", "c")


def test_a_working_set_larger_than_the_cache_is_counted_as_misses() -> None:
    cache = LayerCache(3, 1_000)
    for _ in range(3):
        for name in "abcd":
            passed(cache, name)
    assert (cache.hits, cache.misses) == (0, 12)


def test_a_layer_that_cannot_be_loaded_is_loaded_anew_when_it_is_asked_again() -> None:
    cache = LayerCache(3, 1_000)
    change = cache.plan("a", SIZES)
    assert change is not None
    cache.apply(change, SIZES)
    cache.use("a", change)
    cache.release("a")
    cache.lost("a")
    assert cache.plan("a", SIZES) == Change(load=("a",), drop=())


Stacks = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True), max_size=30
)


@given(Stacks, st.integers(1, 6), st.integers(10, 60), st.data())
def test_no_limit_is_passed_but_by_one_stack_alone(
    stacks: Sequence[Sequence[str]], most: int, most_bytes: int, data: st.DataObject
) -> None:
    cache = LayerCache(most, most_bytes)
    live: list[str] = []
    for stack in stacks:
        names = "".join(stack)
        if cache.plan(names, SIZES) is not None:
            change = used(cache, names)
            live.append(names)
            assert not set(change.drop) & set("".join(live))
            sizes = cache.sizes
            alone = set(sizes) == set(names)
            assert alone or not change.load or len(sizes) <= most
            assert alone or not change.load or sum(sizes.values()) <= most_bytes
        if live and data.draw(st.booleans()):
            cache.release(live.pop(data.draw(st.integers(0, len(live) - 1))))
    for names in live:
        cache.release(names)
    assert cache.plan("abcd", SIZES) is not None, "nothing is stuck once all are done"


@pytest.mark.parametrize("names", ["a", "abc"])
def test_hits_and_misses_are_counted(names: str) -> None:
    cache = LayerCache(5, 1_000)
    passed(cache, names)
    passed(cache, names)
    assert (cache.hits, cache.misses) == (len(names), len(names))
