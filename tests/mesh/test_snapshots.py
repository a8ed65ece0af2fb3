"""Snapshots from either database into either, restoring, and what goes when it is old."""

import fcntl
import os
import sqlite3
import stat
from hashlib import sha256
from pathlib import Path

import pytest
from tests.mesh.village import MODULE, Hand, Village, emptied, truth

from arsenale_core.errors import ConflictError, InvalidError, UnavailableError
from arsenale_core.store import Sql
from arsenale_mesh import books, changes, rows, snapshots, tables
from arsenale_mesh.record import Module, NewTask
from arsenale_mesh.rows import Change
from arsenale_mesh.snapshots import prune, restore, snapshot
from arsenale_mesh.store import MeshStore

ALL = {table: Sql(f"SELECT * FROM {table} ORDER BY 1") for table in tables.TABLES}


def contents(store: MeshStore) -> dict[str, list[tuple[object, ...]]]:
    with store.reading() as db:
        return {table: statement.all(db) for table, statement in ALL.items()}


def lived_in(store: MeshStore) -> Village:
    """Return a mesh with a bit of everything: done, lied, leased, queued, cancelled."""
    village = Village(store)
    village.settle_in("ada", "bob", "eve", house="home")
    done = village.task(key="once", label="grüße 'n' such", project="p")
    village.say(done, "ada")
    village.say(done, "home")
    lied = village.task()
    village.say(lied, "eve", b"a lie")
    village.say(lied, "home")
    village.lease(village.task(), "bob")
    village.task(priority=9)
    gone = village.task()
    village.do(lambda c: changes.cancel(c, gone.id))
    named = Module(
        sha=sha256(MODULE).hexdigest(), name="mine", description="%", functions=("run",),
        size=len(MODULE), added_us=0, uses=0, ready_made=False,
    )  # fmt: skip
    village.do(lambda c: changes.submit(c, named, MODULE))
    village.do(lambda c: changes.invite(c, "for a friend"))
    return village


def lock(tmp_path: Path) -> Path:
    return tmp_path / "run" / "mesh.lock"


