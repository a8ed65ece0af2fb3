"""Tool calls in the text of an answer: what Hermes, Qwen and Llama templates make models write."""

import json
import re
from dataclasses import dataclass
from typing import Any, cast

_TAGGED = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function; `arguments` is JSON."""

    name: str
    arguments: str


def found_in(text: str, names: frozenset[str]) -> tuple[str, list[ToolCall]]:
    """Return TEXT without its tool calls, and the calls: `<tool_call>` blocks, or one JSON object.

    Only functions of NAMES are called; anything else stays text.
    """
    calls = [call for body in _TAGGED.findall(text) if (call := _call(body, names))]
    if calls:
        return _TAGGED.sub("", text).strip(), calls
    alone = _call(text.strip(), names)
    return ("", [alone]) if alone else (text, [])


def _call(text: str, names: frozenset[str]) -> ToolCall | None:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    given = cast("dict[str, Any]", said)
    name = given.get("name")
    if not isinstance(name, str) or name not in names:
        return None
    arguments: Any = given.get("arguments", given.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, arguments)
