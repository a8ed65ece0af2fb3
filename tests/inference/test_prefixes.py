"""Which sequence of the KV cache holds what."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_inference.messages import Stack
from arsenale_inference.worker.prefixes import WORTH_SHARING, Prefixes, Share, Tokens, shared

BASE: Stack = ()
FACTS: Stack = (("facts", 1.0),)


def tokens(*given: int) -> Tokens:
    return np.array(given, np.int32)


def count(n: int, start: int = 0) -> Tokens:
    return np.arange(start, start + n, dtype=np.int32)


def kept(prefixes: Prefixes, stack: Stack, held: Tokens) -> int:
    sequence = prefixes.take(stack)
    assert sequence is not None
    prefixes.note(sequence, held)
    prefixes.keep(sequence)
    return sequence


def test_the_longest_shared_beginning_is_found_and_one_token_is_left_to_compute() -> None:
    prefixes = Prefixes(4)
    kept(prefixes, BASE, count(10))
    longer = kept(prefixes, BASE, count(20))
    assert prefixes.best(BASE, count(30)) == Share(sequence=longer, length=20, whole=True)
    assert prefixes.best(BASE, count(20)) == Share(sequence=longer, length=19, whole=False)


def test_only_the_same_layers_and_weights_may_share() -> None:
    prefixes = Prefixes(4)
    kept(prefixes, FACTS, count(20))
    assert prefixes.best(BASE, count(30)) is None
    assert prefixes.best((("facts", 0.5),), count(30)) is None
    assert prefixes.best(FACTS, count(30)) is not None


def test_a_live_sequence_is_shared_but_not_taken_over() -> None:
    prefixes = Prefixes(2)
    sequence = prefixes.take(BASE)
    assert sequence is not None
    prefixes.note(sequence, count(16))
    assert prefixes.best(BASE, count(30)) == Share(sequence=sequence, length=16, whole=False)


def test_a_short_beginning_is_not_worth_it() -> None:
    prefixes = Prefixes(2)
    kept(prefixes, BASE, count(WORTH_SHARING - 1))
    assert prefixes.best(BASE, count(30)) is None


def test_sequences_are_taken_until_there_is_none_and_dropped_ones_are_free_again() -> None:
    prefixes = Prefixes(2)
    first, second = prefixes.take(BASE), prefixes.take(FACTS)
    assert {first, second} == {0, 1}
    assert prefixes.take(BASE) is None
    assert first is not None
    prefixes.drop(first)
    assert prefixes.take(BASE) == first


def test_the_oldest_kept_one_goes_first_and_live_ones_never() -> None:
    prefixes = Prefixes(4)
    first, second = kept(prefixes, BASE, count(9)), kept(prefixes, BASE, count(9, 50))
    live = prefixes.take(BASE)
    assert prefixes.oldest_kept() == first
    assert prefixes.oldest_kept(but=first) == second
    prefixes.revive(first)
    assert prefixes.oldest_kept() == second
    prefixes.revive(second)
    assert prefixes.oldest_kept() is None
    assert live is not None
    prefixes.keep(live)
    assert prefixes.oldest_kept() == live


def test_kept_tokens_are_counted() -> None:
    prefixes = Prefixes(3)
    kept(prefixes, BASE, count(9))
    live = prefixes.take(BASE)
    assert live is not None
    prefixes.note(live, count(5))
    assert prefixes.kept_tokens == 9


def test_what_was_made_with_a_layer_is_found_when_the_layer_goes() -> None:
    prefixes = Prefixes(4)
    kept(prefixes, BASE, count(9))
    mine = kept(prefixes, (("tone", 0.5), ("facts", 1.0)), count(9))
    assert prefixes.with_layer("facts") == [mine]
    assert prefixes.with_layer("nobody") == []


@pytest.mark.parametrize(
    ("first", "second", "n"),
    [
        ((), (), 0),
        ((1,), (), 0),
        ((1, 2), (1, 2, 3), 2),
        ((1, 2, 3), (1, 9, 3), 1),
        ((4,), (5,), 0),
    ],
)
def test_how_many_tokens_two_texts_begin_with_in_common(
    first: tuple[int, ...], second: tuple[int, ...], n: int
) -> None:
    assert shared(tokens(*first), tokens(*second)) == n
    assert shared(tokens(*second), tokens(*first)) == n


Prompts = st.lists(st.integers(0, 2), min_size=1, max_size=24)


@given(st.lists(st.tuples(Prompts, st.sampled_from([BASE, FACTS])), max_size=6), Prompts)
def test_what_is_shared_is_really_held(
    held: list[tuple[list[int], Stack]], prompt: list[int]
) -> None:
    prefixes = Prefixes(8)
    sequences = {kept(prefixes, stack, tokens(*each)): (each, stack) for each, stack in held}
    best = prefixes.best(BASE, tokens(*prompt))
    lengths = [
        min(shared(tokens(*each), tokens(*prompt)), len(prompt) - 1)
        for each, stack in held
        if stack == BASE
    ]
    if best is None:
        assert max(lengths, default=0) < WORTH_SHARING
    else:
        each, stack = sequences[best.sequence]
        assert stack == BASE
        assert each[: best.length] == prompt[: best.length]
        assert best.length == max(lengths) < len(prompt)
