"""Rows of memory within a transaction: numbers, changes, parts, vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

from arsenale_core.store import Store
from arsenale_memory import codec, reading
from arsenale_memory import tables as t
from arsenale_memory.record import Entry, Version

NEIGHBOUR_CHARS = 400
"""So much of the memory before and after is indexed with a memory."""

CHANGES_KEPT = 50_000
"""Followers that are further behind read everything anew."""

CHUNK = 500
"""Values in one `IN (...)`."""


class RowStore(Store):
    """The parts of a write; each method takes the connection of an open transaction."""

    NAME: ClassVar[str] = "memory"
    MIGRATIONS: ClassVar = t.MIGRATIONS

    def __init__(self, where: Path | str) -> None:
        super().__init__(where)
        self._insert_part = self._hot(sa.insert(t.part), [c.name for c in t.part.c])
        self._insert_label = self._hot(sa.insert(t.label), [c.name for c in t.label.c])

    def embedder_id(self, db: sa.Connection, name: str, dim: int) -> int:
        """Return the id of the embedder NAME, made if it is new."""
        found = db.scalar(sa.select(t.embedder.c.id).where(t.embedder.c.name == name))
        if found is None:
            found = self.take(db, "embedder", 1)
            db.execute(sa.insert(t.embedder).values(id=found, name=name, dim=dim))
        return int(found)

    def namespace_id(self, db: sa.Connection, name: str, at_us: int) -> int:
        """Return the id of the namespace NAME, made if it is new."""
        found = db.scalar(sa.select(t.namespace.c.id).where(t.namespace.c.name == name))
        if found is None:
            found = self.take(db, "namespace", 1)
            db.execute(sa.insert(t.namespace).values(id=found, name=name, created_us=at_us))
        return int(found)

    def take(self, db: sa.Connection, name: str, n: int) -> int:
        """Reserve N numbers of the sequence NAME; return the first. They only ever rise."""
        statement = self._insert(t.sequence).values(name=name, next=n + 1)
        statement = statement.on_conflict_do_update(
            index_elements=["name"], set_={"next": t.sequence.c.next + n}
        )
        return int(db.execute(statement.returning(t.sequence.c.next)).scalar_one()) - n

    def touch(self, db: sa.Connection, memories: Sequence[tuple[int, int]]) -> None:
        """Tell followers that MEMORIES (namespace id, memory id) have changed."""
        if not memories:
            return
        first = self.take(db, "change", len(memories))
        rows = [
            {"seq": first + i, "namespace_id": namespace_id, "memory_id": id}
            for i, (namespace_id, id) in enumerate(memories)
        ]
        db.execute(sa.insert(t.change), rows)
        if first // 1000 != (first + len(rows)) // 1000:
            db.execute(sa.delete(t.change).where(t.change.c.seq < first - CHANGES_KEPT))

    def drop(self, db: sa.Connection, memories: Sequence[tuple[int, int]]) -> int:
        """Delete the rows of MEMORIES (namespace id, memory id) with all that hangs on them."""
        for start in range(0, len(memories), CHUNK):
            ids = [id for _, id in memories[start : start + CHUNK]]
            parts = sa.select(t.part.c.id).where(t.part.c.memory_id.in_(ids))
            db.execute(sa.delete(t.vector).where(t.vector.c.part_id.in_(parts)))
            db.execute(sa.delete(t.part).where(t.part.c.memory_id.in_(ids)))
            db.execute(sa.delete(t.label).where(t.label.c.memory_id.in_(ids)))
            db.execute(sa.delete(t.memory).where(t.memory.c.id.in_(ids)))
        self.touch(db, memories)
        return len(memories)

    def put_vectors(
        self, db: sa.Connection, embedder_id: int, vectors: Sequence[tuple[int, bytes]]
    ) -> None:
        """Write VECTORS (part id, float16 bytes), in place of what is there."""
        if not vectors:
            return
        statement = self._insert(t.vector)
        statement = statement.on_conflict_do_update(
            index_elements=["embedder_id", "part_id"], set_={"data": statement.excluded.data}
        )
        rows = [{"embedder_id": embedder_id, "part_id": id, "data": data} for id, data in vectors]
        db.execute(statement, rows)

    def put_parts(self, db: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Write ROWS of the table `part`; the full-text index follows."""
        self._insert_part.run(db, [tuple(row[c.name] for c in t.part.c) for row in rows])

    def put_labels(self, db: sa.Connection, memory_id: int, version: Version) -> None:
        """Write the labels of VERSION, for filters."""
        labels = version.labels
        kinds = (("tag", labels.tags), ("domain", labels.domains), ("entity", labels.entities))
        rows = {(memory_id, kind, value.lower()) for kind, values in kinds for value in values}
        self._insert_label.run(db, sorted(rows))

    def one_writer(self, db: sa.Connection) -> None:
        """Let no other process write until the transaction ends."""
        if self.dialect == "postgresql":  # SQLite has one writer anyway
            db.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('arsenale_memory'))")


