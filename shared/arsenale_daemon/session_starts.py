"""Keeps the text of a session's start ready, in a file for each project: see the hook `inject`."""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import anyio
from anyio import to_thread

from arsenale_core import logs
from arsenale_relay import session_start

Ask: TypeAlias = Callable[[dict[str, Any]], Awaitable[str | None]]
"""Asks every server what a session is to get at an event."""

SETTLE_S = 2.0
"""After a change so long nothing is written: changes come in bursts."""

OTHERS_S = 60.0
"""How often the texts of projects are renewed whose sessions ended."""

ACTIVE_S = 4 * 3600.0
"""So long after its last session began a project counts as active."""

MOST_PROJECTS = 50
"""Texts of projects beyond are deleted, the oldest first."""

WHOLE = ("startup", "resume", "clear")
"""Sources of a session's start at which the whole text is given."""


class SessionStarts:
    """The kept texts of one home; `run` renews them after changes, until it is cancelled."""

    def __init__(self, home: str, ask: Ask) -> None:
        self._home, self._ask = home, ask
        self._began: dict[str, float] = {}
        self._changed = anyio.Event()
        self._others_at = 0.0
        self._log = logs.get("arsenale.daemon")

    def changed(self) -> None:
        """Note that a server may answer differently now."""
        self._changed.set()

    async def begun(self, event: Mapping[str, Any], text: str | None, asked_ns: int) -> None:
        """Note that a session began, whose servers gave TEXT at EVENT when asked at ASKED_NS."""
        project = event.get("cwd")
        if isinstance(project, str) and project and event.get("source", "startup") in WHOLE:
            self._began[session_start.normal(project)] = time.monotonic()
            await self._write(project, text, asked_ns)

    async def run(self) -> None:
        """Renew every text once, then after each change."""
        kept = session_start.projects(self._home)
        await self._renew([*kept, *(one for one in (session_start.ANYWHERE,) if one not in kept)])
        others_wait = False
        while True:
            with anyio.move_on_after(OTHERS_S if others_wait else math.inf):
                await self._changed.wait()
            await anyio.sleep(SETTLE_S)
            self._changed = anyio.Event()
            now = time.monotonic()
            active = [one for one, at in self._began.items() if now - at < ACTIVE_S]
            others_wait = now - self._others_at < OTHERS_S
            if others_wait:
                await self._renew(active)
            else:
                self._others_at = now
                kept = session_start.projects(self._home)
                await self._renew([*active, *(one for one in kept if one not in active)])

    async def _renew(self, projects: list[str]) -> None:
        for project in projects[MOST_PROJECTS:]:
            session_start.forget(self._home, project)
        for project in projects[:MOST_PROJECTS]:
            event = {"hook_event_name": "SessionStart", "source": "startup", "cwd": project}
            asked_ns = time.time_ns()
            await self._write(project, await self._ask({**event, "preview": True}), asked_ns)

    async def _write(self, project: str, text: str | None, asked_ns: int) -> None:
        try:
            await to_thread.run_sync(session_start.write, self._home, project, text or "", asked_ns)
        except (OSError, ValueError) as exc:
            self._log.warning("text of a session's start not kept", reason=str(exc))
