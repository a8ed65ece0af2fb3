"""Keeps this home's own node up as long as there is something to run."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread

from arsenale_core import locks, logs
from arsenale_core.errors import ArsenaleError
from arsenale_core.spawning import spawn
from arsenale_mesh import running
from arsenale_mesh.gateway import Gateway
from arsenale_mesh.links import Message

MODULE = "arsenale_mesh.running"

LOOK_S = 2.0
LEAST_BACKOFF_S, MOST_BACKOFF_S = 2.0, 60.0

MOST_STARTS = 3
"""Started so often without joining, it has a fault."""


class House:
    """Starts the node when a task waits, and sends it to rest when none came for a while.

    Args:
        gateway: What it joins.
        home: Where its key, lock and logs lie.
        idle_s: How long it may have nothing to do.
        ticks_us: A clock that does not go back.
    """

    def __init__(
        self, gateway: Gateway, home: Path, idle_s: float, ticks_us: Callable[[], int]
    ) -> None:
        self._gateway = gateway
        self._home = home
        self._idle_us = idle_s * 1e6
        self._ticks_us = ticks_us
        self._nudged = anyio.Event()
        self._asked_us = self._next_us = 0
        self._busy_us = ticks_us()
        self._starts = 0
        self._log = logs.get("arsenale.mesh.house")

    @property
    def fault(self) -> str:
        """Say that the node does not stay up, if so."""
        if self._starts < MOST_STARTS:
            return ""
        return f"our own node does not stay up: see {self._home / 'logs' / 'mesh-node.log'}"

    def nudge(self) -> None:
        """Say that there is something to run."""
        self._asked_us = self._ticks_us()
        self._nudged.set()

    async def rest(self) -> None:
        """Send the node to rest: who dispatches ends, and what it has is given out again."""
        if (session := self._gateway.house_session) is not None:
            with suppress(ArsenaleError):
                await session.link.send(Message(kind="rest"))

    async def run(self) -> None:
        """Look after the node, for ever."""
        while True:
            self._nudged = anyio.Event()
            with suppress(ArsenaleError):
                await self._look()
            with anyio.move_on_after(LOOK_S):
                await self._nudged.wait()

    async def _look(self) -> None:
        now, session = self._ticks_us(), self._gateway.house_session
        is_wanted = self._gateway.has_waiting or now - self._asked_us < LOOK_S * 1e6
        if session is not None:
            self._starts = 0
            if session.leases or is_wanted:
                self._busy_us = now
            elif now - self._busy_us > self._idle_us:
                await session.link.send(Message(kind="rest"))
        elif (
            is_wanted and now >= self._next_us and not locks.is_held(running.lock_file(self._home))
        ):
            pid = await to_thread.run_sync(self._spawn)
            backoff_s = min(LEAST_BACKOFF_S * 2**self._starts, MOST_BACKOFF_S)
            self._starts += 1
            self._next_us = now + int(backoff_s * 1e6)
            self._log.info("our own node starts", pid=pid)

    def _spawn(self) -> int:
        return spawn(MODULE, self._home, self._home / "logs" / "mesh-node.err")
