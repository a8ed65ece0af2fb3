"""`arsenale telemetry` as a user types it: real processes, a home of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from arsenale_telemetry import tables_cli
from arsenale_telemetry.models import FoundEvent

Run = Callable[..., subprocess.CompletedProcess[str]]
HOOK = Path(__file__).parents[2] / "hooks" / "log_event.sh"
MAIN = [sys.executable, "-c", "from arsenale_daemon.cli import main; main()", "telemetry"]
LONG = "mcp__a_server_with_a_long_name__and_a_tool_whose_name_is_even_longer_than_that"


@pytest.fixture
def people(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "COLUMNS": "80", "ARSENALE_TIMEZONE": "Asia/Tokyo"}


@pytest.fixture
def telemetry(people: dict[str, str]) -> Run:
    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAIN, *words], env={**people, **more}, text=True, capture_output=True, check=False,
            timeout=50, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


@pytest.fixture
def hook(home: Path) -> Callable[..., None]:
    """Give one event to the hook, as an assistant does."""

    def log(name: str = "PostToolUse", **more: Any) -> None:
        event = {
            "hook_event_name": name, "session_id": "11112222-3333", "cwd": "/w/app",
            "tool_name": "Bash", "tool_use_id": f"t{time.monotonic_ns()}", "duration_ms": 1500,
            "tool_input": {"command": "make all"}, "tool_response": {"stdout": "ok"}, **more,
        }  # fmt: skip
        subprocess.run(
            ["/bin/sh", str(HOOK), str(home / "spool")], input=json.dumps(event).encode() + b"\n",
            check=True,
        )  # fmt: skip

    return log


@pytest.fixture
def worked(hook: Callable[..., None]) -> None:
    """A session with two tools, one of which fails, and another one in another project."""
    for _ in range(3):
        hook()
    for number in range(3):
        hook("PostToolUseFailure", error=f"Traceback\n  line\nValueError: no {number}",
             duration_ms=200)  # fmt: skip
    hook(tool_name=LONG, duration_ms=90_000, session_id="99998888-7777", cwd="/w/other")


def shown(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if len(line.rstrip()) > 80] == []
    assert "…" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("command", ["report", "sessions", "events"])
def test_an_empty_store_names_the_command_that_helps(command: str, telemetry: Run) -> None:
    assert "No events yet: connect an assistant with `arsenale init`" in shown(telemetry(command))
    json.loads(telemetry(command, "--json").stdout)


def test_a_report_has_usage_latency_errors_and_what_to_look_at(
    telemetry: Run, worked: None
) -> None:
    text = shown(telemetry("report"))
    assert "7 calls took 1.6 min, 3 failed (43%)" in " ".join(text.split())
    names = [line.split()[0] for line in text.splitlines() if re.search(r" (min|s) +\d", line)]
    assert names[:2] == [LONG[: len(names[0])], "Bash"], "by total time"
    assert "Bash fails often: 3 of 6 calls failed (50%)" in text
    assert "arsenale telemetry events --tool Bash --status error" in text
    assert "search_events" not in text
    assert "latency_report" not in text


def test_the_command_that_a_finding_names_shows_the_events(telemetry: Run, worked: None) -> None:
    text = telemetry("report").stdout
    [command] = re.findall(r"arsenale telemetry (events --tool Bash --status error)", text)
    lines = telemetry(*command.split()).stdout.splitlines()
    assert len(lines) == 3
    assert all("error 200 ms make all ValueError: no" in line for line in lines)


def test_a_report_of_one_project_counts_only_its_calls(telemetry: Run, worked: None) -> None:
    assert "6 calls" in shown(telemetry("report", "--project", "/w/app/"))
    assert LONG not in telemetry("report", "--project", "/w/app").stdout
    assert "1 call " in shown(telemetry("report", "-p", "/w/other"))
    assert "Nothing fits" in shown(telemetry("report", "-p", "/w"))
    found = json.loads(telemetry("report", "-p", "/w/other", "--json").stdout)
    assert [row["name"] for row in found["usage"]["rows"]] == [LONG]
    assert {row["what"] for row in found["bottlenecks"]["bottlenecks"]} <= {LONG}


def test_sessions_are_listed_newest_first_with_project_calls_errors_and_duration(
    telemetry: Run, worked: None, hook: Callable[..., None]
) -> None:
    text = shown(telemetry("sessions"))
    newest, oldest = (line.split() for line in text.splitlines()[1:3])
    assert newest[2:5] == ["99998888", "/w/other", "1"]
    assert oldest[2:6] == ["11112222", "/w/app", "6", "3"]
    [only] = json.loads(telemetry("sessions", "-p", "/w/app", "--json").stdout)["sessions"]
    assert (only["calls"], only["errors"], only["host"]) == (6, 3, "claude-code")
    assert "1 more: --limit shows them." in telemetry("sessions", "--limit", "1").stdout


def test_moments_are_local_and_the_setting_decides(telemetry: Run, worked: None) -> None:
    [at] = {one["started"] for one in json.loads(
        telemetry("sessions", "-p", "/w/app", "--json").stdout)["sessions"]}  # fmt: skip
    for zone in ("Asia/Tokyo", "America/New_York"):
        text = telemetry("sessions", "-p", "/w/app", ARSENALE_TIMEZONE=zone).stdout
        assert tables_cli.local(at, zone) in text
    assert tables_cli.local("2026-11-30T23:30:00.000Z", "Europe/Vienna") == "2026-12-01 00:30"


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ((), 7), (("-n", "2"), 2), (("--tool", "Bash"), 6), (("--tool", "Nope"), 0),
        (("--status", "error"), 3), (("--kind", "PostToolUse"), 4), (("--session", "9999"), 1),
        (("--text", "no 2"), 1), (("--text", "make"), 7), (("--since", "today"), 7),
        (("--tool", "Bash", "--status", "ok"), 3),
    ],
)  # fmt: skip
def test_events_are_filtered(
    filters: tuple[str, ...], count: int, telemetry: Run, worked: None
) -> None:
    assert len(json.loads(telemetry("events", *filters, "--json").stdout)["events"]) == count
    lines = telemetry("events", *filters).stdout.splitlines()
    assert len(lines) == max(count, 1)
    assert (lines[0].startswith("Nothing fits")) == (count == 0)


@pytest.mark.parametrize("words", [("--since", "soon"), ("--since", "2100-01-01"), ("-s", "7x")])
def test_a_wrong_time_span_gets_one_line_that_names_right_ones(
    words: tuple[str, ...], telemetry: Run
) -> None:
    for command in ("report", "sessions", "events"):
        done = telemetry(command, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"error: .*: use 24h, 7d, 4w, today, all, or a date .*\n", done.stderr)


def test_following_shows_events_as_they_come_once_each(
    people: dict[str, str], hook: Callable[..., None]
) -> None:
    hook()
    with subprocess.Popen(
        [*MAIN, "events", "-f", "--status", "ok", "--json"], env=people, text=True,
        stdout=subprocess.PIPE,
    ) as follower:  # fmt: skip
        assert follower.stdout
        try:
            assert json.loads(follower.stdout.readline())["subject"] == "make all"
            hook("PostToolUseFailure", error="not wanted")
            for name in ("one", "two", "three"):
                hook(tool_input={"command": name})
                assert json.loads(follower.stdout.readline())["subject"] == name
            os.kill(follower.pid, signal.SIGINT)
            assert follower.stdout.read() == ""
            assert follower.wait(10) == 130
        finally:
            follower.kill()


def test_reports_include_what_waits_while_a_daemon_drains(
    telemetry: Run, raw_host: Any, worked: None
) -> None:
    host = raw_host("telemetry")
    host.shake_hands()
    assert host.call(1, "usage_report", since="all")["result"]["structuredContent"]
    assert "7 calls" in shown(telemetry("report", "--since", "all"))


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "[bold]x[/]", "tab\tbed", "\u202eevil"])
def test_what_a_tool_wrote_cannot_drive_the_terminal(text: str) -> None:
    event = FoundEvent(
        at="2026-11-30T12:00:00.000Z", kind="PostToolUse", tool=text, session=text, status="error",
        duration_ms=1.0, subject=text, error=text,
    )  # fmt: skip
    line = Text.from_markup(tables_cli.event_line(event, "UTC")).plain
    assert line.isprintable()
    assert "[bold]x[/]" in line or "[bold]" not in text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(None, ""), (0.04, "0.0 ms"), (9.96, "10.0 ms"), (45, "45 ms"), (999, "999 ms"),
     (1_000, "1.0 s"), (59_000, "59 s"), (60_000, "1.0 min"), (3_600_000, "1.0 h"),
     (36_000_000, "10 h")],
)  # fmt: skip
def test_a_duration_has_the_unit_that_suits_it(ms: float | None, text: str) -> None:
    assert tables_cli.duration(ms) == text
