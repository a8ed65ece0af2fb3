"""One process dispatches for a database, and another when that has gone or lost its lock."""

from pathlib import Path

import psycopg

from arsenale_mesh.dispatching import DispatchLock
from arsenale_mesh.store import MeshStore


def now() -> float:
    return 1_800_000_000.0


def test_a_home_has_one_that_dispatches(tmp_path: Path) -> None:
    with MeshStore(tmp_path, now) as store:
        first, second = DispatchLock(tmp_path, store), DispatchLock(tmp_path, store)
        assert (first.take(), second.take()) == (True, False)
        assert first.check() and not first.may_be_lost
        first.release()
        assert not first.check()
        with second:
            assert second.take()
        assert first.take()
        first.release()


def test_a_database_has_one_whatever_the_home(tmp_path: Path, postgres_url: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with MeshStore(postgres_url, now) as store, MeshStore(postgres_url, now) as elsewhere:
        first, second = DispatchLock(one, store), DispatchLock(two, elsewhere)
        assert (first.take(), second.take()) == (True, False)
        assert first.may_be_lost and first.check()
        with psycopg.connect(postgres_url) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND pid <> pg_backend_pid()"
            )
        assert not first.check()
        assert second.take() and not first.take()
        second.release()
        assert first.take()
        first.release()
