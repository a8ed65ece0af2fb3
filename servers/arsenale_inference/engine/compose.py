"""The composer in C: a thin wrapper of `compose.c`."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import UnavailableError
from arsenale_inference.engine import llama
from arsenale_inference.engine.composing import Fault, Step
from arsenale_inference.engine.layers import Layer, Packed, Site, pack, together
from arsenale_inference.engine.llama import Callback

NAME_BYTES = 64
"""GGML_MAX_NAME of ggml.h."""

_P, _I, _L = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "compose_new": (_P, [_P, _P, _P]),
    "compose_free": (None, [_P]),
    "compose_block": (_I, []),
    "compose_halves": (_I, []),
    "compose_site": (_I, [_P, _I, _P, _P, _P, _P, _P]),
    "compose_set": (_I, [_P, _I, _P, _P, _P, _P, _P]),
    "compose_drop": (None, [_P, _I]),
    "compose_rows": (_I, [_P, _I, _I, _P]),
    "compose_begin": (_I, [_P, _I, _L, _I, _P, _L, _P]),
    "compose_end": (_I, [_P]),
    "compose_merge": (None, [_P, _I]),
    "compose_threads": (None, [_P, _I]),
    "compose_counts": (None, [_P, _P, _P]),
}


class CComposer:
    """The layers of one context, added by native code."""

    name = "c"

    def __init__(self, library: Path, *, threads: int = 1) -> None:
        """Load the compiled `compose.c`; THREADS share the work, those of llama.cpp where it can.

        Raises:
            UnavailableError: It cannot be loaded, or there is no memory.
        """
        self._calls = _load(library)
        needed = (
            "ggml_backend_buffer_is_host",
            "ggml_backend_tensor_get",
            "ggml_backend_tensor_set",
        )
        handle = self._calls.compose_new(*(llama.ggml_address(name) for name in needed))
        if not handle:
            raise UnavailableError("no memory for layers", hint="end another model, then try again")
        self._handle: int = handle
        self._calls.compose_threads(handle, threads)
        self._block = int(self._calls.compose_block())
        self.halves = bool(self._calls.compose_halves())
        self._packed: dict[int, list[Packed | None]] = {}
        self._sites: list[Site] = []
        self._width = 0
        self.callback = Callback(
            function=_address(self._calls.compose_callback), data=handle, owner=self
        )
        self.abort_function: int | None = _address(self._calls.compose_abort)

    def sites(self) -> list[Site]:
        """Return what recorded steps have found, in the graph's order."""
        while (site := self._site(len(self._sites))) is not None:
            self._sites.append(site)
        return self._sites

    def _site(self, index: int) -> Site | None:
        name = ctypes.create_string_buffer(NAME_BYTES)
        n_in, n_out = _L(), _L()
        gathered, waits = _I(), _I()
        places = (ctypes.addressof(value) for value in (n_in, n_out, gathered, waits))
        if not self._calls.compose_site(self._handle, index, name, *places):
            return None
        return Site(
            name=name.value.decode(), n_in=n_in.value, n_out=n_out.value,
            gathered=bool(gathered.value), waits=bool(waits.value),
        )  # fmt: skip

    def set_layer(self, slot: int, layer: Layer, *, compact: bool = False) -> int:
        """Put LAYER into SLOT; return the bytes it takes."""
        packed = together([self._pack(layer, site.name, compact) for site in self.sites()])
        rank = np.array([p.rank if p else 0 for p in packed], np.int32)
        size = np.array([p.a.itemsize if p else 0 for p in packed], np.int32)
        scale = np.array([p.scale.ctypes.data if p else 0 for p in packed], np.uint64)
        a = np.array([p.a.ctypes.data if p else 0 for p in packed], np.uint64)
        b = np.array([p.b.ctypes.data if p else 0 for p in packed], np.uint64)
        places = (_place(array) for array in (rank, size, scale, a, b))
        _made(self._calls.compose_set(self._handle, slot, *places))
        self._packed[slot] = packed
        self._width = max(self._width, slot + 1)
        return sum(p.size_bytes for p in packed if p)

    def _pack(self, layer: Layer, weight: str, compact: bool) -> Packed | None:
        if weight not in layer.pairs:
            return None
        return pack(layer, weight, block=self._block, halves=self.halves, compact=compact)

    def drop_layer(self, slot: int) -> None:
        """Empty SLOT and free its arrays."""
        self._calls.compose_drop(self._handle, slot)
        self._packed.pop(slot, None)

    def layer(self, slot: int) -> Layer:
        """Return what is in SLOT, its scale in B."""
        pairs = zip(self.sites(), self._packed[slot], strict=True)
        found = {site.name: pair.pair(site.n_out) for site, pair in pairs if pair}
        return Layer(name=f"slot {slot}", pairs=found, alpha=0.0)

    def set_mask(self, rows: Mapping[str, Sequence[int]]) -> None:
        """Say, for each site of a fused adapter, which slot each row of its A belongs to."""
        for index, site in enumerate(self.sites()):
            slots = np.array(rows.get(site.name, ()), np.int32)
            _made(self._calls.compose_rows(self._handle, index, len(slots), _place(slots)))

    def begin(self, step: Step) -> None:
        """Prepare the callback for a decode; the arrays are copied."""
        weights = np.ascontiguousarray(step.weights, np.float32)
        missing = self._width - weights.shape[1]
        if missing > 0:
            weights = np.pad(weights, ((0, 0), (0, missing)))
        outputs = np.ascontiguousarray(step.outputs, np.int32)
        n, slots = weights.shape
        _made(
            self._calls.compose_begin(
                self._handle, step.mode, n, slots, _place(weights), len(outputs), _place(outputs)
            )
        )

    def end(self) -> Fault:
        """Let the callback rest again; say how the step went."""
        return Fault(self._calls.compose_end(self._handle))

    def merge(self, on: bool) -> None:
        """Serve products of one input by one stop of the graph, where recording proved it safe."""
        self._calls.compose_merge(self._handle, on)

    def counts(self) -> tuple[int, int]:
        """Return how many nodes were asked about and at how many the graph stopped, so far."""
        asked, stops = _L(), _L()
        self._calls.compose_counts(self._handle, ctypes.addressof(asked), ctypes.addressof(stops))
        return asked.value, stops.value

    def close(self) -> None:
        """Give its memory back, after the context is closed."""
        if self._handle:
            self._calls.compose_free(self._handle)
            self._handle = 0
            self._packed.clear()


def _load(library: Path) -> Any:
    try:
        calls: Any = ctypes.CDLL(str(library))
    except OSError as exc:
        raise UnavailableError(
            f"cannot load {library.name}: {exc}", hint="delete it: it is compiled again"
        ) from exc
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(calls, name)
        function.restype, function.argtypes = result, arguments
    return calls


def _made(done: int) -> None:
    if not done:
        raise UnavailableError("no memory for layers", hint="drop a layer, then try again")


def _place(array: NDArray[Any]) -> int:
    return array.ctypes.data


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
