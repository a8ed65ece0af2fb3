"""Which rows the next step has: every answer's next token, then prompts within a budget. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a live generation has to compute.

    Attributes:
        waiting: Tokens of its prompt that are not computed; 0 while it generates.
        priority: 0 to 10; 10 goes first.
        order: When it came, rising.
        most: So many rows of it in a step at most.
    """

    waiting: int
    priority: int
    order: int
    most: int | None = None


def plan(turns: Sequence[Turn], *, batch: int, budget: int) -> list[int]:
    """Return how many rows each of TURNS gets in the next step.

    Who generates gets one row always, so that a long prompt cannot stop the others. The prompts
    share BUDGET rows, higher priority first and then who came first; the first of them gets at
    least one row, and alone (nobody generates) as many as the step holds.

    Args:
        turns: The live generations; at most BATCH.
        batch: Rows that a step holds.
        budget: Rows for prompts while others generate.
    """
    rows = [0 if turn.waiting else 1 for turn in turns]
    generating = sum(rows)
    room = batch - generating
    left = min(room, max(budget, 1)) if generating else room
    prompts = [i for i, turn in enumerate(turns) if turn.waiting]
    for i in sorted(prompts, key=lambda i: (-turns[i].priority, turns[i].order)):
        most = turns[i].most
        rows[i] = min(left, turns[i].waiting, left if most is None else most)
        left -= rows[i]
    return rows
