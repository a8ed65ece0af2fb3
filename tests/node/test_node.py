"""The MCP Inspector and the official conformance suite against our stack."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arsenale_relay

pytestmark = [pytest.mark.slow, pytest.mark.node, pytest.mark.timeout(120)]

Tool = Callable[..., Any]
RELAY = str(Path(str(arsenale_relay.__file__)).with_name("__main__.py"))

# What an ordinary server can be held to; scenarios that ask for the suite's own fixture tools, and
# those that pass on any answer at all, are left out.
OLD = ("server-initialize", "ping", "tools-list", "resources-list", "prompts-list",
       "dns-rebinding-protection")  # fmt: skip
NEW = ("tools-list", "resources-list", "prompts-list", "sep-2164-resource-not-found", "caching",
       "http-header-validation", "dns-rebinding-protection")  # fmt: skip


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_lists_and_calls_tools_through_the_relay(
    era: str, node: Tool, home: Path
) -> None:
    # The Inspector passes on no environment of its own.
    target = ["--cli", "-e", f"ARSENALE_HOME={home}", sys.executable, "-I", "-S", RELAY,
              "telemetry", "--protocol-era", era]  # fmt: skip
    listed = node("mcp-inspector", *target, "--method", "tools/list")
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)["tools"]) == 5
    called = node(
        "mcp-inspector", *target, "--method", "tools/call", "--tool-name", "usage_report",
        "--tool-arg", "since=24h",
    )  # fmt: skip
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["structuredContent"]["rows"] == []
    assert (home / "telemetry.db").exists()  # it was our daemon that answered


@pytest.mark.parametrize(
    ("version", "scenario"),
    [*(("2025-11-25", name) for name in OLD), *(("2026-07-28", name) for name in NEW)],
)
def test_a_conformance_scenario_passes(
    version: str, scenario: str, node: Tool, open_url: str, tmp_path: Path
) -> None:
    done = node(
        "conformance", "server", "--url", open_url, "--scenario", scenario, "--spec-version",
        version, "-o", str(tmp_path),
    )  # fmt: skip
    checks = [
        check
        for path in tmp_path.rglob("checks.json")
        for check in json.loads(path.read_text(encoding="utf-8"))
    ]
    failed = [check for check in checks if check["status"] == "FAILURE"]
    assert checks, done.stdout + done.stderr
    assert failed == [], json.dumps(failed, indent=1)[:3000]
