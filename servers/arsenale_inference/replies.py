"""What goes out at `/v1`: OpenAI's objects. Pure."""

import base64
import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from arsenale_inference.messages import Finish, Finished, Piece, Started
from arsenale_inference.tool_calls import ToolCall, found_in

REASONS: Mapping[Finish, str] = {
    "stop": "stop", "length": "length", "cancelled": "stop", "deadline": "length",
}  # fmt: skip
"""OpenAI's `finish_reason`; what ran out of time is cut off like what ran out of tokens."""


class TokenTexts:
    """Gives each token of a text its part of it: whole characters, at the token that ends them."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._chars = 0

    def place(self, data: bytes, *, final: bool = False) -> tuple[str, int]:
        """Return the text of the next token, whose bytes are DATA, and where that begins."""
        text, offset = self._decoder.decode(data, final), self._chars
        self._chars += len(text)
        return text, offset


@dataclass(slots=True, kw_only=True)
class Choice:
    """One answer as it comes in.

    Attributes:
        places: Where the tokens that were streamed are in its text.
    """

    text: list[str] = field(default_factory=lambda: list[str]())
    logprobs: list[dict[str, Any]] = field(default_factory=lambda: list[dict[str, Any]]())
    finished: Finished | None = None
    places: TokenTexts = field(default_factory=TokenTexts)

    def add(self, told: Started | Piece | Finished) -> None:
        """Take in what was said."""
        if isinstance(told, Piece):
            self.text.append(told.text)
            self.logprobs += told.logprobs
        elif isinstance(told, Finished):
            self.finished = told

    @property
    def reason(self) -> str:
        """Return why it ended."""
        return REASONS[self.finished.reason] if self.finished else "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The head that all objects of one request share.

    Attributes:
        kind: Whether it answers a chat or a completion.
        tools: The functions that may be called.
        most_calls: So many calls an answer makes at most; `None` is any number.
        n: Choices for each prompt.
    """

    id: str
    model: str
    created: int
    kind: Literal["chat", "text"]
    tools: frozenset[str] = frozenset()
    most_calls: int | None = None
    n: int = 1

    def _object(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id, "object": name, "created": self.created, "model": self.model,
            "choices": choices,
        }  # fmt: skip

    def calls_in(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return TEXT without its tool calls, and the calls that count."""
        rest, calls = found_in(text, self.tools)
        return rest, calls[: self.most_calls]

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the answer that is not streamed."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        shown = [self._choice(i, choice) for i, choice in enumerate(choices)]
        return self._object(name, shown) | {"usage": usage(choices, self.n)}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        if self.kind == "text":
            shown = _text_logprobs(choice.logprobs, TokenTexts(), final=True)
            return {
                "index": index, "text": text, "finish_reason": choice.reason, "logprobs": shown,
            }  # fmt: skip
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        reason = choice.reason
        if self.tools:
            rest, calls = self.calls_in(text)
            if calls:
                message |= {"content": rest or None, "tool_calls": _calls(self.id, calls)}
                reason = "tool_calls"
        return {
            "index": index, "message": message, "finish_reason": reason,
            "logprobs": _chat_logprobs(choice.logprobs),
        }  # fmt: skip

    def first(self, index: int) -> dict[str, Any]:
        """Return the chunk that begins a choice of a chat."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece, places: TokenTexts) -> dict[str, Any]:
        """Return the chunk of PIECE; PLACES has seen the tokens before it."""
        if self.kind == "chat":
            shown = _chat_logprobs(piece.logprobs)
            return self._chunk(index, {"content": piece.text}, logprobs=shown)
        shown = _text_logprobs(piece.logprobs, places)
        return self._chunk(index, {}, text=piece.text, logprobs=shown)

    def calls(self, index: int, calls: Sequence[ToolCall]) -> dict[str, Any]:
        """Return the chunk of tool calls."""
        numbered = [{"index": n} | call for n, call in enumerate(_calls(self.id, calls))]
        return self._chunk(index, {"tool_calls": numbered})

    def last(self, index: int, reason: str) -> dict[str, Any]:
        """Return the chunk that ends a choice."""
        return self._chunk(index, {}, reason=reason)

    def usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the chunk that ends a stream with its usage."""
        return self._object(self._chunk_name, []) | {"usage": usage(choices, self.n)}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat" else "text_completion"

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        text: str = "",
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": logprobs}
        body |= {"delta": delta} if self.kind == "chat" else {"text": text}
        return self._object(self._chunk_name, [body])


def usage(choices: Sequence[Choice], n: int = 1) -> dict[str, Any]:
    """Return the tokens of CHOICES, N for each prompt, which counts once.

    `cached_tokens` were not computed anew.
    """
    firsts = [choice.finished for choice in choices[::n] if choice.finished is not None]
    prompt = sum(each.prompt_tokens for each in firsts)
    answered = sum(each.finished.completion_tokens for each in choices if each.finished)
    return {
        "prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered,
        "prompt_tokens_details": {"cached_tokens": sum(each.cached_tokens for each in firsts)},
    }  # fmt: skip


def models(names: Iterable[tuple[str, str]], created: int) -> dict[str, Any]:
    """Return the list of models; NAMES are (name, `base` or `genome`)."""
    return {"object": "list", "data": [model(name, kind, created) for name, kind in names]}


def model(name: str, kind: str, created: int) -> dict[str, Any]:
    """Return one model of the list."""
    return {"id": name, "object": "model", "created": created, "owned_by": "local", "kind": kind}


def embeddings(
    model: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool
) -> dict[str, Any]:
    """Return the embeddings of a request; base64 is of little-endian float32."""
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(v) if as_base64 else list(v)}
        for i, v in enumerate(vectors)
    ]
    return {
        "object": "list", "data": data, "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }  # fmt: skip


def error(message: str, *, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI's clients understand it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _calls(id: str, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{id[-12:]}_{n}", "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for n, call in enumerate(calls)
    ]  # fmt: skip


def _chat_logprobs(shown: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not shown:
        return None
    return {"content": [_without_id(each) for each in shown], "refusal": None}


def _without_id(shown: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in shown.items() if name != "id"}
    if "top_logprobs" in kept:
        kept["top_logprobs"] = [_without_id(each) for each in kept["top_logprobs"]]
    return kept


def _text_logprobs(
    shown: Sequence[dict[str, Any]], places: TokenTexts, *, final: bool = False
) -> dict[str, Any] | None:
    if not shown:
        return None
    last = len(shown) - 1
    placed = [
        places.place(bytes(each["bytes"]), final=final and i == last)
        for i, each in enumerate(shown)
    ]
    return {
        "tokens": [text for text, _ in placed],
        "token_logprobs": [each["logprob"] for each in shown],
        "top_logprobs": [_likeliest(each) for each in shown],
        "text_offset": [offset for _, offset in placed],
    }


def _likeliest(shown: dict[str, Any]) -> dict[str, float] | None:
    """Return the likeliest tokens at the place of one, and itself; none before the first token."""
    if shown["logprob"] is None:
        return None
    found: dict[str, float] = {}
    for each in (*shown["top_logprobs"], shown):
        found.setdefault(each["token"], each["logprob"])
    return found
