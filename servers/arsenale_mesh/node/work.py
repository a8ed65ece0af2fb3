"""What a gateway asks of a node, and what the node signs of it; pure."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

from arsenale_core.errors import InvalidError
from arsenale_mesh.identity import Identity
from arsenale_mesh.receipts import Body, Limits, sign
from arsenale_mesh.record import Result
from arsenale_mesh.sandbox.jobs import Job, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A task under a lease; `input` is at hand, the module may have to be fetched."""

    lease: int
    task: str
    nonce: str
    module: str
    function: str
    input: bytes
    limits: Limits
    seed: int
    clock_us: int
    slice_fuel: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON, without the input."""
        limits = self.limits
        return {
            "lease": self.lease, "task": self.task, "nonce": self.nonce, "module": self.module,
            "function": self.function, "seed": self.seed, "clock_us": self.clock_us,
            "slice_fuel": self.slice_fuel, "memory_bytes": limits.memory_bytes,
            "fuel": limits.fuel, "wall_ms": limits.wall_ms, "output_bytes": limits.output_bytes,
        }  # fmt: skip

    def job(self, module: bytes) -> Job:
        """Return what the sandbox is asked."""
        return Job(
            module=module, function=self.function, input=self.input, limits=self.limits,
            seed=self.seed, clock_us=self.clock_us, slice_fuel=self.slice_fuel,
        )  # fmt: skip


def assignments(tasks: object, inputs: tuple[bytes, ...]) -> list[Assignment]:
    """Return what a message of a gateway assigns.

    Raises:
        InvalidError: It is not understood.
    """
    given = cast("list[dict[str, Any]]", tasks)
    try:
        return [
            Assignment(
                lease=int(one["lease"]), task=str(one["task"]), nonce=str(one["nonce"]),
                module=str(one["module"]), function=str(one["function"]), input=input,
                limits=Limits(
                    memory_bytes=int(one["memory_bytes"]), fuel=int(one["fuel"]),
                    wall_ms=int(one["wall_ms"]), output_bytes=int(one["output_bytes"]),
                ),
                seed=int(one["seed"]), clock_us=int(one["clock_us"]),
                slice_fuel=int(one["slice_fuel"]),
            )
            for one, input in zip(given, inputs, strict=True)
        ]  # fmt: skip
    except (TypeError, KeyError, ValueError) as exc:
        raise InvalidError(f"work is not understood ({exc})", hint="update Arsenale") from exc


def signed(
    assignment: Assignment, outcome: Outcome, identity: Identity, started_us: int, ended_us: int
) -> Result:
    """Return the result of ASSIGNMENT with the node's receipt."""
    body = Body(
        task=assignment.task, nonce=assignment.nonce, module=assignment.module,
        function=assignment.function, input=sha256(assignment.input).hexdigest(),
        output=sha256(outcome.output).hexdigest(), seed=assignment.seed,
        clock_us=assignment.clock_us, limits=assignment.limits, status=outcome.status,
        fuel=outcome.fuel, slice_fuel=assignment.slice_fuel, slices=outcome.slices,
        trace=outcome.trace, engine=outcome.engine, node=identity.did, started_us=started_us,
        ended_us=max(ended_us, started_us),
    )  # fmt: skip
    return Result(
        lease=assignment.lease, receipt=sign(body, identity).plain(), leaves=outcome.leaves,
        output=outcome.output, detail=outcome.detail[:500], stderr=outcome.stderr,
    )  # fmt: skip


def results_message(results: list[Result]) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Return RESULTS as body and blobs: of each the output, the leaves, standard error."""
    said = [{"lease": one.lease, "receipt": one.receipt, "detail": one.detail} for one in results]
    blobs = tuple(
        blob
        for one in results
        for blob in (one.output, bytes.fromhex("".join(one.leaves)), one.stderr)
    )
    return {"results": said}, blobs


def parse_results(body: dict[str, Any], blobs: tuple[bytes, ...]) -> list[Result]:
    """Return what `results_message` packed.

    Raises:
        InvalidError: It is not understood.
    """
    said: Any = body.get("results")
    if not isinstance(said, list) or len(blobs) != 3 * len(cast("list[Any]", said)):
        raise InvalidError("results without their blobs", hint="update the node")
    found: list[Result] = []
    for place, one in enumerate(cast("list[Any]", said)):
        if not isinstance(one, dict):
            raise InvalidError("a result is no object", hint="update the node")
        given = cast("dict[str, Any]", one)
        lease, receipt, detail = given.get("lease"), given.get("receipt"), given.get("detail", "")
        if type(lease) is not int or not 0 <= lease < 2**63 or not isinstance(receipt, dict):
            raise InvalidError("a result without lease or receipt", hint="update the node")
        output, leaves, stderr = blobs[3 * place : 3 * place + 3]
        if len(leaves) % 32:
            raise InvalidError("leaves have 32 bytes each", hint="update the node")
        found.append(
            Result(
                lease=lease,
                receipt=cast("dict[str, object]", receipt),
                leaves=tuple(leaves[at : at + 32].hex() for at in range(0, len(leaves), 32)),
                output=output,
                detail=detail[:500] if isinstance(detail, str) else "",
                stderr=stderr[: 64 << 10],
            )
        )
    return found
