"""What goes out at `/v1`, held against the official client's own types."""

import base64
import json
import struct
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from arsenale_inference import replies
from arsenale_inference.messages import Finish, Finished, Piece, Started
from arsenale_inference.replies import Choice, Reply, TokenTexts

CHAT = Reply(id="chatcmpl-0123456789abcdef", model="tiny", created=7, kind="chat")
TEXT = Reply(id="cmpl-1", model="tiny", created=7, kind="text")
TOOLS = Reply(
    id="chatcmpl-0123456789abcdef", model="tiny", created=7, kind="chat", tools=frozenset({"add"})
)


def finished(
    reason: Finish = "stop", prompt: int = 5, answered: int = 2, cached: int = 3
) -> Finished:
    return Finished(
        id="r", reason=reason, prompt_tokens=prompt, completion_tokens=answered,
        cached_tokens=cached, waited_s=0, prefill_s=0, decode_s=0,
    )  # fmt: skip


def piece(text: str, token: int = 9) -> Piece:
    shown = {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "id": token}
    return Piece(id="r", text=text, tokens=(token,), logprobs=({**shown, "top_logprobs": [shown]},))


def choice(text: str, reason: Finish = "stop", **counts: int) -> Choice:
    made = Choice()
    for told in (Started(id="r", prompt_tokens=5, cached_tokens=3), piece(text)):
        made.add(told)
    made.add(finished(reason, **counts))
    return made


def strict(kind: Any, value: dict[str, Any]) -> Any:
    return kind.model_validate_json(json.dumps(value), strict=True)


def test_a_chat_is_what_the_client_expects() -> None:
    said: ChatCompletion = strict(ChatCompletion, CHAT.whole([choice("Rome.")]))
    [only] = said.choices
    assert (only.message.content, only.message.role, only.finish_reason) == (
        "Rome.", "assistant", "stop",
    )  # fmt: skip
    assert only.logprobs is not None and only.logprobs.content is not None
    assert only.logprobs.content[0].bytes == list(b"Rome.")
    assert said.usage is not None and said.usage.total_tokens == 7
    assert said.usage.prompt_tokens_details is not None
    assert said.usage.prompt_tokens_details.cached_tokens == 3


def test_a_completion_is_what_the_client_expects() -> None:
    said: Completion = strict(Completion, TEXT.whole([choice("b", "length")]))
    assert said.choices[0].text == "b" and said.choices[0].finish_reason == "length"
    assert said.choices[0].logprobs is not None
    assert said.choices[0].logprobs.token_logprobs == [-0.5]
    assert said.choices[0].logprobs.text_offset == [0]


def test_chunks_are_what_the_client_expects() -> None:
    for body in (
        CHAT.first(0), CHAT.piece(0, piece("x"), TokenTexts()), CHAT.last(0, "stop"),
        CHAT.usage([choice("x")]),
    ):  # fmt: skip
        assert strict(ChatCompletionChunk, body).object == "chat.completion.chunk"
    for body in (TEXT.piece(0, piece("x"), TokenTexts()), TEXT.usage([choice("x")])):
        assert body["object"] == "text_completion"


def test_the_prompt_of_several_choices_counts_once() -> None:
    n, prompts = 3, 2
    made = Reply(id="cmpl-1", model="tiny", created=7, kind="text", n=n)
    used = made.whole([choice("x", prompt=5, answered=2)] * (n * prompts))["usage"]
    assert used == {
        "prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 6},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "said"),
    [("stop", "stop"), ("length", "length"), ("deadline", "length"), ("cancelled", "stop")],
)
def test_every_end_has_a_reason_that_the_client_knows(reason: Finish, said: str) -> None:
    whole: ChatCompletion = strict(ChatCompletion, CHAT.whole([choice("x", reason)]))
    assert whole.choices[0].finish_reason == said


def test_a_tool_call_is_no_text() -> None:
    made = choice('{"name": "add", "arguments": {"a": 1}}')
    said: ChatCompletion = strict(ChatCompletion, TOOLS.whole([made]))
    [only] = said.choices
    assert only.finish_reason == "tool_calls" and only.message.content is None
    assert only.message.tool_calls is not None
    [call] = only.message.tool_calls
    assert call.type == "function" and call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 1}


def test_embeddings_are_numbers_or_little_endian_bytes() -> None:
    vectors = ((0.5, -0.25), (1.0, 0.0))
    plain: CreateEmbeddingResponse = strict(
        CreateEmbeddingResponse, replies.embeddings("tiny", vectors, 4, as_base64=False)
    )
    assert [each.embedding for each in plain.data] == [[0.5, -0.25], [1.0, 0.0]]
    packed = replies.embeddings("tiny", vectors, 4, as_base64=True)["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, -0.25)


def test_models_are_what_the_client_expects() -> None:
    listed = replies.models([("tiny", "base"), ("anna", "genome")], 7)
    assert [strict(Model, each).id for each in listed["data"]] == ["tiny", "anna"]


def token(data: bytes, logprob: float | None = -0.5) -> dict[str, Any]:
    text = data.decode("utf-8", "replace")
    return {"token": text, "bytes": list(data), "logprob": logprob, "id": 1, "top_logprobs": []}


def test_offsets_count_characters_and_the_tokens_together_are_the_text() -> None:
    data = ["größe".encode()[:3], "größe".encode()[3:], "😀".encode()[:1], "😀".encode()[1:], b"!"]
    made = choice("")
    made.text, made.logprobs = ["größe😀!"], [token(each) for each in data]
    shown = TEXT.whole([made])["choices"][0]["logprobs"]
    assert "".join(shown["tokens"]) == "größe😀!"
    assert shown["text_offset"] == [0, 2, 5, 5, 6]


def test_offsets_go_on_over_the_chunks_of_a_stream() -> None:
    places = TokenTexts()
    chunks = [
        TEXT.piece(0, Piece(id="r", text="", tokens=(1,), logprobs=(token(data),)), places)
        for data in (b"ab", b"c", "ü".encode()[:1], "ü".encode()[1:], b"d")
    ]
    shown = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks]
    assert shown == [[0], [2], [3], [3], [4]]


def test_two_tokens_of_one_text_keep_the_likelier_log_probability() -> None:
    top = [{"token": "\ufffd", "logprob": -1.0}, {"token": "\ufffd", "logprob": -9.0}]
    made = choice("")
    made.logprobs = [{**token(b"x", -3.0), "top_logprobs": top}]
    assert TEXT.whole([made])["choices"][0]["logprobs"]["top_logprobs"] == [
        {"\ufffd": -1.0, "x": -3.0}
    ]


def test_an_answer_makes_one_call_where_calls_are_not_parallel() -> None:
    call = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    for most, count in ((None, 3), (1, 1)):
        reply = Reply(
            id="chatcmpl-0123456789abcdef", model="tiny", created=7, kind="chat",
            tools=frozenset({"add"}), most_calls=most,
        )  # fmt: skip
        message = reply.whole([choice(call * 3)])["choices"][0]["message"]
        assert len(message["tool_calls"]) == count
