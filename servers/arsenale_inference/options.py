"""What the sidecar is told of: how much of everything."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the sidecar is told of.

    Attributes:
        queue: So many requests wait at most.
        wait_s: So long each.
        hang_s: A worker that does not answer for so long is replaced.
        idle_s: A model that nobody asks for so long is unloaded.
        memory_bytes: What all workers may take together.
        layers, layers_bytes: What each worker keeps of layers.
        upstream_key: Bearer token of the engines elsewhere.
        worker: What a worker process is told, but its model.
    """

    workers: int = 1
    queue: int = 256
    wait_s: float = 30.0
    hang_s: float = 60.0
    idle_s: float = 900.0
    memory_bytes: int
    layers: int = 20
    layers_bytes: int = 500_000_000
    upstream_key: str | None = None
    worker: dict[str, Any]
