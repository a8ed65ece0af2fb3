"""What comes in at `/v1`: OpenAI's requests, what others call the same things, and our own fields.

Fields that cannot change the answer are ignored (`user`, `metadata`, `store`). Those that would
change it and that we do not have are refused by name (`REFUSED`).

Source: the OpenAI API reference (chat, completions, embeddings), 2026; for the names of others the
servers of llama.cpp, vLLM, SGLang and LM Studio.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from arsenale_core.errors import InvalidError
from arsenale_inference.json_schemas import forced_call
from arsenale_inference.messages import Generate, Sampling

MOST_CHOICES = 8
MOST_STOPS = 16
MOST_LOGPROBS = 20
MOST_PROMPTS = 64
MOST_INPUTS = 2_048

MOST_NAME = 4_000
"""Characters of `model`: a base and 16 layers with hashes and weights."""

MOST_INTEGER = 2**31 - 1
"""Numbers that llama.cpp takes have 32 bits."""

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Parts of a message that are text, with the field that has it."""

ALIASES: Mapping[str, str] = {
    "n_predict": "max_tokens", "repeat_penalty": "repetition_penalty",
}  # fmt: skip
"""Fields of other servers by the name that they have here."""

_SCHEMA = "use response_format with a json_schema"
REFUSED: Mapping[str, str] = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "guided_json": _SCHEMA,
    "guided_choice": f"{_SCHEMA} and its enum",
    "guided_regex": f"{_SCHEMA} and its pattern",
    "guided_grammar": "use grammar, in GBNF",
    "structured_outputs": _SCHEMA,
    "regex": f"{_SCHEMA} and its pattern",
    "ebnf": "use grammar, in GBNF",
    "structural_tag": _SCHEMA,
    "stop_token_ids": "use stop, or logit_bias",
    "bad_words": "use logit_bias",
    "min_tokens": "use ignore_eos with max_tokens",
    "use_beam_search": "leave it out",
    "prompt_logprobs": "use /v1/completions with echo and logprobs",
    "audio": "ask for text",
    "web_search_options": "offer a tool that searches",
}
"""Fields that would change the answer and that nothing here does, with what to use instead."""


def _none_if_minus_one(value: Any) -> Any:
    return None if value == -1 else value


def _zero_if_minus_one(value: Any) -> Any:
    return 0 if value == -1 else value


def _bias_by_token(value: Any) -> Any:
    """Take llama.cpp's list of `[token, bias]` too, and an empty list for none."""
    if not isinstance(value, list):
        return cast("object", value)
    pairs = cast("list[list[Any]]", value)
    if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):  # pyright: ignore[reportUnnecessaryIsInstance]
        return {str(pair[0]): pair[1] for pair in pairs}
    return pairs


Tokens = Annotated[list[Annotated[int, Field(ge=0, le=MOST_INTEGER)]], Field(min_length=1)]
Most = Annotated[
    Annotated[int, Field(ge=1, le=MOST_INTEGER)] | None, BeforeValidator(_none_if_minus_one)
]
"""How many tokens; -1 is as many as the context leaves, as with llama.cpp and LM Studio."""

MostOrNone = Annotated[
    Annotated[int, Field(ge=0, le=MOST_INTEGER)] | None, BeforeValidator(_none_if_minus_one)
]
"""The same for completions, where 0 computes the prompt alone."""

