"""The tables of the memory store, as statements see them and as migrations make them."""

from typing import Any

import sqlalchemy as sa

from arsenale_core.store import Only

_META = sa.MetaData()


def _table(name: str, *columns: str) -> sa.Table:
    return sa.Table(name, _META, *(sa.Column[Any](column) for column in columns))


namespace = _table("namespace", "id", "name", "created_us")
memory = _table(
    "memory", "id", "uid", "number", "namespace_id", "owner", "kind", "content", "sha", "subject",
    "session", "importance", "labels", "source", "recalled", "created_us", "written_us",
    "valid_from_us", "valid_to_us", "ended_us", "ended",
)  # fmt: skip
label = _table("label", "memory_id", "kind", "value")
part = _table(
    "part", "id", "memory_id", "namespace_id", "n", "start", "space", "body", "subject", "day",
    "prev", "next",
)  # fmt: skip
embedder = _table("embedder", "id", "name", "dim")
vector = _table("vector", "embedder_id", "part_id", "data")
link = _table("link", "source", "target", "kind", "score", "at_us")
change = _table("change", "seq", "namespace_id", "memory_id")
sequence = _table("sequence", "name", "next")
checkpoint = _table("checkpoint", "sha", "persona", "at_us", "reason", "previous")
injection = _table(
    "injection", "id", "at_us", "session", "event", "namespace", "query_sha", "uids", "tokens",
    "ms",
)  # fmt: skip
consent = _table(
    "consent", "id", "feature", "who", "granted_us", "text_version", "text_sha", "withdrawn_us"
)
metric = _table("metric", "id", "feature", "name", "value", "at_us")

COLUMNS = ("space", "body", "subject", "day", "prev", "next")
"""The columns of the full-text index. `space` has one word, see `current` and `past`."""


def current(namespace_id: int) -> str:
    """Return the word in `space` of the current versions of a namespace."""
    return f"n{namespace_id}"


def past(namespace_id: int) -> str:
    """Return the word in `space` of versions that have been replaced."""
    return f"h{namespace_id}"


_NEW = ", ".join(f"new.{column}" for column in COLUMNS)
_OLD = ", ".join(f"old.{column}" for column in COLUMNS)
_NAMES = ", ".join(COLUMNS)

_FULL_TEXT = (
    Only(
        "sqlite",
        f"CREATE VIRTUAL TABLE part_fts USING fts5({_NAMES}, content='part', content_rowid='id',"
        " tokenize='porter unicode61 remove_diacritics 2')",
    ),
    Only(
        "sqlite",
        "CREATE TRIGGER part_added AFTER INSERT ON part BEGIN"
        f" INSERT INTO part_fts(rowid, {_NAMES}) VALUES (new.id, {_NEW}); END",
    ),
    Only(
        "sqlite",
        "CREATE TRIGGER part_deleted AFTER DELETE ON part BEGIN"
        f" INSERT INTO part_fts(part_fts, rowid, {_NAMES}) VALUES ('delete', old.id, {_OLD}); END",
    ),
    Only(
        "sqlite",
        "CREATE TRIGGER part_changed AFTER UPDATE ON part BEGIN"
        f" INSERT INTO part_fts(part_fts, rowid, {_NAMES}) VALUES ('delete', old.id, {_OLD});"
        f" INSERT INTO part_fts(rowid, {_NAMES}) VALUES (new.id, {_NEW}); END",
    ),
    Only(
        "postgresql",
        "ALTER TABLE part ADD COLUMN words tsvector GENERATED ALWAYS AS ("
        "setweight(to_tsvector('english', body), 'A') ||"
        " setweight(to_tsvector('english', subject || ' ' || day), 'B') ||"
        " setweight(to_tsvector('english', prev || ' ' || next), 'C')) STORED",
    ),
    Only("postgresql", "CREATE INDEX part_words ON part USING gin (words)"),
)

