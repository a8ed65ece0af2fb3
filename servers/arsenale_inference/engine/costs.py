"""What a step costs in each way of giving its rows their layers, and which way to take. Pure.

The model is linear in rows, in the values of the layers that are read, and in their products. Its
coefficients are measured when a model is opened (`calibrating`); the defaults were measured on one
core of a server with a model of 0.39 B parameters in Q8_0 and layers of rank 16 on all linears.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Way(StrEnum):
    """How the rows of a step get their layers."""

    NATIVE = "native"
    """One stack for all rows, as llama.cpp's own adapters."""

    ADD = "add"
    """Added after each product, by the callback."""

    MASK = "mask"
    """One fused adapter of all layers, its rows weighted by the callback."""

    GROUPS = "groups"
    """One native step for each stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds."""

    step_s: float = 36e-3
    """A step, whatever it holds: the model's weights are read."""

    row_s: float = 29e-3
    switch_s: float = 26e-3
    """llama.cpp reserves its graphs anew when the set of native adapters changes."""

    stop_s: float = 1.7e-3
    """The graph stops at each weight that the callback changes."""

    read_s: float = 3.7e-10
    """A value of a layer, read once a step."""

    add_s: float = 3.0e-10
    """A value of a layer for one row, by the callback."""

    native_layer_s: float = 9e-3
    """Small operations that one more native adapter puts into the graph."""

    native_s: float = 1.0e-10
    """A value of a layer for one row, by llama.cpp."""


@dataclass(frozen=True, slots=True)
class Genome:
    """The rows of a step that share a stack."""

    rows: int
    layers: tuple[int, ...]
    """Values of each layer of the stack; empty for the base model."""

    @property
    def products(self) -> int:
        """Values times rows."""
        return self.rows * sum(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A step, as far as its cost goes."""

    genomes: tuple[Genome, ...]
    distinct: int
    """Values of all layers in use, each counted once."""

    fused: int
    """Values of all layers that are loaded."""

    set_for: Way | None = None
    """Whose adapters the context has: of this stack (NATIVE), fused (MASK), of another (GROUPS)."""

    @property
    def rows(self) -> int:
        """Rows of the step."""
        return sum(genome.rows for genome in self.genomes)


def running_s(way: Way, load: Load, costs: Costs) -> float:
    """Return what a step costs once the adapters of WAY are set."""
    base = costs.step_s + load.rows * costs.row_s
    products = sum(genome.products for genome in load.genomes)
    match way:
        case Way.ADD:
            return base + costs.stop_s + load.distinct * costs.read_s + products * costs.add_s
        case Way.MASK:
            each = costs.read_s + load.rows * costs.native_s
            return base + costs.stop_s + costs.native_layer_s + load.fused * each
        case Way.NATIVE | Way.GROUPS:
            return sum(_native_s(genome, costs) for genome in load.genomes)


def _native_s(genome: Genome, costs: Costs) -> float:
    base = costs.step_s + genome.rows * costs.row_s
    layers = len(genome.layers) * costs.native_layer_s + sum(genome.layers) * costs.read_s
    return base + layers + genome.products * costs.native_s


def setting_s(way: Way, load: Load, costs: Costs) -> float:
    """Return what it costs to set the adapters of WAY before the step."""
    match way:
        case Way.ADD:
            ready = load.set_for is None
        case Way.NATIVE:
            ready = load.set_for is (way if load.distinct else None)
        case Way.MASK:
            ready = load.set_for is way
        case Way.GROUPS:
            return costs.switch_s * len(load.genomes)
    return 0.0 if ready else costs.switch_s


class Chooser:
    """Takes the cheapest way; pays for a switch when as much has been lost by not switching.

    That is at most twice the cost of knowing the future (Karlin et al., Competitive snoopy caching,
    1988: the ski rental problem).
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self._lost: dict[Way, float] = {}

    def choose(self, load: Load, ways: Collection[Way]) -> Way:
        """Return the way for a step; GROUPS is always possible, NATIVE for one genome.

        Args:
            load: The step.
            ways: What the backend can do, besides.
        """
        possible = self._possible(load, ways)
        total = {
            w: running_s(w, load, self.costs) + setting_s(w, load, self.costs) for w in possible
        }
        best = min(possible, key=lambda way: total[way])
        wished = min(possible, key=lambda way: total[way] - self._once(way, load))
        lost = total[best] - total[wished] + self._once(wished, load)
        self._lost[wished] = self._lost.get(wished, 0.0) + max(lost, 0.0)
        if wished is not best and self._lost[wished] < setting_s(wished, load, self.costs):
            return best
        self._lost.clear()
        return wished

    def _once(self, way: Way, load: Load) -> float:
        """Return the part of the switch that later steps of the same kind do not pay."""
        return 0.0 if way is Way.GROUPS else setting_s(way, load, self.costs)

    def _possible(self, load: Load, ways: Collection[Way]) -> list[Way]:
        alone = Way.NATIVE if len(load.genomes) == 1 else Way.GROUPS
        composed = (Way.ADD, Way.MASK) if load.fused else ()
        return [alone, *(way for way in composed if way in ways)]