Bias = Annotated[float, Field(ge=-100, le=100)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Take a field that is null for one that is not there, as clients mean it."""
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        return {name: value for name, value in given.items() if value is not None}


class StreamOptions(_Request):
    """What a stream brings besides the text."""

    include_usage: bool = False


class JsonSchema(_Request):
    """A schema with its name, as `response_format` has it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def schema_of(self) -> dict[str, Any]:
        """Return the schema; without one any JSON value fits."""
        if self.schema_ is None and self.model_extra:
            raise InvalidError(
                f"response_format.json_schema has no `schema`, but {', '.join(self.model_extra)}",
                hint='put the schema there: {"name": "answer", "schema": {...}}',
            )
        return self.schema_ or {}


class ResponseFormat(_Request):
    """Whether the answer is text or JSON."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def schema_of(self) -> dict[str, Any] | None:
        """Return the JSON schema that the answer follows."""
        match self.type:
            case "text":
                if self.schema_ is not None or self.json_schema is not None:
                    raise InvalidError(
                        "response_format has a schema and asks for text",
                        hint="set its type to json_schema",
                    )
                return None
            case "json_object":
                return self.schema_ or {"type": "object"}
            case "json_schema":
                if self.json_schema is not None:
                    return self.json_schema.schema_of()
                if self.schema_ is None:
                    raise InvalidError("response_format has no json_schema", hint="add it")
                return self.schema_


class Common(_Request):
    """What chats and completions have in common; `priority` and what follows it are ours.

    Attributes:
        priority: 0 to 10; 10 goes first.
        timeout: How long the answer may take once it has started, seconds.
        repetition_penalty: Divides the logits of tokens that were generated (CTRL, Keskar et al.,
            2019); 1 leaves them.
        json_schema: llama.cpp's name of the schema of the answer.
    """

    @model_validator(mode="before")
    @classmethod
    def _by_our_names(cls, data: Any) -> Any:
        """Take fields of other servers, and refuse those that nothing here does."""
        if not isinstance(data, dict):
            return data
        given = dict(cast("dict[str, Any]", data))
        for other, ours in ALIASES.items():
            if given.get(other) is not None:
                given.setdefault(ours, given[other])
        for name, instead in REFUSED.items():
            if given.get(name) not in (None, False, 0, "", "none", "auto", [], {}):
                raise InvalidError(f"`{name}` is not supported", hint=instead)
        return given

    model: str = Field(min_length=1, max_length=MOST_NAME)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[int, Bias] | None, BeforeValidator(_bias_by_token)] = None
    response_format: ResponseFormat | None = None
    priority: int = Field(5, ge=0, le=10)
    timeout: float | None = Field(None, gt=0, le=86_400)
    top_k: Annotated[
        Annotated[int, Field(ge=0, le=MOST_INTEGER)], BeforeValidator(_zero_if_minus_one)
    ] = 0
    min_p: float = Field(0, ge=0, le=1)
    grammar: str | None = Field(None, max_length=1_000_000)
    ignore_eos: bool = False
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    json_schema: dict[str, Any] | None = None
    best_of: int | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the texts that end the answer."""
        found = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(found) > MOST_STOPS:
            raise InvalidError(f"{len(found)} stop texts", hint=f"give {MOST_STOPS} at most")
        return found

    @property
    def with_usage(self) -> bool:
        """Say whether a stream ends in its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def deterministic(self) -> bool:
        """Say whether the same request has the same answer."""
        return self.n == 1 and (self.temperature == 0 or self.seed is not None)

    def sampling(self, choice: int, logprobs: int) -> Sampling:
        """Return how the tokens of a CHOICE are chosen."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed is None else (self.seed + choice) % 2**32,
            bias=tuple(sorted((self.logit_bias or {}).items())),
            logprobs=logprobs,
        )

    def asked(self, choice: int, logprobs: int, max_tokens: int | None) -> dict[str, Any]:
        """Return what a `Generate` of this request has besides its prompt."""
        schema = self._schema()
        if self.best_of is not None and self.best_of != self.n:
            raise InvalidError(
                f"best_of {self.best_of} with n {self.n}: answers are not ranked",
                hint="leave best_of out; n gives several answers",
            )
        return {
            "id": "", "max_tokens": max_tokens, "stop": self.stops,
            "grammar": self.grammar or None,
            "schema": schema, "sampling": self.sampling(choice, logprobs),
            "priority": self.priority, "deadline_s": self.timeout, "ignore_end": self.ignore_eos,
        }  # fmt: skip

    def _schema(self) -> dict[str, Any] | None:
        """Return the JSON schema that the answer follows, which may be given in one way only."""
        found = self.response_format.schema_of() if self.response_format else None
        given = {
            "response_format": found is not None,
            "json_schema": self.json_schema is not None,
            "grammar": bool(self.grammar),
        }
        names = [name for name, there in given.items() if there]
        if len(names) > 1:
            raise InvalidError(
                f"{' and '.join(names)} both say what the answer looks like", hint="give one"
            )
        return self.json_schema if found is None else found


class Function(_Request):
    """A function that the model may call."""

    name: str = Field(max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Request):
    """A tool, of which there is one kind."""

    type: Literal["function"] = "function"
    function: Function


class Named(_Request):
    """What names a function."""

    name: str


class NamedTool(_Request):
    """The tool that must be called."""

    type: Literal["function"] = "function"
    function: Named


