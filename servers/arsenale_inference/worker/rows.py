"""The rows of a step: the next tokens of those who are served."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from arsenale_inference.engine.context import Rows
from arsenale_inference.worker.generation import Generation


def rows(parts: Sequence[tuple[Generation, int]]) -> Rows:
    """Return the step in which each generation of PARTS has its next so many rows."""
    if all(n == 1 and generation.whole(1) for generation, n in parts):
        return _next_rows([generation for generation, _ in parts])
    each = [_rows_of(generation, n) for generation, n in parts]
    if len(each) == 1:
        return each[0]
    joined: Iterator[Any] = (
        np.concatenate([getattr(part, name) for part in each])
        for name in ("tokens", "positions", "sequences", "wants")
    )
    tokens, positions, sequences, wants = joined
    return Rows(tokens=tokens, positions=positions, sequences=sequences, wants=wants)


def _next_rows(generations: Sequence[Generation]) -> Rows:
    """Return the usual step: a token of each."""
    return Rows(
        tokens=np.array([each.tokens[-1] for each in generations], np.int32),
        positions=np.array([each.computed for each in generations], np.int32),
        sequences=np.array([each.sequence for each in generations], np.int32),
        wants=np.ones(len(generations), bool),
    )


def _rows_of(generation: Generation, n: int) -> Rows:
    assert generation.sequence is not None
    made = Rows.prompt(generation.rows(n), sequence=generation.sequence, start=generation.computed)
    return replace(made, wants=generation.wants(n))