def test_a_snapshot_holds_all_and_is_whole(village: Village, tmp_path: Path) -> None:
    lived_in(village.store)
    file, told = tmp_path / "a.mesh", list[tuple[int, int]]()
    made = snapshot(village.store, file, progress=lambda done, total: told.append((done, total)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    assert told[-1] == (made.total, made.total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    with snapshots.opened(file, Hand()) as (copy, said):
        assert said == made
        held = contents(copy)
    here = contents(village.store)
    assert {**held, "meta": []} == {**here, "meta": []}
    assert all(here[table] for table in ("node", "task", "attempt", "receipt", "ledger", "audit"))


@pytest.mark.parametrize("back", ["sqlite", "postgresql"])
def test_what_a_snapshot_holds_comes_back_into_either_database(
    village: Village, tmp_path: Path, postgres_url: str, back: str
) -> None:
    lived = lived_in(village.store)
    file = tmp_path / "a.mesh"
    snapshot(village.store, file)
    before = contents(village.store)
    [leased] = [row for row in before["attempt"] if "leased" in row]
    where = emptied(postgres_url) if back == "postgresql" else tmp_path / "another"
    with MeshStore(where, Hand()) as store:
        restore(store, file, lock(tmp_path))
        after = contents(store)
        for table in ("meta", "blob", "module", "invitation", "receipt", "ledger"):
            assert after[table] == before[table], table
        assert after["audit"][:-1] == before["audit"]
        assert [row[0] for row in after["node"]] == [row[0] for row in before["node"]]
        again = Village(store, has_house=True, keys=lived.keys, numbers=lived.numbers)
        again.check()
        assert again.notes()[-1] == "mesh.restored"
        with store.reading() as db:
            assert rows.leases(db) == []
            lost = rows.attempt(db, int(str(leased[0])))
            assert lost and lost.state == "lost"
            task = rows.task(db, lost.task_id)
            assert task and (task.state, task.wants) == ("queued", 1)
        again.say(task, "home")
        assert again.now(task).state == "done"


def test_restoring_takes_everything_back_and_numbers_go_on(
    village: Village, tmp_path: Path
) -> None:
    lived = lived_in(village.store)
    file = tmp_path / "a.mesh"
    snapshot(village.store, file)
    later = lived.task()
    lease = lived.lease(later, "ada")
    stale = lived.result(later, "ada", lease)
    restore(village.store, file, lock(tmp_path))
    assert lived.see(lambda db: rows.task(db, later.id)) is None
    fresh = lived.task()
    assert fresh.id > later.id, "a number of a task that was is not another's"
    assert lived.lease(fresh, "ada") > lease + 1_000_000
    assert lived.settle("ada", stale).task is None
    assert lived.node("ada").standing.wrong == 0, "an honest node is late, and no forger"
    lived.settle_in("new")
    assert len({*lived.numbers.values()}) == len(lived.numbers)
    lived.check()


def test_a_snapshot_sees_one_moment_while_others_write(village: Village, tmp_path: Path) -> None:
    lived = lived_in(village.store)
    tasks = len(contents(village.store)["task"])

    def meanwhile(done: int, total: int) -> None:
        if done < total - made_later:  # tasks are read after the first of these
            lived.task()

    made_later = 5
    made = snapshot(village.store, tmp_path / "a.mesh", progress=meanwhile)
    assert made.rows["task"] == tasks
    assert len(contents(village.store)["task"]) > tasks
    with snapshots.opened(tmp_path / "a.mesh", Hand()) as (copy, _):
        assert len(contents(copy)["task"]) == tasks
    lived.check()


def test_a_file_that_is_there_is_kept_unless_told_otherwise(
    village: Village, tmp_path: Path
) -> None:
    file = tmp_path / "a.mesh"
    file.write_text("mine")
    with pytest.raises(ConflictError, match="exists"):
        snapshot(village.store, file)
    assert file.read_text() == "mine"
    snapshot(village.store, file, overwrite=True)
    with snapshots.opened(file, Hand()) as (_, made):
        assert made.rows["task"] == 0


def test_a_snapshot_that_fails_leaves_no_file(village: Village, tmp_path: Path) -> None:
    lived_in(village.store)

    def stop(done: int, total: int) -> None:
        raise ZeroDivisionError

    folder = tmp_path / "backups"
    with pytest.raises(ZeroDivisionError):
        snapshot(village.store, folder / "a.mesh", progress=stop)
    assert list(folder.iterdir()) == []


def test_a_mesh_of_large_blobs_is_copied_whole(village: Village, tmp_path: Path) -> None:
    big = [bytes([number]) * (9 << 20) for number in range(4)]
    small = [b"%d" % number for number in range(250)]
    village.do(lambda c: [changes.keep(c, data) for data in (*big, *small)])
    made = snapshot(village.store, tmp_path / "a.mesh")
    assert made.rows["blob"] == 254
    restore(village.store, tmp_path / "a.mesh", lock(tmp_path))
    with village.store.reading() as db:
        for data in (*big, *small):
            assert rows.blob(db, sha256(data).hexdigest()) == data


@pytest.mark.parametrize("halt_at", [0.1, 0.5, 0.99])
def test_restoring_that_fails_half_way_changes_nothing(
    village: Village, tmp_path: Path, halt_at: float
) -> None:
    lived = lived_in(village.store)
    file = tmp_path / "a.mesh"
    snapshot(village.store, file)
    lived.task(label="after the snapshot")
    before = contents(village.store)

    def stop(done: int, total: int) -> None:
        if done >= halt_at * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(village.store, file, lock(tmp_path), progress=stop)
    assert contents(village.store) == before
    lived.say(lived.task(), "home")
    lived.check()


def test_nothing_is_restored_while_somebody_dispatches(village: Village, tmp_path: Path) -> None:
    lived_in(village.store)
    file, held = tmp_path / "a.mesh", lock(tmp_path)
    snapshot(village.store, file)
    held.parent.mkdir()
    descriptor = os.open(held, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = contents(village.store)
    with pytest.raises(ConflictError, match="running"):
        restore(village.store, file, held)
    assert contents(village.store) == before
    os.close(descriptor)
    restore(village.store, file, held)


WRONG = {
    "ledger": "UPDATE ledger SET credits = credits + 1 WHERE number = 1",
    "ledger is broken": "DELETE FROM ledger WHERE number = 1; UPDATE meta SET value ="
    " json_set(value, '$.rows.ledger', (SELECT count(*) FROM ledger)) WHERE name = 'snapshot'",
    "audit": "UPDATE audit SET body = 'nothing happened' WHERE number = 2",
    "holds something else": "UPDATE blob SET data = X'00' WHERE sha = (SELECT max(sha) FROM blob)",
    "credits": "UPDATE node SET credits = credits + 1000 WHERE name = 'ada'",
    "rows": "DELETE FROM attempt WHERE id = 1",
    "refers to none": "UPDATE attempt SET task_id = 4242 WHERE id = 1",
    "does not say": "DELETE FROM meta",
    "does not say what": "UPDATE meta SET value = '{\"made_us\": 1}'",
}


@pytest.mark.parametrize("why", WRONG)
def test_a_snapshot_that_was_changed_is_refused_and_nothing_is_changed(
    tmp_path: Path, why: str
) -> None:
    with MeshStore(tmp_path / "home", Hand()) as store:
        lived_in(store)
        file = tmp_path / "a.mesh"
        snapshot(store, file)
        db = sqlite3.connect(file)
        db.executescript(WRONG[why])
        db.close()
        before = contents(store)
        with pytest.raises(InvalidError, match=why):
            restore(store, file, lock(tmp_path))
        assert contents(store) == before


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    with MeshStore(tmp_path / "home", Hand()) as store:
        lived_in(store)
        before, whole = contents(store), tmp_path / "a.mesh"
        snapshot(store, whole)
        data = whole.read_bytes()
        for name, wrong in {
            "empty": b"",
            "text": b"hello" * 100,
            "cut": data[: len(data) // 2],
            "head": data[:100],
            "holes": data[:4096] + bytes(8192) + data[12288:],
            "live": store.file.read_bytes(),
        }.items():
            file = tmp_path / name
            file.write_bytes(wrong)
            with pytest.raises(InvalidError, match=r"no snapshot|damaged"):
                restore(store, file, lock(tmp_path))
        with pytest.raises(UnavailableError):
            restore(store, tmp_path / "nowhere", lock(tmp_path))
        assert contents(store) == before


def test_a_snapshot_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with MeshStore(tmp_path / "home", Hand()) as store:
        file = tmp_path / "a.mesh"
        snapshot(store, file)
        db = sqlite3.connect(file)
        db.execute("INSERT INTO schema_version VALUES (99)")
        db.commit()
        db.close()
        with pytest.raises(ConflictError, match="newer"):
            restore(store, file, lock(tmp_path))


# What goes.


def test_tasks_that_are_long_over_go_with_what_only_they_needed(village: Village) -> None:
    clock = village.store.now
    assert isinstance(clock, Hand)
    lived = lived_in(village.store)
    old = contents(village.store)
    clock.s += 86_400
    kept = lived.task(key="fresh")
    lived.say(kept, "ada", b"another output")  # its receipt alone names this blob
    clock.s += 1
    gone = prune(village.store, int((clock.s - 3_600) * 1e6))
    after = contents(village.store)
    assert (gone.tasks, gone.receipts) == (3, 4)
    assert len(after["task"]) == len(old["task"]) + 1 - 3
    for table in ("node", "module", "ledger", "audit", "invitation"):
        assert len(after[table]) == len(old[table])
    with village.store.reading() as db:
        assert rows.blob(db, sha256(MODULE).hexdigest()) == MODULE
        assert rows.blob(db, kept.input) is not None
        assert rows.blob(db, sha256(b"another output").hexdigest()) == b"another output"
        assert rows.blob(db, sha256(b"a lie").hexdigest()) is None
        assert rows.blob(db, sha256(b"input 1").hexdigest()) is None
    assert gone.blobs == 6
    lived.say(kept, "home")
    assert lived.now(kept).output == sha256(truth(kept)).hexdigest()
    lived.check()
    assert prune(village.store, int((clock.s - 3_600) * 1e6)).tasks == 0


def test_a_number_of_a_task_that_went_is_never_anothers(village: Village) -> None:
    village.settle_in("ada", house="home")
    first = village.task()
    village.say(first, "ada")
    village.say(first, "home")
    clock = village.store.now
    assert isinstance(clock, Hand)
    clock.s += 10
    assert prune(village.store, int(clock.s * 1e6)).tasks == 1
    second = village.task()
    assert second.id > first.id
    village.say(second, "ada")
    village.say(second, "home")
    assert village.paid(second)["ada"] > 0, "it is paid though the first is in the ledger"


def test_what_is_still_checked_does_not_go(village: Village) -> None:
    village.settle_in("ada", house="home")
    task = village.task()
    clock = village.store.now
    assert isinstance(clock, Hand)

    def over_and_checked(c: Change) -> None:
        changes.failed(c, task, "no matter")
        rows.add_attempt(c, task.id, village.numbers["home"], "check")

    village.do(over_and_checked)
    clock.s += 10
    assert prune(village.store, int(clock.s * 1e6)).tasks == 0


def test_more_tasks_than_one_transaction_takes_go_too(village: Village) -> None:
    sha = village.do(lambda c: changes.keep(c, MODULE))
    new = NewTask(module=sha, function="run", input=sha)

    def many(c: Change) -> None:
        for _ in range(450):
            changes.cancel(c, changes.enqueue(c, new).id)

    village.do(many)
    clock = village.store.now
    assert isinstance(clock, Hand)
    clock.s += 10
    assert prune(village.store, int(clock.s * 1e6)).tasks == 450
    assert contents(village.store)["blob"] == []
    with village.store.reading() as db:
        assert books.audit_fault(db) is None
