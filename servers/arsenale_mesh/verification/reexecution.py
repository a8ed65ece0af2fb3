"""Whether a receipt is true: its job is run again, whole or as far as one of its slices.

Guests are deterministic, so a run again says the same to the last leaf. What is not so is never
held against a node: `timeout` and `worker_died` depend on the machine, `too_large` may be a
compiler that ran out of its CPU, and how deep a guest gets before `stack_overflow` depends on the
backend.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, TypeAlias

from arsenale_core.errors import InvalidError
from arsenale_mesh import merkle
from arsenale_mesh.receipts import Body, Receipt
from arsenale_mesh.sandbox.jobs import Job, Outcome
from arsenale_mesh.sandbox.kinds import TICK_FUEL, Backend, engine_id
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.verification.commitments import Difference, Shown, is_shown, lacking

UNREPEATABLE: Final = frozenset({"timeout", "worker_died"})
"""Ends that another run need not come to."""

_VAGUE: Final = UNREPEATABLE | {"too_large"}

PATIENCE: Final[dict[Backend, int]] = {"cranelift": 4, "pulley64": 64}
"""So many times the receipt's wall time a run again may take: guests do not see the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """It is so. `fuel` is what finding out burnt, beside what the run itself had."""

    how: str
    fuel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Differs:
    """It is not so; `place` is the first leaf that differs where that is known."""

    differences: tuple[Difference, ...]
    place: int | None = None
    fuel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsure:
    """It cannot be said."""

    reason: str
    fuel: int = 0


Finding: TypeAlias = Holds | Differs | Unsure


def job_of(body: Body, module: bytes, input: bytes, backend: Backend = "cranelift") -> Job:
    """Return the job that BODY speaks of, with more wall time.

    Raises:
        InvalidError: MODULE or INPUT are not those of the receipt.
    """
    for name, data, said in (("module", module, body.module), ("input", input, body.input)):
        if sha256(data).hexdigest() != said:
            raise InvalidError(f"the {name} is not the receipt's", hint=f"its SHA-256 is {said}")
    wall_ms = body.limits.wall_ms * PATIENCE[backend]
    return Job(
        module=module, function=body.function, input=input, seed=body.seed, backend=backend,
        clock_us=body.clock_us, slice_fuel=body.slice_fuel,
        limits=replace(body.limits, wall_ms=wall_ms), trace=body.trace != merkle.EMPTY.hex(),
    )  # fmt: skip


async def reexecute(
    receipt: Receipt,
    leaves: Sequence[bytes] | None,
    module: bytes,
    input: bytes,
    pool: Pool,
    backend: Backend = "cranelift",
) -> Finding:
    """Run the job of RECEIPT again, and compare status, output, fuel and trace.

    With the other backend a difference may also be a miscompilation; run both before you blame.

    Args:
        receipt: Its signature is not looked at.
        leaves: Its commitments where they are at hand: they say where it begins to differ.
        module: The bytes that it names.
        input: Likewise.
        pool: Where it is run.
        backend: Which engine runs it.

    Raises:
        InvalidError: MODULE or INPUT are not those of the receipt, or no pool takes its limits.
        UnavailableError: Nothing can be run here now.
    """
    body = receipt.body
    if leaves is not None and (fault := lacking(receipt, leaves)):
        return Differs(differences=(fault,))
    if body.status in UNREPEATABLE:
        return await _as_far_as_it_went(receipt, leaves or (), module, input, pool, backend)
    again = await pool.run(job_of(body, module, input, backend))
    return _judged(body, again, _first(leaves, _raw(again.leaves)))


async def check_slice(
    receipt: Receipt, shown: Shown, module: bytes, input: bytes, pool: Pool
) -> Finding:
    """Check one leaf of a receipt's trace, of N: costs about place / N of running it all.

    A cheat from slice i on, whose state stays different, is found by a place drawn uniformly with
    (N - i + 1) / N. A lie about the output alone shows in the last leaf only, so with 1 / N.

    Args:
        receipt: Its signature is not looked at.
        shown: The leaf and what proves it; draw its place where the node cannot foresee it.
        module: The bytes that it names.
        input: Likewise.
        pool: Where it is run.

    Raises:
        InvalidError: MODULE or INPUT are not those of the receipt, or no pool takes its limits.
        UnavailableError: Nothing can be run here now.
    """
    body = receipt.body
    if not is_shown(receipt, shown):
        said = Difference(name="proof", said=shown.leaf.hex(), found="not in the receipt's trace")
        return Differs(differences=(said,), place=shown.place)
    if shown.place == body.slices:
        return await reexecute(receipt, None, module, input, pool)
    true, fuel = await run_to(body, shown.place, module, input, pool)
    if isinstance(true, Unsure):
        return true
    if true == shown.leaf:
        return Holds(how=f"slice {shown.place + 1} of {body.slices} is as it was run", fuel=fuel)
    return other_engine(body, "cranelift", fuel) or Differs(
        differences=(_leaf_differs(shown.leaf, true),), place=shown.place, fuel=fuel
    )


