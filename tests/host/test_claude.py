"""The first hour with the real Claude Code, offline: see README.md here."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.host.claude import BINARY, Person
from tests.host.messages_api import Call, messages_api

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not BINARY, reason="opt-in: set ARSENALE_TEST_CLAUDE, see README.md here"),
    pytest.mark.skipif(
        {name for _, name in socket.if_nameindex()} != {"lo"},
        reason="runs without a network only: see README.md here",
    ),
]

TRUST = ("--settings", '{"enableAllProjectMcpServers":true}')
SERVERS = {"coordinator", "genome", "memory", "mesh", "telemetry"}
ALL_CONNECTED = {f"arsenale-{name}": "connected" for name in SERVERS}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def person(home: Path, tmp_path: Path) -> Person:
    folders = [tmp_path / "user", tmp_path / "project"]
    for folder in folders:
        folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folders[1], check=True)
    return Person(home=folders[0], project=folders[1], variables={"ARSENALE_HOME": str(home)})


@pytest.fixture
def arsenale(person: Person, environment: dict[str, str]) -> Run:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("arsenale"), *words], cwd=person.project, text=True,
            env={**environment, "HOME": str(person.home)}, capture_output=True, check=False,
            stdin=subprocess.DEVNULL, timeout=90,
        )  # fmt: skip

    return run


def test_all_servers_are_connected_at_the_first_turn_cold_and_warm(
    person: Person, arsenale: Run
) -> None:
    assert arsenale("init", "--yes").returncode == 0
    with messages_api() as api:
        for _ in range(3):
            arsenale("down")
            assert person.session(api, "hi", *TRUST).servers == ALL_CONNECTED
        assert person.session(api, "hi", *TRUST).servers == ALL_CONNECTED


def test_a_fact_of_one_session_is_given_to_the_next_even_if_the_daemon_ended(
    person: Person, arsenale: Run
) -> None:
    arsenale("init", "--yes")
    fact = {"memories": [{"content": "The inventory service uses PostgreSQL as its database."}]}
    with messages_api([[("mcp__arsenale-memory__remember", fact)]]) as api:
        assert person.session(api, "remember this", *TRUST).result["subtype"] == "success"
    with messages_api() as api:
        person.session(api, "hi", *TRUST)
    arsenale("down")
    with messages_api() as api:
        person.session(api, "hello again", *TRUST)
        assert "The inventory service uses PostgreSQL" in api.seen


def test_parallel_calls_across_a_kill_of_the_daemon_are_all_answered(
    person: Person, arsenale: Run, home: Path, daemon_pid: Callable[[], int]
) -> None:
    arsenale("init", "--yes")
    arsenale("up")
    reads: list[Call] = [
        ("mcp__arsenale-memory__read", {}), ("mcp__arsenale-telemetry__usage_report", {}),
        ("mcp__arsenale-coordinator__check_task", {}), ("mcp__arsenale-mesh__mesh_status", {}),
        ("mcp__arsenale-genome__list_genomes", {}),
    ]  # fmt: skip
    kill: list[Call] = [("Bash", {"command": f"kill -9 {daemon_pid()}", "description": "kill"})]
    with messages_api([kill, reads]) as api:
        session = person.session(api, "go on", *TRUST)
    results = [part for message in api.requests[-1]["messages"] for part in results_of(message)]
    assert len(results) == 1 + len(reads)
    assert session.result["subtype"] == "success"


def results_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    parts = cast("list[dict[str, Any]]", content) if isinstance(content, list) else []
    return [part for part in parts if part.get("type") == "tool_result"]


def test_every_call_of_a_session_is_counted_once(person: Person, arsenale: Run, home: Path) -> None:
    arsenale("init", "--yes")
    calls: list[Call] = [("Bash", {"command": "true", "description": "nothing"})] * 3
    with messages_api([[call] for call in calls]) as api:
        person.session(api, "work", *TRUST)
    deadline = time.monotonic() + 20
    while list((home / "spool").glob("*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with messages_api([[("mcp__arsenale-telemetry__usage_report", {})]]) as api:
        person.session(api, "report", *TRUST)
        [result] = results_of(api.requests[-1]["messages"][-1])
    [row] = [r for r in json.loads(result["content"])["rows"] if r["name"] == "Bash"]
    assert (row["calls"], row.get("errors", 0)) == (3, 0)


def test_hooks_whose_scripts_are_gone_block_nothing(
    person: Person, arsenale: Run, tmp_path: Path
) -> None:
    arsenale("init", "--yes")
    settings = person.project / ".claude" / "settings.local.json"
    hooks = str(Path(__file__).parents[2] / "hooks")
    text = settings.read_text(encoding="utf-8").replace(hooks, str(tmp_path / "gone"))
    settings.write_text(text, encoding="utf-8")
    with messages_api() as api:
        session = person.session(api, "hi")
        assert session.result["subtype"] == "success"
        assert api.requests, "the prompt reached the model"
    assert "blocked" not in json.dumps(session.messages)


def test_the_daemon_that_a_session_started_outlives_it(
    person: Person, arsenale: Run, daemon_pid: Callable[[], int]
) -> None:
    arsenale("init", "--yes")
    call: Call = ("mcp__arsenale-telemetry__usage_report", {})
    with messages_api([[call]]) as api:
        person.session(api, "hi", *TRUST)
    os.kill(daemon_pid(), signal.SIGCONT)


def test_the_plugin_beside_init_counts_each_call_once(person: Person, arsenale: Run) -> None:
    root = Path(__file__).parents[2]
    arsenale("init", "--yes")
    with messages_api() as api:
        person.claude(api, "plugin", "marketplace", "add", str(root))
        person.claude(api, "plugin", "install", "arsenale@arsenale")
    calls: list[Call] = [("Bash", {"command": "true", "description": "nothing"})] * 2
    with messages_api([[call] for call in calls]) as api:
        session = person.session(api, "work", *TRUST)
    assert session.result["subtype"] == "success"
    report = json.loads(arsenale("telemetry", "report", "--json").stdout)
    [row] = [row for row in report["usage"]["rows"] if row["name"] == "Bash"]
    assert row["calls"] == 2
