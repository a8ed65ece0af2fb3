"""Chat templates of model files, rendered as the authors of models test them. Pure.

Source: transformers 5.24, `apply_chat_template`: the sandbox, its filters and functions, and the
names that a template finds. Templates are from strangers: they run in jinja's sandbox.
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from arsenale_core.errors import InvalidError

Message: TypeAlias = dict[str, Any]
Form: TypeAlias = Callable[[Message], Message]
"""How a message reaches the template."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of one thing: what a model thought before it answered."""

_FAILURES = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError,
    RecursionError,
)  # fmt: skip


class RefusedError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what an assistant wrote: its body, for us."""

    tags = {"generation"}  # noqa: RUF012  # jinja's own form

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Return the body of the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class ChatTemplate:
    """One template. How earlier tool calls reach it is found out once, with a call of our own."""

    def __init__(self, text: str) -> None:
        """Compile TEXT.

        Raises:
            InvalidError: It is not a jinja template.
        """
        made = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        made.filters["tojson"] = _to_json
        names: dict[str, Any] = made.globals
        names.update(raise_exception=_refuse, strftime_now=_now)
        try:
            self._compiled = made.from_string(text)
        except jinja2.TemplateError as exc:
            raise InvalidError(
                f"the model's chat template cannot be read ({exc})", hint="use /v1/completions"
            ) from exc
        self._form: Form | None = None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        special: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt for MESSAGES.

        Args:
            messages: As OpenAI has them, contents as text.
            tools: The functions that may be called.
            special: Special tokens by the name that templates use (`bos_token`).
            more: `chat_template_kwargs` of the request.

        Raises:
            InvalidError: The template refuses or fails.
        """
        form = self._form_of_calls() if any(m.get("tool_calls") for m in messages) else as_objects
        names = {
            "documents": None,
            "add_generation_prompt": True,
            **(special or {}),
            **(more or {}),
        }
        try:
            said = self._rendered([form(m) for m in messages], list(tools), names)
        except RefusedError as exc:
            raise InvalidError(
                f"the model's chat template refuses this chat: {exc}",
                hint="these are the template's own words; change the chat, or use /v1/completions",
            ) from exc
        except _FAILURES as exc:
            raise InvalidError(
                f"the model's chat template fails on this chat: {exc}",
                hint="these are jinja's words about the template in the model file; change the "
                "chat, or use /v1/completions with a prompt of your own",
            ) from exc
        return said.encode("utf-8", "surrogatepass").decode("utf-8", "replace")

    def _rendered(
        self, messages: list[Message], tools: list[dict[str, Any]], names: Mapping[str, Any]
    ) -> str:
        return self._compiled.render({**names, "messages": messages, "tools": tools or None})

    def _form_of_calls(self) -> Form:
        """Return the first form that writes a call of ours with its value as it is."""
        if self._form is None:
            said = {form: self._probe(form) for form in (as_objects, as_texts, as_given)}
            right = [form for form, text in said.items() if text is not None and _is_right(text)]
            able = [form for form, text in said.items() if text is not None]
            self._form = (right or able or [as_objects])[0]
        return self._form

    def _probe(self, form: Form) -> str | None:
        names = {"documents": None, "add_generation_prompt": True, "bos_token": "", "eos_token": ""}
        try:
            return self._rendered([form(m) for m in _PROBE], [_PROBE_TOOL], names)
        except _FAILURES:
            return None


@cache
def template_of(text: str) -> ChatTemplate:
    """Return the template TEXT, compiled once."""
    return ChatTemplate(text)


# ---------------------------------------------------------------- forms of messages
def as_objects(message: Message) -> Message:
    """Return MESSAGE with the arguments of its calls as objects and a text as its content."""
    return _with_calls(_clean(message), _object)


def as_texts(message: Message) -> Message:
    """Return MESSAGE with the arguments of its calls as JSON texts."""
    return _with_calls(_clean(message), _text)


def as_given(message: Message) -> Message:
    """Return MESSAGE as OpenAI's clients send it: arguments as texts, no content as null."""
    found = as_texts(message)
    return found | {"content": None} if found.get("tool_calls") and not found["content"] else found


def _clean(message: Message) -> Message:
    """Return MESSAGE without nulls, with a content, and its reasoning under the usual names."""
    found = {key: value for key, value in message.items() if value is not None}
    found.setdefault("content", "")
    thought = next((found[name] for name in REASONING if name in found), None)
    if thought is not None:
        found["reasoning_content"] = thought
        found.setdefault("thinking", thought)
    return found


def _with_calls(message: Message, change: Callable[[Any], Any]) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    changed: list[Any] = []
    for call in cast("list[Any]", calls):
        function = cast("Message", call).get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            named = cast("Message", function)
            arguments = change(named.get("arguments"))
            changed.append({**call, "function": {**named, "arguments": arguments}})
        else:
            changed.append(call)
    return {**message, "tool_calls": changed}


def _object(arguments: Any) -> Any:
    """Return ARGUMENTS as an object; what is not a JSON object stays as it is."""
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        found: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return cast("Message", found) if isinstance(found, dict) else arguments


def _text(arguments: Any) -> Any:
    if arguments is None:
        return "{}"
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


_PROBE: list[Message] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant", "content": None,
        "tool_calls": [
            {
                "id": "call00001", "type": "function",  # Mistral's templates want nine characters
                "function": {"name": "weather", "arguments": '{"city": "Linz"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "4"},
]  # fmt: skip
_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}  # fmt: skip


def _is_right(said: str) -> bool:
    """Say whether the probe's value is in SAID, and not in a quoted text of JSON."""
    return "Linz" in said and '\\"Linz' not in said and "\\u0022Linz" not in said


# ---------------------------------------------------------------- what templates call
def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(reason: str) -> None:
    raise RefusedError(reason)


def _now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)
