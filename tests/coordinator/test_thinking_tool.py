"""How hard to think, asked over MCP and by the hook; evidence from the real telemetry."""

import json
import subprocess
import sys
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from tests.coordinator.conftest import Call, Time, opened

import arsenale_coordinator
from arsenale_coordinator.opening import Services
from arsenale_coordinator.thinking.evidence import Event
from arsenale_coordinator.thinking.optimiser import Optimiser

README = Path(str(arsenale_coordinator.__file__)).with_name("README.md")
HOOKS = Path(__file__).parents[2] / "hooks"
FAILED = {"hook_event_name": "PostToolUseFailure", "error": "Exit code 1"}
PASSED = {"hook_event_name": "PostToolUse", "tool_response": {"stdout": "ok"}}
TEST = {"tool_name": "Bash", "tool_input": {"command": "pytest -q"}}
EDIT = {"tool_name": "Edit", "tool_input": {"file_path": "/repo/a.py", "new_string": "x"}}


def call_of(what: dict[str, Any], end: dict[str, Any], at: float = 1.0) -> Event:
    given = what["tool_input"]
    return Event(
        tool=what["tool_name"], ok=end is PASSED, at=at, command=given.get("command"),
        path=given.get("file_path"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "prompt",
    [
        "Rename x",
        "find the race condition in the scheduler, design a lock-free fix and prove it",
        "I think hard-coded passwords are still in settings.py, find them",
        "Design the storage engine",
        "",
    ],
)
@pytest.mark.parametrize("model", ["", "claude-opus-4-6", "claude-sonnet-4-5", "gpt-5"])
async def test_without_evidence_the_host_keeps_its_default_effort(
    call: Call, prompt: str, model: str
) -> None:
    answer = await call("recommend_thinking", prompt=prompt, model=model)
    assert answer == {
        "level": "default", "model_takes": "the host's default effort: set nothing",
        "because": "a lower effort needs a reason as much as a higher one",
        "why": ["no evidence: keep the host's default effort"],
        "evidence": "none: no session is named",
    }  # fmt: skip


async def test_a_wish_for_little_is_simple_and_the_answer_says_what_the_model_takes(
    call: Call,
) -> None:
    prompt = "no need to ultrathink this, just rename foo to bar"
    answer = await call("recommend_thinking", prompt=prompt, model="claude-opus-4-6")
    assert answer == {
        "level": "simple", "word": "think", "tokens": 4000, "model_takes": "effort low",
        "because": "from 4.6 on thinking is adaptive: an effort is taken, a budget ignored or"
        " refused",
        "set_by": [
            "--effort low", "CLAUDE_CODE_EFFORT_LEVEL=low",
            '{"thinking":{"type":"adaptive"},"output_config":{"effort":"low"}}',
        ],
        "why": ["the prompt asks for little"], "evidence": "none: no session is named",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "model", "takes", "set_by"),
    [
        ("ultrathink it", "claude-opus-4-6", "effort max, keyword ultrathink", "--effort max"),
        ("think hard", "claude-sonnet-4-5", "a budget of 10,000 tokens",
         "MAX_THINKING_TOKENS=10000"),
        ("ultrathink", "claude-3-5-haiku-20241022", "nothing", None),
    ],
)  # fmt: skip
async def test_what_the_user_asks_for_is_compiled_for_each_family(
    call: Call, prompt: str, model: str, takes: str, set_by: str | None
) -> None:
    said = await call("recommend_thinking", prompt=prompt, model=model)
    assert said["model_takes"] == takes
    assert set_by is None or set_by in said["set_by"]


async def test_evidence_raises_the_level_is_spent_by_it_and_survives_a_restart(
    services: Services, settings_of: dict[str, str], time: Time
) -> None:
    events = [call_of(EDIT, PASSED), call_of(TEST, FAILED)] * 2

    async def calls(session: str) -> list[Event]:
        assert session == "s"
        return events

    optimiser = Optimiser(services.coordinator.store, calls)
    first = await optimiser.recommend("Fix it", "", "s", "")
    assert (first.level, first.changed) == ("moderate", "raised by 1")
    assert first.why == ["tests failed after 2 edits (+2)"]
    assert first.evidence == "4 calls of this session"
    async with opened(settings_of, time.clock) as (again, _):
        later = Optimiser(again.coordinator.store, calls)
        assert (await later.recommend("Fix it", "", "s", "")).level == "moderate"
        assert (await later.recommend("ultrathink: fix it", "", "s", "")).level == "critical"
        time.passes(7 * 3_600)
        events.clear()
        assert (await later.recommend("Fix it", "", "s", "")).level == "default"


