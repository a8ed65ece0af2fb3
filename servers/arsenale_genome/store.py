"""Genomes and layers in one database: the current state, and every state there was."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa

from arsenale_core.errors import ConflictError
from arsenale_core.store import Store
from arsenale_genome import codec, names, reading
from arsenale_genome import tables as t
from arsenale_genome.record import Genome, Kind, KnownBase, Layer

Item = TypeVar("Item", Genome, Layer)


class GenomeStore(Store):
    """Every write of the genome server; `reading.py` has the queries.

    What is promised: when a method has returned, what it wrote survives a kill -9 of any process.
    A write is one transaction; writers come one after the other, in all processes.
    """

    NAME: ClassVar[str] = "genome"
    MIGRATIONS: ClassVar = t.MIGRATIONS

    def add(
        self,
        layers: Sequence[Layer],
        genomes: Sequence[Genome],
        *,
        why: str,
        is_here: Callable[[str], bool],
    ) -> None:
        """Add LAYERS, then GENOMES, all or none.

        Args:
            layers: Their names are free, their files are in place.
            genomes: Their names are free, their layers are there or among LAYERS.
            why: For the history.
            is_here: Says whether the file with a SHA-256 is in place; asked while no other process
                can remove one.

        Raises:
            ConflictError: A name is taken, a layer's file is known by another name or not in
                place, or a genome's layer is gone.
        """
        with self.writing() as db:
            self._one_writer(db)
            for layer in layers:
                self._must_be_free(db, "layer", layer.name)
                self._must_be_new(db, layer)
                if not is_here(layer.file.sha256):
                    raise ConflictError(f"the file of {layer.name!r} went away", hint="try again")
                self._insert_item(db, layer, why)
            for genome in genomes:
                self._must_be_free(db, "genome", genome.name)
                self._insert_item(db, genome, why)

    def revise_genome(
        self, name: str, change: Callable[[Genome], Genome], *, at_us: int, why: str
    ) -> Genome:
        """Make CHANGE of the genome NAME its next revision, and return it.

        Raises:
            NotFoundError: There is none; the hint has near names.
            ConflictError: Its new name is taken, or one of its layers is gone.
        """
        with self.writing() as db:
            self._one_writer(db)
            before = self.genome(db, name)
            return self._revise(db, before, change(before), at_us, why)

    def revise_layer(
        self, name: str, change: Callable[[Layer], Layer], *, at_us: int, why: str
    ) -> Layer:
        """Make CHANGE of the layer NAME its next revision, and return it.

        Raises:
            NotFoundError: There is none; the hint has near names.
            ConflictError: Its new name is taken.
        """
        with self.writing() as db:
            self._one_writer(db)
            before = self.layer(db, name)
            return self._revise(db, before, change(before), at_us, why)

    def delete_genome(self, name: str, at_us: int) -> Genome:
        """Delete the genome NAME; its history and its place in lineages stay.

        Raises:
            NotFoundError: There is none.
        """
        with self.writing() as db:
            self._one_writer(db)
            genome = self.genome(db, name)
            db.execute(sa.delete(t.uses).where(t.uses.c.genome_id == genome.id))
            self._end(db, genome.id, at_us)
            return genome

    def delete_layer(self, name: str, at_us: int) -> Layer:
        """Delete the layer NAME; its file is the caller's to remove, by `if_unused`.

        Raises:
            NotFoundError: There is none.
            ConflictError: A genome has it.
        """
        with self.writing() as db:
            self._one_writer(db)
            layer = self.layer(db, name)
            if used := reading.users(db, layer.id):
                raise ConflictError(
                    f"layer {name!r} is used by {', '.join(used)}",
                    hint="take it out of these genomes first (`revise` with `layers`)",
                )
            self._end(db, layer.id, at_us)
            return layer

    def if_unused(self, sha: str, remove: Callable[[], object]) -> None:
        """Call REMOVE when no layer has the file SHA; none can get it meanwhile."""
        with self.writing() as db:
            self._one_writer(db)
            if not reading.layers_of(db, [sha]):
                remove()

    def put_vectors(self, embedder: str, rows: Sequence[tuple[str, str, bytes]]) -> None:
        """Keep vectors (item, hash of its text, float32 bytes), in place of what is there."""
        if not rows:
            return
        statement = self._insert(t.vector)
        statement = statement.on_conflict_do_update(
            index_elements=["item_id", "embedder"],
            set_={"text_sha": statement.excluded.text_sha, "data": statement.excluded.data},
        )
        values = [
            {"item_id": id, "embedder": embedder, "text_sha": sha, "data": data}
            for id, sha, data in rows
        ]
        with self.writing() as db:
            db.execute(statement, values)

    def put_base(self, base: KnownBase) -> None:
        """Keep what is known of a base model.

        Raises:
            ConflictError: Its name is known for another file.
        """
        with self.writing() as db:
            self._one_writer(db)
            known = reading.base(db, base.name)
            if known is not None and known.sha256 != base.sha256:
                raise ConflictError(
                    f"base {base.name!r} is another file here ({known.path})",
                    hint="give this one a name of its own, or the path of that file",
                )
            db.execute(sa.delete(t.base_model).where(t.base_model.c.name == base.name))
            db.execute(sa.insert(t.base_model).values(**asdict(base)))

    def genome(self, db: sa.Connection, name: str) -> Genome:
        """Return the genome NAME.

        Raises:
            NotFoundError: There is none; the hint has near names.
        """
        found = reading.genome(db, name)
        if found is None:
            raise names.unknown("genome", name, reading.names(db, "genome"))
        return found

    def layer(self, db: sa.Connection, name: str) -> Layer:
        """Return the layer NAME.

        Raises:
            NotFoundError: There is none; the hint has near names.
        """
        found = reading.layer(db, name)
        if found is None:
            raise names.unknown("layer", name, reading.names(db, "layer"))
        return found

    def _one_writer(self, db: sa.Connection) -> None:
        """Let no other process write until the transaction ends."""
        if self.dialect == "postgresql":  # SQLite has one writer anyway
            db.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('arsenale_genome'))")

    def _must_be_free(self, db: sa.Connection, kind: Kind, name: str) -> None:
        if name in reading.names(db, kind):
            raise ConflictError(
                f"there is a {kind} {name!r}", hint="choose another name, or change it by `revise`"
            )

    def _must_be_new(self, db: sa.Connection, layer: Layer) -> None:
        if known := reading.layers_of(db, [layer.file.sha256]):
            [other] = known.values()
            raise ConflictError(
                f"this file is here as layer {other.name!r}",
                hint="use that, or change what is said of it by `revise`",
            )

    def _revise(self, db: sa.Connection, before: Item, after: Item, at_us: int, why: str) -> Item:
        if after.name != before.name:
            self._must_be_free(db, _kind(after), after.name)
        after = replace(after, number=before.number + 1, updated_us=at_us)
        row = _row(after)
        db.execute(sa.update(t.item).where(t.item.c.id == after.id).values(**row))
        self._put_revision(db, after, row, why)
        self._put_marks(db, after)
        return after

    def _insert_item(self, db: sa.Connection, item: Genome | Layer, why: str) -> None:
        row = _row(item)
        db.execute(sa.insert(t.item).values(**row, created_us=item.created_us))
        self._put_revision(db, item, row, why)
        self._put_marks(db, item)

    def _put_revision(
        self, db: sa.Connection, item: Genome | Layer, row: dict[str, Any], why: str
    ) -> None:
        db.execute(
            sa.insert(t.revision).values(
                item_id=item.id, number=item.number, at_us=item.updated_us, why=why,
                sha=row["sha"], body=row["body"],
            )
        )  # fmt: skip

    def _put_marks(self, db: sa.Connection, item: Genome | Layer) -> None:
        """Write what is looked for by: tags, the layers of a genome, its parents."""
        db.execute(sa.delete(t.tag).where(t.tag.c.item_id == item.id))
        if item.tags:
            rows = [{"item_id": item.id, "value": value} for value in item.tags]
            db.execute(sa.insert(t.tag), rows)
        if isinstance(item, Layer):
            return
        known = reading.layers_of(db, [placed.sha256 for placed in item.layers])
        db.execute(sa.delete(t.uses).where(t.uses.c.genome_id == item.id))
        db.execute(sa.delete(t.parent).where(t.parent.c.child_id == item.id))
        for place, placed in enumerate(item.layers):
            if placed.sha256 not in known:
                raise ConflictError(
                    f"layer {placed.layer!r} of {item.name!r} is no longer here",
                    hint="import it again by `add_layer`, or leave it out",
                )
            row = {"genome_id": item.id, "place": place, "layer_id": known[placed.sha256].id}
            db.execute(sa.insert(t.uses).values(**row))
        for id in {parent.id for parent in item.parents} - {""}:
            db.execute(sa.insert(t.parent).values(child_id=item.id, parent_id=id))

    def _end(self, db: sa.Connection, id: str, at_us: int) -> None:
        for table in (t.tag, t.vector):
            db.execute(sa.delete(table).where(table.c.item_id == id))
        db.execute(sa.update(t.item).where(t.item.c.id == id).values(deleted_us=at_us))


def _kind(item: Genome | Layer) -> Kind:
    return "genome" if isinstance(item, Genome) else "layer"


def _row(item: Genome | Layer) -> dict[str, Any]:
    """Return ITEM as a row of the table `item`, without the moment it came."""
    if isinstance(item, Genome):
        body, content, trait, licence = codec.genome_out(item), codec.genome_sha(item), "", ""
    else:
        body, content = codec.layer_out(item), item.file.sha256
        trait, licence = item.trait, item.licence
    return {
        "id": item.id,
        "kind": _kind(item),
        "name": item.name,
        "number": item.number,
        "trait": trait,
        "base": item.base,
        "licence": licence,
        "content_sha": content,
        "sha": sha256(body).hexdigest(),
        "body": body.decode(),
        "updated_us": item.updated_us,
    }
