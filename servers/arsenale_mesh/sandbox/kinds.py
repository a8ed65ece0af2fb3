"""Which engines there are, and all that the result of a guest depends on; values only."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Final, Literal, TypeAlias

Backend: TypeAlias = Literal["cranelift", "pulley64"]
"""Native code, or a portable interpreter in the same library: 8 to 64 times slower, and the same
output and fuel. What both agree on was not miscompiled."""

MEMORY_BYTES: Final = 512 << 20
RESERVATION_BYTES: Final = 4 << 30
"""Of address space for a memory: all that 32 bits can name, so that it never moves and that no
access needs a check of its bounds (with 640 MiB sha256 takes 1.5 times as long)."""

WASM_STACK_BYTES: Final = 512 << 10

TICK_FUEL: Final = 1_000_000
"""After how much fuel a guest comes back at the latest: below a millisecond or so of CPU. A trap is
billed to the end of its tick, so what is billed is never less than what was burnt, and at most this
much more."""

ABI: Final = 2
"""Of the calls and imports in ABI.md. 2 added calls of WASI: what a guest of 1 does is the same."""

OFF: Final = (
    "wasm_threads", "shared_memory", "wasm_relaxed_simd", "wasm_memory64", "wasm_multi_memory",
    "wasm_tail_call", "wasm_function_references", "wasm_gc", "wasm_exceptions",
    "wasm_stack_switching", "wasm_custom_page_sizes", "wasm_wide_arithmetic",
    "wasm_component_model",
)  # fmt: skip
"""What is not deterministic, or what no compiler of ours emits and attackers may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Which engine: a backend, whether NaN bits are made canonical, whether fuel is counted."""

    backend: Backend = "cranelift"
    canonical_nan: bool = True
    metered: bool = True


@cache
def engine_id(backend: Backend) -> str:
    """Return what a receipt calls an engine: version, backend and a digest of the settings."""
    settings = {
        "abi": ABI,
        "canonical_nan": "where floats occur",
        "memory_bytes": MEMORY_BYTES,
        "off": sorted(OFF),
        "simd": True,
        "stack_bytes": WASM_STACK_BYTES,
        "tick_fuel": TICK_FUEL,
    }
    said = json.dumps(settings, sort_keys=True).encode()
    return f"wasmtime-{version('wasmtime')}/{backend}/{hashlib.sha256(said).hexdigest()[:16]}"
