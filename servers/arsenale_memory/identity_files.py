"""Reads identity files: what can be read counts, the rest is a problem with its line.

A project's file is committed by others, maybe with a key of a newer version or in the middle of a
merge: it must not take identity, briefing and memories away.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from arsenale_core.errors import InvalidError
from arsenale_core.files import read_regular
from arsenale_core.trust import PROJECT_FILE_BYTES, Trust
from arsenale_memory import answers
from arsenale_memory.levels import KNOWN

_START = re.compile(r"""\s*(?:\[|(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.[^=\n]*)?\s*=)""")
"""How a line begins that starts a statement of TOML."""

MOST_PROBLEMS = 50
"""Problems of a file that are reported one by one; the rest is counted."""

MOST_RETRIED_CHARS = 1 << 20
"""Characters that are read again to find where damaged statements end; then each ends where the
next one starts."""

MOST_HEAD_CHARS = 400
"""Of the head of a table in a damaged file: it is read again with each of its statements."""

MOST_DEPTH = 50
"""Of tables and lists within one another; `a.a.a = 1` nests too."""

_PART = r"""(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*"""
_DEEP_KEY = re.compile(rf"(?:{_PART}\.[ \t]*){{{MOST_DEPTH}}}")
"""A dotted key with more parts than tables may be nested."""

_TYPES = {str: "a text", list: "a list", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that was left out.

    Attributes:
        line: Its line, from 1; 0 where it is about the whole file.
    """

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        """Return the place and what is wrong there."""
        return f"{self.path}:{self.line}: {self.what}" if self.line else f"{self.path}: {self.what}"


def read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values in the file PATH of the user, and what in it was left out."""
    try:
        content = read_regular(path, PROJECT_FILE_BYTES, follow_links=True)
    except FileNotFoundError:
        return {}, []
    except (OSError, InvalidError) as exc:
        return {}, [_unread(path, exc)]
    return parse(path, content)


def read_trusted(path: Path, trust: Trust) -> tuple[dict[str, Any], list[Problem], str]:
    """Return what `read` does of PATH in a project, but only of a content that the user approved.

    Returns:
        The values, what was left out, and why the whole file is not used: empty where it is used,
        and where there is none.
    """
    try:
        content = read_regular(path, PROJECT_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}, [], ""
    except (OSError, InvalidError) as exc:
        problem = _unread(path, exc)
        return {}, [problem], problem.what
    if not trust.holds(path, content):
        return {}, [], "not approved"
    return *parse(path, content), ""


def _unread(path: Path, exc: OSError | InvalidError) -> Problem:
    if isinstance(exc, OSError):
        return Problem(path, 0, f"cannot be read: {exc.strerror}")
    return Problem(path, 0, exc.what.removeprefix(f"{path} ") + "; it was ignored")


def parse(path: Path, content: bytes) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values in CONTENT of the file PATH, and what in it was left out."""
    found = list(_problems_of_encoding(content))
    text = content.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\0", "\ufffd")
    try:
        said = _loaded(text)
    except (ValueError, RecursionError):
        said, damaged = _salvaged(text)
        found += damaged
    values, wrong = _checked(said, text)
    found += wrong
    more = len(found) - MOST_PROBLEMS
    if more > 0:
        found[MOST_PROBLEMS:] = [(0, f"and {more} more problems")]
    return values, [Problem(path, line, what) for line, what in found]


def _problems_of_encoding(content: bytes) -> Iterator[tuple[int, str]]:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        yield line, "is not UTF-8 here; the letter was replaced, save the file as UTF-8"


def _checked(said: Mapping[str, Any], text: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """Return the values of SAID that have a known key and the right type, and the problems."""
    values: dict[str, Any] = {}
    found: list[tuple[int, str]] = []
    for key, value in said.items():
        line = _line_of(text, key) if len(found) < MOST_PROBLEMS and key not in values else 0
        if key not in KNOWN:
            found.append((line, f"unknown key {key!r} was ignored; known are {', '.join(KNOWN)}"))
        elif not isinstance(value, KNOWN[key]):
            found.append((line, f"{key} was ignored, it must be {_TYPES[KNOWN[key]]}"))
        elif key == "namespace" and not _is_namespace(cast("object", value)):
            found.append((line, f"namespace {value!r} was ignored, it is not a valid name"))
        else:
            values[key] = value
    return values, found


def _is_namespace(name: object) -> bool:
    try:
        answers.namespace_name(cast("str", name))
    except InvalidError:
        return False
    return True


def _line_of(text: str, key: str) -> int:
    """Return the line that sets KEY, or begins its table; 0 when it is not found."""
    name = rf"""["']?{re.escape(key)}["']?"""
    found = re.search(rf"(?m)^[ \t]*(?:\[+\s*{name}|{name}\s*[.=])", text)
    return text.count("\n", 0, found.start()) + 1 if found else 0


def _salvaged(text: str) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """Read TEXT statement by statement; of two values for a key, as in a merge, the first holds."""
    values: dict[str, Any] = {}
    found: list[tuple[int, str]] = []
    table: str | None = ""
    for line, chunk in _statements(text):
        is_head = chunk.lstrip().startswith("[")
        is_read = not (is_head and len(chunk) > MOST_HEAD_CHARS)
        said = _parsed(f"{table or ''}\n{chunk}") if is_read else None
        if said is None:
            found.append((line, f"cannot be read and was ignored: {chunk.splitlines()[0][:60]!r}"))
        if is_head:
            table = chunk if said is not None else None
        if said is not None and table is not None and not _merge(values, said):
            found.append((line, "sets a key a second time; the first value holds"))
    return values, found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with its first line; a damaged one ends where the next starts."""
    chunk: list[str] = []
    begun, left = 1, MOST_RETRIED_CHARS
    size = 0
    for number, line in enumerate(text.split("\n"), 1):
        if chunk and (_START.match(line) or _is_marker(line)):
            yield begun, "\n".join(chunk)
            chunk = []
        if not chunk and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun, size = (begun, size) if chunk else (number, 0)
        chunk.append(line)
        size += len(line) + 1
        left -= size if len(chunk) > 1 else 0
        tried = len(chunk) == 1 or left > 0
        if _is_marker(line) or (tried and _parsed("\n".join(chunk)) is not None):
            yield begun, "\n".join(chunk)
            chunk = []
    if chunk:
        yield begun, "\n".join(chunk)


def _is_marker(line: str) -> bool:
    """Say whether LINE is a conflict marker of a merge."""
    return re.match(r"(?:<{7}|={7}|>{7}|\|{7})(?:\s|$)", line) is not None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return _loaded(text)
    except (ValueError, RecursionError):
        return None


def _loaded(text: str) -> dict[str, Any]:
    """Return what TEXT, which is TOML, says.

    Raises:
        ValueError: It is not TOML, or nested too deeply; so does RecursionError.
    """
    if _DEEP_KEY.search(text):  # tomllib takes minutes for a key of 100,000 parts
        raise ValueError("a key has too many parts")
    said = tomllib.loads(text)
    _check_depth(said)
    return said


def _check_depth(value: object, depth: int = 0) -> None:
    """Refuse what is nested more deeply than every later reader can follow.

    Raises:
        ValueError: It is.
    """
    if depth > MOST_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    if isinstance(value, list):
        for inner in cast("list[object]", value):
            _check_depth(inner, depth + 1)


def _merge(values: dict[str, Any], said: Mapping[str, Any]) -> bool:
    """Add what SAID has to VALUES, tables key by key; false when a key was there already."""
    fresh = True
    for key, value in said.items():
        inner = values.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            fresh &= _merge(cast("dict[str, Any]", inner), cast("dict[str, Any]", value))
        elif key in values:
            fresh &= values[key] == value
        else:
            values[key] = value
    return fresh