class Writer:
    """Adds versions within one transaction; rows of parts and vectors go out together."""

    def __init__(self, store: RowStore, db: sa.Connection, entries: Sequence[Entry]) -> None:
        self._store = store
        self._db = db
        self._next_memory = store.take(db, "memory", len(entries))
        self._next_part = store.take(db, "part", sum(len(entry.parts) for entry in entries))
        self._namespaces: dict[str, int] = {}
        self._memories: list[dict[str, Any]] = []
        self._parts: list[dict[str, Any]] = []
        self._vectors: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
        self._changed: list[tuple[int, int]] = []
        self._labels: list[tuple[int, Version]] = []
        self._last: dict[tuple[int, str], dict[str, Any] | None] = {}
        self._fresh: dict[tuple[int, bytes], str] = {}
        self._touched: dict[int, str] = {}

    def known(self, version: Version) -> str | None:
        """Return the uid that holds the words of VERSION in its namespace already."""
        namespace_id = self._namespace(version)
        sha = codec.content_sha(version.content)
        if (namespace_id, sha) in self._fresh:
            return self._fresh[namespace_id, sha]
        return self._db.scalar(
            sa.select(t.memory.c.uid).where(
                t.memory.c.sha == sha,
                t.memory.c.namespace_id == namespace_id,
                t.memory.c.ended_us.is_(None),
            )
        )

    def add(self, entry: Entry) -> None:
        """Take in one version."""
        version = entry.version
        namespace_id = self._namespace(version)
        id, self._next_memory = self._next_memory, self._next_memory + 1
        self._memories.append(codec.row(version, id, namespace_id))
        self._labels.append((id, version))
        self._fresh[namespace_id, codec.content_sha(version.content)] = version.uid
        self._changed.append((namespace_id, id))
        before = self._before(namespace_id, version)
        first, self._next_part = self._next_part, self._next_part + len(entry.parts)
        space = t.current if version.ended_us is None else t.past
        rows: list[dict[str, Any]] = [
            {
                "id": first + n,
                "memory_id": id,
                "namespace_id": namespace_id,
                "n": n,
                "start": part.start,
                "space": space(namespace_id),
                "body": part.body,
                "subject": version.subject or "",
                "day": reading.day_words(version.valid_from_us),
                "prev": entry.parts[n - 1].body[-NEIGHBOUR_CHARS:] if n else "",
                "next": entry.parts[n + 1].body[:NEIGHBOUR_CHARS]
                if n + 1 < len(entry.parts)
                else "",
            }
            for n, part in enumerate(entry.parts)
        ]
        if before is not None:
            rows[0]["prev"] = before["body"][-NEIGHBOUR_CHARS:]
            self._tell(before, rows[0]["body"][:NEIGHBOUR_CHARS])
        if version.session is not None and version.number == 1:
            self._last[namespace_id, version.session] = rows[-1]
        self._parts += rows
        if entry.vectors is not None and entry.embedder is not None:
            key = (entry.embedder, int(entry.vectors.shape[1]))
            packed = [(first + n, v.astype("<f2").tobytes()) for n, v in enumerate(entry.vectors)]
            self._vectors.setdefault(key, []).extend(packed)

    def flush(self) -> None:
        """Write what was taken in."""
        if self._memories:
            self._db.execute(sa.insert(t.memory), self._memories)
        for id, version in self._labels:
            self._store.put_labels(self._db, id, version)
        self._store.put_parts(self._db, self._parts)
        for id, words in self._touched.items():
            self._db.execute(sa.update(t.part).where(t.part.c.id == id).values(next=words))
        for (name, dim), vectors in self._vectors.items():
            embedder_id = self._store.embedder_id(self._db, name, dim)
            self._store.put_vectors(self._db, embedder_id, vectors)
        self._store.touch(self._db, self._changed)

    def _namespace(self, version: Version) -> int:
        if version.namespace not in self._namespaces:
            found = self._store.namespace_id(self._db, version.namespace, version.written_us)
            self._namespaces[version.namespace] = found
        return self._namespaces[version.namespace]

    def _before(self, namespace_id: int, version: Version) -> dict[str, Any] | None:
        """Return the part that comes before VERSION in its session."""
        if version.session is None:
            return None
        if version.number > 1:  # a revision stands where the first version stood
            return reading.part_before(self._db, namespace_id, version)
        key = (namespace_id, version.session)
        if key not in self._last:
            self._last[key] = reading.last_part(self._db, namespace_id, version.session)
        return self._last[key]

    def _tell(self, before: dict[str, Any], words: str) -> None:
        """Let the part BEFORE know what comes after it."""
        if "space" in before:  # not written yet
            before["next"] = words
        else:
            self._touched[before["id"]] = words
