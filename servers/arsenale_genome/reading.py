"""Queries of the genome store; each takes a connection that sees one state."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from arsenale_genome import codec
from arsenale_genome import tables as t
from arsenale_genome.record import Filter, Genome, Kind, KnownBase, Layer, Revision

CHUNK = 500
"""Values in one `IN (...)`."""

_LIVES = t.item.c.deleted_us.is_(None)


def names(db: sa.Connection, kind: Kind) -> list[str]:
    """Return the names of all of KIND, sorted."""
    statement = sa.select(t.item.c.name).where(t.item.c.kind == kind, _LIVES)
    return sorted(db.scalars(statement))


def genome(db: sa.Connection, name: str) -> Genome | None:
    """Return the genome NAME."""
    row = _row(db, "genome", name)
    return None if row is None else _genome(row)


def layer(db: sa.Connection, name: str) -> Layer | None:
    """Return the layer NAME."""
    row = _row(db, "layer", name)
    return None if row is None else _layer(row)


def genome_by_id(db: sa.Connection, id: str) -> Genome | None:
    """Return the genome ID while it lives."""
    row = db.execute(sa.select(t.item).where(t.item.c.id == id, _LIVES)).first()
    return None if row is None else _genome(row)


def genome_by_content(db: sa.Connection, sha: str) -> Genome | None:
    """Return a genome whose content has the hash SHA."""
    is_it = (t.item.c.content_sha == sha) & (t.item.c.kind == "genome")
    row = db.execute(sa.select(t.item).where(is_it, _LIVES).limit(1)).first()
    return None if row is None else _genome(row)


def layers_of(db: sa.Connection, shas: Iterable[str]) -> dict[str, Layer]:
    """Return the layers whose files have the hashes SHAS, by hash."""
    wanted = sorted(set(shas))
    found: dict[str, Layer] = {}
    for start in range(0, len(wanted), CHUNK):
        is_one = (t.item.c.kind == "layer") & t.item.c.content_sha.in_(
            wanted[start : start + CHUNK]
        )
        for row in db.execute(sa.select(t.item).where(is_one, _LIVES)):
            found[row.content_sha] = _layer(row)
    return found


def genomes(db: sa.Connection, wanted: Filter) -> list[Genome]:
    """Return the genomes that fit WANTED, the newest first."""
    return [_genome(row) for row in _rows(db, "genome", wanted)]


def layers(db: sa.Connection, wanted: Filter) -> list[Layer]:
    """Return the layers that fit WANTED, the newest first."""
    return [_layer(row) for row in _rows(db, "layer", wanted)]


def users(db: sa.Connection, layer_id: str) -> list[str]:
    """Return the names of the genomes that have the layer LAYER_ID."""
    statement = (
        sa.select(t.item.c.name)
        .join(t.uses, t.uses.c.genome_id == t.item.c.id)
        .where(t.uses.c.layer_id == layer_id, _LIVES)
        .distinct()
    )
    return sorted(db.scalars(statement))


def children(db: sa.Connection, genome_id: str) -> list[str]:
    """Return the names of the genomes that were made from GENOME_ID."""
    statement = (
        sa.select(t.item.c.name)
        .join(t.parent, t.parent.c.child_id == t.item.c.id)
        .where(t.parent.c.parent_id == genome_id, _LIVES)
    )
    return sorted(db.scalars(statement))


def revisions(db: sa.Connection, id: str) -> list[Revision]:
    """Return the revisions of the genome or layer ID, the newest first."""
    statement = (
        sa.select(t.revision).where(t.revision.c.item_id == id).order_by(t.revision.c.number.desc())
    )
    return [
        Revision(
            number=row.number, at_us=row.at_us, why=row.why, sha256=row.sha,
            body=row.body.encode(),
        )
        for row in db.execute(statement)
    ]  # fmt: skip


def bodies(db: sa.Connection) -> list[tuple[str, str, str, str]]:
    """Return kind, name, hash and body of every item that lives."""
    statement = sa.select(t.item.c.kind, t.item.c.name, t.item.c.sha, t.item.c.body).where(_LIVES)
    return [(row.kind, row.name, row.sha, row.body) for row in db.execute(statement)]


def base(db: sa.Connection, name: str) -> KnownBase | None:
    """Return the base model NAME when its file was seen here."""
    row = db.execute(sa.select(t.base_model).where(t.base_model.c.name == name)).first()
    return None if row is None else KnownBase(**row._mapping)  # pyright: ignore[reportPrivateUsage]


def bases(db: sa.Connection) -> list[str]:
    """Return the names of the base models that anything here is on."""
    used = set(db.scalars(sa.select(t.item.c.base).where(_LIVES).distinct()))
    return sorted(used | set(db.scalars(sa.select(t.base_model.c.name))))


def vectors(db: sa.Connection, embedder: str, ids: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """Return the vectors of EMBEDDER for IDS: hash of the text, float32 bytes."""
    found: dict[str, tuple[str, bytes]] = {}
    for start in range(0, len(ids), CHUNK):
        is_one = t.vector.c.item_id.in_(ids[start : start + CHUNK])
        statement = sa.select(t.vector).where(is_one, t.vector.c.embedder == embedder)
        for row in db.execute(statement):
            found[row.item_id] = (row.text_sha, bytes(row.data))
    return found


def _row(db: sa.Connection, kind: Kind, name: str) -> "sa.Row[Any] | None":
    is_it = (t.item.c.kind == kind) & (t.item.c.name == name)
    return db.execute(sa.select(t.item).where(is_it, _LIVES)).first()


def _rows(db: sa.Connection, kind: Kind, wanted: Filter) -> "Sequence[sa.Row[Any]]":
    statement = sa.select(t.item).where(t.item.c.kind == kind, _LIVES)
    if wanted.trait:
        statement = statement.where(t.item.c.trait == wanted.trait)
    if wanted.base:
        statement = statement.where(t.item.c.base == wanted.base)
    if wanted.licence:
        statement = statement.where(sa.func.lower(t.item.c.licence) == wanted.licence.lower())
    for value in wanted.tags:
        has = sa.select(t.tag.c.item_id).where(t.tag.c.value == value)
        statement = statement.where(t.item.c.id.in_(has))
    newest = (t.item.c.updated_us.desc(), t.item.c.id.desc())
    return db.execute(statement.order_by(*newest)).all()


def _here(row: Any) -> dict[str, Any]:
    names = ("id", "number", "created_us", "updated_us")
    return {name: getattr(row, name) for name in names}


def _genome(row: Any) -> Genome:
    return codec.genome_in(row.body, **_here(row))


def _layer(row: Any) -> Layer:
    return codec.layer_in(row.body, **_here(row))
