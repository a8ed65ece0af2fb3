"""The plugin as Claude Code reads it: the hooks folder is the plugin, the root its marketplace."""

import json
from pathlib import Path
from typing import Any

import pytest

from arsenale_daemon.hook_commands import RUN_SHELL
from arsenale_daemon.host_entries import INJECTS, WAITED_FOR

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "hooks"
MARKETPLACES = {ROOT: "./hooks", PLUGIN: "./"}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def handlers(action: str) -> list[tuple[str, dict[str, Any]]]:
    hooks = read(PLUGIN / "hooks.json")["hooks"]
    every = [(event, each) for event in hooks for group in hooks[event] for each in group["hooks"]]
    return [(event, each) for event, each in every if each["args"][4] == action]


def test_hooks_json_has_the_two_keys_of_a_plugin() -> None:
    assert list(read(PLUGIN / "hooks.json")) == ["description", "hooks"]
    assert read(PLUGIN / ".claude-plugin" / "plugin.json")["hooks"] == "./hooks.json"


@pytest.mark.parametrize("action", ["log", "inject"])
def test_every_handler_goes_through_the_command_that_never_fails(action: str) -> None:
    launcher = ["-c", RUN_SHELL, "arsenale-plugin", "${CLAUDE_PLUGIN_ROOT}/plugin.sh", action]
    for event, handler in handlers(action):
        assert handler["type"] == "command"
        assert handler["command"] == "/bin/sh"
        assert handler["args"] == [*launcher, *([event] if action == "inject" else [])]


def test_only_what_ends_a_session_is_waited_for() -> None:
    logged = handlers("log")
    assert {event for event, handler in logged if not handler.get("async")} == set(WAITED_FOR)
    assert {handler["timeout"] for _, handler in logged} == {2}


def test_what_memory_knows_is_asked_for_at_four_events() -> None:
    found = handlers("inject")
    assert {event.lower(): handler["timeout"] for event, handler in found} == INJECTS


@pytest.mark.parametrize("folder", MARKETPLACES)
def test_each_marketplace_offers_the_plugin_and_no_virtual_environment(folder: Path) -> None:
    [offered] = read(folder / ".claude-plugin" / "marketplace.json")["plugins"]
    assert offered["name"] == read(PLUGIN / ".claude-plugin" / "plugin.json")["name"]
    assert offered["source"] == MARKETPLACES[folder]
    assert (folder / offered["source"]).resolve() == PLUGIN
    assert sum(path.stat().st_size for path in PLUGIN.rglob("*") if path.is_file()) < 200_000


def test_the_plugins_servers_are_ours_and_start_through_the_launcher() -> None:
    servers = read(PLUGIN / ".claude-plugin" / "plugin.json")["mcpServers"]
    assert list(servers) == ["coordinator", "genome", "memory", "mesh", "telemetry"]
    for name, server in servers.items():
        assert server["args"][3:] == ["${CLAUDE_PLUGIN_ROOT}/plugin.sh", "serve", name]


def test_the_plugin_has_commands_for_people() -> None:
    commands = {path.stem: path.read_text(encoding="utf-8") for path in PLUGIN.glob("commands/*")}
    assert set(commands) == {"remember", "recall", "where-did-my-time-go"}
    assert all(text.startswith("---\ndescription: ") for text in commands.values())
    assert all("$ARGUMENTS" in text for text in commands.values())
