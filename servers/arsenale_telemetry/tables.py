"""The tables of the telemetry store, as statements see them and as migrations make them."""

from typing import Any

import sqlalchemy as sa

_META = sa.MetaData()


def _table(name: str, *columns: str) -> sa.Table:
    return sa.Table(name, _META, *(sa.Column[Any](column) for column in columns))


project = _table("project", "id", "path")
tool = _table("tool", "id", "name", "server")
session = _table(
    "session", "id", "name", "host", "project_id", "first_us", "last_us", "ended_us",
    "calls", "errors", "prompts",
)  # fmt: skip
event = _table(
    "event", "id", "key", "at_us", "kind", "host", "session_id", "tool_id", "tool_use_id",
    "prompt_id", "agent_id", "status", "duration_us", "subject", "error", "body",
)  # fmt: skip
call = _table(
    "call", "id", "key", "session_id", "tool_id", "project_id", "tool_use_id", "match_key",
    "agent_id", "started_us", "ended_us", "duration_us", "status", "subject", "error",
    "input_bytes", "output_bytes", "input_sha",
)  # fmt: skip
usage = _table(
    "usage", "grain", "period", "tool_id", "project_id", "calls", "errors", "interrupted",
    "timed", "total_us", "max_us", "input_bytes", "output_bytes",
)  # fmt: skip
latency = _table("latency", "grain", "period", "tool_id", "project_id", "bucket", "n")
kinds = _table("kinds", "day", "kind", "host", "n")
counter = _table("counter", "name", "n")

HOUR, DAY, EVER = 0, 1, 2
"""Grains of the sums: an hour of UTC (hours since the epoch), a local day (`date.toordinal`), and
all time (period 0)."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE project (id {id}, path TEXT NOT NULL UNIQUE)",
        "CREATE TABLE tool (id {id}, name TEXT NOT NULL UNIQUE, server TEXT)",
        "CREATE TABLE session (id {id}, name TEXT NOT NULL UNIQUE, host TEXT NOT NULL,"
        " project_id BIGINT NOT NULL REFERENCES project, first_us BIGINT NOT NULL,"
        " last_us BIGINT NOT NULL, ended_us BIGINT, calls BIGINT NOT NULL DEFAULT 0,"
        " errors BIGINT NOT NULL DEFAULT 0, prompts BIGINT NOT NULL DEFAULT 0)",
        "CREATE INDEX session_last ON session (last_us)",
        "CREATE TABLE event (id {id}, key {blob} NOT NULL UNIQUE, at_us BIGINT NOT NULL,"
        " kind TEXT NOT NULL, host TEXT NOT NULL, session_id BIGINT NOT NULL REFERENCES session,"
        " tool_id BIGINT REFERENCES tool, tool_use_id TEXT, prompt_id TEXT, agent_id TEXT,"
        " status TEXT, duration_us BIGINT, subject TEXT, error TEXT, body TEXT)",
        "CREATE INDEX event_at ON event (at_us)",
        "CREATE INDEX event_session ON event (session_id, at_us)",
        "CREATE TABLE call (id {id}, key {blob} NOT NULL UNIQUE,"
        " session_id BIGINT NOT NULL REFERENCES session, tool_id BIGINT NOT NULL REFERENCES tool,"
        " project_id BIGINT NOT NULL REFERENCES project, tool_use_id TEXT, match_key {blob},"
        " agent_id TEXT, started_us BIGINT, ended_us BIGINT, duration_us BIGINT, status TEXT,"
        " subject TEXT, error TEXT, input_bytes BIGINT, output_bytes BIGINT, input_sha {blob})",
        "CREATE INDEX call_session ON call (session_id, started_us)",
        "CREATE INDEX call_ended ON call (ended_us)",
        "CREATE INDEX call_duration ON call (duration_us)",
        "CREATE INDEX call_running ON call (match_key) WHERE status IS NULL",
        "CREATE TABLE usage (grain BIGINT NOT NULL, period BIGINT NOT NULL,"
        " tool_id BIGINT NOT NULL, project_id BIGINT NOT NULL, calls BIGINT NOT NULL,"
        " errors BIGINT NOT NULL, interrupted BIGINT NOT NULL, timed BIGINT NOT NULL,"
        " total_us BIGINT NOT NULL, max_us BIGINT NOT NULL, input_bytes BIGINT NOT NULL,"
        " output_bytes BIGINT NOT NULL, PRIMARY KEY (grain, period, tool_id, project_id))",
        "CREATE TABLE latency (grain BIGINT NOT NULL, period BIGINT NOT NULL,"
        " tool_id BIGINT NOT NULL, project_id BIGINT NOT NULL, bucket BIGINT NOT NULL,"
        " n BIGINT NOT NULL, PRIMARY KEY (grain, period, tool_id, project_id, bucket))",
        "CREATE TABLE kinds (day BIGINT NOT NULL, kind TEXT NOT NULL, host TEXT NOT NULL,"
        " n BIGINT NOT NULL, PRIMARY KEY (day, kind, host))",
        "CREATE TABLE counter (name TEXT PRIMARY KEY, n BIGINT NOT NULL)",
    ),
)
