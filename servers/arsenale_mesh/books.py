"""Ledger and audit trail as rows: chains that are only ever written at their end."""

from collections.abc import Iterator
from typing import Any

from arsenale_core.store import Connection, Sql
from arsenale_mesh import audit, ledger
from arsenale_mesh.audit import Note, What
from arsenale_mesh.ledger import Entry, Fault, Kind
from arsenale_mesh.rows import Change

_ENTRY = "number, at_us, kind, node, credits, task, receipt, before_hash"
_NOTE = "number, at_us, kind, subject, body, before_hash"
_LAST_ENTRY = Sql(f"SELECT {_ENTRY} FROM ledger ORDER BY number DESC LIMIT 1")
_ADD_ENTRY = Sql(
    f"INSERT INTO ledger ({_ENTRY}, hash) VALUES (:number, :at_us, :kind, :node, :credits, :task,"
    " :receipt, :before, :hash) ON CONFLICT (node, task, kind) DO NOTHING"
)
_ENTRIES = Sql(
    f"SELECT {_ENTRY}, hash FROM ledger WHERE number > :after ORDER BY number LIMIT :limit"
)
_ENTRIES_OF = Sql(
    f"SELECT {_ENTRY}, hash FROM ledger WHERE (CAST(:node AS TEXT) IS NULL OR node = :node)"
    " AND (CAST(:task AS TEXT) IS NULL OR task = :task)"
    " ORDER BY number DESC LIMIT :limit OFFSET :offset"
)
_ENTRY_COUNT = Sql("SELECT count(*), coalesce(sum(credits), 0) FROM ledger")
_LAST_NOTE = Sql(f"SELECT {_NOTE} FROM audit ORDER BY number DESC LIMIT 1")
_ADD_NOTE = Sql(
    f"INSERT INTO audit ({_NOTE}, hash) VALUES (:number, :at_us, :kind, :subject, :body, :before,"
    " :hash)"
)
_NOTES = Sql(f"SELECT {_NOTE}, hash FROM audit WHERE number > :after ORDER BY number LIMIT :limit")
_NOTES_BACK = Sql(f"SELECT {_NOTE}, hash FROM audit ORDER BY number DESC LIMIT :limit")
_NOTE_COUNTS = Sql("SELECT kind, count(*) FROM audit GROUP BY kind")

PAGE = 1_000


def book(c: Change, kind: Kind, node: str, credits: int, task: str, receipt: str) -> Entry | None:
    """Write an entry on a node, by its did; `None` where it has been written.

    A node is paid once for a task, and fined once. Its credits are the caller's to change.
    """
    entry = ledger.following(
        _last(c), at_us=c.now_us, kind=kind, node=node, credits=credits, task=task, receipt=receipt
    )
    is_new = _ADD_ENTRY.count(
        c.db, number=entry.number, at_us=entry.at_us, kind=kind, node=node, credits=credits,
        task=task, receipt=receipt, before=entry.before, hash=entry.hash,
    )  # fmt: skip
    if not is_new:
        return None
    c.last_entry = entry
    return entry


def _last(c: Change) -> Entry | None:
    """Return the last entry: read once in a transaction, since nobody else writes meanwhile."""
    if c.last_entry is None:
        row = _LAST_ENTRY.first(c.db)
        c.last_entry = _entry(row) if row else None
    return c.last_entry


def note(c: Change, kind: What, subject: str, body: str) -> Note:
    """Write down what happened."""
    row = _LAST_NOTE.first(c.db)
    last = _note(row) if row else None
    made = audit.following(last, at_us=c.now_us, kind=kind, subject=subject, body=body[:500])
    _ADD_NOTE.run(
        c.db, number=made.number, at_us=made.at_us, kind=kind, subject=subject, body=made.body,
        before=made.before, hash=made.hash,
    )  # fmt: skip
    return made


def entries(
    db: Connection, node: str | None, task: str | None, limit: int, offset: int
) -> list[tuple[Entry, str]]:
    """Return entries with their hashes, newest first; of a node or a task, where given."""
    found = _ENTRIES_OF.all(db, node=node, task=task, limit=limit, offset=offset)
    return [(_entry(row[:-1]), row[-1]) for row in found]


def totals(db: Connection) -> tuple[int, int]:
    """Return how many entries there are, and the sum of their credits."""
    row = _ENTRY_COUNT.first(db)
    return (int(row[0]), int(row[1])) if row else (0, 0)


def notes(db: Connection, limit: int) -> list[Note]:
    """Return the newest notes first."""
    return [_note(row[:-1]) for row in _NOTES_BACK.all(db, limit=limit)]


def note_counts(db: Connection) -> dict[str, int]:
    """Return how often each kind of thing happened."""
    return {kind: int(count) for kind, count in _NOTE_COUNTS.all(db)}


def ledger_fault(db: Connection) -> Fault | None:
    """Return the first entry that does not fit; `None` where the ledger is whole."""
    return ledger.fault((_entry(row[:-1]), row[-1]) for row in _all(_ENTRIES, db))


def audit_fault(db: Connection) -> Fault | None:
    """Return the first note that does not fit."""
    return ledger.fault((_note(row[:-1]), row[-1]) for row in _all(_NOTES, db))


def _all(statement: Sql, db: Connection) -> Iterator[tuple[Any, ...]]:
    after = -1
    while page := statement.all(db, after=after, limit=PAGE):
        yield from page
        after = page[-1][0]


def _entry(row: tuple[Any, ...]) -> Entry:
    number, at_us, kind, node, credits, task, receipt, before = row
    return Entry(
        number=number, at_us=at_us, kind=kind, node=node, credits=credits, task=task,
        receipt=receipt, before=before,
    )  # fmt: skip


def _note(row: tuple[Any, ...]) -> Note:
    number, at_us, kind, subject, body, before = row
    return Note(number=number, at_us=at_us, kind=kind, subject=subject, body=body, before=before)
