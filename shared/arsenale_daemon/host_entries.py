"""What init writes: the entries of a server and of a hook, and how they are known again. Pure."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from arsenale_daemon.hook_commands import kind_of, python_command, shell_command, words_of

Json: TypeAlias = dict[str, Any]
Style: TypeAlias = Literal["claude", "cursor", "vscode", "codex"]

GuardMode: TypeAlias = Literal["off", "open", "closed"]
"""open: an edit goes on when the guard cannot tell; closed: it does not."""

TOOL_EVENTS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")
WAITED_FOR = ("SessionEnd", "Stop", "SubagentStop")
"""Events after which a host may exit at once: an asynchronous hook would die with it."""

EVENTS: dict[Style, tuple[str, ...]] = {
    "claude": (
        *TOOL_EVENTS, "SessionStart", "SessionEnd", "UserPromptSubmit", "Stop", "SubagentStart",
        "SubagentStop", "PreCompact", "Notification",
    ),
    "codex": (
        "PreToolUse", "PostToolUse", "SessionStart", "SessionEnd", "UserPromptSubmit", "Stop",
        "SubagentStart", "SubagentStop", "PreCompact",
    ),
    "vscode": (
        "PreToolUse", "PostToolUse", "SessionStart", "UserPromptSubmit", "Stop", "PreCompact",
        "SubagentStart", "SubagentStop",
    ),
    "cursor": (
        "preToolUse", "postToolUse", "postToolUseFailure", "sessionStart", "sessionEnd",
        "beforeSubmitPrompt", "subagentStart", "subagentStop", "preCompact", "stop",
    ),
}  # fmt: skip
"""Which events of each host are logged. Cursor's events about one tool (`afterFileEdit`, ...) are
left out: its general ones tell of the same calls."""

INJECTS = {"sessionstart": 6, "userpromptsubmit": 2, "precompact": 2, "sessionend": 2}
"""Events at which the assistant is told something or a checkpoint is taken, and how long the host
lets that take, seconds; the hook itself gives up after 4 s at a start, after 0.3 s otherwise."""

OUR_RELAY = "arsenale_relay"

GUARD = "guard.py"
"""The hook that `arsenale guard` puts in and takes out; `init` leaves it as it is."""

GUARDED = "Edit|Write|MultiEdit|NotebookEdit"
"""Claude Code's tools that write files. Other hosts name them otherwise: there the hook looks."""

GUARD_TIMEOUT_S = 5
"""How long a host lets the guard run; it gives up after 0.3 s itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """What a host's configuration must name to reach this installation; paths are absolute.

    Attributes:
        python: The interpreter that runs the relay.
        relay: The relay's `__main__.py`.
        hook: `log_event.sh`.
        spool: Where the hook writes.
        home: `ARSENALE_HOME`.
        default_home: The home that is used where none is named.
        servers: The servers to connect.
        tracking: Whether PreToolUse is answered with a tracking id.
        inject: Whether sessions and prompts get what memory knows.
        log: Whether events are logged.
        all_servers: SERVERS are all that are installed.
        timeout_s: How long a host lets a hook run: it needs a millisecond, and a stuck disk must
            not block the session.
    """

    python: str
    relay: Path
    hook: Path
    spool: Path
    home: Path
    default_home: Path
    servers: tuple[str, ...]
    tracking: bool = False
    inject: bool = True
    timeout_s: int = 2
    log: bool = True
    all_servers: bool = True

    def injects(self, style: Style) -> bool:
        """Say whether the host STYLE can be given text, and gets it."""
        return self.inject and style != "cursor"


def server_entries(install: Install, *, typed: bool) -> dict[str, Json]:
    """Return the MCP servers by the name a host shows; TYPED hosts want the transport named."""
    entries: dict[str, Json] = {}
    for server in install.servers:
        entry: Json = {"type": "stdio"} if typed else {}
        entry["command"] = install.python
        entry["args"] = ["-I", "-S", str(install.relay), server]
        if install.home != install.default_home:
            entry["env"] = {"ARSENALE_HOME": str(install.home)}
        entries[f"arsenale-{server}"] = entry
    return entries


def is_our_server(name: str, entry: object) -> bool:
    """Say whether a server's entry is one that init wrote, here or in an older version."""
    if not name.startswith("arsenale-") or not isinstance(entry, dict):
        return False
    arguments: Any = cast("Json", entry).get("args")
    if not isinstance(arguments, list):
        return False
    words = [str(word) for word in cast("list[object]", arguments)]
    return words[:2] == ["-I", "-S"] and any(f"/{OUR_RELAY}/" in word for word in words[2:3])


