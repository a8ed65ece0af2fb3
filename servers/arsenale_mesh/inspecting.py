"""What can be said of a result by itself: read, its signature checked, held against its task."""

from dataclasses import dataclass
from hashlib import sha256

from arsenale_core.errors import InvalidError
from arsenale_mesh import merkle, receipts
from arsenale_mesh.receipts import Expected, Problem, Receipt
from arsenale_mesh.record import Node, Result, Task
from arsenale_mesh.sandbox.kinds import engine_id

MOST_LEAVES = 10_001
"""Commitments in one run, and its end; see `sandbox.pool.MAX_SLICES`."""


@dataclass(frozen=True, slots=True)
class Read:
    """A result that was read, and what is wrong with it by itself: the dear part of judging."""

    result: Result
    receipt: Receipt | None
    is_signed: bool
    faults: tuple[str, ...]


def read(result: Result) -> Read:
    """Look at RESULT by itself; no transaction is needed for that."""
    try:
        receipt = receipts.parse(result.receipt)
    except InvalidError as exc:
        return Read(result, None, is_signed=False, faults=(str(exc),))
    return Read(result, receipt, receipts.holds(receipt), tuple(faults(receipt, result)))


def problems(receipt: Receipt, task: Task, node: Node, *, is_signed: bool) -> list[Problem]:
    """Return all that is wrong with a receipt as that of TASK by NODE, the signature first."""
    expected = Expected(
        task=task.name, nonce=task.nonce, module=task.module, function=task.function,
        input=task.input, limits=task.limits, engine=engine_id("cranelift"), node=node.did,
    )  # fmt: skip
    found: list[Problem] = [] if is_signed else ["signature"]
    found += receipts.at_odds(receipt, expected)
    body = receipt.body
    if (body.seed, body.clock_us, body.slice_fuel) != (task.seed, task.clock_us, task.slice_fuel):
        found.append("limits")
    return found


def faults(receipt: Receipt, result: Result) -> list[str]:
    """Return what came along with a receipt and is not what it speaks of."""
    found: list[str] = []
    if sha256(result.output).hexdigest() != receipt.body.output:
        found.append("output")
    if len(result.output) > receipt.body.limits.output_bytes:
        found.append("size of the output")
    if len(result.leaves) > receipt.body.slices + 1 or len(result.leaves) > MOST_LEAVES:
        found.append("leaves")
    elif merkle.root([bytes.fromhex(leaf) for leaf in result.leaves]).hex() != receipt.body.trace:
        found.append("trace")
    return found
