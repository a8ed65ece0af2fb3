"""The last scene of the demo: a recorded coding session, and what telemetry makes of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
from rich.table import Table

from arsenale_core.assets import asset_dir
from arsenale_core.errors import UnavailableError
from arsenale_daemon.demo.stage import Stage, run_process

SESSION = Path(__file__).parents[1] / "data" / "session.jsonl"
"""Recorded from Claude Code 2.1.329: 193 hook events, as the host wrote them to a hook's stdin."""

AT_ONCE = 4
"""Hooks that run at the same time, as when an assistant calls tools in parallel."""

ARRIVE_S = 20.0

MOST_FINDINGS = 3

KINDS = {
    "time_sink": "takes most of the time",
    "slow_tail": "is sometimes far slower",
    "error_prone": "fails often",
    "repeated_call": "is asked again and again",
    "large_results": "returns large results",
    "unfinished": "did not end",
}


async def where_time_went(stage: Stage) -> None:
    """Play the session through the hook; show which tools took the time, and what to change."""
    events = [json.dumps(json.loads(line)["event"]) for line in _lines(SESSION)]
    stage.tell("before", "An assistant worked for a while. Nobody knows what took so long.")
    await _play(events, stage.home / "spool")
    await _wait_for(stage, len(events))
    usage = await stage.call("telemetry", "usage_report", since="24h")
    found = await stage.call("telemetry", "find_bottlenecks", since="24h")
    total = usage["total"]
    stage.tell(
        "after",
        f"Its {len(events)} recorded events went through the hook. {total['calls']} tool calls "
        f"took {total['total_ms'] / 1e3:.1f} s, {total['errors']} failed. Slowest tools first:",
    )
    stage.console.print(_table(usage["rows"]))
    for one in found["bottlenecks"][:MOST_FINDINGS]:
        what = _shortened(str(one["what"]))
        stage.tell("finding", f"{what} {KINDS[one['kind']]}: {one['evidence']}.")


def _table(usage: list[dict[str, Any]]) -> Table:
    """Return calls, errors and times by tool, sorted by the total."""
    table = Table("   tool", box=None, padding=(0, 2, 0, 0))
    for name in ("total ms", "calls", "errors", "average ms", "longest ms"):
        table.add_column(name, justify="right")
    for row in sorted(usage, key=lambda row: -(row.get("total_ms") or 0)):
        table.add_row(
            f"   {row['name']}", _number(row.get("total_ms")), str(row["calls"]),
            str(row.get("errors") or ""), _number(row.get("mean_ms")), _number(row.get("max_ms")),
        )  # fmt: skip
    return table


def _shortened(what: str) -> str:
    """Return WHAT with a long path reduced to its file."""
    return " ".join(Path(word).name if word.count("/") > 1 else word for word in what.split())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


async def _play(events: list[str], spool: Path) -> None:
    """Give each event to the hook as a process; events of one group run at the same time."""
    hook = str(asset_dir("hooks") / "log_event.sh")

    async def one(event: str) -> None:
        await run_process("/bin/sh", hook, str(spool), given=event.encode() + b"\n")

    for start in range(0, len(events), AT_ONCE):
        async with anyio.create_task_group() as group:
            for event in events[start : start + AT_ONCE]:
                group.start_soon(one, event)


async def _wait_for(stage: Stage, expected: int) -> None:
    arrived = 0
    with anyio.move_on_after(ARRIVE_S):
        while True:
            stored = await stage.call("telemetry", "usage_report", group_by="event", since="all")
            arrived = stored["total"]["calls"]
            if arrived >= expected:
                return
            await anyio.sleep(0.02)
    raise UnavailableError(
        f"only {arrived} of {expected} events arrived", hint="run `arsenale doctor`"
    )


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line for line in lines if line.strip())
