"""The mesh at one moment as one file, from either database and back into either; and what may go.

A snapshot is a SQLite file of the mesh's own schema, so that it can be looked into by any tool. It
is written beside its name and moved there when it is whole. What is restored is first copied and
checked, so the file itself stays as it is, and then replaces everything in one transaction.

A snapshot that ends earlier than another is as whole as that: that nobody put an old one in the
place of a newer one, only who keeps the last hash of the ledger elsewhere can say.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson

from arsenale_core.errors import ConflictError, InvalidError, UnavailableError
from arsenale_core.files import make_private
from arsenale_core.store import Connection, Sql
from arsenale_mesh import books, changes, rows
from arsenale_mesh.pruning import Pruned, prune
from arsenale_mesh.rows import Change
from arsenale_mesh.store import MeshStore
from arsenale_mesh.tables import TABLES

__all__ = ["Progress", "Pruned", "Snapshot", "opened", "prune", "restore", "snapshot"]

APPLICATION_ID: Final = 0x41726D68
""""Armh" in a SQLite file's header: it is a snapshot of ours (sqlite.org/fileformat2.html §1.3)."""

LEASES_APART: Final = 1_000_000_000
"""After restoring, tokens of leases go on so much higher: nodes may hold some that were given after
the snapshot, and what they bring for them must not be taken for another's."""

PAGE_ROWS: Final = 100
PAGE_BYTES: Final = 16 << 20
"""Of a table that are in memory at a time; a blob is at most 64 MiB by itself."""

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""

_HEADER = b"SQLite format 3\0"
_MARK = "snapshot"
_KEYS: Mapping[str, tuple[str, str | int]] = {
    "meta": ("name", ""), "blob": ("sha", ""), "module": ("sha", ""), "node": ("id", -1),
    "invitation": ("hash", ""), "task": ("id", -1), "attempt": ("id", -1), "receipt": ("id", ""),
    "telemetry": ("id", -1), "ledger": ("number", -1), "audit": ("number", -1),
}  # fmt: skip
"""Each table's first column, in the order of which it is read, and what is below all of it."""

_NUMBERED = ("node", "task", "attempt", "telemetry")
_TOKENS = ("task", "attempt")

