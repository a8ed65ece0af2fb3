"""Reads hook events whose JSON or encoding is damaged: what can be read counts. Pure.

Used only for what a strict parser refuses: a byte order mark, UTF-16, bytes that are not UTF-8,
half a surrogate pair, NaN, integers of thousands of digits, nesting beyond any parser, a missing
end. Text that cannot be decoded becomes U+FFFD; a number that is not one becomes null.
"""

import codecs
import json
import re
from typing import Any, cast

from arsenale_telemetry import hosts

MAX_DEPTH = 100
"""Containers nested deeper are replaced by `TOO_DEEP`."""

TOO_DEEP = "[nested too deeply]"

MAX_DIGITS = 300
"""Longer integers are read as null: Python refuses them past 4,300 digits, for their cost."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n,]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_int=_integer)


def decode(content: bytes) -> str:
    """Return the text of CONTENT, whatever its encoding; undecodable bytes become U+FFFD."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
    ):  # fmt: skip
        if content.startswith(mark) and "{" in (text := content.decode(name, "replace")):
            return text
    if content[:2] == b"{\0":
        return content.decode("utf-16-le", "replace")
    if content[:2] == b"\0{":
        return content.decode("utf-16-be", "replace")
    return content.decode("utf-8-sig", "replace")


def documents(content: bytes) -> tuple[list[dict[str, object]], list[bytes]]:
    """Return the events in CONTENT, and the parts that name no event."""
    text = decode(content)
    found: list[dict[str, object]] = []
    at = _skip(text, 0)
    while at < len(text):
        begin = text.find("{", at)
        if begin < 0 or (found and text[at:begin].strip()):
            break
        value, end = _value(text, begin)
        clean = _clean(value, 0)
        event = cast("dict[str, object]", clean)
        if hosts.first(event, hosts.EVENT) is None:
            break
        found.append(event)
        at = _skip(text, end)
    rest = text[at:].strip("\0 \t\r\n,\ufeff")
    return found, [rest.encode("utf-8", "replace")] if rest else []


def _skip(text: str, at: int) -> int:
    found = re.compile(r"[\s\0\ufeff,]*").match(text, at)
    return found.end() if found else at


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return the value at AT and where it ends; of one that is cut off, what can be read."""
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        pass
    except (ValueError, StopIteration, IndexError):
        pass
    match text[at : at + 1]:
        case "{":
            return _members(text, at)
        case "[":
            return TOO_DEEP, _end_of_container(text, at)
        case '"':
            return text[at + 1 :], len(text)  # cut off within a text
        case _:
            return None, len(text)


def _members(text: str, at: int) -> tuple[dict[str, Any], int]:
    """Return the members of the object at AT up to where it is cut off or cannot be read."""
    members: dict[str, Any] = {}
    end = _end_of_container(text, at)
    at += 1
    while True:
        at = _space(text, at)
        try:
            key, at = _DECODER.raw_decode(text, at)
        except (ValueError, StopIteration, IndexError, RecursionError):
            return members, end
        at = _space(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            return members, end
        at = _space(text, at + 1)
        if at >= len(text):
            return members, end
        if text[at] == "{" and _depth(text, at) > MAX_DEPTH:
            members[key], at = TOO_DEEP, _end_of_container(text, at)
        else:
            members[key], at = _value(text, at)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _end_of_container(text: str, at: int) -> int:
    """Return the position after the bracket that closes the one at AT; the end if none does."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if depth == 0:
                return token.end()
    return len(text)


def _depth(text: str, at: int) -> int:
    """Return how deeply the container at AT is nested."""
    depth = deepest = 0
    for token in _TOKEN.finditer(text, at):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
            if depth == 0:
                break
    return deepest


def _clean(value: Any, depth: int) -> Any:
    """Return VALUE without lone surrogates, infinities and nesting beyond MAX_DEPTH."""
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if not isinstance(value, dict | list):
        return value
    if depth > MAX_DEPTH:
        return TOO_DEEP
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value).items()
        return {_clean(key, depth): _clean(item, depth + 1) for key, item in members}
    return [_clean(item, depth + 1) for item in cast("list[Any]", value)]
