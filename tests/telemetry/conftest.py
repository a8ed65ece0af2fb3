"""A telemetry service over a store, and a client of its MCP surface."""

from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from mcp import Client
from prometheus_client import CollectorRegistry

from arsenale_core.config import Settings
from arsenale_core.events import HookEvent, Payload
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.server import SERVER
from arsenale_telemetry.service import Telemetry
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore

NOON = 1_795_262_400  # 2026-11-21 12:00 UTC, a Saturday


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TelemetryStore]:
    """A fresh store, once of each kind."""
    where: Path | str = tmp_path
    if request.param == "postgresql":
        where = str(request.getfixturevalue("postgres_url"))
    with TelemetryStore(where, ZoneInfo("UTC")) as opened:
        if isinstance(where, str):
            with opened.writing() as db:
                names = "event, call, session, project, tool, usage, latency, kinds, counter"
                db.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
        yield opened


@pytest.fixture
def telemetry(store: TelemetryStore, tmp_path: Path) -> Telemetry:
    spool = Spool(tmp_path / "spool")
    drain = Drain(
        spool, store, capture=Capture(), max_bytes=2**20, step_ms=5, now=lambda: float(NOON)
    )
    return Telemetry(
        store=store,
        spool=spool,
        drain=drain,
        zone=ZoneInfo("UTC"),
        retention_days=30,
        now=lambda: float(NOON),
    )


@pytest.fixture
async def client(telemetry: Telemetry, tmp_path: Path) -> AsyncIterator[Client]:
    runtime = Runtime(settings=Settings.read({"ARSENALE_HOME": str(tmp_path)}))
    calls = CallMetrics(CollectorRegistry())
    async with Client(SERVER.mount(telemetry, runtime, calls), raise_exceptions=True) as opened:
        yield opened


@pytest.fixture
def event() -> Callable[..., HookEvent]:
    """Make an event; a call id makes it a start or an end."""

    def make(kind: str = "PreToolUse", call: str | None = None, **more: Any) -> HookEvent:
        phase = {"PreToolUse": "start", "PostToolUse": "end", "PostToolUseFailure": "end"}.get(
            kind, "point"
        )
        values: dict[str, Any] = {
            "at_us": NOON * 1_000_000,
            "host": "claude-code",
            "kind": kind,
            "phase": phase,
            "session": "s1",
            "tool": None if phase == "point" else "Bash",
            "tool_use_id": call,
            "cwd": "/home/dev/inventory",
            "subject": "make test",
            "input": Payload(size_bytes=20, sha256=sha256(b"make test").digest()),
            "match_key": b"m" * 16,
        }
        if phase == "end":
            values["status"] = "error" if kind == "PostToolUseFailure" else "ok"
        values.update(more)
        parts = (values["session"], kind, call or str(values["at_us"]))
        values.setdefault("key", blake2b("|".join(parts).encode(), digest_size=16).digest())
        return HookEvent(**values)

    return make
