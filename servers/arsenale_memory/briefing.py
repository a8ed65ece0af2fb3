"""What an assistant is told at the start of a day, and after its context was compacted. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from arsenale_memory.answers import tokens
from arsenale_memory.levels import Identity
from arsenale_memory.moments import day
from arsenale_memory.record import Version

CARD_TOKENS = 300
"""An identity card is short: it comes again after every compaction."""

BRIEFING_TOKENS = 1_200
LINE_CHARS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a briefing draws on, each the most telling first."""

    core: Sequence[Version]
    decisions: Sequence[Version]
    recent: Sequence[Version]
    last_checkpoint_us: int | None


def card(identity: Identity, known: Known) -> str:
    """Return who the assistant is, in CARD_TOKENS at most."""
    name, role = identity.text("name", ""), identity.text("class", "")
    lines = [f"You are {', '.join(filter(None, (name, role)))}."] if name or role else []
    lines += [f"- {rule}" for rule in map(str, identity.items("rules"))]
    lines += _section("Core memories", [str(text) for text in identity.items("core_memories")])
    lines += _section("Also", [_line(v) for v in known.core])
    return _within(lines, CARD_TOKENS)


def briefing(identity: Identity, persona: str, known: Known, now_us: int) -> str:
    """Return the morning briefing as Markdown, in BRIEFING_TOKENS at most."""
    name = identity.text("name", persona)
    whom = "" if name == "default" else f" for {name}"
    lines = [f"# Briefing{whom}, {day(now_us, None)}"]
    if known.last_checkpoint_us is not None:
        lines.append(f"Last checkpoint: {day(known.last_checkpoint_us, None)}.")
    projects = [str(project) for project in identity.items("projects")]
    lines += _section("Active projects", projects)
    lines += _section("Decisions that hold", [_dated(v) for v in known.decisions])
    lines += _section("What was learned last", [_dated(v) for v in known.recent])
    lines += _section("What matters most", [_line(v) for v in known.core])
    if len(lines) <= 2 and not projects:
        lines.append("Nothing is known yet: `remember` what will matter tomorrow.")
    return _within(lines, BRIEFING_TOKENS)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", *(f"- {line}" for line in lines)] if lines else []


def _line(version: Version) -> str:
    text = " ".join(version.content.split())
    return text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1].rstrip() + "…"


def _dated(version: Version) -> str:
    return f"{day(version.valid_from_us, None)}: {_line(version)}"


def _within(lines: Sequence[str], budget: int) -> str:
    """Return the first LINES that fit into BUDGET tokens, as a text."""
    kept: list[str] = []
    left = budget
    for line in lines:
        left -= tokens(line)
        if left < 0:
            break
        kept.append(line)
    while kept and (not kept[-1] or kept[-1].startswith("## ")):
        kept.pop()
    return "\n".join(kept) + "\n"
