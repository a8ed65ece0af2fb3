"""Two events make a call: how a start and an end, in any order, become one row. Pure."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from arsenale_core.events import HookEvent, Status

Effect: TypeAlias = Literal["counted", "timed"]
"""What a merge changed for the sums: the call ended, or its duration became known."""


@dataclass(slots=True, kw_only=True)
class Call:
    """A tool call as far as it is known.

    Attributes:
        key: 16 bytes; of the tool-use id where the host gives one, else of the start event.
        status: `None` while no end was seen: running, or its end was lost.
        duration_us: As the host measured, else from the two file times; `None` until known.
    """

    key: bytes
    session_id: int
    tool_id: int
    project_id: int
    tool_use_id: str | None = None
    match_key: bytes | None = None
    agent_id: str | None = None
    started_us: int | None = None
    ended_us: int | None = None
    duration_us: int | None = None
    status: Status | None = None
    subject: str | None = None
    error: str | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    input_sha: bytes | None = None


def merge(call: Call, event: HookEvent) -> list[Effect]:
    """Add EVENT, the start or the end of CALL, to it; say what that changed for the sums.

    The end may come first: hooks run at the same time and the host does not wait for them.
    """
    untimed = call.duration_us is None
    counted: list[Effect] = []
    if event.phase == "start":
        call.started_us = event.at_us
    else:
        counted = ["counted"] if call.status is None else []
        call.ended_us = event.at_us
        call.status = event.status or "ok"
        call.duration_us = event.duration_us
        call.error = event.error
        call.output_bytes = event.output.size_bytes if event.output else None
    call.subject = call.subject or event.subject
    call.agent_id = call.agent_id or event.agent_id
    if event.input is not None and call.input_bytes is None:
        call.input_bytes, call.input_sha = event.input.size_bytes, event.input.sha256
    if call.duration_us is None and call.started_us is not None and call.ended_us is not None:
        call.duration_us = max(0, call.ended_us - call.started_us)
    timed = untimed and call.duration_us is not None
    return [*counted, "timed"] if timed else counted


def begun_us(call: Call) -> int:
    """Return when CALL began: seen, else reckoned from its end and duration, microseconds."""
    if call.started_us is not None:
        return call.started_us
    return (call.ended_us or 0) - (call.duration_us or 0)
