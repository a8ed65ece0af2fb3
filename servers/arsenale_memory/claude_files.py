"""What Claude Code keeps by itself: memory files and transcripts, as items to import. Pure.

The transcript's format is internal to the host (facts of 2.1.329): unknown lines are passed over.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from arsenale_memory.formats import Item

_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_BULLET = re.compile(r"^\s{0,3}[-*+]\s+(.*)$")
_NOISE = re.compile(
    r"<(system-reminder|command-[a-z-]+|local-command-[a-z-]+)\b.*?</\1>", re.DOTALL
)
_BLOCK = re.compile(r"<!-- arsenale:begin .*?arsenale:end [^>]*-->", re.DOTALL)

SHORTEST_TURN = 20
"""Shorter turns ("ok", "go on") say nothing later."""


def memory_file(name: str, text: str) -> Iterator[Item]:
    """Give each point and paragraph of a memory file (`MEMORY.md`, `CLAUDE.md`) as an item.

    The headings above it tell what it is about. Our own blocks are left out.
    """
    headings: list[str] = []
    paragraph: list[str] = []
    number = 0

    def finished() -> Iterator[Item]:
        nonlocal number
        content = " ".join(" ".join(paragraph).split())
        paragraph.clear()
        if len(content) > 3:
            number += 1
            about = headings[-1] if headings else None
            yield Item(
                reference=f"{name}#{number}", content=content, subject=about, kind="fact",
                tags=("claude-memory",),
            )  # fmt: skip

    fenced = False
    for line in _BLOCK.sub("", text).splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading, bullet = _HEADING.match(line), _BULLET.match(line)
        if not fenced and (heading or bullet or not line.strip()):
            yield from finished()
        if not fenced and heading:
            headings[:] = [*headings[: len(heading[1]) - 1], heading[2]]
        elif not fenced and bullet:
            paragraph.append(bullet[1])
        elif line.strip():
            paragraph.append(line.strip())
    yield from finished()


def transcript(lines: Iterable[str]) -> Iterator[Item | str]:
    """Give what was said in a transcript, turn by turn; what tools gave is left out."""
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line) if line.strip() else None
        except ValueError as exc:
            yield f"line {number}: {exc}"
            continue
        if not isinstance(said, dict):
            continue
        row = cast("dict[str, Any]", said)
        if (
            row.get("type") not in ("user", "assistant")
            or row.get("isMeta")
            or row.get("isSidechain")
        ):
            continue
        text = _NOISE.sub("", _spoken(row)).strip()
        if len(text) >= SHORTEST_TURN:
            yield Item(
                reference=str(row.get("uuid", f"line {number}")), content=text, kind="turn",
                subject=str(row["type"]), at=row.get("timestamp"),
                session=str(row.get("sessionId", "")) or None, tags=("transcript",),
            )  # fmt: skip


def _spoken(row: Mapping[str, Any]) -> str:
    """Return the words of a line: text, and no thinking, tool calls or results."""
    message = row.get("message")
    content: object = (
        cast("dict[str, Any]", message).get("content") if isinstance(message, dict) else None
    )
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    blocks = [
        cast("dict[str, Any]", b) for b in cast("list[object]", content) if isinstance(b, dict)
    ]
    return "\n".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text")