async def test_what_turns_took_is_learned_by_project_and_kind(services: Services) -> None:
    optimiser = services.optimiser
    for tokens in (9_000, 12_000, 10_000, 14_000, 11_000, 9_500, 13_000, 12_500):
        await optimiser.observe("/repo", "moderate", tokens)
    said = await optimiser.recommend("Fix the test", "", "", "/repo")
    assert said.level == "moderate"
    assert "8 turns of /repo, moderate" in said.expected
    assert (await optimiser.recommend("Rename x", "", "", "")).level in ("default", "moderate")


async def test_a_prompt_is_told_only_where_it_is_on_and_worth_a_line(services: Services) -> None:
    asked = {"hook_event_name": "UserPromptSubmit", "session_id": "s", "prompt": "ultrathink this"}
    assert await services.optimiser.told(asked) is None
    on = Optimiser(services.coordinator.store, services.optimiser.calls, injects=True)
    told = await on.told(asked)
    assert told
    assert told.startswith("Thinking level critical (the prompt asks to ultrathink (+3)): think")
    assert "\n" not in told
    for silent in ("Rename x", "please do not ultrathink, rename x", "I think hard links work"):
        assert await on.told({**asked, "session_id": "t", "prompt": silent}) is None
    assert await on.told({**asked, "prompt": "/compact"}) is None
    assert await on.told({**asked, "hook_event_name": "Stop"}) is None


async def test_a_source_that_hangs_costs_the_prompt_its_line_and_no_more(
    services: Services,
) -> None:
    async def hangs(session: str) -> None:
        del session
        await anyio.sleep_forever()

    on = Optimiser(services.coordinator.store, hangs, injects=True)
    asked = {"hook_event_name": "UserPromptSubmit", "session_id": "s", "prompt": "ultrathink this"}
    begun = clock.monotonic()
    assert await on.told(asked) is None
    assert clock.monotonic() - begun < 1


async def test_the_tool_list_stays_small(client: Client) -> None:
    chars = {
        tool.name: len(
            json.dumps(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.input_schema,
                },
                separators=(",", ":"),
            )
        )
        for tool in (await client.list_tools()).tools
    }
    assert chars["recommend_thinking"] <= 4 * 80
    assert sum(chars.values()) <= 4 * 1_500


async def test_every_tool_has_a_heading_in_the_readme(client: Client) -> None:
    text = README.read_text(encoding="utf-8")
    headings = {line[5:-1] for line in text.splitlines() if line.startswith("### `")}
    assert headings == {tool.name for tool in (await client.list_tools()).tools}


# The real thing.


@pytest.fixture
def happened(environment: dict[str, str]) -> Callable[..., None]:
    """Let the logging hook tell telemetry of calls of a session."""

    def tell(*calls: tuple[dict[str, Any], dict[str, Any]]) -> None:
        for n, (what, end) in enumerate(calls):
            event = {**end, **what, "session_id": "live", "cwd": "/repo", "tool_use_id": f"u{n}"}
            subprocess.run(
                ["/bin/sh", str(HOOKS / "log_event.sh")], input=json.dumps(event).encode(),
                env=environment, check=True, timeout=10,
            )  # fmt: skip

    return tell


def test_calls_that_the_hooks_logged_are_evidence_for_the_tool_and_the_prompt(
    environment: dict[str, str], home: Path, raw_host: Any, happened: Callable[..., None]
) -> None:
    with (home / "config.toml").open("a", encoding="utf-8") as file:
        file.write("inject_thinking = true\ninject_memories = false\n")
    happened((EDIT, PASSED), (TEST, FAILED), (EDIT, PASSED), (TEST, FAILED))
    host = raw_host("coordinator", CLAUDE_CODE_SESSION_ID="live")
    host.shake_hands()
    said: dict[str, Any] = {}
    deadline = clock.monotonic() + 15
    while not said.get("changed"):
        assert clock.monotonic() < deadline, said
        answer = host.call(1, "recommend_thinking", prompt="Fix it", model="claude-opus-5-5")
        said = answer["result"]["structuredContent"]
        clock.sleep(0.05)
    assert (said["level"], said["model_takes"]) == ("moderate", "effort medium")
    assert said["why"] == ["tests failed after 2 edits (+2)"]
    event = {"hook_event_name": "UserPromptSubmit", "session_id": "live", "prompt": "And now?"}
    begun = clock.monotonic()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(HOOKS / "inject.py")], input=json.dumps(event).encode(),
        env=environment, capture_output=True, check=True, timeout=10,
    )  # fmt: skip
    assert clock.monotonic() - begun < 1.5
    told = json.loads(done.stdout)["hookSpecificOutput"]["additionalContext"]
    assert told.startswith("Thinking level moderate (")
    host.close()
