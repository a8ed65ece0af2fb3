"""The cache of derived values."""

from arsenale_core.derived import Derived


def test_a_value_is_good_for_its_time_and_no_longer() -> None:
    clock = [100.0]
    cache: Derived[str, int] = Derived(10, 60, lambda: clock[0])
    cache.put("a", 1)
    clock[0] = 159.9
    assert cache.get("a") == 1
    clock[0] = 160.0
    assert cache.get("a") is None
    assert len(cache) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache: Derived[str, int] = Derived(2, 60, lambda: 0.0)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_it_forgets_when_told_and_keeps_nothing_without_a_time() -> None:
    cache: Derived[str, int] = Derived(2, 60, lambda: 0.0)
    cache.put("a", 1)
    cache.forget()
    assert cache.get("a") is None
    none: Derived[str, int] = Derived(2, 0, lambda: 0.0)
    none.put("a", 1)
    assert none.get("a") is None
