"""The events of the suite: what a hook or a server saw, in one shape whatever host it came from.

Hooks and servers share no code, only files: a hook copies its stdin to a file of the spool, and the
telemetry server turns it into a `HookEvent`. Servers write a `ServerCall` to the same spool.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Host: TypeAlias = Literal[
    "claude-code", "cursor", "vscode", "codex", "gemini", "arsenale", "unknown"
]
"""Who sent the event. `arsenale` is a server of this suite."""

Phase: TypeAlias = Literal["start", "end", "point"]
"""A tool call begins or ends; everything else is a point in time."""

Status: TypeAlias = Literal["ok", "error", "interrupted"]
"""How a tool call ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A body that passed by: always its size and hash, its text only where that was asked for.

    Attributes:
        size_bytes: Length of the canonical JSON (keys sorted, no spaces), UTF-8.
        sha256: SHA-256 of the same bytes, 32 bytes.
        text: Redacted and cut to the setting's limit; `None` when bodies are not kept.
    """

    size_bytes: int
    sha256: bytes
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEvent:
    """One event of an assistant's session, redacted.

    Attributes:
        key: 16 bytes, the same for the same event however often it is delivered.
        at_us: When the hook ran: microseconds since the Unix epoch, UTC.
        kind: The event's name as Claude Code spells it (`PreToolUse`), whatever the host calls it.
        session: The host's session id; `"unknown"` where it gave none.
        tool_use_id: The host's id of this tool call, the join key to transcripts and server calls.
        match_key: Pairs a start with its end where the host gives no `tool_use_id`: a hash of
            session, tool and arguments.
        duration_us: As the host measured it; `None` where it did not.
        subject: What the call was about, in a line: a path, a command, a pattern. Redacted.
        arguments: The short arguments, redacted; long ones stand as their size.
        error: First 500 characters of the error, redacted.
        detail: Small fields that only this kind has (`source`, `reason`, `model`, ...), redacted.
    """

    key: bytes
    at_us: int
    host: Host
    kind: str
    phase: Phase
    session: str
    prompt_id: str | None = None
    tool_use_id: str | None = None
    match_key: bytes | None = None
    tool: str | None = None
    server: str | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    cwd: str | None = None
    status: Status | None = None
    duration_us: int | None = None
    subject: str | None = None
    arguments: dict[str, str | int | float | bool | None] | None = None
    input: Payload | None = None
    output: Payload | None = None
    error: str | None = None
    detail: dict[str, str | int | float | bool | None] | None = None
