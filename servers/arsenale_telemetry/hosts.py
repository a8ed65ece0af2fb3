"""How the hosts spell things: event names, field names, and the signs by which each is known.

Sources: Claude Code 2.1 (recorded), the hook documentation of Cursor, VS Code, Codex, Gemini CLI
and Copilot CLI (read, not run). Unknown names pass as they are.
"""

from collections.abc import Mapping
from typing import cast

from arsenale_core.events import Host

EVENTS = {
    "beforetool": "PreToolUse",
    "aftertool": "PostToolUse",
    "pretooluse": "PreToolUse",
    "posttooluse": "PostToolUse",
    "posttoolusefailure": "PostToolUseFailure",
    "beforeshellexecution": "PreToolUse",
    "aftershellexecution": "PostToolUse",
    "beforemcpexecution": "PreToolUse",
    "aftermcpexecution": "PostToolUse",
    "afterfileedit": "PostToolUse",
    "beforereadfile": "PreToolUse",
    "beforesubmitprompt": "UserPromptSubmit",
    "userpromptsubmit": "UserPromptSubmit",
    "userpromptsubmitted": "UserPromptSubmit",
    "beforeagent": "UserPromptSubmit",
    "afteragent": "Stop",
    "sessionstart": "SessionStart",
    "sessionend": "SessionEnd",
    "stop": "Stop",
    "agentstop": "Stop",
    "subagentstart": "SubagentStart",
    "subagentstop": "SubagentStop",
    "precompact": "PreCompact",
    "precompress": "PreCompact",
    "notification": "Notification",
}
"""Claude Code's name for an event, by the host's name in lower case."""

IMPLIED_TOOLS = {
    "beforeshellexecution": "Bash",
    "aftershellexecution": "Bash",
    "afterfileedit": "Edit",
    "beforereadfile": "Read",
}
"""The tool of Cursor's events that are about one tool and do not name it."""

SESSION = ("session_id", "sessionId", "conversation_id", "conversationId")
PROMPT = ("prompt_id", "promptId", "generation_id", "turn_id", "turnId")
CALL = ("tool_use_id", "toolUseId", "tool_call_id", "toolCallId", "call_id")
TOOL = ("tool_name", "toolName")
INPUT = ("tool_input", "toolInput", "toolArgs", "tool_args")
OUTPUT = ("tool_response", "toolResponse", "tool_output", "toolOutput", "toolResult", "result_json",
          "output")  # fmt: skip
EVENT = ("hook_event_name", "hookEventName", "eventName")
DURATION = ("duration_ms", "durationMs", "duration")
ERROR = ("error", "error_message", "errorMessage")
AGENT = ("agent_id", "agentId", "subagent_id")
AGENT_TYPE = ("agent_type", "agentType", "subagent_type")
"""The names of one field, in the order in which they are looked for."""

INPUT_FIELDS = ("command", "file_path", "edits", "path", "url")
"""Where a host gives a call's arguments beside the event's own fields (Cursor)."""

DETAIL = (
    "source", "reason", "model", "trigger", "notification_type", "stop_hook_active",
    "permission_mode", "load_reason", "memory_type", "status", "loop_count", "session_title",
    "failure_type",
)  # fmt: skip
"""Small fields that are kept with an event as they are, redacted."""


def first(raw: Mapping[str, object], names: tuple[str, ...]) -> object:
    """Return the first of NAMES that RAW has, `None` when it has none."""
    for name in names:
        value = raw.get(name)
        if value is not None:
            return value
    return None


def host_of(raw: Mapping[str, object]) -> Host:
    """Say which host sent RAW, by the fields that only it uses."""
    name = raw.get("hook_event_name")
    if "cursor_version" in raw or "conversation_id" in raw:
        return "cursor"
    if isinstance(name, str) and name in ("BeforeTool", "AfterTool", "BeforeAgent", "AfterAgent"):
        return "gemini"
    if "sessionId" in raw or "hookEventName" in raw:
        return "vscode"
    if "turn_id" in raw:
        return "codex"
    path = raw.get("transcript_path")
    if "prompt_id" in raw or (isinstance(path, str) and "/.claude/" in path):
        return "claude-code"
    if isinstance(path, str) and "/.gemini/" in path:
        return "gemini"
    return "claude-code" if isinstance(name, str) and "session_id" in raw else "unknown"


def failed(output: object) -> bool:
    """Say whether a result tells of a failure, for hosts that have no event for it."""
    if not isinstance(output, Mapping):
        return False
    said = cast("Mapping[str, object]", output)
    code = said.get("exitCode", said.get("exit_code"))
    return (
        said.get("is_error") is True
        or said.get("isError") is True
        or said.get("success") is False
        or (isinstance(code, int) and not isinstance(code, bool) and code != 0)
        or said.get("resultType") in ("failure", "denied")
    )


def mcp_server(tool: str) -> str | None:
    """Return the server of an MCP tool's name, `mcp__<server>__<tool>`; `None` for others.

    A plugin's server is `mcp__plugin_<plugin>_<server>__<tool>` and is told as `<plugin>_<server>`.
    """
    if not tool.startswith("mcp__"):
        return None
    server = tool[5:].partition("__")[0]
    return server.removeprefix("plugin_") or None
