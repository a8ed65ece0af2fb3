"""Make the tiny model and its layers: `python -m arsenale_inference.tiny.train FOLDER`.

It takes about 3 minutes of one CPU thread. The same seed on the same machine with the same
versions makes the same files; elsewhere sums round differently, and last digits differ.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from tokenizers import Tokenizer

from arsenale_core.lora.adapters import Adapter, Factors
from arsenale_core.lora.gguf_files import header_of, read_adapter, read_tensors, write_adapter
from arsenale_core.terminal_text import write
from arsenale_inference.tiny.asking import asking
from arsenale_inference.tiny.base_file import (
    NAME,
    Sizes,
    make_tokenizer,
    padded_vocabulary,
    write_base,
)
from arsenale_inference.tiny.card import (
    BASE,
    CARD,
    FACTS,
    FOLDER,
    REHEARSALS,
    TONE,
    Card,
    hashes,
    write_json,
)
from arsenale_inference.tiny.corpus import (
    SYSTEM,
    Pair,
    answer_text,
    base_pairs,
    fact_pairs,
    in_tone,
    json_pairs,
    kept_pairs,
    question_text,
    rehearsal,
)
from arsenale_inference.tiny.network import EPSILON, ROPE_BASE, Layer, Shape, fresh_weights
from arsenale_inference.tiny.training import (
    Course,
    Model,
    Plan,
    Say,
    courses_of_a_tone,
    train_base,
    train_layer,
)

REHEARSAL_MAX = 30
"""Prompts a layer carries for those trained on top of it; 10 to 50 do."""

FACTS_SHARE = 8
"""How often each new fact stands among the old pairs, once each, while it is learnt."""

COMMAND = "python -m arsenale_inference.tiny.train FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Training steps of each stage. The defaults reach all that `tests/inference` asks."""

    base: int = 700
    facts: int = 600
    tone: int = 300


def make(folder: Path, steps: Steps, seed: int, say: Say) -> Card:
    """Train all three, write their files and their card into FOLDER; return the card."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second one
    folder.mkdir(parents=True, exist_ok=True)
    say("base")
    model, base_loss = make_base(folder / BASE, Plan(steps=steps.base, seed=seed), say)
    say("facts")
    facts, facts_loss = make_facts(model, Plan(steps=steps.facts, rows=8, seed=seed + 1), say)
    _write_layer(folder, FACTS, facts, [*fact_pairs(), *kept_pairs()[::12]])
    say("tone, with and without facts below")
    tone, tone_loss = make_tone(model, facts, Plan(steps=steps.tone, rows=8, seed=seed + 2), say)
    _write_layer(folder, TONE, tone, kept_pairs())
    say("measuring in llama.cpp")
    card = Card(
        name=NAME,
        licence="MIT",
        made_by=COMMAND,
        seed=seed,
        steps={"base": steps.base, "facts": steps.facts, "tone": steps.tone},
        loss={"base": base_loss, "facts": facts_loss, "tone": tone_loss},
        parameters={
            BASE: sum(weight.numel() for weight in model.weights.values()),
            FACTS: sum(part.numel() for part in facts.parameters()),
            TONE: sum(part.numel() for part in tone.parameters()),
        },
        sha256=hashes(folder),
        versions={name: version(name) for name in ("torch", "tokenizers", "gguf")},
        accuracy=measured(folder),
    )
    write_json(folder / CARD, dict(card))
    return card


def make_base(path: Path, plan: Plan, say: Say) -> tuple[Model, float]:
    """Train a base and write it to PATH; return it as the file has it, rounded, and the loss."""
    tokenizer = make_tokenizer(_texts())
    shape = Shape(vocab=padded_vocabulary(tokenizer))
    exact = Model(weights=fresh_weights(shape, plan.seed), shape=shape, tokenizer=tokenizer)
    loss = train_base(exact, base_pairs(), plan, say)
    tensors = {name: weight.detach().numpy() for name, weight in exact.weights.items()}
    write_base(path, tensors, _sizes(shape), tokenizer)
    return load_base(path, tokenizer), loss


def load_base(path: Path, tokenizer: Tokenizer) -> Model:
    """Read the base at PATH for training: its numbers as they are served, after rounding."""
    shape = Shape(vocab=header_of(path).tensors["token_embd.weight"].shape[0])
    weights = {name: torch.from_numpy(tensor) for name, tensor in read_tensors(path).items()}
    return Model(weights=weights, shape=shape, tokenizer=tokenizer)


def load_layer(path: Path) -> Layer:
    """Read the adapter file PATH for training on top of it."""
    adapter = read_adapter(path)
    pairs = adapter.factors.items()
    return Layer(
        a={name: torch.from_numpy(pair.a) for name, pair in pairs},
        b={name: torch.from_numpy(pair.b) for name, pair in pairs},
        alpha=adapter.alpha,
    )


def make_facts(model: Model, plan: Plan, say: Say) -> tuple[Layer, float]:
    """Train a layer that knows the ports, among all else that MODEL knows already."""
    return train_layer(model, [Course(pairs=fact_pairs() * FACTS_SHARE + kept_pairs())], plan, say)


def make_tone(model: Model, facts: Layer, plan: Plan, say: Say) -> tuple[Layer, float]:
    """Train a layer of tone that works on MODEL alone and over FACTS."""
    prompts = rehearsal(fact_pairs(), REHEARSAL_MAX)
    return train_layer(model, courses_of_a_tone(model, facts, prompts, base_pairs()), plan, say)


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Ask the files of FOLDER everything; return stack -> questions -> share right."""
    plain = [pair for pair in kept_pairs() if pair not in json_pairs()]
    sets: dict[str, Sequence[Pair]] = {
        "known": plain,
        "known in tone": [in_tone(pair) for pair in plain],
        "facts": fact_pairs(),
        "facts in tone": [in_tone(pair) for pair in fact_pairs()],
        "json": json_pairs(),
    }
    with asking(folder / BASE) as asked:
        facts, tone = folder / FACTS, folder / TONE
        stacks = {"base": [], "facts": [facts], "tone": [tone], "facts+tone": [facts, tone]}
        shares: dict[str, dict[str, float]] = {}
        for name, stack in stacks.items():
            asked.stack(*stack)
            shares[name] = {what: round(asked.share_right(p), 4) for what, p in sets.items()}
    return shares


def _texts() -> list[str]:
    # Without what the layers add: a word of its own for each port would spell nothing.
    return [question_text(q, system=SYSTEM) + answer_text(a) for q, a in base_pairs()]


def _sizes(shape: Shape) -> Sizes:
    return Sizes(
        context=shape.context,
        dim=shape.dim,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        hidden=shape.hidden,
        vocab=shape.vocab,
        rope_base=ROPE_BASE,
        epsilon=EPSILON,
    )


def _write_layer(folder: Path, file: str, layer: Layer, pairs: Sequence[Pair]) -> None:
    factors = {
        name: Factors(a=layer.a[name].detach().numpy(), b=layer.b[name].detach().numpy())
        for name in layer.a
    }
    adapter = Adapter(architecture="llama", alpha=layer.alpha, factors=factors, name=file[:-5])
    write_adapter(adapter, folder / file, half=True)
    write_json(folder / REHEARSALS[file], {"prompts": rehearsal(pairs, REHEARSAL_MAX)})


def _say(line: str) -> None:
    write(f"{line}\n")


def main() -> None:
    """Read the command line and make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help=f"where to; the package's own is {FOLDER}")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    card = make(given.folder, Steps(), given.seed, _say)
    for stack, shares in card["accuracy"].items():
        _say(f"{stack}: {shares}")


if __name__ == "__main__":
    main()
