"""Memories in one database: append-only versions, their parts for the index, their vectors."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import sqlalchemy as sa

from arsenale_core.errors import ConflictError, NotFoundError
from arsenale_core.store import Store
from arsenale_memory import codec, reading
from arsenale_memory import tables as t
from arsenale_memory.record import Ended, Entry, Kept, Link, Version

NEIGHBOUR_CHARS = 400
"""So much of the memory before and after is indexed with a memory."""

CHANGES_KEPT = 50_000
"""Followers that are further behind read everything anew."""

CHUNK = 500
"""Values in one `IN (...)`."""


class MemoryStore(Store):
    """Every write of memory; `reading.py` has the queries.

    What is promised: when a method has returned, what it wrote survives a kill -9 of any process.
    A write is one transaction: rows, full-text index and vectors are there together or not at all.
    """

    NAME: ClassVar[str] = "memory"
    MIGRATIONS: ClassVar = t.MIGRATIONS

    def __init__(self, where: Path | str) -> None:
        super().__init__(where)
        self._insert_part = self._hot(sa.insert(t.part), [c.name for c in t.part.c])
        self._insert_label = self._hot(sa.insert(t.label), [c.name for c in t.label.c])

    def add(self, entries: Sequence[Entry], *, even_if_known: bool = False) -> list[Kept]:
        """Store ENTRIES as first or next versions, in their order, in one transaction.

        An entry whose words the namespace holds already is not stored again, unless
        EVEN_IF_KNOWN (a restore, a revision).
        """
        kept: list[Kept] = []
        with self.writing() as db:
            self._one_writer(db)
            writer = _Writer(self, db, entries)
            for index, entry in enumerate(entries):
                version = entry.version
                known = None if even_if_known else writer.known(version)
                if known is not None:
                    kept.append(Kept(index=index, status="duplicate", uid=known))
                    continue
                writer.add(entry)
                for old in entry.supersedes:
                    self._end(db, old, version.written_us, "superseded")
                    link = Link(source=version.uid, target=old, kind="supersedes", score=1)
                    self._link(db, [link], version.written_us)
                kept.append(Kept(index=index, status="stored", uid=version.uid))
            writer.flush()
        return kept

    def add_versions(self, entries: Sequence[Entry]) -> list[Kept]:
        """Store ENTRIES as they are, but for those whose id and number are taken."""
        kept: list[Kept] = []
        with self.writing() as db:
            self._one_writer(db)
            taken = reading.numbers(db, sorted({entry.version.uid for entry in entries}))
            writer = _Writer(self, db, entries)
            for index, entry in enumerate(entries):
                key = (entry.version.uid, entry.version.number)
                status: Literal["stored", "duplicate"] = "duplicate" if key in taken else "stored"
                if status == "stored":
                    writer.add(entry)
                    taken.add(key)
                kept.append(Kept(index=index, status=status, uid=entry.version.uid))
            writer.flush()
        return kept

    def revise(self, uid: str, entry_of: Callable[[Version], Entry], at_us: int) -> Version:
        """End the current version of UID and add the one that ENTRY_OF makes of it.

        Raises:
            NotFoundError: UID names no memory that is current.
        """
        with self.writing() as db:
            self._one_writer(db)
            before = reading.current(db, uid)
            if before is None:
                raise NotFoundError("memory", uid, hint="`recall` shows the ids of current ones")
            entry = entry_of(before)
            self._end(db, uid, at_us, "revised")
            writer = _Writer(self, db, [entry])
            writer.add(entry)
            writer.flush()
            return entry.version

    def forget(self, uids: Sequence[str], at_us: int) -> int:
        """End the current versions of UIDS as forgotten; return how many there were."""
        with self.writing() as db:
            self._one_writer(db)
            return sum(self._end(db, uid, at_us, "forgotten") for uid in uids)

    def unforget(self, uid: str) -> Version:
        """Make the version current again that was forgotten last.

        Raises:
            NotFoundError: UID was not forgotten, or is erased by now.
            ConflictError: It has a current version.
        """
        with self.writing() as db:
            self._one_writer(db)
            if reading.current(db, uid) is not None:
                raise ConflictError(f"memory {uid!r} is current", hint="there is nothing to undo")
            row = db.execute(
                sa.select(t.memory.c.id, t.memory.c.namespace_id)
                .where(t.memory.c.uid == uid, t.memory.c.ended == "forgotten")
                .order_by(t.memory.c.number.desc())
                .limit(1)
            ).first()
            if row is None:
                raise NotFoundError("forgotten memory", uid, hint="it may have been erased by now")
            ended = {"ended_us": None, "ended": None}
            db.execute(sa.update(t.memory).where(t.memory.c.id == row.id).values(**ended))
            self._set_space(db, row.id, t.current(row.namespace_id))
            self.touch(db, [(row.namespace_id, row.id)])
            found = reading.current(db, uid)
            assert found is not None
            return found

    def erase(self, uids: Sequence[str]) -> int:
        """Delete every version of UIDS for good; return how many rows went."""
        gone = 0
        with self.writing() as db:
            self._one_writer(db)
            for start in range(0, len(uids), CHUNK):
                rows = db.execute(
                    sa.select(t.memory.c.namespace_id, t.memory.c.id).where(
                        t.memory.c.uid.in_(uids[start : start + CHUNK])
                    )
                ).all()
                gone += self.drop(db, [(row.namespace_id, row.id) for row in rows])
                for column in (t.link.c.source, t.link.c.target):
                    db.execute(sa.delete(t.link).where(column.in_(uids[start : start + CHUNK])))
        return gone

    def erase_forgotten(self, before_us: int) -> int:
        """Erase what was forgotten before BEFORE_US; return how many rows went."""
        with self.reading() as db:
            uids = db.scalars(
                sa.select(t.memory.c.uid).where(
                    t.memory.c.ended == "forgotten", t.memory.c.ended_us < before_us
                )
            ).all()
            gone = [uid for uid in set(uids) if reading.current(db, uid) is None]
        return self.erase(gone) if gone else 0

    def add_links(self, links: Sequence[Link], at_us: int) -> None:
        """Record LINKS; one that is known keeps its first score."""
        if links:
            with self.writing() as db:
                self._link(db, links, at_us)

    def add_vectors(self, embedder: str, dim: int, vectors: Sequence[tuple[int, bytes]]) -> None:
        """Store VECTORS (part id, float16 bytes); of parts that went meanwhile nothing is kept."""
        with self.writing() as db:
            self._one_writer(db)
            embedder_id = self.embedder_id(db, embedder, dim)
            ids = [part_id for part_id, _ in vectors]
            rows = db.execute(
                sa.select(t.part.c.id, t.part.c.namespace_id, t.part.c.memory_id).where(
                    t.part.c.id.in_(ids)
                )
            ).all()
            alive = {row.id: (row.namespace_id, row.memory_id) for row in rows}
            self.put_vectors(db, embedder_id, [v for v in vectors if v[0] in alive])
            self.touch(db, sorted(set(alive.values())))

    def forget_vectors(self, embedder: str) -> int:
        """Delete every vector of EMBEDDER; return how many there were."""
        with self.writing() as db:
            self._one_writer(db)
            found = db.scalar(sa.select(t.embedder.c.id).where(t.embedder.c.name == embedder))
            if found is None:
                return 0
            gone = db.execute(sa.delete(t.vector).where(t.vector.c.embedder_id == found)).rowcount
            db.execute(sa.delete(t.embedder).where(t.embedder.c.id == found))
            return gone

    def grant(self, feature: str, who: str, at_us: int, text_version: int, sha: bytes) -> None:
        """Record a consent: who, to what, when, and to which text."""
        row = {"feature": feature, "who": who, "granted_us": at_us}
        with self.writing() as db:
            statement = sa.insert(t.consent)
            db.execute(statement.values(**row, text_version=text_version, text_sha=sha))

    def withdraw(self, feature: str, at_us: int) -> int:
        """End the consents to FEATURE and delete its metrics; return how many there were."""
        with self.writing() as db:
            open_ = (t.consent.c.feature == feature) & t.consent.c.withdrawn_us.is_(None)
            db.execute(sa.update(t.consent).where(open_).values(withdrawn_us=at_us))
            return db.execute(sa.delete(t.metric).where(t.metric.c.feature == feature)).rowcount

    def add_metrics(self, rows: Sequence[tuple[str, str, float, int]]) -> None:
        """Record measured values (feature, name, value, moment)."""
        names = ("feature", "name", "value", "at_us")
        with self.writing() as db:
            db.execute(sa.insert(t.metric), [dict(zip(names, row, strict=True)) for row in rows])

    def add_injection(self, row: dict[str, Any]) -> None:
        """Record what was injected and what it cost."""
        with self.writing() as db:
            db.execute(sa.insert(t.injection).values(**row))

    def add_checkpoint(
        self, persona: str, sha: str, at_us: int, reason: str, previous: str | None
    ) -> None:
        """Record that the snapshot SHA of PERSONA is whole."""
        row = {"persona": persona, "sha": sha, "at_us": at_us, "reason": reason}
        with self.writing() as db:
            db.execute(sa.insert(t.checkpoint).values(**row, previous=previous))

    def restore(
        self, namespace: str, rows: Iterable[dict[str, Any]], links: Sequence[dict[str, Any]]
    ) -> int:
        """Put ROWS (`dumping.dumped`) and LINKS in the place of all that NAMESPACE holds.

        One transaction: the namespace is as it was before, or wholly as ROWS say. Rows keep their
        ids where these are free, so that ties are broken as before.

        Returns:
            How many versions there are now.
        """
        with self.writing() as db:
            self._one_writer(db)
            space = self.namespace_id(db, namespace, 0)
            old = db.scalars(sa.select(t.memory.c.id).where(t.memory.c.namespace_id == space))
            self.drop(db, [(space, id) for id in old])
            count = 0
            for row in rows:
                self._restore_one(db, space, row)
                count += 1
            for link in links:
                statement = self._insert(t.link).values(**link)
                db.execute(statement.on_conflict_do_nothing())
            return count

    def _restore_one(self, db: sa.Connection, space: int, row: dict[str, Any]) -> None:
        memory: dict[str, Any] = {**row["memory"], "namespace_id": space}
        memory["sha"] = bytes.fromhex(memory["sha"])
        memory["id"] = self._free_id(db, t.memory, memory["id"], "memory")
        db.execute(sa.insert(t.memory).values(**memory))
        version = codec.version(SimpleNamespace(**memory), "")
        self.put_labels(db, memory["id"], version)
        word = t.current(space) if version.ended_us is None else t.past(space)
        for part in row["parts"]:
            fresh = {k: v for k, v in part.items() if k != "vectors"}
            fresh |= {"memory_id": memory["id"], "namespace_id": space, "space": word}
            fresh["id"] = self._free_id(db, t.part, fresh["id"], "part")
            self.put_parts(db, [fresh])
            for name, data in part["vectors"].items():
                embedder_id = self.embedder_id(db, name, len(data) // 2)
                self.put_vectors(db, embedder_id, [(fresh["id"], data)])
        self.touch(db, [(space, memory["id"])])

    def _free_id(self, db: sa.Connection, table: sa.Table, id: int, name: str) -> int:
        """Return ID where it is known and free, else a new one."""
        following = db.scalar(sa.select(t.sequence.c.next).where(t.sequence.c.name == name)) or 0
        taken = db.scalar(sa.select(table.c.id).where(table.c.id == id))
        return id if id < following and taken is None else self.take(db, name, 1)

    def rebuild_full_text(self) -> None:
        """Make the full-text index anew from the rows."""
        with self.writing() as db:
            if self.dialect == "sqlite":
                db.exec_driver_sql("INSERT INTO part_fts(part_fts) VALUES ('rebuild')")
            else:
                db.exec_driver_sql("REINDEX INDEX part_words")

    # What a transaction is made of; `snapshots.py` uses some of it too.

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

    def _one_writer(self, db: sa.Connection) -> None:
        if self.dialect == "postgresql":  # SQLite has one writer anyway
            db.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('arsenale_memory'))")

    def _end(self, db: sa.Connection, uid: str, at_us: int, why: Ended) -> int:
        row = db.execute(
            sa.select(t.memory.c.id, t.memory.c.namespace_id).where(
                t.memory.c.uid == uid, t.memory.c.ended_us.is_(None)
            )
        ).first()
        if row is None:
            return 0
        ended = {"ended_us": at_us, "ended": why}
        db.execute(sa.update(t.memory).where(t.memory.c.id == row.id).values(**ended))
        self._set_space(db, row.id, t.past(row.namespace_id))
        self.touch(db, [(row.namespace_id, row.id)])
        return 1

    def _set_space(self, db: sa.Connection, memory_id: int, space: str) -> None:
        db.execute(sa.update(t.part).where(t.part.c.memory_id == memory_id).values(space=space))

    def _link(self, db: sa.Connection, links: Sequence[Link], at_us: int) -> None:
        rows = [
            {"source": x.source, "target": x.target, "kind": x.kind, "score": x.score,
             "at_us": at_us}
            for x in links
        ]  # fmt: skip
        db.execute(self._insert(t.link).on_conflict_do_nothing(), rows)


class _Writer:
    """Adds versions within one transaction; rows of parts and vectors go out together."""

    def __init__(self, store: MemoryStore, db: sa.Connection, entries: Sequence[Entry]) -> None:
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
