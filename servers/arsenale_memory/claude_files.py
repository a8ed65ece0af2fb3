"""What Claude Code keeps by itself: memory files and transcripts, as items to import. Pure.

The transcript's format is internal to the host (facts of 2.1.329): unknown lines are passed over.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from arsenale_memory.formats import Item

_HEADING = re.compile(r"^(#{1,6})\s+(.*)$")
_BULLET = re.compile(r"^\s{0,3}[-*+]\s+(.*)$")
_NOISE = re.compile(r"<(system-reminder|command-[a-z-]+|local-command-[a-z-]+)\b")
_BLOCK = re.compile(r"<!-- arsenale:begin ")
_BLOCK_END = "arsenale:end "

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
    for line in _without_blocks(text).splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading, bullet = _HEADING.match(line), _BULLET.match(line)
        if not fenced and (heading or bullet or not line.strip()):
            yield from finished()
        if not fenced and heading:
            headings[:] = [
                *headings[: len(heading[1]) - 1],
                heading[2].rstrip().rstrip("#").rstrip(),
            ]
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
        except (ValueError, RecursionError) as exc:
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
        text = _without_noise(_spoken(row)).strip()
        if len(text) >= SHORTEST_TURN:
            yield Item(
                reference=str(row.get("uuid", f"line {number}")), content=text, kind="turn",
                subject=str(row["type"]), at=str(row.get("timestamp") or "") or None,
                session=str(row.get("sessionId", "")) or None, tags=("transcript",),
            )  # fmt: skip


def _without_blocks(text: str) -> str:
    """Return TEXT without our own blocks; one that never ends stays. Linear in TEXT."""
    parts: list[str] = []
    at = 0
    while begun := _BLOCK.search(text, at):
        ended = _end_of_block(text, begun.end())
        if ended < 0:
            break
        parts.append(text[at : begun.start()])
        at = ended
    return "".join([*parts, text[at:]])


def _end_of_block(text: str, at: int) -> int:
    """Return where the comment ends that ends a block of ours after AT; -1 if none does."""
    while (begun := text.find(_BLOCK_END, at)) >= 0:
        at = text.find(">", begun)
        if at < 0:
            break
        at += 1
        if text.endswith("-->", begun + len(_BLOCK_END), at):
            return at
    return -1


def _without_noise(text: str) -> str:
    """Return TEXT without what the host put in; a tag that never ends stays. Linear in TEXT."""
    parts: list[str] = []
    at = searched = 0
    endless: set[str] = set()
    while begun := _NOISE.search(text, searched):
        searched = begun.end()
        end = f"</{begun[1]}>"
        ended = -1 if end in endless else text.find(end, searched)
        if ended < 0:
            endless.add(end)
            continue
        parts.append(text[at : begun.start()])
        at = searched = ended + len(end)
    return "".join([*parts, text[at:]])


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
