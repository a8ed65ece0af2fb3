"""What hosts send becomes one kind of event; nothing raises, no secret stays."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import arsenale_daemon
from arsenale_core.events import HookEvent
from arsenale_telemetry.normalise import Capture, normalise

SESSION = Path(str(arsenale_daemon.__file__)).parent / "data" / "session.jsonl"
RECORDED: list[dict[str, Any]] = [
    json.loads(line)["event"] for line in SESSION.read_text(encoding="utf-8").splitlines()
]


def event(raw: dict[str, Any], level: Any = "summary", **more: Any) -> HookEvent:
    capture = Capture(level=level, **more)
    return normalise(raw, at_us=5, origin="file:1:0", capture=capture)


def test_the_recorded_session_is_understood() -> None:
    events = [event(raw) for raw in RECORDED]
    assert {e.host for e in events} == {"claude-code"}
    assert {e.session for e in events} == {"3fc088c2-2063-4c30-9dfc-2418d35928d8"}
    assert sum(e.phase == "start" for e in events) == 74
    assert sum(e.phase == "end" for e in events) == 74
    assert sum(e.status == "error" for e in events) == 6
    assert all(e.duration_us is not None for e in events if e.phase == "end")
    assert len({e.key for e in events if e.phase != "point"}) == 148


@pytest.mark.parametrize("level", ["minimal", "summary", "bodies"])
def test_no_secret_of_the_recorded_session_is_kept(level: str) -> None:
    text = " ".join(repr(asdict(event(raw, level))) for raw in RECORDED)
    for secret in ("AKIA", "ghp_", "sk-ant-", "hunter2", "BEGIN RSA", "sk_live_"):
        assert secret not in text, text[max(0, text.find(secret) - 200) : text.find(secret) + 80]


def test_minimal_keeps_names_times_and_sizes_only() -> None:
    raw = {"hook_event_name": "PostToolUse", "session_id": "s", "tool_name": "Bash",
           "tool_use_id": "t", "tool_input": {"command": "ls /private"},
           "tool_response": {"stdout": "x"}, "error": "boom"}  # fmt: skip
    found = event(raw, "minimal")
    assert (found.subject, found.arguments, found.error) == (None, None, None)
    assert found.input is not None
    assert (found.input.size_bytes, found.input.text) == (25, None)


def test_bodies_are_redacted_before_they_are_cut() -> None:
    key = "sk-ant-" + "api03-abcdefghijklmnopqrstuvwx"
    raw = {"hook_event_name": "PostToolUse", "session_id": "s", "tool_name": "Read",
           "tool_use_id": "t",
           "tool_response": {"a": "x" * 80, "b": key, "c": "é" * 500}}  # fmt: skip
    found = event(raw, "bodies", max_body_bytes=105)
    assert found.output is not None and found.output.text is not None
    assert "sk-ant" not in found.output.text
    assert found.output.text.endswith(" bytes]")
    assert found.output.size_bytes > 1_000


OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"hook_event_name": "preToolUse", "conversation_id": "c1", "generation_id": "g1",
         "cursor_version": "3.1", "workspace_roots": ["/p"], "model": "m", "tool_name": "Shell",
         "tool_use_id": "u1", "tool_input": {"command": "make"}},
        {"host": "cursor", "kind": "PreToolUse", "session": "c1", "prompt_id": "g1", "cwd": "/p",
         "tool": "Shell", "subject": "make", "phase": "start"},
    ),
    (
        {"hook_event_name": "afterShellExecution", "conversation_id": "c1", "command": "make test",
         "output": "ok", "duration": 1200, "cursor_version": "3"},
        {"host": "cursor", "kind": "PostToolUse", "tool": "Bash", "subject": "make test",
         "duration_us": 1_200_000, "status": "ok"},
    ),
    (
        {"hookEventName": "PostToolUse", "sessionId": "v1", "timestamp": "2026-11-21T00:00:00Z",
         "tool_name": "runTests", "tool_input": {"files": ["a"]}, "tool_use_id": "u",
         "tool_response": {"success": False, "error": "2 failed"}},
        {"host": "vscode", "kind": "PostToolUse", "session": "v1", "status": "error",
         "error": "2 failed"},
    ),
    (
        {"hook_event_name": "PreToolUse", "session_id": "x1", "turn_id": "t9", "cwd": "/w",
         "tool_name": "apply_patch", "tool_input": {"path": "a.py"}, "tool_use_id": "u"},
        {"host": "codex", "session": "x1", "prompt_id": "t9", "subject": "a.py"},
    ),
    (
        {"hook_event_name": "AfterTool", "session_id": "g", "tool_name": "run_shell_command",
         "tool_input": {"command": "ls"}, "tool_response": {"llmContent": "a"}},
        {"host": "gemini", "kind": "PostToolUse", "phase": "end", "tool_use_id": None},
    ),
    (
        {"hook_event_name": "PostToolUseFailure", "session_id": "s", "tool_name": "mcp__db__q",
         "tool_use_id": "u", "tool_input": {}, "error": "Exit code 1", "is_interrupt": True},
        {"status": "interrupted", "server": "db", "error": "Exit code 1"},
    ),
    (
        {"hook_event_name": "PreToolUse", "session_id": "s", "tool_use_id": "u",
         "tool_name": "mcp__plugin_suite_memory__recall"},
        {"server": "suite_memory"},
    ),
    ({"hook_event_name": "BrandNew", "session_id": "s"}, {"kind": "BrandNew", "phase": "point"}),
    ({}, {"kind": "Unknown", "session": "unknown", "host": "unknown"}),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), OTHERS)
def test_every_hosts_names_are_understood(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    found = asdict(event(raw))
    assert {name: found[name] for name in expected} == expected


def test_content_is_kept_as_its_size() -> None:
    raw = {"hook_event_name": "PreToolUse", "session_id": "s", "tool_name": "Write",
           "tool_use_id": "u", "tool_input": {"file_path": "/a", "content": "x" * 50}}  # fmt: skip
    assert event(raw).arguments == {"file_path": "/a", "content": "<52 bytes>"}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
names = st.sampled_from(
    ["hook_event_name", "session_id", "tool_name", "tool_input", "tool_response", "tool_use_id",
     "duration_ms", "error", "cwd", "effort", "mcp_server", "workspace_roots", "tool_calls",
     "prompt", "is_interrupt", "sessionId", "toolArgs", "transcript_path"]
)  # fmt: skip


@given(st.dictionaries(names, anything), st.sampled_from(["PreToolUse", "PostToolUse", "Stop"]))
def test_no_object_is_too_strange(raw: dict[str, Any], kind: str) -> None:
    for level in ("minimal", "summary", "bodies"):
        found = event({"hook_event_name": kind, **raw}, level)
        assert len(found.key) == 16
        assert "\0" not in f"{found.session}{found.tool}{found.subject}{found.error}"
