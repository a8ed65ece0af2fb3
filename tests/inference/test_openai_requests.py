"""What comes in at `/v1`."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from arsenale_core.errors import InvalidError
from arsenale_inference.messages import Generate
from arsenale_inference.openai_requests import Chat, Completion, Embedding

HELLO = [{"role": "user", "content": "Hello"}]
ADD: dict[str, Any] = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}},
}
SUB: dict[str, Any] = {"type": "function", "function": {"name": "sub"}}


def chat(**more: Any) -> Chat:
    return Chat.model_validate_json(json.dumps({"model": "tiny", "messages": HELLO, **more}))


def completion(**more: Any) -> Completion:
    return Completion.model_validate_json(json.dumps({"model": "tiny", **more}))


def only(request: Chat | Completion) -> Generate:
    [[job]] = request.generate()
    return job


def test_what_is_not_said_is_as_openai_says() -> None:
    job = only(chat())
    assert job.messages == tuple(HELLO)
    assert (job.sampling.temperature, job.sampling.top_p, job.sampling.seed) == (1.0, 1.0, None)
    assert job.max_tokens is None and job.sampling.logprobs == -1 and job.priority == 5
    assert only(completion(prompt="x")).max_tokens == 16


def test_unknown_fields_are_ignored() -> None:
    assert only(chat(user="me", store=True, metadata={"a": 1})).id == ""


def test_every_choice_of_a_seed_has_its_own_that_comes_again() -> None:
    [jobs] = chat(n=3, seed=41).generate()
    assert [job.sampling.seed for job in jobs] == [41, 42, 43]
    [largest] = chat(n=2, seed=2**63 - 1).generate()
    assert all(0 <= (job.sampling.seed or 0) < 2**32 for job in largest)


def test_max_completion_tokens_is_the_newer_name() -> None:
    assert only(chat(max_tokens=3)).max_tokens == 3
    assert only(chat(max_tokens=3, max_completion_tokens=4)).max_tokens == 4


def test_stop_is_one_text_or_several() -> None:
    assert only(chat(stop="a")).stop == ("a",)
    assert only(chat(stop=["a", "b"])).stop == ("a", "b")
    with pytest.raises(InvalidError, match="17 stop texts: give 16 at most"):
        chat(stop=["x"] * 17).generate()


def test_texts_in_parts_are_joined_and_pictures_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert only(chat(messages=[{"role": "user", "content": parts}])).messages == (
        {"role": "user", "content": "ab"},
    )
    for bad in ({"type": "image_url", "image_url": {"url": "x"}}, "text", 5, None):
        with pytest.raises(InvalidError, match="parts that are not text: send text only"):
            chat(messages=[{"role": "user", "content": [bad]}]).generate()


def test_parts_of_the_responses_api_are_texts_too() -> None:
    parts = [
        {"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"},
        {"type": "text", "text": None}, {"type": "refusal", "refusal": "c"},
    ]  # fmt: skip
    messages = only(chat(messages=[{"role": "user", "content": parts}])).messages
    assert messages == ({"role": "user", "content": "abc"},)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_minus_one_is_as_many_tokens_as_the_context_leaves(name: str) -> None:
    assert only(chat(**{name: -1})).max_tokens is None
    if name != "max_completion_tokens":
        assert only(completion(prompt="x", **{name: -1})).max_tokens is None


def test_fields_of_other_servers_mean_what_they_mean_there() -> None:
    assert only(chat(n_predict=7)).max_tokens == 7
    assert only(chat(n_predict=7, max_tokens=3)).max_tokens == 3
    assert only(chat(top_k=-1)).sampling.top_k == 0
    assert only(chat(repeat_penalty=1.25)).sampling.repetition_penalty == 1.25
    assert only(chat(repetition_penalty=1.5)).sampling.repetition_penalty == 1.5
    assert only(chat(logit_bias=[])).sampling.bias == ()
    assert only(chat(logit_bias=[[5, 1.5], [7, -2]])).sampling.bias == ((5, 1.5), (7, -2.0))
    assert only(chat(grammar="")).grammar is None
    assert only(chat(tools=[ADD], tool_choice="any")).schema is not None
    assert only(completion(prompt="x", max_tokens=0)).max_tokens == 0


SCHEMA: dict[str, Any] = {"enum": ["a"]}


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"json_schema": SCHEMA, "response_format": {"type": "text"}, "grammar": ""},
    ],
    ids=str,
)
def test_a_schema_may_stand_where_other_servers_have_it(body: dict[str, Any]) -> None:
    assert only(chat(**body)).schema == SCHEMA
    assert only(completion(prompt="x", **body)).schema == SCHEMA


JSON: dict[str, Any] = {"type": "json_object"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"best_of": 2}, "best_of 2 with n 1"),
        ({"best_of": 1, "n": 2}, "best_of 1 with n 2"),
        ({"functions": [{"name": "f"}]}, "`functions` is not supported: use tools"),
        ({"function_call": {"name": "f"}}, "`function_call` is not supported: use tool_choice"),
        ({"grammar": 'root ::= "x"', "response_format": JSON}, "response_format and grammar both"),
        ({"json_schema": {}, "response_format": JSON}, "response_format and json_schema both"),
        ({"json_schema": {}, "grammar": 'root ::= "x"'}, "json_schema and grammar both"),
        ({"guided_json": SCHEMA}, "`guided_json` is not supported: use response_format"),
        ({"guided_regex": "a+"}, "`guided_regex` is not supported"),
        ({"guided_choice": ["a"]}, "`guided_choice` is not supported"),
        ({"structured_outputs": {"json": SCHEMA}}, "`structured_outputs` is not supported"),
        ({"regex": "a+"}, "`regex` is not supported"),
        ({"ebnf": "root ::= x"}, "`ebnf` is not supported: use grammar"),
        ({"stop_token_ids": [5]}, "`stop_token_ids` is not supported: use stop"),
        ({"min_tokens": 5}, "`min_tokens` is not supported"),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "has a schema and asks for text"),
        ({"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
         "json_schema has no `schema`, but enum"),
    ],
    ids=str,
)  # fmt: skip
def test_what_would_be_ignored_and_changes_the_answer_is_refused(
    body: dict[str, Any], said: str
) -> None:
    for make in (chat, completion):
        with pytest.raises(InvalidError) as error:
            make(prompt="x", **body).generate()
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"modalities": ["audio"]}, "answers are text only"),
        ({"tool_choice": "required"}, "`tools` is empty"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "`tools` is empty"),
        ({"tools": [ADD], "tool_choice": "required", "grammar": 'root ::= "x"'},
         "follows the schema of its tool"),
        ({"tools": [ADD], "tool_choice": "any", "json_schema": {}}, "the schema of its tool"),
    ],
    ids=str,
)  # fmt: skip
def test_fields_of_a_chat_that_need_one_another_say_so(body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError) as error:
        chat(**body).generate()
    assert said in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        {"functions": []}, {"function_call": "auto"}, {"function_call": "none"}, {"best_of": 1},
        {"min_tokens": 0}, {"use_beam_search": False}, {"guided_json": None}, {"audio": None},
        {"tool_choice": "auto"}, {"tool_choice": "none"}, {"top_logprobs": 0},
        {"modalities": ["text"]}, {"parallel_tool_calls": True}, {"stop_token_ids": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_field_that_asks_for_nothing_is_no_reason_to_refuse(body: dict[str, Any]) -> None:
    assert only(chat(**body)).schema is None


def test_a_call_that_must_be_made_refers_to_the_definitions_of_its_tool() -> None:
    parameters = {"$ref": "#/definitions/Args", "definitions": {"Args": {"type": "object"}}}
    tool = {"type": "function", "function": {"name": "save", "parameters": parameters}}
    schema = only(chat(tools=[tool, ADD], tool_choice="required")).schema
    assert schema is not None
    moved = schema["$defs"]["save.arguments"]
    assert moved["$ref"] == "#/$defs/save.arguments/definitions/Args"
    assert [each["properties"]["arguments"]["$ref"] for each in schema["anyOf"]] == [
        "#/$defs/save.arguments", "#/$defs/add.arguments",
    ]  # fmt: skip


def test_response_format_is_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert only(chat(response_format={"type": "text"})).schema is None
    assert only(chat(response_format={"type": "json_object"})).schema == {"type": "object"}
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert only(chat(response_format=named)).schema == schema
    with pytest.raises(InvalidError, match="response_format has no json_schema"):
        chat(response_format={"type": "json_schema"}).generate()


def test_a_tool_that_must_be_called_is_a_schema_too() -> None:
    assert only(chat(tools=[ADD])).schema is None
    assert only(chat(tools=[ADD], tool_choice="none")).tools == ()
    named = {"type": "function", "function": {"name": "add"}}
    forced = only(chat(tools=[ADD, SUB], tool_choice=named)).schema
    assert forced is not None and forced["properties"]["name"] == {"const": "add"}
    stopped = only(chat(tools=[ADD, SUB], tool_choice=named, stop=["{", "add"]))
    assert stopped.stop == (), "a stop text does not cut through a call that must be made"
    any_of = only(chat(tools=[ADD, SUB], tool_choice="required")).schema
    assert any_of is not None and len(any_of["anyOf"]) == 2
    with pytest.raises(InvalidError, match="names no tool"):
        chat(tools=[SUB], tool_choice=named).generate()


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": []}, {"messages": "hi"}, {"messages": [5]}, {"messages": None},
        {"model": ""}, {"model": 5}, {"model": "x" * 4_001},
        {"temperature": -1}, {"temperature": "hot"}, {"top_p": 0}, {"top_p": 1.1},
        {"n": 0}, {"n": 9}, {"n": 1.5}, {"max_tokens": 0}, {"max_tokens": 2**31},
        {"seed": 2**70}, {"seed": 0.5}, {"top_k": -2}, {"top_k": 2**40}, {"max_tokens": -2},
        {"logit_bias": {"x": 1}}, {"logit_bias": {"1": 101}}, {"logit_bias": [1]},
        {"logit_bias": [[1, 2, 3]]}, {"n_predict": -3},
        {"priority": 11}, {"timeout": 0}, {"stop": 5}, {"stop": [5]}, {"stream": "perhaps"},
        {"response_format": {"type": "xml"}}, {"response_format": "json"},
        {"tools": [{"type": "browser"}]}, {"tools": [{"type": "function"}]}, {"tools": {}},
        {"tool_choice": {"function": "add"}}, {"tool_choice": {"function": {"name": ["add"]}}},
        {"tool_choice": {}}, {"top_logprobs": 21}, {"grammar": "x" * 1_000_001},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as wrong:
        chat(**bad)
    assert wrong.value.errors()[0]["loc"][0] in {**bad, "max_tokens": 1}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "timeout", "presence_penalty"])
def test_numbers_that_are_none_are_refused(field: str, number: str) -> None:
    with pytest.raises(ValidationError):
        Chat.model_validate_json(
            f'{{"model": "tiny", "messages": [{{"role": "user"}}], "{field}": {number}}}'
        )


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)  # fmt: skip
def test_a_prompt_is_text_or_tokens_or_several(prompt: Any, prompts: list[Any]) -> None:
    jobs = completion(prompt=prompt, n=2).generate()
    assert [len(group) for group in jobs] == [2] * len(prompts)
    found = [group[0].text if group[0].tokens is None else list(group[0].tokens) for group in jobs]
    assert found == prompts


def test_prompts_are_bounded() -> None:
    with pytest.raises(InvalidError, match="0 prompts"):
        completion(prompt=[]).generate()
    with pytest.raises(InvalidError, match="65 prompts: give 1 to 64"):
        completion(prompt=["x"] * 65).generate()
    wrong: list[Any] = [[-1], [2**31], [[]], ["a", 1], [["a"]], {"a": 1}, 5]
    for bad in wrong:
        with pytest.raises(ValidationError):
            completion(prompt=bad)


def test_what_is_not_supported_says_so() -> None:
    with pytest.raises(InvalidError, match="`suffix` is not supported"):
        completion(prompt="a", suffix="b").generate()
    with pytest.raises(InvalidError, match="`echo` does not go with `stream`"):
        completion(prompt="a", echo=True, stream=True).generate()
    with pytest.raises(InvalidError, match="`dimensions` cannot be chosen"):
        _ = Embedding(model="tiny", input="a", dimensions=5).inputs


def test_embeddings_take_texts_or_tokens() -> None:
    assert Embedding(model="m", input="a").inputs == ("a",)
    assert Embedding(model="m", input=["a", "b"]).inputs == ("a", "b")
    assert Embedding(model="m", input=[1, 2]).inputs == ((1, 2),)
    assert Embedding(model="m", input=[[1], [2]]).inputs == ((1,), (2,))
    with pytest.raises(InvalidError, match="0 inputs"):
        _ = Embedding(model="m", input=[]).inputs
    with pytest.raises(InvalidError, match="2049 inputs"):
        _ = Embedding(model="m", input=["a"] * 2_049).inputs


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({"temperature": 0}, True), ({"seed": 1}, True), ({}, False),
        ({"temperature": 0, "n": 2}, False),
    ],
)  # fmt: skip
def test_the_same_answer_is_expected_of_a_seed_and_of_no_temperature(
    more: dict[str, Any], same: bool
) -> None:
    assert chat(**more).deterministic is same
