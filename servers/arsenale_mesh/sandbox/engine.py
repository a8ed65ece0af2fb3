"""The engine's settings: core modules, the smallest set of features, the same result everywhere.

Wasmtime is driven through its C interface (`capi`): what we need of it (fuel slices, canonical NaN)
has no Python property in wasmtime-py 50.
"""

from typing import Any, Final

from wasmtime import Config, Engine, Module, WasmtimeError

from arsenale_mesh.sandbox import remedies
from arsenale_mesh.sandbox.binary import RefusedError, unsupported
from arsenale_mesh.sandbox.capi import ffi
from arsenale_mesh.sandbox.kinds import OFF, RESERVATION_BYTES, WASM_STACK_BYTES, Kind

FIBER_STACK_BYTES: Final = 4 << 20
"""Of the stack that guests and our host functions run on: twice the guest's at least, or a guest's
recursion ends the process instead of the guest."""


def make_engine(kind: Kind) -> Engine:
    """Return an engine; it may serve many guests, one after the other."""
    config = Config()
    config.consume_fuel = kind.metered
    config.max_wasm_stack = WASM_STACK_BYTES
    config.parallel_compilation = False  # the budget of CPU is one thread's
    config.wasm_simd = True
    config.cranelift_opt_level = "speed"
    for name in OFF:
        setattr(config, name, False)
    raw: Any = config.ptr()
    if kind.backend == "pulley64":
        failure = ffi.wasmtime_config_target_set(raw, b"pulley64")
        if failure:
            raise RefusedError("invalid_module", "this build of wasmtime has no Pulley")
    ffi.wasmtime_config_cranelift_nan_canonicalization_set(raw, kind.canonical_nan)
    ffi.wasmtime_config_memory_reservation_set(raw, RESERVATION_BYTES)
    ffi.wasmtime_config_memory_reservation_for_growth_set(raw, 0)
    ffi.wasmtime_config_memory_may_move_set(raw, False)
    ffi.wasmtime_config_memory_init_cow_set(raw, False)  # else memfd_create, which seccomp ends
    ffi.wasmtime_config_async_stack_size_set(raw, FIBER_STACK_BYTES)
    return Engine(config)


def compile_module(engine: Engine, module: bytes) -> Module:
    """Compile MODULE, which `scan` let through.

    Raises:
        RefusedError: It is not valid, or uses a feature that is off.
    """
    try:
        return Module(engine, module)
    except WasmtimeError as exc:
        said = str(exc).strip().splitlines()[-1][:300]
        if feature := remedies.feature_in(said):
            raise unsupported(feature) from exc
        raise RefusedError("invalid_module", f"the module does not compile: {said}") from exc


def revive(engine: Engine, code: bytes) -> Module:
    """Return the module that CODE is, machine code of `Module.serialize`.

    It is run as it is: CODE must come from a compiler of ours, never from a peer.

    Raises:
        RefusedError: Another engine made it.
    """
    try:
        return Module.deserialize(engine, code)
    except WasmtimeError as exc:
        raise RefusedError("invalid_module", f"the code is of another engine: {exc}") from exc
