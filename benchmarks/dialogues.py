"""LoCoMo dialogues (Maharana et al., ACL 2024) as memories. CC BY-NC 4.0: not in this repository.

One turn of a dialogue is one memory; the evidence of a question are the turns that answer it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
"""The categories that are measured; 5 has no answer in the dialogue."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as a memory."""

    id: str
    text: str
    speaker: str
    session: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the turns that answer it."""

    text: str
    category: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation of many sessions, and what is asked about it."""

    name: str
    turns: tuple[Turn, ...]
    questions: tuple[Asked, ...]


def load(path: Path) -> list[Dialogue]:
    """Read the dialogues of PATH."""
    return [_dialogue(said) for said in json.loads(path.read_text(encoding="utf-8"))]


def measures(ranked: Sequence[str], evidence: Sequence[str]) -> dict[str, float]:
    """Return recall@5, recall@10, MRR and nDCG@10 of RANKED against EVIDENCE."""
    gains = [float(id in evidence) for id in ranked[:10]]
    best = sum(1 / math.log2(i + 2) for i in range(min(10, len(evidence))))
    return {
        "R@5": sum(gains[:5]) / len(evidence),
        "R@10": sum(gains) / len(evidence),
        "MRR": next((1 / (i + 1) for i, gain in enumerate(gains) if gain), 0.0),
        "nDCG@10": sum(gain / math.log2(i + 2) for i, gain in enumerate(gains)) / best,
    }


def table_row(name: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Return the means of ROWS (category, measures) as a line, R@10 by category at the end."""

    def mean(key: str, category: str | None = None) -> float:
        values = [m[key] for c, m in rows if category in (None, c)]
        return sum(values) / len(values) if values else float("nan")

    overall = "  ".join(f"{mean(key):.3f}" for key in ("R@5", "R@10", "MRR", "nDCG@10"))
    by_category = "  ".join(f"{mean('R@10', c):.3f}" for c in CATEGORIES.values())
    return f"{name:<42} {overall}   {by_category}"


HEADING = f"{'':<42} R@5    R@10   MRR    nDCG    R@10: {' / '.join(CATEGORIES.values())}"


def _dialogue(said: dict[str, Any]) -> Dialogue:
    name, conversation = said["sample_id"], said["conversation"]
    turns: list[Turn] = []
    numbers = sorted(
        int(key.split("_")[1]) for key in conversation if re.fullmatch(r"session_\d+", key)
    )
    for number in numbers:
        begun = datetime.strptime(
            conversation[f"session_{number}_date_time"].strip(), "%I:%M %p on %d %B, %Y"
        ).replace(tzinfo=UTC)
        for i, turn in enumerate(conversation[f"session_{number}"]):
            text = turn["text"].strip()
            if caption := turn.get("blip_caption"):
                text += f" [shares an image: {caption}]"
            at = begun + timedelta(seconds=20 * i)
            turns.append(
                Turn(f"{name}/{turn['dia_id']}", text, turn["speaker"], f"{name}/{number}", at)
            )
    known = {turn.id for turn in turns}
    questions = [
        Asked(q["question"], CATEGORIES[q["category"]], evidence)
        for q in said["qa"]
        if q["category"] in CATEGORIES and (evidence := _evidence(name, q, known))
    ]
    return Dialogue(name, tuple(turns), tuple(questions))


def _evidence(name: str, question: dict[str, Any], known: set[str]) -> tuple[str, ...]:
    """Return the evidence that exists: the data has a few slips."""
    found = [
        f"{name}/D{int(session)}:{int(turn)}"
        for item in question.get("evidence") or ()
        for session, turn in re.findall(r"D:?(\d+):(\d+)", item)
    ]
    return tuple(id for id in dict.fromkeys(found) if id in known)
