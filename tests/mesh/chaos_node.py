"""A node as a process of its own, honest or a liar of some kind: `SOCKET KEY KIND`."""

import random
import secrets
import sys
import time
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio

from arsenale_mesh import identity
from arsenale_mesh.node import joining, work
from arsenale_mesh.node.agent import Agent, Profile
from arsenale_mesh.node.joining import Gateway, RefusedError
from arsenale_mesh.record import Result
from arsenale_mesh.sandbox.jobs import Outcome
from arsenale_mesh.sandbox.pool import Pool, Sizes

BANNED = 3
"""Exit status of a node that is not admitted."""


class Liar(Agent):
    """Runs what it is given, and signs something else."""

    async def answer(self, assignment: Any, module: bytes, begun: Any) -> Result:
        started_us = self._now_us()
        outcome = await self._pool.run(assignment.job(module), begun)
        outcome = self.lie(assignment, outcome)
        return work.signed(assignment, outcome, self.identity, started_us, self._now_us())

    def lie(self, assignment: Any, outcome: Outcome) -> Outcome:
        """Say something of one's own."""
        return replace(outcome, output=secrets.token_hex(32).encode())


class Sometimes(Liar):
    """Every other time, by chance."""

    def lie(self, assignment: Any, outcome: Outcome) -> Outcome:
        return super().lie(assignment, outcome) if random.random() < 0.5 else outcome


class Together(Liar):
    """Says the lie that all of its kind say of a task."""

    def lie(self, assignment: Any, outcome: Outcome) -> Outcome:
        return replace(outcome, output=sha256(assignment.nonce.encode()).hexdigest().encode())


class Replays(Agent):
    """Says for each task what it rightly said of the first."""

    first: Result | None = None

    async def answer(self, assignment: Any, module: bytes, begun: Any) -> Result:
        if self.first is None:
            self.first = await super().answer(assignment, module, begun)
        return replace(self.first, lease=assignment.lease)


KINDS: dict[str, type[Agent]] = {
    "honest": Agent, "liar": Liar, "sometimes": Sometimes, "together": Together,
    "replays": Replays, "boasts": Liar,
}  # fmt: skip


async def main(socket: Path, key: Path, kind: str) -> None:
    """Serve until the gateway wants no more of this node."""
    claims = {"joules_per_gfuel": 0.001, "energy": "measured", "cpu": 0.0, "carbon": 0.0}
    async with Pool(Sizes(workers=1, spares=0, compilers=1)) as pool:
        agent = KINDS[kind](
            identity.load_or_make(key), Profile(name=kind, kind="pc", slots=1), pool,
            lambda _: claims if kind == "boasts" else {}, lambda: int(time.time() * 1e6),
        )  # fmt: skip
        await agent.serve(partial(joining.connect, Gateway(path=socket)))


if __name__ == "__main__":
    try:
        anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    except BaseExceptionGroup as group:
        if group.split(RefusedError)[1] is not None:
            raise
        sys.exit(BANNED)
    except RefusedError:
        sys.exit(BANNED)
