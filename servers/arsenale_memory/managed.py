"""Blocks of ours in files of the user: what stands outside of a block is never touched. Pure.

A block stands between two comments, which Markdown does not show:

    <!-- arsenale:begin NAME sha256=… -->
    …
    <!-- arsenale:end NAME -->

The hash tells whether someone has changed the block by hand; then it is left alone.
"""

import re
from dataclasses import dataclass
from hashlib import sha256

from arsenale_core.errors import ConflictError, InvalidError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_MARKER = re.compile(
    r"^<!-- arsenale:(begin|end) ([a-z][a-z0-9-]*)(?: sha256=([0-9a-f]{16}))? -->[ \t]*\r?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block as it stands in a file.

    Attributes:
        start: Where its first marker begins.
        end: Where its last marker ends, without the line break.
        edited: Someone has changed it by hand.
    """

    body: str
    start: int
    end: int
    edited: bool


def get(text: str, name: str) -> Block | None:
    """Return the block NAME of TEXT.

    Raises:
        InvalidError: Its markers are damaged.
    """
    markers = [m for m in _MARKER.finditer(text) if m[2] == name]
    if not markers:
        return None
    if [m[1] for m in markers] != ["begin", "end"] or _others_within(text, name, markers):
        raise InvalidError(
            f"the markers of the block {name!r} are damaged",
            hint="there must be one `arsenale:begin` and after it one `arsenale:end`; mend or "
            "delete them",
        )
    begin, end = markers
    after = begin.end() + 1  # the line break
    body = text[after : max(end.start() - 1, after)].replace("\r\n", "\n").removesuffix("\r")
    return Block(
        body=body, start=begin.start(), end=end.end(), edited=begin[3] != _hash(body)
    )


def put(text: str, name: str, body: str, *, force: bool = False) -> str:
    """Return TEXT with BODY as its block NAME: in the place of the old one, or at the end.

    Raises:
        ConflictError: The block was changed by hand, and FORCE is not set.
        InvalidError: Its markers are damaged, or BODY has markers itself.
    """
    if not _NAME.fullmatch(name):
        raise InvalidError(f"{name!r} is no name for a block", hint="lower case and hyphens")
    body = body.replace("\r\n", "\n").strip("\n")
    if re.search(r"<!-- arsenale:(begin|end)", body):
        raise InvalidError("the text has markers of blocks in it", hint="take them out")
    old = get(text, name)
    line = "\r\n" if "\r\n" in text else "\n"
    written = f"<!-- arsenale:begin {name} sha256={_hash(body)} -->\n{body}\n"
    written = (written + f"<!-- arsenale:end {name} -->").replace("\n", line)
    if old is None:
        gap = "" if not text else line if text.endswith("\n") else line * 2
        return f"{text}{gap}{written}{line}"
    if old.edited and not force and old.body != body:
        raise ConflictError(
            f"the block {name!r} was changed by hand",
            hint="move your changes outside of it, or overwrite it with --force",
        )
    return text[: old.start] + written + text[old.end :]


def remove(text: str, name: str) -> str:
    """Return TEXT without its block NAME; after `put` of a new block, the text before it."""
    block = get(text, name)
    if block is None:
        return text
    before, after = text[: block.start], text[block.end :]
    line = "\r\n" if "\r\n" in text else "\n"
    if after == line:  # it stood at the end, where `put` had added it
        before = before.removesuffix(line) if before.endswith(line * 2) else before
        if before.endswith(line) and not before.removesuffix(line).endswith("\n"):
            pass
        after = ""
    return before + after


def _others_within(text: str, name: str, markers: list[re.Match[str]]) -> bool:
    if len(markers) != 2:
        return False
    inner = _MARKER.finditer(text, markers[0].end(), markers[1].start())
    return any(m[2] != name for m in inner)


def _hash(body: str) -> str:
    return sha256(body.encode()).hexdigest()[:16]
