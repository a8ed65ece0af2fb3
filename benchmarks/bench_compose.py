"""Stacks of LoRA layers in one step, beside the base model and llama.cpp's own adapters.

    python benchmarks/bench_compose.py [--quick]

Asked: 8 sequences with 8 different genomes reach >= 0.80 of the base batch's tokens per CPU
second; a stack of 4 layers at batch 1 costs <= 15 % over the base. Layers: rank 16, all 7 linears.
Models are random (0.4 B parameters in Q8_0, and 3 M in 32 bits, where calls show) and made here.
CPU seconds of one thread; the median round of each, all ways taking turns within a round.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import machine, quantile, verdict

from arsenale_inference.engine.context import ContextOptions, Decoded, Rows
from arsenale_inference.engine.costs import Way
from arsenale_inference.engine.engine import Engine, EngineOptions, Stack
from arsenale_inference.engine.testing import LITTLE, SMALL, Shape, random_layer, write_model

RANK, LAYERS, PROMPT = 16, 8, 16
SIZES, DEPTHS = (1, 2, 4, 8), (1, 2, 4)
SEEN: Stack = ()
Case = Callable[[], float]


def opened(path: Path, shape: Shape, build: Path, *, compact: bool) -> Engine:
    """Open the model with its layers; each of 8 sequences has a prompt behind it."""
    context = ContextOptions(tokens=1024, sequences=LAYERS)
    options = EngineOptions(context=context, build_folder=build, compact=compact)
    engine = Engine.open(path, options)
    for number in range(LAYERS):
        pairs = random_layer(shape, number, rank=RANK, kind="f16")
        engine.add_layer(name(number), pairs, alpha=2.0 * RANK)
    for sequence in range(LAYERS):
        rows = Rows.prompt(np.arange(PROMPT, dtype=np.int32) + 2, sequence=sequence)
        engine.decode(rows, [SEEN] * PROMPT)
    return engine


def name(number: int) -> str:
    """Return the name of a layer."""
    return f"layer-{number}"


def step(engine: Engine, stacks: list[Stack], way: Way) -> float:
    """Return the CPU time of a step with one row for each of STACKS, seconds.

    It is the second of two: graphs and adapters are set then, as in the course of a generation.
    """
    rows = Rows.of([(7, PROMPT, sequence, True) for sequence in range(len(stacks))])
    taken = 0.0
    for _ in range(2):
        begun = time.thread_time()
        done = engine.decode(rows, stacks, way=way)
        taken = time.thread_time() - begun
        assert isinstance(done, Decoded)
        for sequence in range(len(stacks)):
            engine.context.remove(sequence, PROMPT)
    return taken


def cases(engine: Engine, compact: Engine) -> dict[str, Case]:
    """Return what is measured, by name."""
    found: dict[str, Case] = {}

    def case(label: str, stacks: list[Stack], way: Way, on: Engine = engine) -> None:
        found[label] = lambda: step(on, stacks, way)

    for n in SIZES:
        mixed: list[Stack] = [((name(i), 1.0),) for i in range(n)]
        case(f"base, {n}", [()] * n, Way.ADD)
        case(f"genomes, {n}", mixed, Way.ADD)
        case(f"genomes in 8 bits, {n}", mixed, Way.ADD, compact)
        case(f"genomes by mask, {n}", mixed, Way.MASK)
        if n > 1:
            case(f"genomes one by one, {n}", mixed, Way.GROUPS)
            case(f"one genome, {n}", [mixed[0]] * n, Way.ADD)
            case(f"one genome natively, {n}", [mixed[0]] * n, Way.NATIVE)
    for depth in DEPTHS:
        stack: Stack = tuple((name(i), 0.5) for i in range(depth))
        case(f"stack of {depth}", [stack], Way.ADD)
        case(f"stack of {depth} in 8 bits", [stack], Way.ADD, compact)
        case(f"stack of {depth} natively", [stack], Way.NATIVE)
    return found


def measured(engines: tuple[Engine, Engine], rounds: int) -> dict[str, float]:
    """Return the median of each case, seconds; the first round is not counted."""
    todo = cases(*engines)
    times: dict[str, list[float]] = {label: [] for label in todo}
    for number in range(rounds + 1):
        for label, case in todo.items():
            taken = case()
            if number:
                times[label].append(taken)
    return {label: quantile(taken, 0.5) for label, taken in times.items()}


def show(title: str, found: dict[str, float]) -> None:
    """Print batches as shares of the base batch, and stacks as what they add to it."""
    print(f"{title}: tokens per CPU second, and their share of the base batch's")
    for n in SIZES:
        base_s = found[f"base, {n}"]
        print(f"  {n} sequences: base {n / base_s:,.1f}")
        for label, taken_s in found.items():
            if label.endswith(f", {n}") and not label.startswith("base"):
                print(f"    {label:26} {n / taken_s:10,.1f}  {base_s / taken_s:.2f}")
    base_s = found["base, 1"]
    for label, taken_s in found.items():
        if label.startswith("stack"):
            print(f"    {label:26} {1 / taken_s:10,.1f}  {taken_s / base_s - 1:+.0%}")


def check(found: dict[str, float]) -> None:
    """Hold the figures to what was asked."""
    eight = found["base, 8"] / found["genomes, 8"]
    verdict("8 genomes / base batch of 8", eight, 0.80, " x", at_least=True)
    for label in ("stack of 4", "stack of 4 in 8 bits"):
        verdict(f"{label} over the base, batch 1", found[label] / found["base, 1"] - 1, 0.15)


def run(title: str, shape: Shape, folder: Path, rounds: int) -> dict[str, float]:
    """Make a model, measure it and print."""
    path = write_model(folder / "model.gguf", shape)
    engines = tuple(opened(path, shape, folder, compact=compact) for compact in (False, True))
    found = measured((engines[0], engines[1]), rounds)
    sizes = [sum(engine.describe().layers.values()) / LAYERS / 1e6 for engine in engines]
    print(f"  a layer takes {sizes[0]:.1f} MB, in 8 bits {sizes[1]:.1f} MB")
    show(title, found)
    for engine in engines:
        engine.close()
    path.unlink()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    quick: bool = parser.parse_args().quick
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        run("3 M parameters, 32 bits", LITTLE, Path(folder), 20 if quick else 100)
        check(run("0.4 B parameters, Q8_0", SMALL, Path(folder), 3 if quick else 12))


if __name__ == "__main__":
    main()
