"""Path globs of a repository: what they match, and whether two of them can match one path. Pure.

As in gitignore(5): `*` and `?` stay within a segment, `**` is any number of segments, `[...]` one
character of a set. Paths are relative to the checkout, with `/`.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from arsenale_core.errors import InvalidError

MOST_CHARS = 400
MOST_SEGMENTS = 40

_WILD = re.compile(r"[*?\[]")


def normal(pattern: str) -> str:
    """Return PATTERN in its one form: no `./`, no `..`, no doubled `/`; a folder `a/` is `a/**`.

    Raises:
        InvalidError: It leaves the repository, is empty or too long.
    """
    text = pattern.strip().replace("\\", "/")
    parts = _walked(text)
    if text.startswith("/") or parts is None:
        raise InvalidError(
            f"{pattern!r} is outside the repository", hint="name a path below its root: src/api/**"
        )
    if text in (".", "./"):
        return "**"
    if not parts or len(text) > MOST_CHARS or len(parts) > MOST_SEGMENTS or "\0" in text:
        raise InvalidError(
            f"{pattern[:40]!r} is not a path of 1 to {MOST_CHARS} characters", hint="as src/api/**"
        )
    if text.endswith("/") and parts[-1] != "**":
        parts.append("**")
    folded = [p for i, p in enumerate(parts) if p != "**" or i == 0 or parts[i - 1] != "**"]
    return "/".join(folded)


def _walked(text: str) -> list[str] | None:
    """Return the segments of TEXT without `.` and `..`; nothing where it leaves its root."""
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            if not parts or not is_literal(parts.pop()):
                return None
        elif part not in ("", "."):
            parts.append(part)
    return parts


def split(pattern: str) -> tuple[str, str]:
    """Return the literal folders and names that PATTERN begins with, and the rest."""
    parts = pattern.split("/")
    literal = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return "/".join(parts[:literal]), "/".join(parts[literal:])


def covering(pattern: str) -> str:
    """Return what a reservation of PATTERN protects: a name without wildcard, and all below it."""
    return f"{pattern}/**" if is_literal(pattern) else pattern


def is_literal(pattern: str) -> bool:
    """Say whether PATTERN names one path."""
    return not _WILD.search(pattern)


def prefix(pattern: str) -> str:
    """Return the part of PATTERN before its first segment with a wildcard, ending in `/`.

    All of it where it has none. Two patterns can match one path only if the prefix of one begins
    with that of the other.
    """
    parts = pattern.split("/")
    literal = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return "/".join(parts) if literal == len(parts) else "".join(f"{p}/" for p in parts[:literal])


def above(of: str) -> list[str]:
    """Return the prefixes of all patterns that may cover OF, a prefix.

    For `a/b/c`: the root, `a` and `a/b` (names that cover what is below), `a/`, `a/b/`, and itself;
    `a/b/c/` too, since `a/b/c/**` matches `a/b/c`.
    """
    parts = of.rstrip("/").split("/") if of else []
    names = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return ["", *names, *(f"{name}/" for name in names)]


def matches(pattern: str, path: str) -> bool:
    """Say whether PATTERN matches PATH."""
    return overlap(pattern, re.sub(r"([*?\[])", r"[\1]", path))


def meets(pattern: str) -> Callable[[str], bool]:
    """Return `overlap` with PATTERN, for many others: most of them are literal."""
    if "[" in pattern:
        return lambda other: overlap(pattern, other)
    regex = re.compile(_regex(pattern.split("/")))
    return lambda other: (
        regex.fullmatch(f"{other}/") is not None if is_literal(other) else overlap(pattern, other)
    )


def _regex(segments: list[str]) -> str:
    """Return what matches a path with a slash after it.

    What stands between two wildcards is found at its first place and never looked for again
    (`(?>`): that is enough, and else a pattern of many wildcards takes years.
    """
    return _between([_segment(one) for one in segments], "(?:[^/]+/)*")


def _segment(segment: str) -> str | None:
    if segment == "**":
        return None
    kinds = {"*": None, "?": "[^/]"}
    return f"{_between([kinds.get(char, re.escape(char)) for char in segment], '[^/]*')}/"


def _between(parts: Sequence[str | None], some: str) -> str:
    """Join regular expressions, each of one length; `None` is a wildcard that matches SOME."""
    chunks = [""]
    for part in parts:
        if part is None:
            chunks.append("")
        else:
            chunks[-1] += part
    if len(chunks) == 1:
        return chunks[0]
    first, *middle, last = chunks
    return first + "".join(f"(?>{some}?{chunk})" for chunk in middle if chunk) + some + last


@lru_cache(maxsize=4096)
def overlap(one: str, other: str) -> bool:
    """Say whether there is a path that both patterns match."""
    return _paths(tuple(one.split("/")), tuple(other.split("/")))


def _paths(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Walk both lists of segments at once; `reached` holds the places that can be met."""
    reached = {(0, 0)}
    waiting = [(0, 0)]
    while waiting:
        i, j = waiting.pop()
        if i == len(one) and j == len(other):
            return True
        for place in _steps(one, other, i, j):
            if place not in reached:
                reached.add(place)
                waiting.append(place)
    return False


