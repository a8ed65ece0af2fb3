"""The engine of one model: steps whose rows carry different stacks of LoRA layers."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeAlias, assert_never

import numpy as np

from arsenale_core.errors import (
    ArsenaleError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from arsenale_inference.engine import building, calibrating
from arsenale_inference.engine.compose import CComposer
from arsenale_inference.engine.composing import Composer, Fault, Mode, Step
from arsenale_inference.engine.context import Context, ContextOptions, Decoded, Outcome, Rows
from arsenale_inference.engine.costs import Chooser, Costs, Genome, Load, Way
from arsenale_inference.engine.layers import Layer, Pair, check
from arsenale_inference.engine.llama import Floats, Integers
from arsenale_inference.engine.model import Model, ModelInfo
from arsenale_inference.engine.native import FUSED, Adapters, fuse
from arsenale_inference.engine.python_compose import PythonComposer

Stack: TypeAlias = tuple[tuple[str, float], ...]
"""Layers by name, each with its weight; a name twice counts with the sum. `()` is the base."""

Slots: TypeAlias = tuple[tuple[int, float], ...]

MAX_RESOLVED = 1024
"""Stacks that are remembered; users may ask for any weight."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a model is opened."""

    context: ContextOptions = field(default_factory=ContextOptions)
    gpu_layers: int = 0
    """Layers on the GPU; -1 is all."""

    mmap: bool = True
    build_folder: Path | None = None
    """Where the compiled helper is kept; without it layers are added by numpy."""

    compact: bool = False
    """Keep layers in 8 bits: read faster, rounded by up to 1/254 of a row's largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine is and does."""

    model: ModelInfo
    composer: str
    """`c`, `python` or `none`."""

    reason: str
    """Why it is not a faster one; empty for `c`."""

    ways: tuple[Way, ...]
    layers: Mapping[str, int]
    """Bytes in memory, by name."""

    steps: Mapping[Way, int]
    costs: Costs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    name: str
    values: int
    size_bytes: int
    kept: Layer | None
    """None where the composer has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the stacks of a step come to; steps of a generation share it."""

    stacks: tuple[Stack, ...]
    genomes: tuple[Slots, ...]
    index: Integers
    """Shape `(n,)`: each row's genome."""

    weights: Floats
    """Shape `(n, slots)`."""

    load: Load


