"""The tables of the mesh, as migrations make them.

`blob` holds modules, inputs and outputs by their SHA-256, so that a task, its bytes and its receipt
are one transaction, one snapshot and one backup.
"""

from arsenale_core.store import Only

MIGRATIONS: tuple[tuple[str | Only, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE blob (sha TEXT PRIMARY KEY, size BIGINT NOT NULL, data {blob} NOT NULL,"
        " at_us BIGINT NOT NULL)",
        "CREATE TABLE module (sha TEXT PRIMARY KEY REFERENCES blob, name TEXT NOT NULL UNIQUE,"
        " description TEXT NOT NULL, functions TEXT NOT NULL, size BIGINT NOT NULL,"
        " added_us BIGINT NOT NULL, uses BIGINT NOT NULL, ready_made BIGINT NOT NULL)",
        "CREATE TABLE node (id {id}, did TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,"
        " kind TEXT NOT NULL, house BIGINT NOT NULL, state TEXT NOT NULL,"
        " joined_us BIGINT NOT NULL, seen_us BIGINT NOT NULL, slots BIGINT NOT NULL,"
        " memory_bytes BIGINT NOT NULL, engine TEXT NOT NULL, score {real} NOT NULL,"
        " streak BIGINT NOT NULL, correct BIGINT NOT NULL, wrong BIGINT NOT NULL,"
        " unchecked BIGINT NOT NULL, no_word BIGINT NOT NULL, credits BIGINT NOT NULL,"
        " reason TEXT NOT NULL)",
        "CREATE INDEX node_admitted ON node (id) WHERE house = 0 AND state IN"
        " ('online', 'offline')",
        "CREATE TABLE invitation (hash TEXT PRIMARY KEY, note TEXT NOT NULL,"
        " made_us BIGINT NOT NULL, until_us BIGINT NOT NULL, used_by TEXT)",
        "CREATE TABLE task (id {token}, module TEXT NOT NULL REFERENCES blob,"
        " function TEXT NOT NULL, input TEXT NOT NULL REFERENCES blob,"
        " memory_bytes BIGINT NOT NULL, max_fuel BIGINT NOT NULL, wall_ms BIGINT NOT NULL,"
        " output_bytes BIGINT NOT NULL, seed BIGINT NOT NULL, clock_us BIGINT NOT NULL,"
        " slice_fuel BIGINT NOT NULL, nonce TEXT NOT NULL, assurance TEXT NOT NULL,"
        " carbon TEXT NOT NULL, house_only BIGINT NOT NULL, priority BIGINT NOT NULL,"
        " label TEXT NOT NULL, project TEXT NOT NULL, state TEXT NOT NULL, wants BIGINT NOT NULL,"
        " asks TEXT NOT NULL, failures BIGINT NOT NULL, created_us BIGINT NOT NULL,"
        " started_us BIGINT, ended_us BIGINT, status TEXT, output TEXT, detail TEXT NOT NULL,"
        " fuel BIGINT NOT NULL, how TEXT NOT NULL, risk {real}, receipt TEXT,"
        " reward BIGINT NOT NULL, key TEXT UNIQUE)",
        "CREATE INDEX task_waiting ON task (priority DESC, id) WHERE wants > 0",
        "CREATE INDEX task_open ON task (id) WHERE state IN ('queued', 'running', 'checking')",
        "CREATE INDEX task_ended ON task (ended_us)",
        "CREATE INDEX task_blobs ON task (input)",
        "CREATE TABLE attempt (id {token}, task_id BIGINT NOT NULL REFERENCES task,"
        " node_id BIGINT NOT NULL REFERENCES node, role TEXT NOT NULL, state TEXT NOT NULL,"
        " leased_us BIGINT NOT NULL, ended_us BIGINT, outcome TEXT, status TEXT, receipt TEXT)",
        "CREATE INDEX attempt_task ON attempt (task_id)",
        "CREATE INDEX attempt_leased ON attempt (node_id) WHERE state = 'leased'",
        "CREATE INDEX attempt_said ON attempt (node_id) WHERE state = 'said'",
        "CREATE TABLE receipt (id TEXT PRIMARY KEY, task_id BIGINT NOT NULL REFERENCES task,"
        " node_id BIGINT NOT NULL REFERENCES node, at_us BIGINT NOT NULL, body TEXT NOT NULL,"
        " leaves TEXT NOT NULL, stderr {blob} NOT NULL, detail TEXT NOT NULL)",
        "CREATE INDEX receipt_task ON receipt (task_id)",
        "CREATE TABLE telemetry (id {id}, node_id BIGINT NOT NULL REFERENCES node,"
        " at_us BIGINT NOT NULL, health {real} NOT NULL, body TEXT NOT NULL)",
        "CREATE INDEX telemetry_node ON telemetry (node_id, at_us)",
        "CREATE TABLE ledger (number BIGINT PRIMARY KEY, at_us BIGINT NOT NULL,"
        " kind TEXT NOT NULL, node TEXT NOT NULL, credits BIGINT NOT NULL, task TEXT NOT NULL,"
        " receipt TEXT NOT NULL, before_hash TEXT NOT NULL, hash TEXT NOT NULL,"
        " UNIQUE (node, task, kind))",
        "CREATE TABLE audit (number BIGINT PRIMARY KEY, at_us BIGINT NOT NULL, kind TEXT NOT NULL,"
        " subject TEXT NOT NULL, body TEXT NOT NULL, before_hash TEXT NOT NULL,"
        " hash TEXT NOT NULL)",
    ),
)

TABLES = (
    "meta", "blob", "module", "node", "invitation", "task", "attempt", "receipt", "telemetry",
    "ledger", "audit",
)  # fmt: skip
"""All of them, each after those that it refers to."""