def _steps(one: tuple[str, ...], other: tuple[str, ...], i: int, j: int) -> list[tuple[int, int]]:
    any_one = i < len(one) and one[i] == "**"
    any_other = j < len(other) and other[j] == "**"
    found: list[tuple[int, int]] = []
    if any_one:
        found.append((i + 1, j))  # it matches nothing more
        if j < len(other) and not any_other:
            found.append((i, j + 1))  # it matches this segment too
    if any_other:
        found.append((i, j + 1))
        if i < len(one) and not any_one:
            found.append((i + 1, j))
    both = not any_one and not any_other and i < len(one) and j < len(other)
    if both and _segments(_tokens(one[i]), _tokens(other[j])):
        found.append((i + 1, j + 1))
    return found


def _segments(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Say whether two segments can match one name; a token is a character, a set, `?` or `*`."""
    row = {0}
    places = [row]
    for i in range(len(one) + 1):
        row = _closed(places[-1], other) if i == 0 else _next(one[i - 1], places[-1], other)
        if i < len(one) and one[i] == "*":
            row = row | {j for start in row for j in range(start, len(other) + 1)}
        places.append(row)
    return len(other) in places[-1]


def _closed(row: set[int], other: tuple[str, ...]) -> set[int]:
    """Add the places that are reached when a `*` of OTHER matches nothing."""
    found = set(row)
    for j in range(len(other)):
        if j in found and other[j] == "*":
            found.add(j + 1)
    return found


def _next(token: str, row: set[int], other: tuple[str, ...]) -> set[int]:
    """Return the places after TOKEN, a token of the other list, was taken."""
    if token == "*":
        return row
    found: set[int] = set()
    for j in row:
        if j < len(other):
            if other[j] == "*":
                found.add(j)
            elif _meet(token, other[j]):
                found.add(j + 1)
    return _closed(found, other)


def _meet(one: str, other: str) -> bool:
    """Say whether two tokens can be one character. Two sets may: nobody reserves by such."""
    if one == "?" or other == "?":
        return True
    one_set, other_set = len(one) > 1, len(other) > 1
    if one_set and other_set:
        return True
    if one_set or other_set:
        kind, char = (one, other) if one_set else (other, one)
        return _in_set(kind, char)
    return one == other


def _in_set(kind: str, char: str) -> bool:
    inner = kind[1:-1]
    negated = inner[:1] in ("!", "^")
    body = inner[1:] if negated else inner
    found, i = False, 0
    while i < len(body):
        if i + 2 < len(body) and body[i + 1] == "-":
            found = found or body[i] <= char <= body[i + 2]
            i += 3
        else:
            found = found or body[i] == char
            i += 1
    return found != negated


def _tokens(segment: str) -> tuple[str, ...]:
    """Cut a segment into characters, sets `[...]`, `?` and `*`."""
    found: list[str] = []
    i = 0
    while i < len(segment):
        if segment[i] == "[" and (end := segment.find("]", i + 2)) > 0:
            found.append(segment[i : end + 1])
            i = end + 1
            continue
        if segment[i] != "*" or not found or found[-1] != "*":
            found.append(segment[i])
        i += 1
    return tuple(found)
