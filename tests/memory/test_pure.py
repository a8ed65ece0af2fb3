"""The pure parts of memory: words, extraction, importance, splitting, moments, ranking."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError
from arsenale_memory import asking, capture, metadata, moments, ranking, words
from arsenale_memory.capture import Draft
from arsenale_memory.importance import importance
from arsenale_memory.ranking import Candidates
from arsenale_memory.record import Source
from arsenale_memory.splitting import PART_CHARS, split

NOON_S = 1_795_262_400.0  # 2026-11-21 12:00 UTC
LABELLED = json.loads((Path(__file__).parent / "labelled.json").read_text(encoding="utf-8"))


def f1(pairs: list[tuple[set[str], set[str]]]) -> float:
    right = sum(len(found & meant) for found, meant in pairs)
    return 2 * right / max(sum(len(found) + len(meant) for found, meant in pairs), 1)


def test_extraction_on_the_labelled_set() -> None:
    entities = [(set(metadata.entities(r["text"])), set(r["entities"])) for r in LABELLED]
    domains = [(set(metadata.domains(r["text"])), set(r["domains"])) for r in LABELLED]
    subjects = [
        metadata.subject(r["text"], metadata.entities(r["text"])) == r["subject"] for r in LABELLED
    ]
    assert f1(entities) >= 0.9
    assert f1(domains) >= 0.75
    assert sum(subjects) / len(subjects) >= 0.8


@given(st.text(max_size=400))
def test_extraction_takes_any_text(text: str) -> None:
    found = metadata.entities(text)
    assert len(found) <= metadata.MOST_ENTITIES
    metadata.subject(text, found)
    assert len(metadata.domains(text)) <= metadata.MOST_DOMAINS


@pytest.mark.parametrize("unit", ["Aa ", "A", "a_b ", "`", "a.b/", "x@", "A of ", "Aa: ", "\n"])
def test_extraction_of_a_hostile_text_takes_little(unit: str) -> None:
    text = unit * (20_000 // len(unit))
    begun = time.process_time()
    capture.version(Draft(content=text, namespace="n", owner="o", source=Source(via="t")), "uid", 1)
    assert time.process_time() - begun < 2


def test_what_matters_more_has_more_importance() -> None:
    rule = importance("Never deploy on Fridays because the release team is away.", "note")
    chat = importance("ok thanks!", "turn")
    assert rule > 0.55
    assert chat < 0.15
    assert importance("We decided on Rust.", "decision") > importance("We decided on Rust.", "note")


@given(st.text(max_size=300), st.sampled_from(["note", "turn", "decision"]))
def test_importance_is_between_0_and_1(text: str, kind: str) -> None:
    assert 0 <= importance(text, kind, named=9) <= 1  # type: ignore[arg-type]


@given(st.text(alphabet=st.sampled_from("ab .\n!é "), max_size=3_000), st.integers(20, 300))
def test_parts_cover_a_text_and_are_short(text: str, longest: int) -> None:
    parts = split(text, longest)
    assert parts
    assert all(len(part.body) <= longest for part in parts) or not text.strip()
    assert all(text[part.start :].startswith(part.body) for part in parts)
    rest = list(text)
    for part in parts:
        rest[part.start : part.start + len(part.body)] = [" "] * len(part.body)
    assert not "".join(rest).strip()


def test_parts_end_where_paragraphs_do() -> None:
    paragraph = "word " * 120
    first, second = split(f"{paragraph.strip()}\n\n{paragraph.strip()}")
    assert (first.body, second.body) == (paragraph.strip(), paragraph.strip())
    assert len(first.body) <= PART_CHARS


def test_words_of_a_question() -> None:
    assert words.terms("What did Anna's team decide about the API?") == [
        "anna", "team", "decide", "api",
    ]  # fmt: skip
    assert words.terms("who are you") == ["who", "are", "you"]
    assert words.named("Did ANNA go?", ["Anna", "Ann", "Bo"]) == ["Anna"]


@pytest.mark.parametrize(
    ("question", "you"),
    [
        ("What has Anna read?", "What have you read?"),
        ("When did Anna's dog run?", "When did your dog run?"),
        ("Where does ANNA live?", "Where do you live?"),
        ("What do Anna and Bo like?", "What do you like?"),
        ("How is Annabel?", "How is Annabel?"),
        ("What is the port?", "What is the port?"),
    ],
)
def test_a_question_about_somebody_is_put_to_them(question: str, you: str) -> None:
    assert asking.second_person(question, ["Anna", "Bo"]) == you


@pytest.mark.parametrize(
    ("before", "text", "reply"),
    [
        ("I moved. Where do you live?", "Oh, nice! In Bergen. And you?",
         "Where do you live? In Bergen."),
        ("I moved.", "In Bergen.", "In Bergen."),
        ("", "Thanks!", "Thanks!"),
        ("Why?", "Who asks?", "Why? Who asks?"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_a_turn_is_read_as_a_reply(before: str, text: str, reply: str) -> None:
    assert asking.as_reply(before, text) == reply


def test_what_a_question_asks_for() -> None:
    asked = asking.asked("How many dogs did Anna have in May 2024?", ["Anna"])
    assert asked.terms == ("many", "dogs", "may", "2024")
    assert (asked.number, asked.many, asked.when, asked.name) == (True, True, False, False)
    assert (asked.months, asked.years) == ((5,), (2024,))


def test_a_word_beside_a_memory_covers_it_too_and_rare_words_count_more() -> None:
    windows = ["the dog\nruns", "the dog sleeps", "the dog eats", "a cat"]
    got = ranking._coverage(["dog", "runs"], windows)  # pyright: ignore[reportPrivateUsage]
    assert got[0] == pytest.approx(1.0)
    assert 0 < got[1] == got[2] < 0.5
    assert got[3] == 0
    assert not ranking._coverage([], windows).any()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T14:30", "2026-11-20T14:30:00+00:00"),
        ("today", "2026-11-21T00:00:00+00:00"),
        ("yesterday", "2026-11-20T00:00:00+00:00"),
        ("24h", "2026-11-20T12:00:00+00:00"),
        ("now", "2026-11-21T12:00:00+00:00"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    assert moments.iso(moments.parse(text, NOON_S, None)) == expected


@pytest.mark.parametrize("text", ["", "soon", "99999999y", "2026-13-01", "-1d"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    try:
        assert moments.iso(moments.parse(text, NOON_S, None))
    except InvalidError as exc:
        assert "no moment" in str(exc)


@pytest.mark.parametrize(
    ("content", "echo"),
    [
        ("The port of the API is 8080", True),
        ("the port of the api is 8080.", True),
        ("The port of the API is 9090", False),
        ("The port of the API is not 8080", False),
        ("8080 is the port of the API", False),
        ("The port", False),
        ("The port of the API is 8080 since May", False),
    ],
)
def test_an_echo_adds_nothing(content: str, echo: bool) -> None:
    assert capture.is_echo(content, "The port of the API is 8080.", 0.99) is echo


def test_a_feature_of_the_best_is_1_and_what_is_absent_is_0() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    nothing = np.zeros_like(vectors)
    found = Candidates(
        keyword=np.array([0.0, 3.0, 6.0]),
        vectors=vectors,
        vectors_before=nothing,
        vectors_after=nothing,
        replies=np.array([[1, 0], [0, 1], [1, 0]], np.float32),
        before=np.array([-1, -1, -1]),
        after=np.array([-1, -1, -1]),
        session=np.array([-1, -1, -1]),
        about=np.array([False, True, False]),
        place=np.array([0, 0, 0]),
        texts=["a question?", "yesterday", "a long text"],
        windows=["a question?", "yesterday", "a long text"],
        months=np.array([0, 12 * 54 + 4, 0]),
    )
    query = np.array([0, 1], np.float32)
    table = ranking.features(asking.asked("when was it in May 2024?", []), query, query, found)
    column = dict(zip(ranking.FEATURES, table.T.tolist(), strict=True))
    assert column["keywords"] == [0, 0.5, 1]
    assert column["vector"] == pytest.approx([0, 1, 0.8])
    assert column["session"] == [0, 0, 0]
    assert column["subject"] == [0, 1, 0]
    assert column["question"] == [1, 0, 0]
    assert column["date"] == [0, 1, 0]
    assert column["month"] == [0, 1, 0]
    assert column["reply"] == [0, 1, 0]
    assert column["opening"] == [0, 0, 0]


def test_a_session_is_as_strong_as_its_three_best() -> None:
    strength = np.array([1.0, 0.5, 0.0, 0.25, 0.9])
    session = np.array([7, 7, 7, 7, -1])
    got = ranking._session_strength(strength, session)  # pyright: ignore[reportPrivateUsage]
    expected = (1 + 0.5 + 0.25) / 3
    assert got.tolist() == pytest.approx([expected] * 4 + [0])


def test_every_set_of_weights_names_every_feature() -> None:
    for name in ("conversation", "notes"):
        assert len(ranking.weights(name)) == len(ranking.FEATURES)
