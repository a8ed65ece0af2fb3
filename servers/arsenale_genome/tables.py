"""The tables of the genome store, as statements see them and as migrations make them."""

from typing import Any

import sqlalchemy as sa

from arsenale_core.store import Only

_META = sa.MetaData()


def _table(name: str, *columns: str) -> sa.Table:
    return sa.Table(name, _META, *(sa.Column[Any](column) for column in columns))


item = _table(
    "item", "id", "kind", "name", "number", "trait", "base", "licence", "content_sha", "sha",
    "body", "created_us", "updated_us", "deleted_us",
)  # fmt: skip
"""Genomes and layers, the current revision of each; `content_sha` is a layer's file."""

revision = _table("revision", "item_id", "number", "at_us", "why", "sha", "body")
uses = _table("uses", "genome_id", "place", "layer_id")
"""Which layers the living genomes have."""

parent = _table("parent", "child_id", "parent_id")
tag = _table("tag", "item_id", "value")
vector = _table("vector", "item_id", "embedder", "text_sha", "data")
base_model = _table(
    "base_model", "name", "architecture", "sha256", "path", "size_bytes", "mtime_ns"
)

MIGRATIONS: tuple[tuple[str | Only, ...], ...] = (
    (
        "CREATE TABLE item (id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL,"
        " number BIGINT NOT NULL, trait TEXT NOT NULL, base TEXT NOT NULL, licence TEXT NOT NULL,"
        " content_sha TEXT NOT NULL, sha TEXT NOT NULL, body TEXT NOT NULL,"
        " created_us BIGINT NOT NULL, updated_us BIGINT NOT NULL, deleted_us BIGINT)",
        "CREATE UNIQUE INDEX item_name ON item (kind, name) WHERE deleted_us IS NULL",
        "CREATE UNIQUE INDEX item_file ON item (content_sha)"
        " WHERE deleted_us IS NULL AND kind = 'layer'",
        "CREATE TABLE revision (item_id TEXT NOT NULL REFERENCES item, number BIGINT NOT NULL,"
        " at_us BIGINT NOT NULL, why TEXT NOT NULL, sha TEXT NOT NULL, body TEXT NOT NULL,"
        " PRIMARY KEY (item_id, number))",
        "CREATE TABLE uses (genome_id TEXT NOT NULL REFERENCES item, place BIGINT NOT NULL,"
        " layer_id TEXT NOT NULL REFERENCES item, PRIMARY KEY (genome_id, place))",
        "CREATE INDEX uses_layer ON uses (layer_id)",
        "CREATE TABLE parent (child_id TEXT NOT NULL REFERENCES item, parent_id TEXT NOT NULL,"
        " PRIMARY KEY (child_id, parent_id))",
        "CREATE INDEX parent_parent ON parent (parent_id)",
        "CREATE TABLE tag (item_id TEXT NOT NULL REFERENCES item, value TEXT NOT NULL,"
        " PRIMARY KEY (item_id, value))",
        "CREATE INDEX tag_value ON tag (value, item_id)",
        "CREATE TABLE vector (item_id TEXT NOT NULL REFERENCES item, embedder TEXT NOT NULL,"
        " text_sha TEXT NOT NULL, data {blob} NOT NULL, PRIMARY KEY (item_id, embedder))",
        "CREATE TABLE base_model (name TEXT PRIMARY KEY, architecture TEXT NOT NULL,"
        " sha256 TEXT NOT NULL, path TEXT NOT NULL, size_bytes BIGINT NOT NULL,"
        " mtime_ns BIGINT NOT NULL)",
    ),
)
