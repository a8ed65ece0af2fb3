"""What a composer does: give each row of a step its own stack of LoRA layers inside one decode.

There are two: `compose` (C, `compose.c`) and `python_compose` (numpy, where there is no compiler).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from arsenale_inference.engine.layers import Layer, Site
from arsenale_inference.engine.llama import Callback, Floats, Integers


class Mode(IntEnum):
    """What the callback does in the next step."""

    IDLE = 0
    RECORD = 1
    ADD = 2
    MASK = 3


class Fault(IntEnum):
    """What went wrong in a step; its result is void then."""

    NONE = 0
    ROWS = 1
    """llama.cpp cut the step in parts or reordered it."""

    ORDER = 2
    """The graph read a product before its layers were added."""

    MEMORY = 3
    CRASH = 4
    """The callback raised; the log has its traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The rows of a step and the weight of each layer on each of them."""

    mode: Mode
    weights: Floats
    """Shape `(n, slots)`; slots as the layers have them."""

    outputs: Integers
    """Shape `(m,)`: the rows that want logits, ascending."""


class Composer(Protocol):
    """Changes products of the graph while llama.cpp computes it. One thread uses it."""

    @property
    def name(self) -> str:
        """`c` or `python`."""
        ...

    @property
    def callback(self) -> Callback:
        """What a context calls for each node."""
        ...

    @property
    def abort_function(self) -> int | None:
        """A native `bool (*)(void *)` that reads an int32."""
        ...

    def sites(self) -> list[Site]:
        """Return what recorded steps have found."""
        ...

    def set_layer(self, slot: int, layer: Layer, *, compact: bool = False) -> int:
        """Put LAYER into SLOT, in 8 bits where COMPACT; return the bytes it takes."""
        ...

    def drop_layer(self, slot: int) -> None:
        """Empty SLOT."""
        ...

    def layer(self, slot: int) -> Layer:
        """Return what is in SLOT, its scale in B."""
        ...

    def set_mask(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Say, for each site of a fused adapter, which slot each row of its A belongs to."""
        ...

    def begin(self, step: Step) -> None:
        """Prepare the callback for a decode."""
        ...

    def end(self) -> Fault:
        """Let the callback rest again; say how the step went."""
        ...

    def merge(self, on: bool) -> None:
        """Serve products of one input by one stop of the graph, where recording proved it safe."""
        ...

    def close(self) -> None:
        """Give its memory back, after the context is closed."""
        ...