class Engine:
    """One model, one context, any number of layers. One thread uses it, `context.abort` apart."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        self.model, self.options = model, options
        self._composer, self._reason = _composer(options)
        self.context = _context(model, options, self._composer)
        self._ways: frozenset[Way] = _ways(self._composer, model)
        self._adapters = Adapters(model)
        self._slots: list[_Loaded | None] = []
        self._resolved: dict[Stack, Slots] = {}
        self._last: _Plan | None = None
        self._set: Slots = ()
        self._steps = dict.fromkeys(Way, 0)
        self._chooser = Chooser(Costs())

    @classmethod
    def open(
        cls, path: Path, options: EngineOptions, *, clock: Callable[[], float] | None = None
    ) -> Self:
        """Open the GGUF at PATH.

        Args:
            path: The model.
            options: How to open it.
            clock: Seconds, to measure what steps cost; without it the defaults of `costs` hold.

        Raises:
            InvalidError: The file is not a model that llama.cpp can run.
            UnavailableError: There is no memory for a context.
        """
        model = Model.load(path, gpu_layers=options.gpu_layers, mmap=options.mmap)
        try:
            engine = cls(model, options)
        except ArsenaleError:
            model.close()
            raise
        engine._record()
        if clock is not None:
            engine._calibrate(clock)
        return engine

    def _record(self) -> None:
        """Learn the graph's weights from a step of three tokens of which one wants logits."""
        if self._composer is None:
            return
        rows = Rows.prompt(np.zeros(3, np.int32))
        self._composed(Mode.RECORD, rows, np.empty((3, 0), np.float32))
        self.context.clear()
        if not self._composer.sites():
            self._ways = frozenset()

    def _calibrate(self, clock: Callable[[], float]) -> None:
        costs = calibrating.base_costs(self.context, clock)
        if self._composer is not None and self._ways:
            layer = calibrating.zeros(self._composer.sites())
            adapter = self._adapters.handle(FUSED, layer)
            set_s, layer_s = calibrating.native_costs(self.context, adapter, clock)
            self._adapters.drop(FUSED)
            layer_s = max(layer_s, costs.native_layer_s / 10)  # a busy moment may hide it
            costs = replace(costs, switch_s=set_s, native_layer_s=layer_s)
            if Way.ADD in self._ways:
                stop_s, add_s = calibrating.add_costs(self.context, self._composer, layer, clock)
                costs = replace(costs, stop_s=stop_s, add_s=add_s)
        self._chooser = Chooser(costs)

    # ------------------------------------------------------------ layers
    def add_layer(self, name: str, pairs: Mapping[str, Pair], *, alpha: float) -> int:
        """Make a layer known to `decode`; nothing of the model or its KV cache changes.

        Args:
            name: What stacks call it.
            pairs: By weight (`blk.0.attn_q.weight`): A `(rank, n_in)` and B `(n_out, rank)`.
            alpha: The layer is scaled by alpha / rank; 0 leaves it as it is.

        Returns:
            The bytes it takes.

        Raises:
            ConflictError: There is a layer of this name.
            InvalidError: It does not fit the model.
        """
        if self._slot(name) is not None:
            raise ConflictError(f"there is a layer {name}", hint="drop it first")
        slot = self._free_slot()
        if self._composer is not None and Way.ADD in self._ways:
            layer = check(name, pairs, alpha, self._composer.sites())
            size = self._composer.set_layer(slot, layer, compact=self.options.compact)
            kept = None
        else:
            layer = self._checked_natively(name, pairs, alpha, slot)
            size, kept = 8 * layer.values, layer
        self._hold(slot, _Loaded(name=name, values=layer.values, size_bytes=size, kept=kept))
        return size

    def _checked_natively(
        self, name: str, pairs: Mapping[str, Pair], alpha: float, slot: int
    ) -> Layer:
        if self._composer is not None and self._composer.sites():
            return check(name, pairs, alpha, self._composer.sites())
        layer = Layer(name=name, pairs=dict(pairs), alpha=alpha)
        self._adapters.handle(slot, layer)
        return layer

    def _hold(self, slot: int, loaded: _Loaded) -> None:
        if slot == len(self._slots):
            self._slots.append(loaded)
        else:
            self._slots[slot] = loaded
        self._resolved.clear()
        self._last = None
        self._unfuse()

    def drop_layer(self, name: str) -> None:
        """Forget a layer and free its memory.

        Raises:
            NotFoundError: There is none of this name.
        """
        slot = self._known(name)
        if any(slot == used for used, _ in self._set):
            self._apply(())
        self._adapters.drop(slot)
        self._slots[slot] = None
        self._resolved.clear()
        self._last = None
        self._unfuse()
        if self._composer is not None:
            self._composer.drop_layer(slot)

    def _unfuse(self) -> None:
        if self._adapters.loaded(FUSED):
            if self._set == _ALL:
                self._apply(())
            self._adapters.drop(FUSED)

    def _slot(self, name: str) -> int | None:
        return next((i for i, held in enumerate(self._slots) if held and held.name == name), None)

    def _free_slot(self) -> int:
        return next((i for i, held in enumerate(self._slots) if held is None), len(self._slots))

    def _known(self, name: str) -> int:
        slot = self._slot(name)
        if slot is None:
            raise NotFoundError("layer", name, hint="add it to this model first")
        return slot

    def _layer(self, slot: int) -> Layer:
        held = self._slots[slot]
        if held is not None and held.kept is not None:
            return held.kept
        assert self._composer is not None
        return self._composer.layer(slot)

    # ------------------------------------------------------------ steps
    def decode(self, rows: Rows, stacks: Sequence[Stack], *, way: Way | None = None) -> Outcome:
        """Run one step; each row gets the layers of its own stack.

        A sequence keeps its stack as long as it lives: keys and values depend on it.

        Args:
            rows: The tokens.
            stacks: One a row.
            way: How, where this model allows it; by default the one that costs least.

        Raises:
            InvalidError: llama.cpp refuses the rows, or a weight is not finite; nothing was kept.
            NotFoundError: A stack names an unknown layer.
        """
        plan = self._plan(rows, tuple(stacks))
        load = replace(plan.load, set_for=self._set_for(plan))
        chosen = way or self._chooser.choose(load, self._ways)
        if chosen in (Way.ADD, Way.MASK) and not (chosen in self._ways and any(self._slots)):
            chosen = Way.GROUPS
        self._steps[chosen] += 1
        return self._run(chosen, rows, plan)

    def _run(self, way: Way, rows: Rows, plan: _Plan) -> Outcome:
        match way:
            case Way.NATIVE | Way.GROUPS:
                return self._groups(rows, plan)
            case Way.ADD:
                self._apply(())
                done = self._composed(Mode.ADD, rows, plan.weights)
            case Way.MASK:
                self._fuse()
                done = self._composed(Mode.MASK, rows, plan.weights)
            case _:
                assert_never(way)
        return done if not isinstance(done, Fault) else self._otherwise(done, rows, plan)

    def _plan(self, rows: Rows, stacks: tuple[Stack, ...]) -> _Plan:
        if len(stacks) != len(rows):
            raise InvalidError(
                f"{len(stacks)} stacks for {len(rows)} rows", hint="give each row its stack"
            )
        if not stacks:
            raise InvalidError("a step of no rows", hint="send at least one")
        if self._last is None or self._last.stacks != stacks:
            self._last = self._planned(stacks)
        return self._last

    def _planned(self, stacks: tuple[Stack, ...]) -> _Plan:
        genomes: dict[Slots, int] = {}
        numbers = {
            stack: genomes.setdefault(self._resolve(stack), len(genomes))
            for stack in dict.fromkeys(stacks)
        }
        index = np.fromiter((numbers[stack] for stack in stacks), np.int32, len(stacks))
        table = np.zeros((len(genomes), len(self._slots)), np.float32)
        for row, genome in zip(table, genomes, strict=True):
            for slot, weight in genome:
                row[slot] = weight
        found = tuple(genomes)
        return _Plan(stacks=stacks, genomes=found, index=index, weights=table[index],
                     load=self._load(found, index))  # fmt: skip

    def _resolve(self, stack: Stack) -> Slots:
        if stack not in self._resolved:
            weights: dict[int, float] = {}
            for name, weight in stack:
                if not math.isfinite(weight):
                    raise InvalidError(f"layer {name} with weight {weight}", hint="give a number")
                slot = self._known(name)
                weights[slot] = weights.get(slot, 0.0) + float(weight)
            if len(self._resolved) >= MAX_RESOLVED:
                self._resolved.clear()
            self._resolved[stack] = tuple(sorted((s, w) for s, w in weights.items() if w != 0.0))
        return self._resolved[stack]

    def _outputs(self, rows: Rows) -> Integers:
        pools = self.options.context.pooling is not None  # then llama.cpp wants all rows
        return np.flatnonzero(rows.wants | pools).astype(np.int32)

    def _load(self, genomes: tuple[Slots, ...], index: Integers) -> Load:
        values = [held.values if held else 0 for held in self._slots]
        counts = np.bincount(index, minlength=len(genomes))
        loads = tuple(
            Genome(int(n), tuple(values[slot] for slot, _ in genome))
            for n, genome in zip(counts, genomes, strict=True)
        )
        used = {slot for genome in genomes for slot, _ in genome}
        distinct = sum(values[slot] for slot in used)
        return Load(genomes=loads, distinct=distinct, fused=sum(values))

    def _set_for(self, plan: _Plan) -> Way | None:
        if not self._set:
            return None
        if self._set == _ALL:
            return Way.MASK
        return Way.NATIVE if plan.genomes == (self._set,) else Way.GROUPS

    def _composed(self, mode: Mode, rows: Rows, weights: Floats) -> Outcome | Fault:
        assert self._composer is not None
        self._composer.begin(Step(mode=mode, weights=weights, outputs=self._outputs(rows)))
        try:
            outcome = self.context.decode(rows)
        finally:
            fault = self._composer.end()
        return outcome if fault is Fault.NONE or not isinstance(outcome, Decoded) else fault

    def _otherwise(self, fault: Fault, rows: Rows, plan: _Plan) -> Outcome:
        """Take the step back and run it in a way that this graph allows."""
        self._take_back(rows)
        assert self._composer is not None
        if fault is Fault.ORDER:
            log.warning("the graph is not as recorded: layers are added one weight at a time")
            self._composer.merge(False)
            done = self._composed(Mode.ADD, rows, plan.weights)
            if not isinstance(done, Fault):
                return done
            self._take_back(rows)
        log.warning("layers cannot be mixed in a step of this model (%s): one by one", fault.name)
        self._ways = frozenset()
        return self._groups(rows, plan)

    def _take_back(self, rows: Rows) -> None:
        for sequence in np.unique(rows.sequences):
            first = int(rows.positions[rows.sequences == sequence].min())
            self.context.remove(int(sequence), first)

    # ------------------------------------------------------------ native adapters
    def _groups(self, rows: Rows, plan: _Plan) -> Outcome:
        """Run a step for each genome; keep nothing unless all of them succeed."""
        if len(plan.genomes) == 1:
            self._apply(plan.genomes[0])
            return self.context.decode(rows)
        self._refuse_groups(rows, plan)
        logits = np.empty((int(np.count_nonzero(rows.wants)), self.model.info.n_vocab), np.float32)
        place = np.cumsum(rows.wants) - 1
        done: list[Rows] = []
        try:
            for number, genome in enumerate(plan.genomes):
                index = np.flatnonzero(plan.index == number)
                part = rows.select(index)
                self._apply(genome)
                outcome = self.context.decode(part)
                if not isinstance(outcome, Decoded):
                    return outcome
                logits[place[index[part.wants]]] = outcome.logits
                done.append(part)
        finally:
            if len(done) < len(plan.genomes):
                for part in done:
                    self._take_back(part)
        return Decoded(logits)

    def _refuse_groups(self, rows: Rows, plan: _Plan) -> None:
        pairs = np.unique(np.stack([rows.sequences, plan.index]), axis=1)
        if pairs.shape[1] != len(np.unique(rows.sequences)):
            raise InvalidError(
                "a sequence has two stacks in one step", hint="give each sequence one stack"
            )
        if self.options.context.pooling is not None:
            raise InvalidError(
                "embeddings of several stacks in one step", hint="send one stack at a time"
            )

    def _apply(self, slots: Slots) -> None:
        if slots != self._set:
            self.context.set_adapters(
                [(self._adapters.handle(slot, self._layer(slot)), weight) for slot, weight in slots]
            )
            self._set = slots

    def _fuse(self) -> None:
        if self._set == _ALL:
            return
        assert self._composer is not None
        held = [slot for slot, loaded in enumerate(self._slots) if loaded]
        layer, rows = fuse({slot: self._layer(slot) for slot in held})
        self.context.set_adapters([(self._adapters.handle(FUSED, layer), 1.0)])
        self._composer.set_mask(rows)
        self._set = _ALL

    # ------------------------------------------------------------ the rest
    def describe(self) -> EngineInfo:
        """Say what this engine is and does."""
        return EngineInfo(
            model=self.model.info,
            composer=self._composer.name if self._composer and self._ways else "none",
            reason=self._reason,
            ways=(Way.NATIVE, *sorted(self._ways), Way.GROUPS),
            layers={held.name: held.size_bytes for held in self._slots if held},
            steps=dict(self._steps),
            costs=self._chooser.costs,
        )

    def close(self) -> None:
        """Give everything back."""
        self.context.close()
        self._adapters.close()
        if self._composer is not None:
            self._composer.close()
        self.model.close()


_ALL: Slots = ((FUSED, 1.0),)


def _composer(options: EngineOptions) -> tuple[Composer | None, str]:
    reason = "no folder for the compiled helper was given"
    if options.build_folder is not None:
        try:
            library = building.library(options.build_folder)
            return CComposer(library, threads=options.context.threads), ""
        except UnavailableError as exc:
            reason = str(exc)
            log.warning("layers are added by numpy: %s", reason)
    try:
        return PythonComposer(), reason
    except UnavailableError as exc:
        log.warning("stacks cannot be mixed in a step: %s", exc)
        return None, f"{reason}; {exc}"


def _context(model: Model, options: EngineOptions, composer: Composer | None) -> Context:
    if composer is None:
        return Context(model, options.context)
    return Context(
        model, options.context, evaluation=composer.callback,
        abort_function=composer.abort_function,
    )  # fmt: skip


def _ways(composer: Composer | None, model: Model) -> frozenset[Way]:
    """Return how rows may be mixed: a state that is no KV cache is stepped in another order."""
    if composer is None or not model.info.one_kv_cache:
        return frozenset()
    if not model.on_gpu:
        return frozenset({Way.ADD, Way.MASK})
    return frozenset({Way.MASK}) if isinstance(composer, CComposer) else frozenset()