_STEADY = Sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
_MARKED = Sql(f"PRAGMA application_id = {APPLICATION_ID}")
_CHECK = Sql("PRAGMA quick_check(1)")
_STRAYS = Sql("PRAGMA foreign_key_check")
_PUT_META = Sql("INSERT INTO meta (name, value) VALUES (:name, :value)")
_META = Sql("SELECT value FROM meta WHERE name = :name")
_DROP_META = Sql("DELETE FROM meta WHERE name = :name")
_COUNTS = {table: Sql(f"SELECT count(*) FROM {table}") for table in TABLES}
_DELETES = {table: Sql(f"DELETE FROM {table}") for table in TABLES}
_PAGES = {
    table: Sql(f"SELECT * FROM {table} WHERE {key} > :after ORDER BY {key} LIMIT :limit")
    for table, (key, _) in _KEYS.items()
}
_BLOB_SIZES = Sql("SELECT sha, size FROM blob WHERE sha > :after ORDER BY sha LIMIT :limit")
_BALANCES = Sql(
    "SELECT node.name FROM node WHERE credits <> (SELECT coalesce(sum(ledger.credits), 0)"
    " FROM ledger WHERE ledger.node = node.did) ORDER BY node.id LIMIT 1"
)
_LAST = {
    "sqlite": Sql("SELECT max(seq) FROM sqlite_sequence WHERE name = :table"),
    "postgresql": Sql("SELECT pg_sequence_last_value(pg_get_serial_sequence(:table, 'id'))"),
}
_MOST = {table: Sql(f"SELECT coalesce(max(id), 0) FROM {table}") for table in _NUMBERED}
_UNSET = Sql("DELETE FROM sqlite_sequence WHERE name = :table")
_SET = {
    "sqlite": Sql("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :last)"),
    "postgresql": Sql("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last + 1, false)"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a snapshot says of itself.

    Attributes:
        made_us: When, UTC microseconds.
        rows: How many each table has.
        last: The highest number that tasks and attempts ever had, gone ones included.
    """

    made_us: int
    rows: Mapping[str, int]
    last: Mapping[str, int]

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


def snapshot(
    store: MeshStore, file: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Snapshot:
    """Write all that STORE holds now to FILE (0600); others may read and write meanwhile.

    Raises:
        ConflictError: FILE is there, and OVERWRITE is not given.
        UnavailableError: It cannot be written.
    """
    if file.exists() and not overwrite:
        raise ConflictError(f"{file} exists", hint="give another name, or --force")
    with _folder_beside(file) as folder:
        with MeshStore(folder, store.now) as copy:
            with _steady(store) as source, copy.writing() as target:
                made = _described(store, source)
                _copy(source, target, made, progress)
                _PUT_META.run(target, name=_MARK, value=orjson.dumps(asdict(made)).decode())
                _MARKED.run(target)
            written = copy.file
        _move(written, file)
    return made


def restore(
    store: MeshStore, file: Path, lock: Path, *, progress: Progress | None = None
) -> Snapshot:
    """Put what FILE holds in the place of all that STORE holds.

    Tasks that were running are queued again: nobody has the leases any more.

    Args:
        store: What is replaced.
        file: A snapshot; only read.
        lock: Is held by who dispatches, and here meanwhile.
        progress: Is told of rows.

    Raises:
        ConflictError: Somebody dispatches, or FILE is of a newer version.
        InvalidError: FILE is no snapshot, or not whole: nothing is changed.
        UnavailableError: It cannot be read, or the database cannot be written: nothing is changed.
    """
    with _alone(lock), opened(file, store.now) as (copy, made):
        with _steady(copy) as source, store.changing() as c:
            _replace(store, c, source, made, progress)
        return made


@contextmanager
def opened(file: Path, now: Callable[[], float]) -> Generator[tuple[MeshStore, Snapshot]]:
    """Give a copy of the snapshot FILE that was checked, and what it says of itself.

    Raises:
        ConflictError: It is of a newer version.
        InvalidError: It is no snapshot, or not whole.
        UnavailableError: It cannot be read.
    """
    _check_header(file)
    with tempfile.TemporaryDirectory(prefix="arsenale-mesh-") as folder:
        try:
            shutil.copyfile(file, Path(folder) / f"{MeshStore.NAME}.db")
        except OSError as exc:
            raise _unreadable(file, exc) from exc
        try:
            copy = MeshStore(Path(folder), now)
        except UnavailableError as exc:
            raise _damaged(file, exc.what) from exc
        with copy:
            yield copy, _checked(file, copy)


def _described(store: MeshStore, db: Connection) -> Snapshot:
    last = {
        table: max(
            int(_LAST[store.dialect].value(db, table=table) or 0), int(_MOST[table].value(db))
        )
        for table in _TOKENS
    }
    counts = {table: int(count.value(db)) for table, count in _COUNTS.items()}
    return Snapshot(made_us=int(store.now() * 1e6), rows=counts, last=last)


def _copy(
    source: Connection, target: Connection, made: Snapshot, progress: Progress | None
) -> None:
    done = 0
    for table in TABLES:
        for page in _pages(source, table):
            names = [f"v{place}" for place in range(len(page[0]))]
            insert = Sql(f"INSERT INTO {table} VALUES ({', '.join(f':{name}' for name in names)})")
            insert.many(target, [dict(zip(names, row, strict=True)) for row in page])
            done += len(page)
            if progress:
                progress(done, made.total)


def _pages(db: Connection, table: str) -> Iterator[list[tuple[Any, ...]]]:
    """Give all rows of a table, some at a time."""
    _, after = _KEYS[table]
    while True:
        limit = _blobs_at_once(db, after) if table == "blob" else PAGE_ROWS
        page = _PAGES[table].all(db, after=after, limit=limit)
        if not page:
            return
        yield page
        after = page[-1][0]


def _blobs_at_once(db: Connection, after: str | int) -> int:
    """Return how many blobs have at most `PAGE_BYTES`, but at least one."""
    size, count = 0, 0
    for _, its in _BLOB_SIZES.all(db, after=after, limit=PAGE_ROWS):
        size += its
        if count and size > PAGE_BYTES:
            break
        count += 1
    return max(count, 1)


def _replace(
    store: MeshStore, c: Change, source: Connection, made: Snapshot, progress: Progress | None
) -> None:
    before = _described(store, c.db)
    for table in reversed(TABLES):
        _DELETES[table].run(c.db)
    _copy(source, c.db, made, progress)
    _DROP_META.run(c.db, name=_MARK)
    for table in _NUMBERED:
        _number_on(store, c.db, table, max(before.last.get(table, 0), made.last.get(table, 0)))
    running = [one.id for one in rows.leases(c.db)]
    changes.let_go(c, running, "lost", is_failure=False)
    rows.all_offline(c)
    said = f"as of {made.made_us} us: {made.rows['task']} tasks, {made.rows['ledger']} entries"
    books.note(c, "mesh.restored", "mesh", said)


def _number_on(store: MeshStore, db: Connection, table: str, last: int) -> None:
    """Let a table's numbers go on after all that were ever given."""
    if store.dialect == "sqlite" and table not in _TOKENS:
        return  # goes on after the highest by itself
    last = max(last, int(_MOST[table].value(db)))
    last += LEASES_APART if table == "attempt" else 0
    if store.dialect == "sqlite":
        _UNSET.run(db, table=table)
    _SET[store.dialect].run(db, table=table, last=last)


# Whether a file is one.


def _check_header(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            header = stream.read(100)
    except OSError as exc:
        raise _unreadable(file, exc) from exc
    if header[:16] != _HEADER or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise InvalidError(
            f"{file} is no snapshot of a mesh", hint="`arsenale mesh snapshot` writes one"
        )


def _checked(file: Path, copy: MeshStore) -> Snapshot:
    try:
        with copy.reading() as db:
            made = _mark(db)
            fault = _fault(db, made)
    except UnavailableError as exc:
        raise _damaged(file, exc.what) from exc
    if fault:
        raise _damaged(file, fault)
    return made


def _mark(db: Connection) -> Snapshot:
    try:
        said = orjson.loads(_META.value(db, name=_MARK) or "")
        return Snapshot(
            made_us=int(said["made_us"]),
            rows={table: int(said["rows"][table]) for table in TABLES},
            last={table: int(said["last"][table]) for table in _TOKENS},
        )
    except (ValueError, TypeError, KeyError) as exc:
        raise UnavailableError("it does not say what it holds", hint="see it") from exc


def _fault(db: Connection, made: Snapshot) -> str | None:
    """Return what is wrong with a snapshot, the first that is found."""
    if (said := _CHECK.value(db)) != "ok":
        return f"SQLite says: {said}"
    for table, count in _COUNTS.items():
        expected = made.rows[table] + (table == "meta")
        if count.value(db) != expected:
            return f"{table} has {count.value(db)} rows, {expected} were written"
    if stray := _STRAYS.first(db):
        return f"a row of {stray[0]} refers to none of {stray[2]}"
    for name, fault in (("ledger", books.ledger_fault(db)), ("audit", books.audit_fault(db))):
        if fault:
            return f"{name} is broken at {fault.number}: {fault.reason}"
    if name := _BALANCES.value(db):
        return f"the credits of {name} are not what the ledger says"
    return _blob_fault(db)


def _blob_fault(db: Connection) -> str | None:
    for page in _pages(db, "blob"):
        for sha, size, data, _ in page:
            if sha256(data).hexdigest() != sha or len(data) != size:
                return f"blob {sha[:12]} holds something else"
    return None


def _damaged(file: Path, why: str) -> InvalidError:
    return InvalidError(
        f"{file} is damaged ({why})", hint="take another snapshot; all is as it was"
    )


def _unreadable(file: Path, exc: OSError) -> UnavailableError:
    return UnavailableError(f"{file}: {exc.strerror}", hint="give a file that you can read")


# Files and locks.


@contextmanager
def _steady(store: MeshStore) -> Generator[Connection]:
    """Give a transaction that sees one moment, in all its statements."""
    with store.reading() as db:
        if store.dialect == "postgresql":
            _STEADY.run(db)
        yield db


@contextmanager
def _folder_beside(file: Path) -> Generator[Path]:
    try:
        make_private(file.parent)
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            yield Path(folder)
    except OSError as exc:
        raise UnavailableError(f"{file}: {exc.strerror}", hint="make its folder writable") from exc


def _move(written: Path, file: Path) -> None:
    """Give a file its name, so that it is there whole after a power cut, or not at all."""
    written.chmod(0o600)
    _sync(written)
    written.replace(file)
    _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Hold the lock of who dispatches.

    Raises:
        ConflictError: Somebody does.
    """
    try:
        make_private(lock.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise UnavailableError(f"{lock}: {exc.strerror}", hint="make it writable to you") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConflictError("the mesh is running", hint="`arsenale down` stops it") from exc
        yield
    finally:
        os.close(descriptor)
