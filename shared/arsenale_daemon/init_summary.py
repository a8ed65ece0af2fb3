"""What `arsenale init` is about to do, in about ten lines. Pure but for the shipped tool lists."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from arsenale_daemon.host_entries import EVENTS, INJECTS, Install, Style
from arsenale_relay.handshake import shipped_file

CHARACTERS_A_TOKEN = 4
"""A rule of thumb for English and JSON; a model's own tokeniser differs by some 20 %."""


def tools(server: str) -> list[dict[str, Any]]:
    """Return the tools of SERVER as they come with the package; none for a server of others."""
    try:
        shipped: Any = json.loads(Path(shipped_file(server)).read_text(encoding="utf-8"))
        return shipped["legacy"]["tools/list"]["tools"]
    except (OSError, ValueError, KeyError):
        return []


def token_cost(server: str) -> int:
    """Return what the tool list of SERVER costs in a model's context, tokens: an estimate."""
    seen = [[one["name"], one.get("description"), one["inputSchema"]] for one in tools(server)]
    text = json.dumps(seen, ensure_ascii=False, separators=(",", ":"))
    return len(text) // CHARACTERS_A_TOKEN


def read_only_tools(servers: Sequence[str]) -> list[str]:
    """Return Claude Code's names of the tools that only read, for `permissions.allow`."""
    return [
        f"mcp__arsenale-{server}__{tool['name']}"
        for server in servers
        for tool in tools(server)
        if cast("dict[str, Any]", tool.get("annotations") or {}).get("readOnlyHint")
    ]


def summary(
    host: Style, scope: str, folder: Path, install: Install, files: Sequence[Path]
) -> list[str]:
    """Return what a person should know before agreeing."""
    where = f"the project {folder}" if scope == "project" else "all of your projects"
    cost = sum(map(token_cost, install.servers))
    lines = [
        f"Connect {host} to Arsenale in {where}:",
        f"  servers  {len(install.servers)}: {', '.join(install.servers)}",
        f"  tokens   about {cost:,} for their {sum(len(tools(s)) for s in install.servers)} tools,"
        " where the assistant loads all schemas; Claude Code loads only names at first",
    ]
    if install.log:
        lines.append(f"  hooks    {len(EVENTS[host])} log events to {install.spool}")
    if install.injects(host):
        asking = sum(event.lower() in INJECTS for event in EVENTS[host])
        lines.append(
            f"           {asking} ask the memory; those at SessionStart and UserPromptSubmit may "
            "add text to your prompts"
        )
    if install.tracking:
        lines.append("           1 adds a tracking id to every tool call")
    lines += [f"  writes   {path}" for path in files]
    lines.append("  undo     " + command(host, scope, install, "--undo"))
    return lines


def command(host: str, scope: str, install: Install, *more: str) -> str:
    """Return the command that does the same again, or with `--undo` takes it back."""
    words = ["arsenale", "init"]
    if host != "claude":
        words += ["--host", host]
    if scope != "project":
        words += ["--scope", scope]
    if not install.all_servers and "--undo" not in more:
        words += ["--servers", ",".join(install.servers)]
    return " ".join([*words, *more])


def next_steps(host: Style, scope: str, install: Install, *, allowed: bool) -> list[str]:
    """Return what the assistant will ask when its next session starts."""
    count = len(install.servers)
    project = scope == "project"
    lines = [f"Start a new session of {host} to use it. `arsenale doctor` checks the connection."]
    if host == "claude" and project:
        lines.append(
            "Claude Code first asks whether you trust this folder, and then to approve "
            + (f"the {count} MCP servers" if count > 1 else "the MCP server")
            + " of .mcp.json: approve all that are arsenale's."
        )
    if host == "claude" and not allowed:
        lines.append(
            "It asks before each tool is used for the first time; "
            f"`{command(host, scope, install, '--allow')}` allows the "
            f"{len(read_only_tools(install.servers))} tools that only read."
        )
    if host == "vscode":
        lines.append("VS Code asks whether you trust each MCP server when it first starts.")
    if host == "cursor":
        lines.append("Cursor lists the servers under Settings > MCP, where you enable them.")
    if host == "codex":
        lines.append("Codex asks whether you trust the hooks, and again whenever they change.")
    return lines
