"""Which process dispatches: the one that holds the lock; another takes over when it has gone."""

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from arsenale_core.files import make_private
from arsenale_core.store import Connection, Sql
from arsenale_mesh.store import MeshStore

_TAKE = Sql("SELECT pg_try_advisory_lock(hashtext('arsenale_mesh_dispatcher'))")
_LET_GO = Sql("SELECT pg_advisory_unlock(hashtext('arsenale_mesh_dispatcher'))")
_LIVES = Sql("SELECT 1")


def lock_file(home: Path) -> Path:
    """Return the file that the process holds locked which dispatches."""
    return home / "run" / "mesh.lock"


class DispatchLock:
    """`run/mesh.lock` of a home; on PostgreSQL also an advisory lock, which is a connection's."""

    def __init__(self, home: Path, store: MeshStore) -> None:
        self._file = lock_file(home)
        self._store = store
        self._held = ExitStack()
        self._connection: Connection | None = None
        self.is_held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def take(self) -> bool:
        """Take it; false where another process has it.

        Raises:
            UnavailableError: The database does not answer.
        """
        self.release()
        make_private(self._file.parent)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            return False
        self.is_held = self._store.dialect == "sqlite" or self._take_advisory()
        if not self.is_held:
            self.release()
        return self.is_held

    @property
    def may_be_lost(self) -> bool:
        """Whether it is a connection's, which can break."""
        return self._connection is not None

    def check(self) -> bool:
        """Say whether it is held still: a connection that broke has lost it."""
        if self._connection is not None:
            try:
                _LIVES.run(self._connection)
                self._connection.commit()
            except Exception:  # noqa: BLE001  # whatever a driver says of a connection that broke
                self.release()
        return self.is_held

    def release(self) -> None:
        """Let go of it."""
        connection, self._connection, self.is_held = self._connection, None, False
        with suppress(Exception):  # of a connection that broke, the server has let go
            if connection is not None:
                _LET_GO.run(connection)  # it goes back to a pool, and would keep it
                connection.commit()
        with suppress(Exception):
            self._held.close()
        self._held = ExitStack()

    def _take_advisory(self) -> bool:
        self._connection = self._held.enter_context(self._store.reading())
        have = bool(_TAKE.value(self._connection))
        self._connection.commit()
        return have
