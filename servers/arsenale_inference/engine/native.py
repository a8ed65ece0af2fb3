"""LoRA layers as llama.cpp's own adapters: one stack for all rows of a step, on any backend."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from arsenale_core.errors import InvalidError
from arsenale_inference.engine import llama
from arsenale_inference.engine.layers import Layer, Pair
from arsenale_inference.engine.model import Model

FUSED = -1
"""The slot of the adapter that holds all layers."""


class Adapters:
    """The adapters of one model, by slot; each is written to a file, loaded and deleted."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._handles: dict[int, llama.Handle] = {}

    def handle(self, slot: int, layer: Layer) -> llama.Handle:
        """Return the adapter of LAYER; it is loaded when first asked for.

        Raises:
            InvalidError: llama.cpp does not take it.
        """
        if slot not in self._handles:
            with tempfile.TemporaryDirectory(prefix="arsenale-adapters-") as folder:
                path = Path(folder) / f"layer-{slot}.gguf"
                write_adapter(path, layer, self._model.info.architecture)
                self._handles[slot] = self._load(path, layer.name)
        return self._handles[slot]

    def _load(self, path: Path, name: str) -> llama.Handle:
        handle = llama.load_adapter(self._model.handle, path)
        if not handle:
            raise InvalidError(
                f"llama.cpp does not take layer {name}", hint="train it for this very model"
            )
        return handle

    def loaded(self, slot: int) -> bool:
        """Say whether there is an adapter in SLOT."""
        return slot in self._handles

    def drop(self, slot: int) -> None:
        """Free an adapter that is set on no context."""
        handle = self._handles.pop(slot, None)
        if handle is not None:
            llama.free_adapter(handle)

    def close(self) -> None:
        """Free all."""
        for slot in list(self._handles):
            self.drop(slot)


def fuse(layers: Mapping[int, Layer]) -> tuple[Layer, dict[str, list[int]]]:
    """Make one layer of all: rows of A stacked, columns of B side by side.

    Returns:
        The layer, and for each weight the slot of each row of its A.
    """
    sides: dict[str, list[tuple[int, Pair]]] = {}
    for slot, layer in layers.items():
        for name, (a, b) in layer.pairs.items():
            sides.setdefault(name, []).append((slot, (a, b * np.float32(layer.scale(len(a))))))
    pairs = {
        name: (np.concatenate([a for _, (a, _) in found]),
               np.concatenate([b for _, (_, b) in found], axis=1))
        for name, found in sides.items()
    }  # fmt: skip
    rows = {name: [s for s, (a, _) in found for _ in a] for name, found in sides.items()}
    return replace(next(iter(layers.values())), name="fused", pairs=pairs, alpha=0.0), rows


def write_adapter(path: Path, layer: Layer, architecture: str) -> None:
    """Write LAYER as a GGUF that `llama_adapter_lora_init` reads."""
    import gguf  # noqa: PLC0415  # 150 ms that a process without native adapters does not need

    writer: Any = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", layer.alpha)
    for name, (a, b) in layer.pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