MIGRATIONS: tuple[tuple[str | Only, ...], ...] = (
    (
        "CREATE TABLE sequence (name TEXT PRIMARY KEY, next BIGINT NOT NULL)",
        "CREATE TABLE namespace (id BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " created_us BIGINT NOT NULL)",
        "CREATE TABLE memory (id BIGINT PRIMARY KEY, uid TEXT NOT NULL, number BIGINT NOT NULL,"
        " namespace_id BIGINT NOT NULL REFERENCES namespace, owner TEXT NOT NULL,"
        " kind TEXT NOT NULL, content TEXT NOT NULL, sha {blob} NOT NULL, subject TEXT,"
        " session TEXT, importance {real} NOT NULL, labels TEXT NOT NULL, source TEXT NOT NULL,"
        " recalled BIGINT NOT NULL, created_us BIGINT NOT NULL, written_us BIGINT NOT NULL,"
        " valid_from_us BIGINT NOT NULL, valid_to_us BIGINT, ended_us BIGINT, ended TEXT,"
        " UNIQUE (uid, number))",
        "CREATE INDEX memory_sha ON memory (sha, namespace_id)",
        "CREATE INDEX memory_session ON memory (namespace_id, session, id)",
        "CREATE INDEX memory_written ON memory (namespace_id, written_us)",
        "CREATE INDEX memory_ended ON memory (ended_us) WHERE ended = 'forgotten'",
        "CREATE TABLE label (memory_id BIGINT NOT NULL REFERENCES memory ON DELETE CASCADE,"
        " kind TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (memory_id, kind, value))",
        "CREATE INDEX label_value ON label (kind, value, memory_id)",
        "CREATE TABLE part (id BIGINT PRIMARY KEY,"
        " memory_id BIGINT NOT NULL REFERENCES memory ON DELETE CASCADE,"
        " namespace_id BIGINT NOT NULL, n BIGINT NOT NULL, start BIGINT NOT NULL,"
        " space TEXT NOT NULL, body TEXT NOT NULL, subject TEXT NOT NULL, day TEXT NOT NULL,"
        " prev TEXT NOT NULL, next TEXT NOT NULL)",
        "CREATE INDEX part_memory ON part (memory_id)",
        "CREATE INDEX part_namespace ON part (namespace_id, id)",
        *_FULL_TEXT,
        "CREATE TABLE embedder (id BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " dim BIGINT NOT NULL)",
        "CREATE TABLE vector (embedder_id BIGINT NOT NULL REFERENCES embedder,"
        " part_id BIGINT NOT NULL REFERENCES part ON DELETE CASCADE, data {blob} NOT NULL,"
        " PRIMARY KEY (embedder_id, part_id))",
        "CREATE INDEX vector_part ON vector (part_id)",
        "CREATE TABLE link (source TEXT NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,"
        " score {real} NOT NULL, at_us BIGINT NOT NULL, PRIMARY KEY (source, target, kind))",
        "CREATE INDEX link_target ON link (target)",
        "CREATE TABLE change (seq BIGINT PRIMARY KEY, namespace_id BIGINT NOT NULL,"
        " memory_id BIGINT NOT NULL)",
        "CREATE TABLE checkpoint (sha TEXT NOT NULL, persona TEXT NOT NULL,"
        " at_us BIGINT NOT NULL, reason TEXT NOT NULL, previous TEXT,"
        " PRIMARY KEY (persona, at_us))",
        "CREATE TABLE injection (id {id}, at_us BIGINT NOT NULL, session TEXT, event TEXT NOT NULL,"
        " namespace TEXT NOT NULL, query_sha {blob}, uids TEXT NOT NULL, tokens BIGINT NOT NULL,"
        " ms {real} NOT NULL)",
        "CREATE TABLE consent (id {id}, feature TEXT NOT NULL, who TEXT NOT NULL,"
        " granted_us BIGINT NOT NULL, text_version BIGINT NOT NULL, text_sha {blob} NOT NULL,"
        " withdrawn_us BIGINT)",
        "CREATE TABLE metric (id {id}, feature TEXT NOT NULL, name TEXT NOT NULL,"
        " value {real} NOT NULL, at_us BIGINT NOT NULL)",
    ),
)
