"""Memories in one database: append-only versions, their parts for the index, their vectors."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import sqlalchemy as sa

from arsenale_core.errors import ConflictError, NotFoundError
from arsenale_memory import codec, reading
from arsenale_memory import tables as t
from arsenale_memory.record import Ended, Entry, Kept, Link, Version
from arsenale_memory.rows import CHUNK, RowStore, Writer


class MemoryStore(RowStore):
    """Every write of memory; `reading.py` has the queries.

    What is promised: when a method has returned, what it wrote survives a kill -9 of any process.
    A write is one transaction: rows, full-text index and vectors are there together or not at all.
    """

    def add(self, entries: Sequence[Entry], *, even_if_known: bool = False) -> list[Kept]:
        """Store ENTRIES as first or next versions, in their order, in one transaction.

        An entry whose words the namespace holds already is not stored again, unless
        EVEN_IF_KNOWN (a restore, a revision).
        """
        kept: list[Kept] = []
        with self.writing() as db:
            self.one_writer(db)
            writer = Writer(self, db, entries)
            for index, entry in enumerate(entries):
                version = entry.version
                known = None if even_if_known else writer.known(version)
                if known is not None:
                    kept.append(Kept(index=index, status="duplicate", uid=known))
                    self._supersede(db, known, entry.supersedes, version.written_us)
                    continue
                writer.add(entry)
                self._supersede(db, version.uid, entry.supersedes, version.written_us)
                kept.append(Kept(index=index, status="stored", uid=version.uid))
            writer.flush()
        return kept

    def supersede(self, uid: str, old: Sequence[str], at_us: int) -> None:
        """End the memories OLD in favour of UID."""
        with self.writing() as db:
            self.one_writer(db)
            self._supersede(db, uid, old, at_us)

    def _supersede(self, db: sa.Connection, uid: str, old: Sequence[str], at_us: int) -> None:
        for other in old:
            if other != uid:
                self._end(db, other, at_us, "superseded")
                link = Link(source=uid, target=other, kind="supersedes", score=1)
                self._link(db, [link], at_us)

    def add_versions(self, entries: Sequence[Entry]) -> list[Kept]:
        """Store ENTRIES as they are, but for those whose id and number are taken."""
        kept: list[Kept] = []
        with self.writing() as db:
            self.one_writer(db)
            taken = reading.numbers(db, sorted({entry.version.uid for entry in entries}))
            writer = Writer(self, db, entries)
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
            self.one_writer(db)
            before = reading.current(db, uid)
            if before is None:
                raise NotFoundError("memory", uid, hint="`recall` shows the ids of current ones")
            entry = entry_of(before)
            self._end(db, uid, at_us, "revised")
            writer = Writer(self, db, [entry])
            writer.add(entry)
            writer.flush()
            return entry.version

    def forget(self, uids: Sequence[str], at_us: int) -> int:
        """End the current versions of UIDS as forgotten; return how many there were."""
        with self.writing() as db:
            self.one_writer(db)
            return sum(self._forget(db, uid, at_us) for uid in uids)

    def _forget(self, db: sa.Connection, uid: str, at_us: int) -> int:
        """Forget UID; also one that was superseded: the newest version is the forgotten one."""
        if self._end(db, uid, at_us, "forgotten"):
            return 1
        newest = (
            sa.select(t.memory.c.id)
            .where(t.memory.c.uid == uid)
            .order_by(t.memory.c.number.desc())
            .limit(1)
        )
        forgotten = {"ended": "forgotten", "ended_us": at_us}
        once = (t.memory.c.id == newest.scalar_subquery()) & (t.memory.c.ended != "forgotten")
        return db.execute(sa.update(t.memory).where(once).values(**forgotten)).rowcount

    def unforget(self, uid: str) -> Version:
        """Make the version current again that was forgotten last.

        Raises:
            NotFoundError: UID was not forgotten, or is erased by now.
            ConflictError: It has a current version.
        """
        with self.writing() as db:
            self.one_writer(db)
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
        with self.writing() as db:
            self.one_writer(db)
            return self._erase(db, uids)

    def _erase(self, db: sa.Connection, uids: Sequence[str]) -> int:
        gone = 0
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
        old = sa.select(t.memory.c.uid).where(
            t.memory.c.ended == "forgotten", t.memory.c.ended_us < before_us
        )
        with self.writing() as db:  # chosen and erased in one: an undo in between would be lost
            self.one_writer(db)
            uids = sorted(set(db.scalars(old)))
            return self._erase(db, [uid for uid in uids if reading.current(db, uid) is None])

    def add_links(self, links: Sequence[Link], at_us: int) -> None:
        """Record LINKS; one that is known keeps its first score."""
        if links:
            with self.writing() as db:
                self._link(db, links, at_us)

    def add_vectors(
        self,
        embedder: str,
        dim: int,
        vectors: Sequence[tuple[int, bytes]],
        *,
        indexed: bool = True,
    ) -> None:
        """Store VECTORS (part id, float16 bytes); of parts that went meanwhile nothing is kept.

        Those of a vector index (INDEXED) are told to the processes that have it open.
        """
        with self.writing() as db:
            self.one_writer(db)
            embedder_id = self.embedder_id(db, embedder, dim)
            ids = [part_id for part_id, _ in vectors]
            rows = db.execute(
                sa.select(t.part.c.id, t.part.c.namespace_id, t.part.c.memory_id).where(
                    t.part.c.id.in_(ids)
                )
            ).all()
            alive = {row.id: (row.namespace_id, row.memory_id) for row in rows}
            self.put_vectors(db, embedder_id, [v for v in vectors if v[0] in alive])
            if indexed:
                self.touch(db, sorted(set(alive.values())))

    def forget_vectors(self, embedder: str) -> int:
        """Delete every vector of EMBEDDER; return how many there were."""
        with self.writing() as db:
            self.one_writer(db)
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
        self,
        namespace: str,
        rows: Sequence[dict[str, Any]],
        links: Sequence[dict[str, Any]],
        *,
        unchanged_since: int,
    ) -> int | None:
        """Put ROWS (`dumping.dumped`) and LINKS in the place of all that NAMESPACE holds.

        One transaction: the namespace is as it was before, or wholly as ROWS say. Rows keep their
        ids where these are free, so that ties are broken as before.

        Returns:
            How many versions there are now; `None`, and nothing is done, when the namespace has
            changed after the change UNCHANGED_SINCE.

        Raises:
            ConflictError: A memory of ROWS lives in another namespace by now.
        """
        with self.writing() as db:
            self.one_writer(db)
            space = self.namespace_id(db, namespace, 0)
            later = (t.change.c.seq > unchanged_since) & (t.change.c.namespace_id == space)
            if db.scalar(sa.select(sa.func.count()).where(later)):
                return None
            old = db.scalars(sa.select(t.memory.c.id).where(t.memory.c.namespace_id == space))
            self.drop(db, [(space, id) for id in old])
            uids = sorted({row["memory"]["uid"] for row in rows})
            if elsewhere := reading.numbers(db, uids):
                raise ConflictError(
                    f"memory {min(elsewhere)[0]} lives in another namespace by now",
                    hint="forget it there at once, then restore",
                )
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
