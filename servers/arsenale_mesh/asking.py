"""What a caller asks, made into what the mesh understands; nothing is run here."""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.store import Connection
from arsenale_mesh import rows
from arsenale_mesh.receipts import Limits
from arsenale_mesh.record import Assurance, Carbon, Module
from arsenale_mesh.sandbox.abi import START, check
from arsenale_mesh.sandbox.binary import RefusedError
from arsenale_mesh.sandbox.imports import IMPORTS
from arsenale_mesh.sandbox.jobs import SLICE_FUEL
from arsenale_mesh.sandbox.pool import INPUT_BYTES, MAX_SLICES
from arsenale_mesh.sandbox.scan import Bounds, Shape, scan

RUN = "run"

_TASK = re.compile(r"m?([1-9][0-9]{0,17})")
_SHA = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A task as it is asked for. One of `module`, `wasm_base64` and `wat`; one of the inputs."""

    module: str = ""
    wasm_base64: str = ""
    wat: str = ""
    function: str = ""
    input: str = ""
    input_base64: str = ""
    input_sha256: str = ""
    memory_mb: int | None = None
    fuel: int | None = None
    wall_s: float | None = None
    seed: int = 0
    assurance: Assurance = "verified"
    carbon: Carbon = "off"
    here: bool = False
    label: str = ""
    key: str | None = None
    project: str = ""
    wait_s: float = 20.0


def task_id(name: str) -> int:
    """Return the number of a task named m12.

    Raises:
        InvalidError: It is no such name.
    """
    found = _TASK.fullmatch(name.strip())
    if not found:
        raise InvalidError(f"{name[:60]!r} is no task of the mesh", hint="they are named as m12")
    return int(found[1])


def decoded(text: str, what: str) -> bytes:
    """Return the bytes that a base64 text is.

    Raises:
        InvalidError: It is none.
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidError(
            f"{what} is no base64 ({exc})", hint="standard alphabet, padded"
        ) from exc


def input_of(order: Order) -> bytes:
    """Return the input as bytes.

    Raises:
        InvalidError: It is given twice, or too long.
    """
    if sum(bool(one) for one in (order.input, order.input_base64, order.input_sha256)) > 1:
        raise InvalidError("the input is given twice", hint="as input, or as input_base64")
    try:
        data = order.input.encode() or decoded(order.input_base64, "input_base64")
    except UnicodeEncodeError as exc:
        raise InvalidError("the input is no text", hint="give bytes as input_base64") from exc
    if len(data) > INPUT_BYTES:
        raise InvalidError(f"the input has {len(data):,} bytes", hint=f"{INPUT_BYTES:,} at most")
    return data


def shape_of(module: bytes) -> Shape:
    """Return what a module is.

    Raises:
        InvalidError: It may not be run; the status that a run would have, and why.
    """
    try:
        return scan(module, IMPORTS, Bounds())
    except RefusedError as exc:
        raise InvalidError(f"{exc.status}: {exc.what}", hint=exc.hint) from exc


def function_of(shape: Shape, wanted: str) -> str:
    """Return which function is called: the one that is WANTED, `run`, or `_start`.

    Raises:
        InvalidError: There is none, or it cannot be called so.
    """
    name = wanted or (RUN if RUN in shape.exports and START not in shape.exports else START)
    try:
        check(shape, name)
    except RefusedError as exc:
        names = ", ".join(sorted(shape.exports)[:20]) or "none"
        raise InvalidError(f"{exc.status}: {exc.what}", hint=f"it exports {names}") from exc
    return name


def limits_of(order: Order, settings: Settings) -> Limits:
    """Return what the task may use: what is asked, or all that the settings allow.

    Raises:
        InvalidError: More is asked than that.
    """
    memory_mb = order.memory_mb or settings.mesh_max_memory_mb
    fuel, wall_s = order.fuel or settings.mesh_max_fuel, order.wall_s or settings.mesh_max_wall_s
    for name, asked, most in (
        ("memory_mb", memory_mb, settings.mesh_max_memory_mb),
        ("fuel", fuel, settings.mesh_max_fuel),
        ("wall_s", wall_s, settings.mesh_max_wall_s),
    ):
        if asked > most:
            raise InvalidError(
                f"{name}={asked:,} is more than {most:,}", hint=f"the setting mesh_max_{name}"
            )
    return Limits(
        memory_bytes=memory_mb << 20, fuel=fuel, wall_ms=max(round(wall_s * 1000), 1),
        output_bytes=1 << 20,
    )  # fmt: skip


def slice_fuel_of(fuel: int) -> int:
    """Return after how much fuel the state is committed to, for a task that may burn FUEL."""
    return max(SLICE_FUEL, -(-fuel // MAX_SLICES))


def known_module(db: Connection, name: str) -> Module:
    """Return the module of that name, or whose SHA-256 begins so.

    Raises:
        NotFoundError: There is none.
        InvalidError: Several begin so.
    """
    found = rows.module_named(db, name)
    if found is not None:
        return found
    if _SHA.fullmatch(name.lower()):
        same = rows.modules_beginning(db, name.lower())
        if len(same) > 1:
            raise InvalidError(f"several modules begin with {name}", hint="give more of it")
        if same:
            return same[0]
    raise NotFoundError(
        "module",
        name[:80],
        hint="`check_mesh` with view=modules, or `arsenale mesh modules`, lists what there is",
    )


def unnamed(module: bytes, shape: Shape) -> Module:
    """Return a module that came without a name."""
    sha = sha256(module).hexdigest()
    return described(module, shape, f"wasm-{sha[:12]}", "")


def described(
    module: bytes, shape: Shape, name: str, description: str, *, ready_made: bool = False
) -> Module:
    """Return MODULE as it is kept."""
    return Module(
        sha=sha256(module).hexdigest(), name=name, description=description[:400],
        functions=tuple(sorted(shape.exports))[:40], size=len(module), added_us=0, uses=0,
        ready_made=ready_made,
    )  # fmt: skip
