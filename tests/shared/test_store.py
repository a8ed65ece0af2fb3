"""Every store of every server, on SQLite and on a real PostgreSQL."""

import threading
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from arsenale_coordinator.record import Clock
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core.errors import ConflictError, UnavailableError
from arsenale_core.store import Store
from arsenale_genome.store import GenomeStore
from arsenale_memory.store import MemoryStore
from arsenale_mesh.store import MeshStore
from arsenale_telemetry.store import TelemetryStore


class Counter(Store):
    """The smallest store."""

    NAME: ClassVar[str] = "counter"
    MIGRATIONS: ClassVar = (("CREATE TABLE n (id {id}, v BIGINT)", "INSERT INTO n (v) VALUES (0)"),)

    def add_one(self) -> None:
        with self.writing() as db:
            value = db.exec_driver_sql("SELECT v FROM n").scalar_one()
            db.exec_driver_sql(f"UPDATE n SET v = {value + 1}")

    @property
    def value(self) -> int:
        with self.reading() as db:
            return db.exec_driver_sql("SELECT v FROM n").scalar_one()


CLOCK = Clock(now=lambda: 0.0, ticks=lambda: 0, boot="one")
STORES: list[Any] = [
    TelemetryStore,
    MemoryStore,
    GenomeStore,
    partial(CoordinatorStore, clock=CLOCK),
    partial(MeshStore, now=lambda: 0.0),
]


def test_no_store_is_forgotten_here() -> None:
    known = {getattr(store, "func", store) for store in STORES}
    found = {cls for cls in Store.__subclasses__() if cls.__module__.startswith("arsenale_")}
    assert {cls.NAME for cls in found if cls.NAME} == {cls.NAME for cls in known}


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return tmp_path if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.parametrize("store", STORES, ids=lambda s: getattr(s, "func", s).__name__)
def test_every_store_reopens_at_its_newest_schema(store: Any, where: Path | str) -> None:
    for _ in range(2):
        with store(where) as opened:
            assert opened.schema_version == len(opened.MIGRATIONS) > 0


def test_a_transaction_that_fails_leaves_nothing(where: Path | str) -> None:
    with Counter(where) as counter:
        before = counter.value
        with pytest.raises(ZeroDivisionError), counter.writing() as db:
            db.exec_driver_sql("UPDATE n SET v = 99")
            _ = 1 / 0
        assert counter.value == before


def test_two_writers_of_one_file_lose_no_write(tmp_path: Path) -> None:
    with Counter(tmp_path) as one, Counter(tmp_path) as two:

        def add(counter: Counter) -> None:
            for _ in range(50):
                counter.add_one()

        threads = [threading.Thread(target=add, args=[s]) for s in (one, two, one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.value == 200


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with Counter(tmp_path) as counter, counter.writing() as db:
        db.exec_driver_sql("INSERT INTO schema_version VALUES (7)")
    with pytest.raises(ConflictError, match="install the newer Arsenale"):
        Counter(tmp_path)


def test_a_migration_that_fails_leaves_the_old_schema_whole(tmp_path: Path) -> None:
    class Broken(Counter):
        MIGRATIONS: ClassVar = (
            *Counter.MIGRATIONS, ("CREATE TABLE m (id {id})", "NO SUCH STATEMENT"),
        )  # fmt: skip

    with Counter(tmp_path) as counter:
        counter.add_one()
    with pytest.raises((DBAPIError, UnavailableError)):
        Broken(tmp_path)
    with Counter(tmp_path) as counter:
        assert (counter.schema_version, counter.value) == (1, 1)
        with counter.reading() as db:
            assert "m" not in sa.inspect(db).get_table_names()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UnavailableError, match="set ARSENALE_HOME"):
        Counter(tmp_path / "file" / "home")
