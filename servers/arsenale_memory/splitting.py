"""Long text into parts that an embedder can read whole. Pure."""

import re
from collections.abc import Iterator

from arsenale_memory.record import Part

PART_CHARS = 1_000
"""Longest part: some 220 to 250 tokens of English, within the 256 that MiniLM reads."""

_BREAKS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?。！？])\s*"),
    re.compile(r"\s+"),
)
"""Where a part may end, the best place first: paragraph, line, sentence, word."""


def split(text: str, longest: int = PART_CHARS) -> tuple[Part, ...]:
    """Return TEXT as parts of at most LONGEST characters.

    A part ends at the end of a paragraph, a line, a sentence or a word where there is one in its
    second half. The parts cover the text: `text[part.start:]` begins with `part.body`, and between
    two parts is white space only. One text gives at least one part.
    """
    return tuple(_parts(text, longest)) or (Part(start=0, body=text),)


def _parts(text: str, longest: int) -> Iterator[Part]:
    start = 0
    while start < len(text):
        end = start + longest
        if end < len(text):
            end = _end(text, start, end)
        body = text[start:end]
        left = len(body) - len(body.lstrip())
        if body.strip():
            yield Part(start=start + left, body=body.strip())
        start = end


def _end(text: str, start: int, limit: int) -> int:
    """Return the best place to end in the second half of START to LIMIT."""
    middle = start + (limit - start) // 2
    for pattern in _BREAKS:
        ends = [m.end() for m in pattern.finditer(text, middle, limit) if m.end() > middle]
        if ends:
            return ends[-1]
    return limit
