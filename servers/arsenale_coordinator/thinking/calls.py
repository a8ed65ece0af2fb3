"""What a session did, as telemetry tells over MCP. Fails open: without it there is no evidence."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from arsenale_coordinator.thinking.evidence import WINDOW, Event
from arsenale_core import logs
from arsenale_core.errors import ArsenaleError
from arsenale_core.peers import Peers
from arsenale_relay import endpoint

WAIT_S = 0.15
"""How long an answer is waited for; one that comes later serves the next question."""

FETCH_S = 5.0
"""How long telemetry may take before it is asked anew: the first call opens a connection."""

SINCE = "12h"
"""How far back calls are evidence."""

ASKED_FOR = 4 * WINDOW
"""Events asked for: most calls leave two, and prompts and the like lie between."""


@dataclass(slots=True, eq=False)
class _Asked:
    events: list[Event] | None = None
    over: anyio.Event = field(default_factory=anyio.Event)


class TelemetryCalls:
    """Asks telemetry for the calls of a session, in the background."""

    def __init__(self, peers: Peers, tasks: TaskGroup, home: Path) -> None:
        self._peers = peers
        self._tasks = tasks
        self._socket = endpoint.socket_path(str(home))
        self._asking: dict[str, _Asked] = {}
        self._log = logs.get("arsenale.coordinator")

    async def __call__(self, session: str) -> Sequence[Event] | None:
        """Return the calls of a session in order of time; `None` when nobody tells in time."""
        if not self._daemon_is_up():
            return None  # a relay would start it
        asked = self._asking.get(session)
        if asked is None:
            asked = self._asking[session] = _Asked()
            self._tasks.start_soon(self._fetch, session, asked)
        with anyio.move_on_after(WAIT_S):
            await asked.over.wait()
        return asked.events

    def _daemon_is_up(self) -> bool:
        return os.path.exists(self._socket)

    async def _fetch(self, session: str, asked: _Asked) -> None:
        arguments = {"session": session, "since": SINCE, "limit": ASKED_FOR}
        try:
            with anyio.fail_after(FETCH_S):
                found = await self._peers.call("telemetry", "search_events", arguments)
            asked.events = events(found, session)
        except (ArsenaleError, TimeoutError) as exc:
            self._log.warning("no evidence on thinking", reason=str(exc))
        finally:
            del self._asking[session]
            asked.over.set()


def events(found: Mapping[str, Any], session: str) -> list[Event]:
    """Return what telemetry's `search_events` FOUND as evidence, in order of time."""
    ended = [
        one
        for one in found.get("events", ())
        if one["session"] == session and one.get("tool") and one.get("status") in ("ok", "error")
    ]
    return [_event(one) for one in reversed(ended)]


def _event(one: Mapping[str, Any]) -> Event:
    tool, subject = str(one["tool"]), one.get("subject")
    runs = tool.lower() in ("bash", "shell", "run_in_terminal", "exec_command")
    return Event(
        tool=tool, ok=one["status"] == "ok", at=datetime.fromisoformat(one["at"]).timestamp(),
        command=subject if runs else None, path=None if runs else subject,
        duration_s=(one.get("duration_ms") or 0.0) / 1e3,
    )  # fmt: skip