def hook_entries(install: Install, style: Style) -> dict[str, list[Json]]:
    """Return the hook entries by event, in the shape that the host STYLE wants."""
    entries: dict[str, list[Json]] = {}
    for event in EVENTS[style]:
        handlers = [_handler(install, style, event)] if install.log else []
        if install.tracking and event.lower() == "pretooluse":
            handlers.append(_tracking(install, style))
        if install.injects(style) and event.lower() in INJECTS:
            handlers.append(_injection(install, style, event))
        if not handlers:
            continue
        if style in ("cursor", "vscode"):
            entries[event] = handlers
        else:
            group: Json = {"matcher": "*"} if event in TOOL_EVENTS else {}
            entries[event] = [{**group, "hooks": handlers}]
    return entries


def guard_entries(install: Install, style: Style, *, closed: bool) -> dict[str, list[Json]]:
    """Return the entry that asks the guard before files are written."""
    places = [str(install.relay.parent.parent), str(install.home)]
    flags = ["--closed"] if closed else []
    script = install.hook.with_name(GUARD)
    words = python_command("guard", install.python, script, *flags, *places)
    handler = _written(words, style, GUARD_TIMEOUT_S)
    match style:
        case "cursor":
            return {"preToolUse": [handler]}
        case "vscode":
            return {"PreToolUse": [handler]}
        case "codex":
            return {"PreToolUse": [{"matcher": "*", "hooks": [handler]}]}
        case "claude":
            return {"PreToolUse": [{"matcher": GUARDED, "hooks": [handler]}]}


def is_guard(handler: object) -> bool:
    """Say whether a hook's handler is the guard."""
    return kind_of(handler) == "guard"


def guard_mode_of(handler: object) -> GuardMode:
    """Return how the guard that HANDLER calls stands; off where it calls none."""
    if not is_guard(handler):
        return "off"
    return "closed" if "--closed" in words_of(handler) else "open"


def is_our_handler(handler: object) -> bool:
    """Say whether a hook's handler is one that init wrote, here or in an older version."""
    return kind_of(handler) == "hook"


def _written(words: list[str], style: Style, timeout_s: int) -> Json:
    """Return a handler that runs WORDS, in the shape that the host STYLE wants."""
    if style == "claude":
        return {"type": "command", "command": words[0], "args": words[1:], "timeout": timeout_s}
    handler: Json = {} if style == "cursor" else {"type": "command"}
    return {**handler, "command": shlex.join(words), "timeout": timeout_s}


def _handler(install: Install, style: Style, event: str) -> Json:
    words = shell_command(install.hook, str(install.spool))
    handler = _written(words, style, install.timeout_s)
    return {**handler, "async": True} if style == "claude" and event not in WAITED_FOR else handler


def _injection(install: Install, style: Style, event: str) -> Json:
    script = install.hook.with_name("inject.py")
    places = (str(install.relay.parent.parent), str(install.home))
    words = python_command("hook", install.python, script, *places)
    return _written(words, style, INJECTS[event.lower()])


def _tracking(install: Install, style: Style) -> Json:
    script = install.hook.with_name("tracking_id.py")
    return _written(python_command("hook", install.python, script), style, install.timeout_s)
