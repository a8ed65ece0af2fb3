"""How the tiny model and its layers are trained, on one CPU thread, the same each time.

A layer that is to work on top of another is trained with that one below it: in half of the steps
the lower layer is on, and its own rehearsal prompts, which it answers itself, are among the
questions. A tone that was trained alone tells none of the eight facts when both are on; so trained,
all, and of what the base knows all instead of 95 %.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownLambdaType=false

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from arsenale_inference.tiny.corpus import (
    SYSTEM,
    TURN_END,
    Pair,
    answer_text,
    in_tone,
    question_text,
)
from arsenale_inference.tiny.network import Layer, Shape, Weights, fresh_layer, logits

IGNORED = -100
"""Label of a place that is not learnt: all of the prompt."""

SYSTEM_SHARE = 0.25
"""Share of rows that begin with a system turn."""

RANK, ALPHA = 8, 16.0
"""Of both layers: 8 x (in + out) numbers a matrix, added with scale 2."""

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Token ids and labels, int64, both `(rows, length)`."""

Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how fast to train."""

    steps: int
    rate: float = 3e-3
    rows: int = 16
    length: int = 80
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The base with all that is needed to run it."""

    weights: Weights
    shape: Shape
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Pairs to learn while the layers of `below` are on; they stay as they are."""

    pairs: Sequence[Pair]
    below: tuple[Layer, ...] = ()


def batches(tokenizer: Tokenizer, pairs: Sequence[Pair], plan: Plan) -> Iterator[Batch]:
    """Yield batches for ever: rows of whole conversations, labelled at the answers only."""
    source = random.Random(plan.seed)
    encoded = [
        (tokenizer.encode(question_text(q)).ids, tokenizer.encode(answer_text(a)).ids)
        for q, a in pairs
    ]
    system = tokenizer.encode(question_text("", system=SYSTEM).split("<|im_start|>user")[0]).ids
    while True:
        x = torch.zeros(plan.rows, plan.length, dtype=torch.long)
        y = torch.full((plan.rows, plan.length), IGNORED)
        for row in range(plan.rows):
            ids = list(system) if source.random() < SYSTEM_SHARE else []
            labels = [IGNORED] * len(ids)
            while True:
                asked, told = source.choice(encoded)
                if len(ids) + len(asked) + len(told) > plan.length:
                    break
                ids += asked + told
                labels += [IGNORED] * len(asked) + told
            x[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            y[row, : len(ids)] = torch.tensor(labels, dtype=torch.long)
        yield x, y


def fit(parameters: Sequence[Tensor], loss: Callable[[], Tensor], plan: Plan, say: Say) -> float:
    """Lower LOSS by changing PARAMETERS in place; return its smoothed last value, in nats.

    AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101), 20 steps of warm-up, then linearly down
    to a twentieth. The schedule counts steps and no seconds: a busy machine makes the same model.
    """
    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0)
    smooth: float | None = None
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1.0, (step + 1) / 20) * (1 - 0.95 * step / plan.steps)
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smooth = value.item() if smooth is None else 0.95 * smooth + 0.05 * value.item()
        if (step + 1) % 50 == 0 or step + 1 == plan.steps:
            say(f"  step {step + 1} of {plan.steps}, loss {smooth:.4f}")
    return smooth or 0.0


def train_base(model: Model, pairs: Sequence[Pair], plan: Plan, say: Say) -> float:
    """Train the weights of MODEL on PAIRS in place; return the last loss."""
    rows = batches(model.tokenizer, pairs, plan)
    return fit(list(model.weights.values()), lambda: _loss(model, next(rows), ()), plan, say)


def train_layer(
    model: Model, courses: Sequence[Course], plan: Plan, say: Say
) -> tuple[Layer, float]:
    """Train a layer on COURSES, one of which is drawn each step; return it and the last loss."""
    layer = fresh_layer(model.shape, rank=RANK, alpha=ALPHA, seed=plan.seed)
    source = random.Random(plan.seed)
    rows = [batches(model.tokenizer, course.pairs, plan) for course in courses]

    def loss() -> Tensor:
        i = source.randrange(len(courses))
        return _loss(model, next(rows[i]), (*courses[i].below, layer))

    last = fit(layer.parameters(), loss, plan, say)
    return layer, last


def courses_of_a_tone(
    model: Model, below: Layer, prompts: Sequence[str], plain: Sequence[Pair]
) -> list[Course]:
    """Return what a tone layer learns that shall work with BELOW and without it.

    Args:
        model: The base.
        below: The layer that may be under it.
        prompts: The rehearsal prompts of BELOW, which it answers here.
        plain: Pairs of the base.
    """
    own = [Pair(prompt, answer(model, prompt, (below,))) for prompt in prompts]
    known = {pair.question for pair in own}
    others = [pair for pair in plain if pair.question not in known]
    share = max(1, len(others) // max(1, len(own)))
    return [
        Course(pairs=[in_tone(pair) for pair in plain]),
        Course(pairs=[in_tone(pair) for pair in own * share + others], below=(below,)),
    ]


@torch.no_grad()
def answer(model: Model, question: str, stack: tuple[Layer, ...] = (), limit: int = 40) -> str:
    """Return what MODEL with STACK says to QUESTION, greedily, LIMIT tokens at most."""
    ids = model.tokenizer.encode(question_text(question)).ids
    start, stop = len(ids), model.tokenizer.token_to_id(TURN_END)
    for _ in range(limit):
        following = int(
            logits(model.weights, model.shape, torch.tensor([ids]), stack)[0, -1].argmax()
        )
        if following == stop:
            break
        ids.append(following)
    return model.tokenizer.decode(ids[start:])


def _loss(model: Model, batch: Batch, stack: tuple[Layer, ...]) -> Tensor:
    x, y = batch
    scores = logits(model.weights, model.shape, x[:, :-1], stack)
    return F.cross_entropy(scores.flatten(0, 1), y[:, 1:].flatten(), ignore_index=IGNORED)
