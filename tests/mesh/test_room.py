"""Inputs and outputs have a bound: what is over for longest goes, and then nothing is taken."""

import secrets
from pathlib import Path

import pytest

from arsenale_core.errors import UnavailableError
from arsenale_mesh import changes, rows
from arsenale_mesh.record import NewTask
from arsenale_mesh.room import LOOK_US, Room
from arsenale_mesh.store import MeshStore

BIG = 200_000


class Times:
    """A wall clock and a steady one."""

    def __init__(self) -> None:
        self.now_s, self.ticks = 1_800_000_000.0, 1

    def passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.ticks += int(seconds * 1e6)


def fill(store: MeshStore, count: int) -> list[int]:
    """Add tasks with large inputs that are over; return their numbers."""
    ids: list[int] = []
    with store.changing() as c:
        module = changes.keep(c, b"module")
        for _ in range(count):
            input = changes.keep(c, secrets.token_bytes(BIG))
            task = changes.enqueue(c, NewTask(module=module, function="run", input=input))
            changes.cancel(c, task.id)
            ids.append(task.id)
    return ids


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_older_tasks_go_for_new_ones_and_then_none_is_taken(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = tmp_path if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    times = Times()
    with MeshStore(where, lambda: times.now_s) as store:
        room = Room(store, 5 * BIG, lambda: times.ticks)
        old = fill(store, 4)
        room.make()
        times.passes(2 * 86_400)
        new = fill(store, 4)
        room.make()  # four old ones go
        with store.reading() as db:
            assert [rows.task(db, id) is None for id in (*old, *new)] == [True] * 4 + [False] * 4
        fill(store, 4)
        times.passes(LOOK_US / 1e6 + 1)
        with pytest.raises(UnavailableError, match="mesh_store_mb"):
            room.make()
        with pytest.raises(UnavailableError, match="five minutes"):
            room.make()
        times.passes(400)
        room.make()
