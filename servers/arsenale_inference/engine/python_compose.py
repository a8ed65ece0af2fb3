"""The composer in numpy, for machines without a C compiler: exact too, and slower.

llama.cpp calls Python at each node of the graph, about 1 µs, also in steps without layers.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arsenale_inference.engine import llama, tensors
from arsenale_inference.engine.composing import Fault, Mode, Step
from arsenale_inference.engine.layers import Layer, Site
from arsenale_inference.engine.llama import Floats, Integers
from arsenale_inference.engine.tensors import NE

TAIL = ".lora_a"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Running:
    weights: Floats
    outputs: Integers
    slots: tuple[int, ...]

    def rows(self, gathered: bool) -> Floats:
        return self.weights[self.outputs] if gathered else self.weights


_RESTING = _Running(np.empty((0, 0), np.float32), np.empty(0, np.int32), ())


class PythonComposer:
    """The layers of one context, added by numpy."""

    name = "python"
    abort_function: int | None = None

    def __init__(self) -> None:
        """Look whether the loaded library can be read.

        Raises:
            UnavailableError: It lays out its tensors in another way.
        """
        tensors.verify()
        self._product = tensors.operation_number(b"MUL_MAT")
        self._sites: dict[str, Site] = {}
        self._layers: dict[int, Layer] = {}
        self._mask: dict[str, Integers] = {}
        self._mode, self._running, self._fault = Mode.IDLE, _RESTING, Fault.NONE
        self._found: dict[int, Site | None] = {}
        self.callback = llama.evaluation_callback(self._called)

    def sites(self) -> list[Site]:
        """Return what recorded steps have found, in the graph's order."""
        return list(self._sites.values())

    def set_layer(self, slot: int, layer: Layer, *, compact: bool = False) -> int:
        """Put LAYER into SLOT; return the bytes it takes; COMPACT changes nothing here."""
        pairs = {
            name: (a, b * np.float32(layer.scale(len(a)))) for name, (a, b) in layer.pairs.items()
        }
        self._layers[slot] = Layer(name=layer.name, pairs=pairs, alpha=0.0)
        return sum(a.nbytes + b.nbytes for a, b in pairs.values())

    def drop_layer(self, slot: int) -> None:
        """Empty SLOT."""
        self._layers.pop(slot, None)

    def layer(self, slot: int) -> Layer:
        """Return what is in SLOT, its scale in B."""
        return self._layers[slot]

    def set_mask(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Say, for each site of a fused adapter, which slot each row of its A belongs to."""
        self._mask = {name: np.array(slots, np.int32) for name, slots in rows.items()}
        self._found.clear()

    def begin(self, step: Step) -> None:
        """Prepare the callback for a decode."""
        used = tuple(slot for slot in self._layers if step.weights[:, slot : slot + 1].any())
        if step.mode is not self._mode:
            self._found.clear()
        rests = step.mode is Mode.ADD and not used
        self._mode = Mode.IDLE if rests else step.mode
        self._running = _Running(step.weights, step.outputs, used)
        self._fault = Fault.NONE

    def end(self) -> Fault:
        """Let the callback rest again; say how the step went."""
        self._mode, self._running = Mode.IDLE, _RESTING
        self._found.clear()
        return self._fault

    def merge(self, on: bool) -> None:
        """Nothing is merged here."""

    def close(self) -> None:
        """Forget the layers."""
        self._layers.clear()

    def _called(self, tensor: int, ask: bool, _data: int | None) -> bool:
        """Answer llama.cpp, through which no exception may go."""
        try:
            return self._answer(tensor, ask)
        except Exception:  # the edge of Python
            log.exception("adding a layer failed")
            self._fault = Fault.CRASH
            return not ask

    def _answer(self, tensor: int, ask: bool) -> bool:
        if self._mode is Mode.IDLE or tensors.operation(tensor) != self._product:
            return not ask
        if self._mode is Mode.RECORD:
            self._record(tensor)
            return not ask
        site = self._site(tensor)
        if ask:
            return site is not None and (self._mode is Mode.MASK or self._touches(site))
        if site is not None:
            self._change(tensor, site)
        return True

    def _touches(self, site: Site) -> bool:
        if site.gathered and not len(self._running.outputs):
            return False
        return any(site.name in self._layers[slot].pairs for slot in self._running.slots)

    def _site(self, tensor: int) -> Site | None:
        weight = tensors.source(tensor, 0)
        if weight not in self._found:
            self._found[weight] = self._look_up(tensors.name(weight))
        return self._found[weight]

    def _look_up(self, name: str) -> Site | None:
        if self._mode is Mode.MASK:
            return self._sites.get(name.removesuffix(TAIL)) if name.endswith(TAIL) else None
        return self._sites.get(name)

    def _record(self, tensor: int) -> None:
        weight, x = tensors.source(tensor, 0), tensors.source(tensor, 1)
        name, n = tensors.name(weight), tensors.integer(tensor, NE + 8)
        plain = tensors.kind(tensor) == tensors.kind(x) == tensors.F32_TYPE
        flat = tensors.integer(tensor, NE + 16) == tensors.integer(tensor, NE + 24) == 1
        known = n in (len(self._running.weights), len(self._running.outputs))
        if not (name.endswith(".weight") and plain and flat and known) or name in self._sites:
            return
        self._sites[name] = Site(
            name=name, n_in=tensors.integer(x, NE), n_out=tensors.integer(tensor, NE),
            gathered=n != len(self._running.weights),
        )  # fmt: skip

    def _change(self, tensor: int, site: Site) -> None:
        y, rows = tensors.matrix(tensor), self._running.rows(site.gathered)
        if len(y) != len(rows):
            self._fault = Fault.ROWS
        elif self._mode is Mode.MASK:
            y *= rows[:, self._mask[site.name]]
        else:
            self._add(y, tensors.matrix(tensors.source(tensor, 1)), site, rows)

    def _add(self, y: Floats, x: Floats, site: Site, rows: Floats) -> None:
        for slot in self._running.slots:
            pair = self._layers[slot].pairs.get(site.name)
            weight = rows[:, slot]
            users = np.flatnonzero(weight)
            if pair is not None and len(users):
                a, b = pair
                y[users] += (x[users] @ a.T * weight[users, None]) @ b.T
