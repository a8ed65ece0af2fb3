"""What an assistant is told at the start of a day, and after its context was compacted. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from arsenale_core.model_text import ModelText, join, quote
from arsenale_memory.answers import tokens
from arsenale_memory.levels import Identity
from arsenale_memory.moments import day
from arsenale_memory.record import Version

CARD_TOKENS = 300
"""An identity card is short: it comes again after every compaction."""

BRIEFING_TOKENS = 1_200
NOTES_TAG = "arsenale-notes"
ORIGIN = "from Arsenale's memory"

LINE_CHARS = 240
NAME_CHARS = 80

UNUSED = (
    "This project has files that the user has not approved, so they are not used: {}. "
    "The user can read and approve them with `arsenale trust`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a briefing draws on, each the most telling first."""

    core: Sequence[Version]
    decisions: Sequence[Version]
    recent: Sequence[Version]
    last_checkpoint_us: int | None


def card(identity: Identity, known: Known) -> ModelText:
    """Return who the assistant is, in CARD_TOKENS at most.

    What the user says of it comes first; memories and what the project's files say are notes.
    """
    own = [f"You are {who}."] if (who := _who(identity, own=True)) else []
    own += [f"- {one_line(str(rule))}" for rule in identity.own("rules")]
    own += _section("Core memories", [one_line(str(t)) for t in identity.own("core_memories")])
    text = quote(_within(own, CARD_TOKENS)) if own else ModelText()
    notes = _section("Also", [_line(v) for v in known.core]) + _of_project(identity)
    left = _within(notes, CARD_TOKENS - tokens(text)).strip() if notes else ""
    return join(text, quote(left, tag=NOTES_TAG, origin=ORIGIN) if left else ModelText())


def _of_project(identity: Identity) -> list[str]:
    """Return what the approved files of the project say, as theirs."""
    who = _who(identity, own=False)
    found = [f"In this project you are {who}."] if who else []
    found += [one_line(str(rule)) for rule in identity.foreign("rules")]
    found += [one_line(str(text)) for text in identity.foreign("core_memories")]
    return _section("From this project's .arsenale files, which the user approved", found)


def _who(identity: Identity, *, own: bool) -> str:
    """Return name and class, if the level that gives them is the user's OWN."""
    given = [identity.text(key, "") for key in ("name", "class") if identity.is_own(key) is own]
    return ", ".join(one_line(text, NAME_CHARS) for text in given if text)


def briefing(identity: Identity, persona: str, known: Known, now_us: int) -> ModelText:
    """Return the morning briefing as Markdown, in BRIEFING_TOKENS at most."""
    name = one_line(identity.text("name", persona), NAME_CHARS)
    whom = "" if name == "default" else f" for {name}"
    lines = [f"# Briefing{whom}, {day(now_us, None)}"]
    if known.last_checkpoint_us is not None:
        lines.append(f"Last checkpoint: {day(known.last_checkpoint_us, None)}.")
    projects = [one_line(str(project)) for project in identity.own("projects")]
    projects += [f"(from this project's files) {one_line(str(project))}"
                 for project in identity.foreign("projects")]  # fmt: skip
    lines += _section("Active projects", projects)
    lines += _section("Decisions that hold", [_dated(v) for v in known.decisions])
    lines += _section("What was learned last", [_dated(v) for v in known.recent])
    lines += _section("What matters most", [_line(v) for v in known.core])
    if len(lines) <= 2 and not projects:
        lines.append("Nothing is known yet: `remember` what will matter tomorrow.")
    return quote(_within(lines, BRIEFING_TOKENS), tag=NOTES_TAG, origin=ORIGIN)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", *(f"- {line}" for line in lines)] if lines else []


def one_line(text: str, most: int = LINE_CHARS) -> str:
    """Return TEXT as one line of MOST characters at most."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def _line(version: Version) -> str:
    return one_line(version.content)


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
