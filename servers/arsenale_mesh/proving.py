"""Whether a receipt holds: by its signature, by running all of it again, or a part of it."""

import random
from dataclasses import dataclass
from typing import Any, assert_never

import orjson
from anyio import to_thread

from arsenale_core.errors import ArsenaleError, InvalidError, NotFoundError
from arsenale_core.store import Connection
from arsenale_mesh import asking, receipts, rows
from arsenale_mesh.models import Detail, Method, VerifyReport
from arsenale_mesh.receipts import Expected, Receipt
from arsenale_mesh.record import Task
from arsenale_mesh.sandbox.jail import Layer
from arsenale_mesh.sandbox.pool import Pool, Sizes
from arsenale_mesh.store import MeshStore
from arsenale_mesh.verification import commitments, exported, reexecution
from arsenale_mesh.verification.exported import Exported
from arsenale_mesh.verification.reexecution import Differs, Finding, Holds, Unsure

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A receipt with what is at hand to check it, and the task if it is one of ours."""

    exported: Exported
    task: Task | None


async def verify(
    store: MeshStore, said: str | dict[str, Any], method: Method, detail: Detail,
    require: tuple[Layer, ...],
) -> VerifyReport:  # fmt: skip
    """Say whether a receipt holds.

    Args:
        store: Where receipts, modules and inputs are.
        said: A receipt's id or its beginning, a task as m12, or an exported receipt.
        method: How it is checked, beyond its signature.
        detail: `full` brings it along as it is exported.
        require: Layers of the jail without which nothing is run.

    Raises:
        NotFoundError: There is no such receipt.
        InvalidError: It is no receipt, or what it was run on is not at hand.
    """
    shown = await to_thread.run_sync(_shown, store, said)
    receipt = shown.exported.receipt
    found: list[str] = [*receipts.problems(receipt, _expected(shown.task))]
    leaves = shown.exported.leaves
    if leaves is not None and (lacks := commitments.lacking(receipt, leaves)):
        found.append(f"{lacks.name}: said {lacks.said}, is {lacks.found}")
    holds, says = not found, "signed by its node; nobody ran it again"
    if found:
        says = "it does not hold"
    elif method != "signature":
        holds, says = _told(await _run_again(shown.exported, method, require))
    body = receipt.body
    plain = orjson.loads(exported.pack(shown.exported)) if detail == "full" else None
    return VerifyReport(
        holds=holds, says=says, problems=found, task=body.task, node=body.node,
        status=body.status, fuel=body.fuel, output_sha256=body.output, receipt=receipt.id,
        exported=plain,
    )  # fmt: skip


def export(store: MeshStore, said: str, *, whole: bool) -> bytes:
    """Return a receipt as a file; WHOLE brings module and input along.

    Raises:
        NotFoundError: There is no such receipt.
    """
    found = _shown(store, said).exported
    if not whole:
        found = Exported(receipt=found.receipt, leaves=found.leaves)
    return exported.pack(found)


async def _run_again(shown: Exported, method: Method, require: tuple[Layer, ...]) -> Finding:
    if shown.module is None or shown.input is None:
        return Unsure(reason="module or input are not at hand: export it whole")
    sizes = Sizes(workers=1, spares=0, compilers=1)
    try:
        async with Pool(sizes, require=require) as pool:
            try:
                return await _found(shown, method, pool, shown.module, shown.input)
            except ArsenaleError as exc:  # here: outside of the pool it is one of a group
                return Unsure(reason=str(exc))
    except ArsenaleError as exc:
        return Unsure(reason=str(exc))


async def _found(
    shown: Exported, method: Method, pool: Pool, module: bytes, input: bytes
) -> Finding:
    receipt, leaves = shown.receipt, shown.leaves
    if method == "slice" and leaves:
        place = commitments.place_of(_random.random(), len(leaves))
        one = commitments.show(leaves, place)
        return await reexecution.check_slice(receipt, one, module, input, pool)
    backend = "pulley64" if method == "interpreter" else "cranelift"
    return await reexecution.reexecute(receipt, leaves, module, input, pool, backend)


def _told(finding: Finding) -> tuple[bool | None, str]:
    match finding:
        case Holds():
            return True, finding.how
        case Unsure():
            return None, finding.reason
        case Differs():
            parts = (f"{one.name}: said {one.said}, is {one.found}" for one in finding.differences)
            place = "" if finding.place is None else f" (from slice {finding.place} on)"
            return False, "; ".join(parts) + place
    assert_never(finding)


def _expected(task: Task | None) -> Expected:
    if task is None:
        return Expected()
    return Expected(
        task=task.name, nonce=task.nonce, module=task.module, function=task.function,
        input=task.input, limits=task.limits,
    )  # fmt: skip


def _shown(store: MeshStore, said: str | dict[str, Any]) -> Shown:
    with store.reading() as db:
        if isinstance(said, dict) or said.lstrip().startswith("{"):
            data = said.encode() if isinstance(said, str) else orjson.dumps(said)
            given = exported.unpack(data)
            module = given.module or rows.blob(db, given.receipt.body.module)
            input = given.input if given.input is not None else rows.blob(
                db, given.receipt.body.input
            )  # fmt: skip
            return Shown(
                exported=Exported(
                    receipt=given.receipt, leaves=given.leaves, module=module, input=input
                ),
                task=None,
            )
        id, task = _id(db, said.strip())
        kept = rows.receipt(db, id)
        assert kept is not None
        receipt: Receipt = receipts.parse(kept.plain)
        whole = Exported(
            receipt=receipt, leaves=tuple(bytes.fromhex(leaf) for leaf in kept.leaves),
            module=rows.blob(db, receipt.body.module), input=rows.blob(db, receipt.body.input),
        )  # fmt: skip
        return Shown(exported=whole, task=task)


def _id(db: Connection, said: str) -> tuple[str, Task | None]:
    if said.startswith("m"):
        task = rows.task(db, asking.task_id(said))
        if task is None:
            raise NotFoundError("task", said, hint="`check_task` without a task lists them")
        if task.receipt is None:
            raise InvalidError(f"{said} has no receipt yet: it is {task.state}", hint="wait for it")
        return task.receipt, task
    found = rows.receipts_beginning(db, said) if said.isalnum() and len(said) >= 6 else []
    if len(found) != 1:
        why = "several receipts begin so" if found else "a task's report names its receipt"
        raise NotFoundError("receipt", said[:80], hint=why)
    id, task_id = found[0]
    return id, rows.task(db, task_id)