async def run_to(
    body: Body, place: int, module: bytes, input: bytes, pool: Pool
) -> tuple[bytes | Unsure, int]:
    """Return the true leaf at PLACE, from 0 and before the last, and the fuel that took.

    A guest that ends before has another leaf there: that of its end.

    Raises:
        InvalidError: MODULE or INPUT are not those of the receipt, or no pool takes its limits.
        UnavailableError: Nothing can be run here now.
    """
    job, burnt, leaves = job_of(body, module, input), 0, list[bytes]()
    most, reach = body.limits.fuel, (place + 1) * body.slice_fuel
    tries = (reach + 2 * TICK_FUEL, reach + body.slice_fuel, most)
    for fuel in sorted({min(most, one) for one in tries}):
        again = await pool.run(replace(job, trace=True, limits=replace(job.limits, fuel=fuel)))
        burnt, leaves = burnt + again.fuel, _raw(again.leaves)
        if again.status in _VAGUE:
            return Unsure(reason=f"here it ended with {again.status}", fuel=burnt), burnt
        if again.slices > place:
            return leaves[place], burnt
        if again.status == "stack_overflow":
            return Unsure(reason="how deep the stack is differs by processor", fuel=burnt), burnt
        if again.status != "out_of_fuel":  # otherwise a slice was longer: one bulk operation
            break
    return (leaves or [merkle.EMPTY])[-1], burnt


async def _as_far_as_it_went(
    receipt: Receipt, leaves: Sequence[bytes], module: bytes, input: bytes, pool: Pool,
    backend: Backend,
) -> Finding:  # fmt: skip
    body = receipt.body
    end = f"{body.status} cannot be repeated"
    if len(leaves) < 2:
        return Unsure(reason=f"{end}, and no slice was committed to")
    job = job_of(body, module, input, backend)
    enough = min(body.limits.fuel, (body.slices + 1) * body.slice_fuel)
    again = await pool.run(replace(job, limits=replace(job.limits, fuel=enough)))
    found = _raw(again.leaves)[: again.slices]
    common = min(body.slices, again.slices)
    place = _first(leaves[:common], found[:common])
    if place is not None:
        return other_engine(body, backend, again.fuel) or Differs(
            differences=(_leaf_differs(leaves[place], found[place]),), place=place, fuel=again.fuel
        )
    if again.slices < body.slices and again.status not in {
        "out_of_fuel",
        "stack_overflow",
        *_VAGUE,
    }:
        return other_engine(body, backend, again.fuel) or Differs(
            differences=(_slices_differ(body, again),), place=again.slices, fuel=again.fuel
        )
    return Unsure(reason=f"{end}; {common} of {body.slices} slices are right", fuel=again.fuel)


def _judged(body: Body, again: Outcome, place: int | None) -> Finding:
    found = _differences(body, again)
    backend: Backend = "pulley64" if "/pulley64/" in again.engine else "cranelift"
    if not found:
        return Holds(how=f"run again by {again.engine}", fuel=again.fuel)
    ends = {body.status, again.status}
    if ends & _VAGUE:
        return Unsure(reason=f"here it ended with {again.status}, not repeatable", fuel=again.fuel)
    if "stack_overflow" in ends and body.engine != again.engine:
        if len(ends) == 1:
            return Holds(how="it overflows the stack here too; where, differs", fuel=again.fuel)
        return Unsure(reason="how deep the stack is differs by backend", fuel=again.fuel)
    return other_engine(body, backend, again.fuel) or Differs(
        differences=found, place=place, fuel=again.fuel
    )


def _differences(body: Body, again: Outcome) -> tuple[Difference, ...]:
    output = sha256(again.output).hexdigest()
    pairs = (
        ("status", body.status, again.status), ("output", body.output, output),
        ("fuel", body.fuel, again.fuel), ("slices", body.slices, again.slices),
        ("trace", body.trace, again.trace),
    )  # fmt: skip
    return tuple(
        Difference(name=name, said=str(said), found=str(found))
        for name, said, found in pairs
        if said != found
    )


def other_engine(body: Body, backend: Backend, fuel: int) -> Unsure | None:
    """Return why a difference says nothing: other versions or settings may count otherwise."""
    ours = engine_id(backend)
    if _settings(body.engine) == _settings(ours):
        return None
    return Unsure(reason=f"it differs, but it was run by {body.engine}, here by {ours}", fuel=fuel)


def _settings(engine: str) -> tuple[str, ...]:
    """Return version and settings of an engine's id, without its backend."""
    parts = engine.split("/")
    return (parts[0], parts[2]) if len(parts) == 3 else (engine,)


def _first(one: Sequence[bytes] | None, other: Sequence[bytes]) -> int | None:
    """Return the first place where they differ, the end of the shorter included."""
    if one is None:
        return None
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def _leaf_differs(said: bytes, found: bytes) -> Difference:
    return Difference(name="leaf", said=said.hex(), found=found.hex())


def _slices_differ(body: Body, again: Outcome) -> Difference:
    return Difference(name="slices", said=str(body.slices), found=f"{again.slices}, {again.status}")


def _raw(leaves: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(leaf) for leaf in leaves]
