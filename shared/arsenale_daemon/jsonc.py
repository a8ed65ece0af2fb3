"""Edits JSON with comments in place: what does not change keeps every byte. Pure.

Comments, trailing commas, a byte order mark, CRLF, doubled keys and the order of keys stay.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from json import decoder
from typing import Any, TypeAlias, cast

Edit: TypeAlias = tuple[int, int, str]

_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)
_scan_string: Callable[[str, int], tuple[str, int]] = cast("Any", decoder).scanstring

_TRAILING = re.compile(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])')


def without_comments(text: str) -> str:
    """Return TEXT with spaces for comments and a byte order mark, of the same length."""
    text = " " + text[1:] if text.startswith("\ufeff") else text
    return _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\r\n]", " ", m[0]), text)


def plain(text: str) -> str:
    """Return TEXT as JSON of the same length: trailing commas are spaces too."""
    return _TRAILING.sub(lambda m: m[0] if m[0][0] == '"' else " ", without_comments(text))


@dataclass(slots=True)
class _Node:
    """A value: where it begins and ends; the children of a container, by key or by place."""

    begin: int
    end: int
    keys: list[str] = field(default_factory=lambda: list[str]())
    starts: list[int] = field(default_factory=lambda: list[int]())
    values: "list[_Node]" = field(default_factory=lambda: list["_Node"]())


def edited(text: str, wanted: dict[str, Any]) -> str:
    """Return TEXT, JSON with comments, changed where it must be so that it says WANTED."""
    strict = plain(text)
    root = _node(strict, len(strict) - len(strict.lstrip()))
    edits: list[Edit] = []
    _change(text, root, json.loads(strict), wanted, edits)
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return text


def _node(text: str, at: int) -> _Node:
    if text[at] not in "{[":
        return _Node(at, json.JSONDecoder().raw_decode(text, at)[1])
    node, close = _Node(at, at), "}" if text[at] == "{" else "]"
    at = _skip(text, at + 1)
    while text[at] != close:
        node.starts.append(at)
        if close == "}":
            key, at = _scan_string(text, at + 1)
            node.keys.append(key)
            at = _skip(text, _skip(text, at) + 1)
        child = _node(text, at)
        node.values.append(child)
        at = _skip(text, child.end)
        at = _skip(text, at + 1) if text[at] == "," else at
    node.end = at + 1
    return node


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _change(text: str, node: _Node, old: Any, new: Any, edits: list[Edit]) -> None:
    """Add to EDITS what turns OLD, the value of NODE, into NEW."""
    if json.dumps(old) == json.dumps(new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        _change_object(text, node, cast("dict[str, Any]", old), cast("dict[str, Any]", new), edits)
    elif isinstance(old, list) and isinstance(new, list):
        _change_list(text, node, cast("list[Any]", old), cast("list[Any]", new), edits)
    else:
        edits.append((node.begin, node.end, _written(text, node.begin, new)))


def _change_object(
    text: str, node: _Node, old: dict[str, Any], new: dict[str, Any], edits: list[Edit]
) -> None:
    last = {key: place for place, key in enumerate(node.keys)}  # of doubled keys the last counts
    for key, place in last.items():
        if key in new:
            _change(text, node.values[place], old[key], new[key], edits)
    gone = {place for place, key in enumerate(node.keys) if key not in new}
    fresh = [f"{json.dumps(key, ensure_ascii=False)}: " for key in new if key not in old]
    values = [new[key] for key in new if key not in old]
    _splice(text, node, gone, len(node.values), list(zip(fresh, values, strict=True)), edits)


def _change_list(text: str, node: _Node, old: list[Any], new: list[Any], edits: list[Edit]) -> None:
    most = min(len(old), len(new))
    head = next((i for i in range(most) if old[i] != new[i]), most)
    tail = next((i for i in range(most - head) if old[-1 - i] != new[-1 - i]), most - head)
    before, after = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True), head):
            _change(text, node.values[place], one, other, edits)
        return
    gone = set(range(head, head + len(before)))
    _splice(text, node, gone, head, [("", value) for value in after], edits)


def _splice(
    text: str, node: _Node, gone: set[int], place: int, fresh: list[tuple[str, Any]],
    edits: list[Edit],
) -> None:  # fmt: skip
    """Take the children GONE out of NODE and put FRESH before PLACE."""
    code = without_comments(text)
    kept = [i for i in range(len(node.values)) if i not in gone]
    for i in gone:
        begin = node.starts[i]
        while text[begin - 1] in " \t":
            begin -= 1
        if text[begin - 1] == "\n":  # the whole line goes
            begin -= 2 if text[begin - 2 : begin] == "\r\n" else 1
        edits.append((begin, node.values[i].end, ""))
    commas = [_comma(code, node, i) for i in range(len(node.values))]
    edits += [(c, c + 1, "") for i, c in enumerate(commas) if i in gone and c is not None]
    earlier = [i for i in kept if i < place]
    if kept and kept[-1] != len(node.values) - 1 and (not fresh or kept[-1] in earlier):
        comma = commas[kept[-1]]
        if comma is not None and commas[-1] is None and not (fresh and len(kept) > len(earlier)):
            edits.append((comma, comma + 1, ""))
    if not fresh:
        return
    indent = _indent(text, node)
    lines = [indent + name + _written(indent, len(indent), value) for name, value in fresh]
    if earlier:
        at = node.values[earlier[-1]].end
        edits.append((at, at, "".join(f",{line}" for line in lines)))
    elif kept:
        edits.append((node.begin + 1, node.begin + 1, "".join(f"{line}," for line in lines)))
    else:
        outer = _line_indent(text, node.begin)
        closing = "" if "\n" in text[node.begin : node.end] else f"{_newline(text)}{outer}"
        edits.append((node.begin + 1, node.begin + 1, ",".join(lines) + closing))


def _comma(code: str, node: _Node, i: int) -> int | None:
    """Return where the comma after child I is; a trailing one counts."""
    at = _skip(code, node.values[i].end)
    return at if code[at] == "," else None


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t\ufeff"))].replace("\ufeff", "")


def _indent(text: str, node: _Node) -> str:
    """Return the line end and the indentation that a new child of NODE begins with."""
    found = re.search(r"\n([ \t]+)\S", text)
    unit = found[1] if found else "  "
    if node.starts and "\n" in text[node.begin : node.starts[0]]:
        return _newline(text) + _line_indent(text, node.starts[0])
    return _newline(text) + _line_indent(text, node.begin) + unit


def _written(text: str, at: int, value: Any) -> str:
    """Return VALUE as JSON, indented for its place AT in TEXT."""
    indent = _line_indent(text, at)
    unit = "\t" if "\t" in indent else 2
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return (_newline(text) + indent).join(lines)
