"""Blocks of ours in a Markdown file that a user edits as well. Pure.

A block stands between two lines of its own:

    <!-- arsenale:begin NAME sha256=... -->
    the body
    <!-- arsenale:end NAME -->

All else in the file is the user's and stays byte for byte. The hash tells whether somebody edited
the body by hand; it is of the body with "\\n" line ends, so that a change of line ends is no edit.
Who reads and writes the file does so without newline translation (`newline=""`).
"""

import hashlib
import re
from dataclasses import dataclass

from arsenale_core.errors import ConflictError, InvalidError

_NEWLINE = re.compile(r"\r\n|\n|\r")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_LINE = re.compile(r"(?<![^\r\n])[ \t]*<!--[ \t]*arsenale:[^\r\n]*", re.IGNORECASE)
"""A line that is a marker, or was one. The words in the middle of a line are the user's prose."""

_MARKER = re.compile(
    r"[ \t]*<!-- arsenale:(?:begin (?P<begin>[\w.-]+) sha256=(?P<sha256>[0-9a-f]{64})"
    r"|end (?P<end>[\w.-]+)) -->[ \t]*",
    re.ASCII,
)

_MARKER_LIKE = re.compile(r"<!--\s*arsenale:", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A managed block as it stands in a file; BODY has "\\n" line ends."""

    name: str
    body: str
    edited: bool
    """Somebody changed the body since we wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Where a block is: `text[start:end]` is its lines, without the newline after the last."""

    start: int
    end: int
    block: Block


def put(text: str, name: str, body: str, *, force: bool = False) -> str:
    """Return TEXT with BODY in the block NAME, which is added at the end when it is not there.

    Args:
        text: The whole file.
        name: Letters, digits, `.`, `_` and `-`, 64 at most.
        body: Any Markdown without markers of ours; its line ends become those of TEXT.
        force: Overwrite a block that somebody edited by hand.

    Raises:
        ConflictError: The block was edited by hand, and BODY is not what it says now.
        InvalidError: The markers in TEXT are damaged, or NAME or BODY cannot be written.
    """
    _check(name, body)
    newline = _newline(text)
    body = _unified(body)
    found = _spans(text).get(name)
    block = _written(name, body).replace("\n", newline)
    if found is None:
        ends_in_newline = not text or text[-1] in "\r\n"
        return text + block + newline if ends_in_newline else text + newline + block
    if found.block.edited and found.block.body != body and not force:
        raise _edited(name, "overwrite")
    return text[: found.start] + block + text[found.end :]


def get(text: str, name: str) -> Block | None:
    """Return the block NAME of TEXT, or None.

    Raises:
        InvalidError: The markers in TEXT are damaged.
    """
    found = _spans(text).get(name)
    return found.block if found else None


def remove(text: str, name: str, *, force: bool = False) -> str:
    """Return TEXT without the block NAME: what it was before `put`. No such block, no change.

    Raises:
        ConflictError: The block was edited by hand, and FORCE is off.
        InvalidError: The markers in TEXT are damaged.
    """
    found = _spans(text).get(name)
    if found is None:
        return text
    if found.block.edited and not force:
        raise _edited(name, "remove")
    start, end = found.start, found.end
    if after := _NEWLINE.match(text, end):
        end = after.end()
    elif before := re.search(r"(?:\r\n|\n|\r)\Z", text[:start]):
        start = before.start()  # the file had no newline at its end, so `put` wrote one
    return text[:start] + text[end:]


def _written(name: str, body: str) -> str:
    begin = f"<!-- arsenale:begin {name} sha256={_sha256(body)} -->"
    return f"{begin}\n{body}\n<!-- arsenale:end {name} -->"


def _spans(text: str) -> dict[str, _Span]:
    """Return the blocks of TEXT by name."""
    spans: dict[str, _Span] = {}
    begin: re.Match[str] | None = None
    for line in _LINE.finditer(text):
        marker = _MARKER.fullmatch(text, line.start(), line.end())
        if marker is None:
            raise _damaged(text, line.start(), "a marker that cannot be read")
        if marker["begin"]:
            if begin is not None:
                raise _damaged(text, line.start(), f"a second begin before {_end(begin)}")
            if marker["begin"] in spans:
                raise _damaged(text, line.start(), f"a second block {marker['begin']!r}")
            begin = marker
        elif begin is None or begin["begin"] != marker["end"]:
            raise _damaged(text, line.start(), f"an end of {marker['end']!r} without its begin")
        else:
            spans[marker["end"]] = _span(text, begin, line)
            begin = None
    if begin is not None:
        raise _damaged(text, begin.start(), f"no {_end(begin)} after this begin")
    return spans


def _span(text: str, begin: re.Match[str], end: re.Match[str]) -> _Span:
    inner = _unified(text[begin.end() : end.start()])
    body = inner.removeprefix("\n").removesuffix("\n")
    block = Block(name=begin["begin"], body=body, edited=_sha256(body) != begin["sha256"])
    return _Span(start=begin.start(), end=end.end(), block=block)


def _check(name: str, body: str) -> None:
    if not _NAME.fullmatch(name):
        hint = "use 1 to 64 ASCII letters, digits, '.', '_' and '-', the first no sign"
        raise InvalidError(f"block name {name!r}", hint=hint)
    if _MARKER_LIKE.search(body):
        hint = "take '<!-- arsenale:' out of it; a block within a block could not be told apart"
        raise InvalidError(f"the body of block {name!r} contains a marker", hint=hint)


def _edited(name: str, doing: str) -> ConflictError:
    hint = (
        f"move what you want to keep out of the block and try again, or force it to {doing} the"
        " block with all that is in it"
    )
    return ConflictError(f"block {name!r} was edited by hand", hint=hint)


def _damaged(text: str, at: int, what: str) -> InvalidError:
    line = len(_NEWLINE.findall(text, 0, at)) + 1
    hint = "mend or delete the lines '<!-- arsenale:...' there; nothing was changed"
    return InvalidError(f"line {line}: {what}", hint=hint)


def _end(begin: re.Match[str]) -> str:
    return f"'arsenale:end {begin['begin']}'"


def _newline(text: str) -> str:
    first = _NEWLINE.search(text)
    return first[0] if first else "\n"


def _unified(text: str) -> str:
    return _NEWLINE.sub("\n", text)


def _sha256(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