class Chat(Common):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)
    max_tokens: Most = None
    max_completion_tokens: Most = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_LOGPROBS)
    tools: list[Tool] = Field(default_factory=lambda: list[Tool](), max_length=128)
    tool_choice: Literal["none", "auto", "required", "any"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=lambda: dict[str, Any]())
    reasoning_effort: str | None = None
    documents: list[dict[str, Any]] | None = None
    modalities: list[str] = Field(default_factory=lambda: ["text"])

    def generate(self) -> list[list[Generate]]:
        """Return a request for each choice of the one prompt."""
        self._check()
        most = self.max_completion_tokens or self.max_tokens
        messages = tuple(_plain(message) for message in self.messages)
        return [
            [
                Generate(
                    **(self.asked(choice, self.top_logprobs if self.logprobs else -1, most)
                       | self._forced()),
                    messages=messages,
                    template_kwargs=self.template_kwargs,
                    tools=tuple(tool.model_dump(exclude_none=True) for tool in self.offered),
                )
                for choice in range(self.n)
            ]
        ]  # fmt: skip

    def _check(self) -> None:
        """Refuse fields that would be ignored beside each other."""
        if self.top_logprobs and not self.logprobs:
            raise InvalidError("top_logprobs needs logprobs", hint="set logprobs to true")
        if self.modalities != ["text"]:
            raise InvalidError("answers are text only", hint='set modalities to ["text"]')
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise InvalidError("tool_choice asks for a call, and `tools` is empty", hint="add it")
        if self.must_call and (self.grammar or self.json_schema is not None):
            raise InvalidError(
                "a call that must be made follows the schema of its tool",
                hint="leave grammar and json_schema out, or set tool_choice to auto",
            )

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Return what the chat template finds besides the messages and tools."""
        taken = {"messages", "tools"} & self.chat_template_kwargs.keys()
        if taken:
            raise InvalidError(
                f"chat_template_kwargs has {min(taken)}", hint="give it as a field of the request"
            )
        more = {"reasoning_effort": self.reasoning_effort, "documents": self.documents}
        given = {name: value for name, value in more.items() if value is not None}
        return given | self.chat_template_kwargs

    @property
    def offered(self) -> list[Tool]:
        """Return the tools that may be called."""
        return [] if self.tool_choice == "none" else self.tools

    @property
    def must_call(self) -> bool:
        """Say whether the answer has to be a tool call."""
        return bool(self.tools) and self.tool_choice not in (None, "none", "auto")

    def _forced(self) -> dict[str, Any]:
        """Return the schema of a tool call that must be made; no stop text cuts through it."""
        if not self.must_call:
            return {}
        wanted = self.tools
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            wanted = [tool for tool in self.tools if tool.function.name == name]
        if not wanted:
            raise InvalidError("tool_choice names no tool of `tools`", hint="use one of theirs")
        calls = [(tool.function.name, tool.function.parameters) for tool in wanted]
        return {"schema": forced_call(calls), "stop": ()}


class Completion(Common):
    """`POST /v1/completions`."""

    prompt: str | list[str] | Tokens | list[Tokens] = ""
    max_tokens: MostOrNone = 16
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: bool = False
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Return each prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [each for each in self.prompt if not isinstance(each, int)]

    def generate(self) -> list[list[Generate]]:
        """Return for each prompt a request for each choice."""
        if self.suffix is not None:
            raise InvalidError("`suffix` is not supported", hint="leave it out")
        if self.echo and self.stream:
            raise InvalidError("`echo` does not go with `stream`", hint="leave one out")
        prompts = self.prompts
        if not 0 < len(prompts) <= MOST_PROMPTS:
            raise InvalidError(f"{len(prompts)} prompts", hint=f"give 1 to {MOST_PROMPTS}")
        most = -1 if self.logprobs is None else self.logprobs
        return [
            [
                Generate(
                    **self.asked(choice, most, self.max_tokens),
                    text=prompt if isinstance(prompt, str) else None,
                    tokens=None if isinstance(prompt, str) else tuple(prompt),
                    echo=self.echo,
                )
                for choice in range(self.n)
            ]
            for prompt in prompts
        ]


class Embedding(_Request):
    """`POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=MOST_NAME)
    input: str | list[str] | Tokens | list[Tokens]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """Return each input."""
        if self.dimensions is not None:
            raise InvalidError("`dimensions` cannot be chosen", hint="leave it out")
        given: list[Any] = [self.input] if isinstance(self.input, str) else list(self.input)
        if given and isinstance(given[0], int):
            given = [given]
        if not 0 < len(given) <= MOST_INPUTS:
            raise InvalidError(f"{len(given)} inputs", hint=f"give 1 to {MOST_INPUTS}")
        return tuple(each if isinstance(each, str) else tuple(each) for each in given)


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return MESSAGE with its content as text: parts of a kind that is not text are refused."""
    content: Any = message.get("content")
    if content is None:
        return {**message, "content": ""}  # as with tool calls; templates want a text
    if not isinstance(content, list):
        return message
    return {**message, "content": "".join(_part(part) for part in cast("list[Any]", content))}


def _part(part: Any) -> str:
    """Return the text of a PART of a message."""
    given = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind = given.get("type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise InvalidError("a message has parts that are not text", hint="send text only")
    return str(given.get(TEXT_PARTS[kind]) or "")
