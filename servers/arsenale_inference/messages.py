"""What the sidecar and its model workers say to each other: one JSON object a line.

Tokens of one step travel together, so that the cost of a line is shared by all who are served.
Nothing here is public; both ends are of the same version.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

from arsenale_core.errors import (
    ArsenaleError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

Stack: TypeAlias = tuple[tuple[str, float], ...]
"""Layers by name with their weights; `()` is the base model."""

Finish: TypeAlias = Literal["stop", "length", "cancelled", "deadline"]
"""Why a generation ended: a stop text or end token, `max_tokens`, its client, its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: Only so many of the likeliest; 0 is all.
        top_p: Only the likeliest whose probabilities reach this sum (nucleus sampling,
            Holtzman et al., ICLR 2020).
        min_p: Only those of at least this share of the likeliest's probability.
        frequency_penalty: Taken off a logit for each time the token was generated.
        presence_penalty: Taken off once when the token was generated at all.
        repetition_penalty: Divides positive logits of tokens that were generated, and multiplies
            negative ones (CTRL, Keskar et al., 2019); 1 leaves them.
        seed: Makes a sampled answer come again; `None` is a fresh one.
        bias: Added to logits, by token.
        logprobs: So many of the likeliest tokens are reported with each; -1 reports none, 0 the
            chosen one alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    bias: tuple[tuple[int, float], ...] = ()
    logprobs: int = -1


Kind: TypeAlias = Literal["not_found", "conflict", "invalid", "unavailable"]
"""The errors that travel."""

# To a worker.


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Continue a prompt; give exactly one of `text`, `tokens` and `messages`.

    Attributes:
        id: Unique while the worker lives.
        messages: Of a chat, for the model's template, with `tools`.
        template_kwargs: What the template finds besides, by name.
        max_tokens: At most so many, 0 computes the prompt alone; `None` is what the context leaves.
        stop: Texts that end the answer and are not part of it.
        grammar: GBNF that the answer follows.
        schema: JSON schema that the answer follows.
        deadline_s: How long it may take from now, seconds.
        ignore_end: Go on past end tokens.
        echo: Give the text of the prompt back before the answer, with the log-probability of each
            of its tokens when `sampling.logprobs` asks for those.
    """

    id: str
    stack: Stack = ()
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    grammar: str | None = None
    schema: dict[str, Any] | None = None
    priority: int = 5
    deadline_s: float | None = None
    ignore_end: bool = False
    echo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Give the base model's embeddings of texts or token lists, mean-pooled, of unit length."""

    id: str
    inputs: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop a generation at its next token, or in its prefill; it ends as `cancelled`."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddLayer:
    """Load a layer of a GGUF file."""

    id: str
    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLayer:
    """Forget a layer; no generation that runs or waits here may use it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Ask for a `Pong`; the worker answers between two steps."""

    id: str


Request: TypeAlias = Generate | Embed | Cancel | AddLayer | DropLayer | Ping

# From a worker.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The model is loaded.

    Attributes:
        context: Tokens that all sequences share.
        sequences: Generations that run at once.
        template: Whether it has a chat template.
        model: What its file says, for `/v1/models` and `doctor`.
        composer: How layers are mixed: `c`, `python` or `none`; `reason` says why no better way.
        rss_bytes: Resident memory, with the model in it.
    """

    context: int
    sequences: int
    template: bool
    model: dict[str, Any]
    composer: str
    reason: str
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A generation has its sequence: so many tokens of the prompt, so many known from before."""

    id: str
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of an answer; its tokens may have no text (half a character, a held back stop)."""

    id: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """What one step brought to all who are served."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A generation ended; the times are seconds."""

    id: str
    reason: Finish
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    waited_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request cannot be done; KIND names an error of `arsenale_core.errors`."""

    id: str
    kind: Kind
    what: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The embeddings of a request, in order, and how many tokens they took."""

    id: str
    vectors: tuple[tuple[float, ...], ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReady:
    """A layer is loaded or dropped; how many bytes it takes."""

    id: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """How a worker does; counts are since its start.

    Attributes:
        live: Generations that run.
        waiting: Generations that wait for a sequence or for room in the KV cache.
        held_tokens: Tokens of the KV cache that are promised to generations.
        rss_bytes: Resident memory.
    """

    id: str
    live: int
    waiting: int
    held_tokens: int
    steps: int
    generated_tokens: int
    prefilled_tokens: int
    cached_tokens: int
    step_s: float
    rss_bytes: int
    layers: dict[str, int]
    ways: dict[str, int]


Event: TypeAlias = (
    Ready | Started | Pieces | Finished | Failed | Embedded | LayerReady | Pong
)  # fmt: skip

_KINDS: dict[str, Any] = {
    each.__name__: each
    for each in (
        Generate, Embed, Cancel, AddLayer, DropLayer, Ping,
        Ready, Started, Pieces, Finished, Failed, Embedded, LayerReady, Pong,
    )
}  # fmt: skip


def kind_of(error: ArsenaleError) -> Kind:
    """Return under which name ERROR travels."""
    match error:
        case NotFoundError():
            return "not_found"
        case ConflictError():
            return "conflict"
        case InvalidError():
            return "invalid"
        case _:
            return "unavailable"


def error_of(failed: Failed) -> ArsenaleError:
    """Return the error that FAILED tells of."""
    match failed.kind:
        case "not_found" | "invalid":
            return InvalidError(failed.what, hint=failed.hint)
        case "conflict":
            return ConflictError(failed.what, hint=failed.hint)
        case "unavailable":
            return UnavailableError(failed.what, hint=failed.hint)


def encode(message: Request | Event) -> bytes:
    """Return MESSAGE as one line."""
    return orjson.dumps(
        {"is": type(message).__name__, **_fields(message)}, option=orjson.OPT_APPEND_NEWLINE
    )


def decode(line: bytes) -> Any:
    """Return the message of LINE, a `Request` or an `Event`.

    Raises:
        ValueError: It is none: the other end is broken.
    """
    found: dict[str, Any] = orjson.loads(line)
    try:
        kind = _KINDS[found.pop("is")]
        return kind(**{name: _value(kind, name, value) for name, value in found.items()})
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"no message: {line[:200]!r}") from exc


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}


def _value(kind: Any, name: str, value: Any) -> Any:
    match name:
        case "sampling":
            given: dict[str, Any] = {**value, "bias": tuple((t, b) for t, b in value["bias"])}
            return Sampling(**given)
        case "pieces":
            return tuple(_piece(each) for each in value)
        case "stack":
            return tuple((layer, float(weight)) for layer, weight in value)
        case "inputs":
            return tuple(each if isinstance(each, str) else tuple(each) for each in value)
        case "tokens" if kind is Generate:
            return None if value is None else tuple(value)
        case "messages" | "tools" | "stop":
            return None if value is None else tuple(value)
        case "vectors":
            return tuple(tuple(each) for each in value)
        case _:
            return value


def _piece(value: dict[str, Any]) -> Piece:
    return Piece(
        id=value["id"], text=value["text"], tokens=tuple(value["tokens"]),
        logprobs=tuple(value["logprobs"]),
    )  # fmt: skip
