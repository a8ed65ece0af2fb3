"""The plugin as Claude Code reads it: the repository's root is the plugin's."""

import json
import os
from pathlib import Path
from typing import Any

from arsenale_daemon.host_entries import INJECTS, WAITED_FOR

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / ".claude-plugin"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def handlers(script: str = "log_event.sh") -> list[tuple[str, dict[str, Any]]]:
    hooks = read(ROOT / "hooks" / "hooks.json")["hooks"]
    every = [(event, each) for event in hooks for group in hooks[event] for each in group["hooks"]]
    return [(event, each) for event, each in every if any(script in a for a in each["args"])]


def test_hooks_json_has_the_two_keys_of_a_plugin() -> None:
    assert list(read(ROOT / "hooks" / "hooks.json")) == ["description", "hooks"]


def test_every_handler_starts_the_script_without_a_shell_string_and_within_two_seconds() -> None:
    for event, handler in handlers():
        assert handler["type"] == "command", event
        assert handler["command"] == "/bin/sh", event
        assert handler["args"] == ["${CLAUDE_PLUGIN_ROOT}/hooks/log_event.sh"], event
        assert handler["timeout"] == 2, event


def test_only_what_ends_a_session_is_waited_for() -> None:
    assert {event for event, handler in handlers() if not handler.get("async")} == set(WAITED_FOR)


def test_what_memory_knows_is_asked_for_at_four_events() -> None:
    found = handlers("inject.py")
    assert {event.lower(): handler["timeout"] for event, handler in found} == INJECTS
    for _, handler in found:
        assert handler["command"] == "python3"
        script, folder = (
            a.replace("${CLAUDE_PLUGIN_ROOT}", str(ROOT)) for a in handler["args"][2:]
        )
        assert Path(script).is_file()
        assert (Path(folder) / "arsenale_relay").is_dir()


def test_the_scripts_that_are_referred_to_exist_and_can_be_executed() -> None:
    for _, handler in handlers():
        script = Path(handler["args"][0].replace("${CLAUDE_PLUGIN_ROOT}", str(ROOT)))
        assert os.access(script, os.X_OK)
        assert script.read_bytes().startswith(b"#!/bin/sh\n")


def test_the_marketplace_offers_the_plugin_of_this_repository() -> None:
    plugin, marketplace = read(MANIFESTS / "plugin.json"), read(MANIFESTS / "marketplace.json")
    [offered] = marketplace["plugins"]
    assert (offered["name"], offered["source"]) == (plugin["name"], "./")
    assert marketplace["owner"]["name"]


def test_the_plugins_servers_are_ours_and_start_through_the_relay() -> None:
    servers = read(MANIFESTS / "plugin.json")["mcpServers"]
    assert servers == {
        name: {"command": "arsenale-stdio", "args": [name]}
        for name in ("coordinator", "genome", "memory", "mesh", "telemetry")
    }


def test_what_the_plugin_holds_lies_outside_its_manifest_folder() -> None:
    assert {path.name for path in MANIFESTS.iterdir()} == {"plugin.json", "marketplace.json"}
