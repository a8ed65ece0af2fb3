"""The tools as a model sees them, on SQLite and PostgreSQL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from mcp import Client
from mcp.types import TextContent, TextResourceContents
from prometheus_client import CollectorRegistry, generate_latest

import arsenale_telemetry
from arsenale_core.events import HookEvent
from arsenale_telemetry.exposition import TelemetryCollector
from arsenale_telemetry.rollup import Days
from arsenale_telemetry.service import Telemetry

Make = Callable[..., HookEvent]
NOON_US = 1_795_262_400_000_000
README = Path(str(arsenale_telemetry.__file__)).with_name("README.md")


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    [said] = result.content
    assert isinstance(said, TextContent)
    return said.text


@pytest.fixture
def session(telemetry: Telemetry, event: Make) -> Telemetry:
    """A session of ten Bash calls, three of them failed, and one that never ended."""
    events = [event("SessionStart", at_us=NOON_US - 3_600_000_000)]
    events.append(event("UserPromptSubmit", at_us=NOON_US - 3_599_000_000))
    for n in range(10):
        at = NOON_US - 1_800_000_000 + n * 1_000_000
        kind = "PostToolUseFailure" if n < 3 else "PostToolUse"
        error = "Exit code 2: no rule" if n < 3 else None
        events.append(event(call=f"t{n}", at_us=at))
        events.append(
            event(kind, f"t{n}", at_us=at + 9, duration_us=(n + 1) * 100_000, error=error)
        )
    events.append(event(call="lost", at_us=NOON_US - 60_000_000, tool="Read", subject="/a.py"))
    telemetry.store.add(events)
    return telemetry


@pytest.mark.parametrize(
    "tool", ["usage_report", "latency_report", "find_bottlenecks", "search_events"]
)
async def test_an_empty_store_says_what_to_do(tool: str, client: Client) -> None:
    assert "arsenale init" in (await ask(client, tool))["hint"]


async def test_usage_by_tool_counts_calls_errors_time_and_bytes(
    session: Telemetry, client: Client
) -> None:
    report = await ask(client, "usage_report", since="24h")
    assert report["rows"] == snapshot(
        [
            {
                "name": "Bash",
                "calls": 10,
                "errors": 3,
                "error_rate": 0.3,
                "total_ms": 5500.0,
                "mean_ms": 550.0,
                "max_ms": 1000.0,
                "input_bytes": 200,
                "output_bytes": 0,
            }
        ]
    )


@pytest.mark.parametrize(
    ("group_by", "name"),
    [("session", "s1"), ("project", "/home/dev/inventory"), ("day", "2026-11-21")],
)
async def test_usage_is_grouped_as_asked(
    group_by: str, name: str, session: Telemetry, client: Client
) -> None:
    report = await ask(client, "usage_report", since="7d", group_by=group_by)
    assert [(row["name"], row["calls"]) for row in report["rows"]] == [(name, 10)]


async def test_usage_by_event_counts_every_kind(session: Telemetry, client: Client) -> None:
    report = await ask(client, "usage_report", since="today", group_by="event")
    assert {row["name"]: row["calls"] for row in report["rows"]} == {
        "PreToolUse": 11, "PostToolUse": 7, "PostToolUseFailure": 3, "SessionStart": 1,
        "UserPromptSubmit": 1,
    }  # fmt: skip


async def test_quantiles_of_few_calls_are_exact(session: Telemetry, client: Client) -> None:
    report = await ask(client, "latency_report", since="24h")
    [row] = report["rows"]
    assert (row["p50_ms"], row["p95_ms"], row["p99_ms"]) == (500, 1000, 1000)
    assert report["slowest"][0]["duration_ms"] == 1000.0
    assert report["hot_arguments"] == snapshot(
        [{"tool": "Bash", "subject": "make test", "calls": 10, "errors": 3, "total_ms": 5500.0}]
    )
    assert report["unfinished"] == 1


async def test_bottlenecks_carry_their_evidence(session: Telemetry, client: Client) -> None:
    report = await ask(client, "find_bottlenecks", since="24h")
    assert {b["kind"]: b["evidence"] for b in report["bottlenecks"]} == snapshot(
        {
            "repeated_call": "the same input 10 times in one session, 3 of them failed,"
            " 5500.0 ms in all",
            "error_prone": "3 of 10 calls failed (30%)",
            "unfinished": "1 call began and no end was seen: running, refused, or cut off",
        }
    )


async def test_a_timeline_is_in_order_and_pages(session: Telemetry, client: Client) -> None:
    first = await ask(client, "session_timeline", session="s", limit=3)
    assert [item["what"] for item in first["items"]] == ["SessionStart", "UserPromptSubmit", "Bash"]
    assert (first["session"], first["calls"], first["prompts"], first["more"]) == ("s1", 10, 1, 10)
    rest = await ask(client, "session_timeline", limit=50, offset=3)
    assert len(rest["items"]) == 10
    assert rest["items"][-1]["status"] == "unfinished"


async def test_an_unknown_session_names_those_there_are(session: Telemetry, client: Client) -> None:
    assert "no session 'nope': recent ones: s1" in await refused(
        client, "session_timeline", session="nope"
    )


async def test_a_search_finds_text_and_pages_to_the_end(session: Telemetry, client: Client) -> None:
    found = await ask(client, "search_events", text="NO RULE", kind="PostToolUseFailure", limit=2)
    assert [event["error"] for event in found["events"]] == ["Exit code 2: no rule"] * 2
    rest = await ask(
        client, "search_events", text="no rule", limit=2, before=found["next_before"], detail="full"
    )
    assert len(rest["events"]) == 1
    assert "next_before" not in rest
    assert rest["events"][0]["body"]["input"]["bytes"] == 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"since": "soon"}, "use 24h, 7d, 4w, today, all, or a date"),
        ({"since": "2099-01-01"}, "lies in the future"),
        ({"sinse": "24h"}, "did you mean 'since'?"),
        ({"limit": 0}, "greater than or equal to 1"),
    ],
)
async def test_bad_arguments_are_told_what_to_do(
    arguments: dict[str, Any], said: str, client: Client
) -> None:
    assert said in await refused(client, "usage_report", **arguments)


async def test_a_page_mark_that_is_none_is_refused(client: Client) -> None:
    assert "next_before" in await refused(client, "search_events", before="yesterday")


async def test_the_resources_are_json(session: Telemetry, client: Client) -> None:
    for uri, key in (("telemetry://summary", "rows"), ("telemetry://health", "counters")):
        [content] = (await client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        assert key in json.loads(content.text)


async def test_the_surface_is_small_and_each_tool_has_a_heading(client: Client) -> None:
    tools = (await client.list_tools()).tools
    text = README.read_text(encoding="utf-8")
    assert [tool.name for tool in tools if f"### `{tool.name}`" not in text] == []
    assert all(len(tool.description or "") < 800 for tool in tools)
    assert sum(len(tool.model_dump_json(exclude={"output_schema"})) for tool in tools) < 12_000


async def test_metrics_follow_the_store_and_their_names_the_conventions(
    session: Telemetry,
) -> None:
    registry = CollectorRegistry()
    registry.register(
        TelemetryCollector(session.store, session.spool, Days(session.zone), session.now)
    )
    text = generate_latest(registry).decode()
    assert 'ai_tool_calls_total{status="error",tool="Bash"} 3.0' in text
    assert 'ai_tool_calls_total{status="ok",tool="Bash"} 7.0' in text
    assert 'ai_tool_duration_seconds_count{tool="Bash"} 10.0' in text
    assert 'ai_tool_duration_seconds_sum{tool="Bash"} 5.5' in text
    assert 'ai_hook_events_total{kind="PreToolUse"} 11.0' in text
    assert "active_users 1.0" in text
