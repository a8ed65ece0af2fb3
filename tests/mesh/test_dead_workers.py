"""Workers that die under a guest: its task is tried again, also by the node that has no other."""

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.mesh.conftest import Wat
from tests.mesh.hive import Hive, hive
from tests.mesh.village import Hand, Village

from arsenale_core.errors import UnavailableError
from arsenale_mesh import changes, merkle
from arsenale_mesh.node import work
from arsenale_mesh.node.agent import Agent
from arsenale_mesh.record import ENDED, Result
from arsenale_mesh.sandbox import processes
from arsenale_mesh.sandbox.assembling import Assembler
from arsenale_mesh.sandbox.jobs import Job, Outcome
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.sandbox.pool import Pool, Sizes
from arsenale_mesh.sandbox.processes import WorkerProcess
from arsenale_mesh.store import MeshStore

pytestmark = pytest.mark.timeout(90)


class Bereft(Agent):
    """A node under whose first guests a worker dies."""

    deaths = 1

    async def answer(self, assignment: Any, module: bytes, begun: Any) -> Result:
        if not self.deaths:
            return await super().answer(assignment, module, begun)
        self.deaths -= 1
        died = Outcome(
            status="worker_died", trace=merkle.root([]).hex(), engine=engine_id("cranelift")
        )
        return work.signed(assignment, died, self.identity, 1, 2)


class Doomed(Bereft):
    """A node under whose guests every worker dies."""

    deaths = 99


@pytest.fixture
async def mesh(tmp_path: Path, pool: Pool) -> AsyncGenerator[Hive]:
    with MeshStore(tmp_path, Hand()) as store:
        async with hive(store, pool) as opened:
            yield opened


@pytest.mark.parametrize("house_only", [False, True])
async def test_our_own_node_tries_again_when_there_is_no_other(
    mesh: Hive, house_only: bool
) -> None:
    mesh.node(Bereft, house=True)
    task = await mesh.task(house_only=house_only)
    await mesh.over(task)
    assert [one.state for one in mesh.attempts(task)] == ["void", "right"]
    mesh.check()


async def test_our_own_node_checks_what_it_did_not_get_done_itself(mesh: Hive) -> None:
    mesh.node(Bereft, house=True)
    task = await mesh.task()
    await mesh.until(lambda: [one.state for one in mesh.attempts(task)][:1] == ["void"])
    mesh.node(name="far")
    await mesh.over(task)
    mesh.check()


async def test_a_guest_that_kills_its_workers_is_over_and_said_to(mesh: Hive) -> None:
    mesh.node(Doomed, house=True)
    task = await mesh.task()
    await mesh.until(lambda: mesh.now(task).state in ENDED)
    assert (mesh.now(task).state, mesh.now(task).status) == ("done", "worker_died")
    assert len(mesh.attempts(task)) == 3


async def test_without_a_house_nodes_try_again_where_nobody_else_is_left(mesh: Hive) -> None:
    mesh.gateway.can_house = False
    for number in range(3):
        mesh.node(Bereft, name=f"n{number}")
    await mesh.until(lambda: len(mesh.gateway.sessions) == 3)
    task = await mesh.task()
    await mesh.over(task)
    assert [one.state for one in mesh.attempts(task)].count("right") == 2
    mesh.check()


@pytest.mark.parametrize(("kills", "status"), [(1, "ok"), (2, "worker_died")])
async def test_a_compiler_that_somebody_kills_is_not_the_modules_fault(
    wat: Wat, kills: int, status: str
) -> None:
    module = wat(f'(module {"(func) " * 9_000} (func (export "_start")))')
    async with Pool(Sizes(workers=1, spares=0, compilers=1)) as pool:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_kill_compilers, pool, kills)
                ended = await pool.run(Job(module=module))
                assert ended.status == status, ended.detail


async def _kill_compilers(pool: Pool, kills: int) -> None:
    """Kill each of the next KILLS compilers as soon as it has something to do."""
    killed: set[int] = set()
    while len(killed) < kills:
        await anyio.sleep(0.001)
        for pid in set(pool.compiling) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)


@pytest.mark.parametrize("kills", [1, 2])
async def test_who_reads_a_text_may_be_killed_once(
    kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, begin = list[int](), processes.start

    async def start(data_bytes: int) -> WorkerProcess:
        worker = await begin(data_bytes)
        started.append(worker.pid)
        if len(started) <= kills:
            os.kill(worker.pid, signal.SIGKILL)
        return worker

    monkeypatch.setattr(processes, "start", start)
    if kills == 1:
        assert (await Assembler().assemble("(module)")).startswith(b"\0asm")
    else:
        with pytest.raises(UnavailableError, match="time and again"):
            await Assembler().assemble("(module)")
    assert len(started) == 2


def test_nodes_that_were_lost_do_not_make_a_guest_one_that_kills_its_workers(
    village: Village,
) -> None:
    village.settle_in(house="home")
    task = village.task()
    for _ in range(3):
        lost = village.lease(task, "home")
        village.do(lambda c, lost=lost: changes.let_go(c, [lost], "lost", is_failure=True))
    village.say(task, "home", b"", status="worker_died")
    assert village.now(task).state == "queued"
    village.say(task, "home")
    assert (village.now(task).state, village.now(task).status) == ("done", "ok")
    village.check()
