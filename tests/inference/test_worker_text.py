"""From token bytes to text that may be sent."""

import codecs
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_inference.worker.text import Answer


def said(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    answer = Answer(stop)
    out: list[str] = []
    for piece in pieces:
        out.append(answer.add(piece))
        if answer.stopped:
            break
    out.append(answer.finish())
    return out, answer.stopped


def test_text_comes_at_once_where_nothing_holds_it_back() -> None:
    assert said([b"Hel", b"lo", b"!"]) == (["Hel", "lo", "!", ""], False)


def test_half_a_character_waits_for_the_other_half() -> None:
    euro = "€".encode()
    assert said([b"5 " + euro[:1], euro[1:2], euro[2:]]) == (["5 ", "", "€", ""], False)


def test_a_character_that_never_ends_becomes_a_question_mark() -> None:
    assert said([b"a", "€".encode()[:2]])[0] == ["a", "", "�"]


def test_a_stop_text_across_tokens_is_never_sent() -> None:
    assert said([b"one ", b"ST", b"OP", b" two"], ("STOP",)) == (["one ", "", "", ""], True)


def test_what_only_began_like_a_stop_text_is_sent_after_all() -> None:
    assert said([b"one S", b"TO", b"RM"], ("STOP",)) == (["one ", "", "STORM", ""], False)
    assert said([b"one ST"], ("STOP",)) == (["one ", "ST"], False)


def test_the_first_of_several_stop_texts_counts() -> None:
    assert said([b"a\nb. c"], (".", "\n")) == (["a", ""], True)


def test_an_empty_stop_text_stops_nothing() -> None:
    assert said([b"abc"], ("",)) == (["abc", ""], False)


@pytest.mark.parametrize("stop", ["aab", "abab", "aaa"])
def test_a_stop_text_that_begins_like_itself_is_found(stop: str) -> None:
    text = "aaabababaaab"
    out, stopped = said([char.encode() for char in text], (stop,))
    assert stopped and "".join(out) == text[: text.index(stop)]


Texts = st.text(st.sampled_from("ab€🚢\n"), max_size=40)
Stops = st.lists(st.text(st.sampled_from("ab€\n"), min_size=1, max_size=4), max_size=3)


@given(Texts, Stops, st.data())
def test_what_is_sent_is_the_text_up_to_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=10)) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(cuts)]
    out, stopped = said(pieces, tuple(stops))
    found = _first(pieces, stops)
    assert stopped == (found is not None)
    assert "".join(out) == (text if found is None else found)


def _first(pieces: list[bytes], stops: list[str]) -> str | None:
    """Return the text before the stop text that ends first; of those in one piece the earliest."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    for piece in pieces:
        text += decoder.decode(piece)
        places = [text.find(stop) for stop in stops if stop in text]
        if places:
            return text[: min(places)]
    return None
