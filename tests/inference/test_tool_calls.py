"""Tool calls in the text of an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_inference.tool_calls import ToolCall, found_in

NAMES = frozenset({"add", "look_up"})


def tagged(**said: object) -> str:
    return f"<tool_call>\n{json.dumps(said)}\n</tool_call>"


def test_one_json_object_alone_is_a_call() -> None:
    said = json.dumps({"name": "add", "arguments": {"a": 1}})
    assert found_in(f" {said}\n", NAMES) == ("", [ToolCall("add", '{"a": 1}')])


def test_tagged_calls_are_taken_out_of_the_text() -> None:
    text = "I look.\n" + tagged(name="look_up", arguments={"x": "é"}) + tagged(name="add")
    assert found_in(text, NAMES) == (
        "I look.", [ToolCall("look_up", '{"x": "é"}'), ToolCall("add", "{}")],
    )  # fmt: skip


def test_llama_s_parameters_are_arguments() -> None:
    said = tagged(name="add", parameters={"a": 1})
    assert found_in(said, NAMES)[1] == [ToolCall("add", '{"a": 1}')]


def test_arguments_that_are_text_already_stay_as_they_are() -> None:
    assert found_in(tagged(name="add", arguments="{}"), NAMES)[1] == [ToolCall("add", "{}")]


@pytest.mark.parametrize(
    "text",
    [
        "", "hello", "[]", "1", '"add"', '{"name": "remove"}', '{"name": ["add"]}', '{"name": {}}',
        "{}", '{"name": "add"} and more', "<tool_call>{</tool_call>", "<tool_call>", "{" * 2_000,
        "[" * 100_000,
        tagged(name="nobody"),
    ],
)  # fmt: skip
def test_anything_else_stays_text(text: str) -> None:
    assert found_in(text, NAMES) == (text, [])


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    rest, calls = found_in(text, NAMES)
    assert calls or rest == text


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_any_arguments_come_through(arguments: dict[str, object]) -> None:
    _, calls = found_in(tagged(name="add", arguments=arguments), NAMES)
    assert [json.loads(call.arguments) for call in calls] == [arguments]
