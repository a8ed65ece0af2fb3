"""The mesh's one database.

What is promised: when `changing()` has returned, what was changed survives a kill -9 of any
process. A result, the verdict on it, who is paid for it and what becomes of a reputation are one
transaction, so none of them is ever there without the others.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from arsenale_core.store import Sql, Store
from arsenale_mesh import tables
from arsenale_mesh.rows import Change

_ONE_WRITER = Sql("SELECT pg_advisory_xact_lock(hashtext('arsenale_mesh'))")


class MeshStore(Store):
    """Nodes, modules, tasks, receipts, telemetry, ledger and audit trail.

    Args:
        where: See `Store`.
        now: Seconds since the epoch.
    """

    NAME: ClassVar[str] = "mesh"
    MIGRATIONS: ClassVar = tables.MIGRATIONS

    def __init__(self, where: Path | str, now: Callable[[], float]) -> None:
        super().__init__(where)
        self.now = now

    @contextmanager
    def changing(self) -> Generator[Change]:
        """Give a transaction that writes; the only one of all processes at that moment."""
        with self.writing() as db:
            if self.dialect == "postgresql":
                _ONE_WRITER.run(db)
            yield Change(db, int(self.now() * 1e6))
