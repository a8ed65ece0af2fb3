"""Running an exported receipt again, for the command: a pool of one worker, and an answer."""

from typing import Literal, assert_never

import anyio

from arsenale_core.errors import ArsenaleError
from arsenale_mesh.sandbox.kinds import Backend
from arsenale_mesh.sandbox.pool import Pool, Sizes
from arsenale_mesh.verification.exported import Exported
from arsenale_mesh.verification.reexecution import Differs, Finding, Holds, Unsure, reexecute


def answer(
    exported: Exported, backend: Backend
) -> tuple[Literal["holds", "does_not", "cannot_say"], str]:
    """Return whether running it again says the same, and how that is known."""
    finding = anyio.run(_found, exported, backend)
    match finding:
        case Holds():
            return "holds", finding.how
        case Unsure():
            return "cannot_say", finding.reason
        case Differs():
            told = (f"{one.name}: said {one.said}, is {one.found}" for one in finding.differences)
            place = "" if finding.place is None else f" (from leaf {finding.place} on)"
            return "does_not", "; ".join(told) + place
    assert_never(finding)


async def _found(exported: Exported, backend: Backend) -> Finding:
    sizes = Sizes(workers=1, spares=0, compilers=1)
    async with Pool(sizes) as pool:
        module, input = exported.module or b"", exported.input or b""
        try:
            return await reexecute(exported.receipt, exported.leaves, module, input, pool, backend)
        except ArsenaleError as exc:  # here: outside of the pool it is one of a group
            return Unsure(reason=str(exc))
