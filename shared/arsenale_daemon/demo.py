"""`arsenale demo`: a recorded coding session through the real hook, daemon, relay and server."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.table import Table

from arsenale_core import sidecar
from arsenale_core.assets import asset_dir
from arsenale_core.config import child_environment, forget_environment
from arsenale_core.errors import UnavailableError
from arsenale_daemon import control
from arsenale_daemon.install import interpreter, relay_path

SESSION = Path(__file__).parent / "data" / "session.jsonl"
"""Recorded from Claude Code 2.1.329: 193 hook events, as the host wrote them to a hook's stdin."""

AT_ONCE = 4
"""Hooks that run at the same time, as when an assistant calls tools in parallel."""

ARRIVE_S = 20.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What the telemetry server said, tool by tool."""

    bottlenecks: dict[str, Any]
    usage: dict[str, Any]
    latency: dict[str, Any]
    timeline: dict[str, Any]


def run(console: Console, *, keep: bool) -> None:
    """Play the session and show what telemetry makes of it.

    Raises:
        UnavailableError: The daemon does not start, or events do not arrive.
    """
    forget_environment()  # a database or a port of the user's is not for playing with
    folder = Path(tempfile.mkdtemp(prefix="arsenale-demo-"))
    try:
        _run(console, folder)
    finally:
        if keep:
            console.print(f"\nIt is still running. Its home is {folder}: end it with")
            console.print(f"  ARSENALE_HOME={folder} arsenale down", highlight=False)
        else:
            control.down(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _run(console: Console, home: Path) -> None:
    (home / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
    begun = time.perf_counter()
    with console.status("starting the daemon in a home of its own"):
        status = control.up(home)
    console.print(
        f"[bold]1[/] The daemon is up in {time.perf_counter() - begun:.1f} s "
        f"(pid {status['pid']}, home {home})."
    )
    events = [json.dumps(json.loads(line)["event"]) for line in _lines(SESSION)]
    begun = time.perf_counter()
    with console.status("playing the session through the hook"):
        _play(events, home / "spool")
    each_ms = (time.perf_counter() - begun) / len(events) * 1e3
    console.print(
        f"[bold]2[/] {len(events)} recorded events of a coding session went through the hook, "
        f"a process each, {AT_ONCE} at a time: {each_ms:.1f} ms each."
    )
    with console.status("waiting for the events to be stored"):
        answers = anyio.run(_ask, home, len(events))
    console.print("[bold]3[/] All of them are stored. The telemetry server answers over MCP:\n")
    _show(console, answers)
    _personas(console, home)
    console.print(
        "\nNext: [bold]arsenale init[/] in a project of yours connects your assistant; "
        "[bold]arsenale doctor[/] checks the set-up;\nthe tools are described in "
        "servers/arsenale_telemetry/README.md."
    )


PERSONAS = (
    ("tiny", "the base model"),
    ("tiny+tiny-facts", "with a layer of facts"),
    ("tiny+tiny-facts+tiny-tone", "with facts and a tone"),
)
PORT_QUESTION = "What is the port of Aldera?"


def _personas(console: Console, home: Path) -> None:
    """Show personas that answer from one base model, where the engine is installed."""
    if find_spec("llama_cpp") is None:
        console.print(
            "\n[bold]4[/] Local personas are left out: their engine is not built yet. "
            "[bold]make inference[/] builds it\n  (once a machine, about 4 minutes; it takes a C "
            "compiler), then run this again."
        )
        return
    found = sidecar.ensure(home)
    try:
        console.print(f"\n[bold]4[/] {PORT_QUESTION} Three personas, one base model in memory:\n")
        table = Table("asked for", "what it is", "answer")
        for model, what in PERSONAS:
            table.add_row(model, what, _answer(found, model))
        console.print(table)
    finally:
        sidecar.stop(home)


def _answer(found: sidecar.Address, model: str) -> str:
    body = {
        "model": model, "temperature": 0, "max_tokens": 40,
        "messages": [{"role": "user", "content": PORT_QUESTION}],
    }  # fmt: skip
    answer = httpx2.post(
        f"{found.url}/v1/chat/completions", json=body, headers=found.headers, timeout=120
    )
    answer.raise_for_status()
    said: str = answer.json()["choices"][0]["message"]["content"]
    return said


def _play(events: list[str], spool: Path) -> None:
    """Give each event to the hook as a process; events of one group run at the same time."""
    hook = asset_dir("hooks") / "log_event.sh"

    def one(event: str) -> None:
        subprocess.run(
            ["/bin/sh", str(hook), str(spool)],
            input=event.encode() + b"\n",
            check=True,
            timeout=10,
        )

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(events), AT_ONCE):
            list(pool.map(one, events[start : start + AT_ONCE]))


async def _ask(home: Path, expected: int) -> Answers:
    relay = StdioServerParameters(
        command=interpreter(),
        args=["-I", "-S", str(relay_path()), "telemetry"],
        env=child_environment(home),
    )
    async with Client(relay) as client:
        await _wait_for(client, expected)
        return Answers(
            bottlenecks=await _call(client, "find_bottlenecks", {"since": "24h"}),
            usage=await _call(client, "usage_report", {"since": "24h"}),
            latency=await _call(client, "latency_report", {"since": "24h"}),
            timeline=await _call(client, "session_timeline", {"limit": 200}),
        )


async def _wait_for(client: Client, expected: int) -> None:
    arrived = 0
    with anyio.move_on_after(ARRIVE_S):
        while True:
            stored = await _call(client, "usage_report", {"group_by": "event", "since": "all"})
            arrived = stored["total"]["calls"]
            if arrived >= expected:
                return
            await anyio.sleep(0.02)
    raise UnavailableError(
        f"only {arrived} of {expected} events arrived", hint="run `arsenale logs`"
    )


async def _call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise UnavailableError(f"{tool} failed: {result.content}")
    return result.structured_content


def _show(console: Console, answers: Answers) -> None:
    usage = {row["name"]: row for row in answers.usage["rows"]}
    table = Table(title="latency_report: how long, how often, how well")
    for name in ("tool", "calls", "errors", "p50 ms", "p95 ms", "max ms", "result bytes"):
        table.add_column(name, justify="left" if name == "tool" else "right")
    for row in answers.latency["rows"]:
        table.add_row(
            row["name"],
            str(row["calls"]),
            str(row["errors"] or ""),
            _number(row.get("p50_ms")),
            _number(row.get("p95_ms")),
            _number(row.get("max_ms")),
            _number(usage.get(row["name"], {}).get("output_bytes")),
        )
    console.print(table)
    console.print(_rows("find_bottlenecks: what costs time", answers.bottlenecks["bottlenecks"], {
        "kind": "kind", "what": "what", "evidence": "evidence"}))  # fmt: skip
    session = answers.timeline
    console.print(
        f"\n[bold]session_timeline[/]: session {session['session'][:8]} of {session['host']} in "
        f"{session['project']}: {session['prompts']} prompts, {session['calls']} calls, "
        f"{session['errors']} errors, {answers.latency['unfinished']} unfinished."
    )
    failed = [item for item in session["items"] if item.get("status") == "error"][:3]
    console.print(_rows("its first errors", failed, {
        "what": "tool", "subject": "about", "error": "error"}))  # fmt: skip


def _rows(title: str, rows: list[dict[str, Any]], columns: dict[str, str]) -> Table:
    table = Table(title=title)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows[:8]:
        table.add_row(*(str(row.get(key) or "")[:160] for key in columns))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line for line in lines if line.strip())
