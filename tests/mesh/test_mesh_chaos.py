"""Processes that are killed at random, gateways that begin again, and a third of liars.

`python -m tests.mesh.test_mesh_chaos --tasks 3000 --nodes 9 --kills 60 --restarts 8` takes longer.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream
from tests.mesh.proc import children

from arsenale_core import boot
from arsenale_core.tasks import background
from arsenale_mesh import books, changes, guests, identity, rows
from arsenale_mesh.committing import Committer
from arsenale_mesh.gateway import Clock, Gateway
from arsenale_mesh.identity import Identity
from arsenale_mesh.ledger import balances
from arsenale_mesh.links import Link, StreamLink, Way, memory_links
from arsenale_mesh.node.agent import Agent, Profile
from arsenale_mesh.record import ENDED, NewTask, Node, Task
from arsenale_mesh.rows import Change
from arsenale_mesh.sandbox.jobs import limits
from arsenale_mesh.sandbox.pool import Pool, Sizes
from arsenale_mesh.store import MeshStore

LIARS = ("together", "together", "replays", "sometimes", "boasts", "liar")
HEARTBEAT_S = 1.0


@dataclass
class Nodes:
    """Node processes, by number; who is killed begins again with the same key."""

    folder: Path
    kinds: list[str]
    rolls: random.Random
    running: dict[int, subprocess.Popen[bytes]] = field(
        default_factory=dict[int, subprocess.Popen[bytes]]
    )

    def key(self, number: int) -> Path:
        return self.folder / f"node{number}.key"

    def start(self, number: int) -> None:
        command = [sys.executable, "-m", "tests.mesh.chaos_node"]
        arguments = [str(self.folder / "mesh.sock"), str(self.key(number)), self.kinds[number]]
        self.running[number] = subprocess.Popen(
            [*command, *arguments], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill_one(self) -> None:
        """Kill a node, or a worker of one; a node begins again at once."""
        number = self.rolls.choice(list(self.running))
        node = self.running[number]
        workers = children(node.pid)
        if workers and self.rolls.random() < 0.5:
            _kill(self.rolls.choice(workers))
            return
        node.kill()
        node.wait()
        self.start(number)

    def end(self) -> None:
        for node in self.running.values():
            node.kill()
            node.wait()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass
class Chaos:
    """A gateway and a house in this process, and nodes in others."""

    store: MeshStore
    folder: Path
    house: Identity
    pool: Pool
    own: Identity = field(default_factory=identity.make)

    @asynccontextmanager
    async def gateway(self) -> AsyncGenerator[Committer]:
        """Give the committer of a gateway that serves the socket until the end of the block."""
        committer = Committer(self.store)
        clock = Clock(ticks_us=boot.ticks, now_us=lambda: int(time.time() * 1e6))

        async def changed(_: object) -> None:
            return

        made = Gateway(self.store, committer, self.own, self.house.did, HEARTBEAT_S, clock, changed)

        async def handle(stream: ByteStream) -> None:
            await made.serve(StreamLink(stream, Way(local=True)))

        async def connect() -> Link:
            node, gateway = memory_links()
            tasks.start_soon(made.serve, gateway)
            return node

        path = self.folder / "mesh.sock"
        path.unlink(missing_ok=True)
        profile = Profile(name="house", kind="pc", slots=2)
        agent = Agent(self.house, profile, self.pool, lambda _: {}, lambda: int(time.time() * 1e6))
        async with background() as outer:
            outer.start_soon(committer.run)
            async with await anyio.create_unix_listener(path) as listener, background() as tasks:
                tasks.start_soon(made.run)
                tasks.start_soon(listener.serve, handle)
                tasks.start_soon(agent.serve, connect)
                yield committer

    def left(self) -> int:
        with self.store.reading() as db:
            counts = rows.task_counts(db)
        return sum(count for state, count in counts.items() if state not in ENDED)


async def chaos(*, tasks: int, nodes: int, kills: int, restarts: int, seed: int) -> str:
    """Let TASKS run on NODES, a third of which lie, through KILLS and RESTARTS; check the end."""
    rolls = random.Random(seed)
    kinds = [LIARS[n % len(LIARS)] if n < nodes // 3 else "honest" for n in range(nodes)]
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        mesh = Nodes(folder, kinds, rolls)
        keys = [identity.load_or_make(mesh.key(number)).did for number in range(nodes)]
        with MeshStore(folder, time.time) as store:
            async with Pool(Sizes(workers=2, spares=0, compilers=1)) as pool:
                one = Chaos(store, folder, identity.make(), pool)
                begun = time.monotonic()
                try:
                    await _through(one, mesh, tasks, kills, restarts)
                finally:
                    mesh.end()
            took_s = time.monotonic() - begun
            liars = {keys[n] for n, kind in enumerate(kinds) if kind != "honest"}
            banned = _check(store, tasks, liars, one.house.did)
    return f"{tasks} tasks, {kills} kills, {restarts} restarts in {took_s:.1f} s; {banned} banned"


async def _through(one: Chaos, mesh: Nodes, tasks: int, kills: int, restarts: int) -> None:
    made = iter(range(tasks))
    events = [*["kill"] * kills, *["restart"] * restarts]
    mesh.rolls.shuffle(events)
    begun = False
    for share, last in zip(_shares(tasks, restarts + 1), range(restarts, -1, -1), strict=True):
        until = events.index("restart") if "restart" in events else len(events)
        now, events = events[:until], events[until + 1 :]
        async with one.gateway() as committer:
            if not begun:
                begun = True
                for number in range(len(mesh.kinds)):
                    mesh.start(number)
                await _met(one, len(mesh.kinds))
            numbers = [next(made) for _ in range(share)]
            await committer.do(lambda c, numbers=numbers: _enqueue(c, numbers))
            before = one.left()
            for place, _ in enumerate(now, 1):
                aim = before * (1 - place / (len(now) + 1))
                await _until(lambda aim=aim: one.left() <= aim)
                mesh.kill_one()
            await _until(lambda last=last, share=share: one.left() <= (share // 3 if last else 0))


def _shares(tasks: int, parts: int) -> list[int]:
    return [tasks // parts + (place < tasks % parts) for place in range(parts)]


async def _met(one: Chaos, nodes: int) -> None:
    def met() -> bool:
        with one.store.reading() as db:
            return rows.node_counts(db).get("online", 0) > nodes

    await _until(met)


async def _until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(240):
        while not holds():  # noqa: ASYNC110  # other processes change it
            await anyio.sleep(0.02)


def _enqueue(c: Change, numbers: list[int]) -> None:
    module = guests.module("sha256")
    for number in numbers:
        data = b"input %d" % number
        new = NewTask(
            module=guests.sha_of("sha256"), function="run", input=sha256(data).hexdigest(),
            limits=limits(fuel=10**9, wall_ms=20_000),
        )  # fmt: skip
        changes.enqueue(c, new, (module, data))


# What has to hold at the end.


def _check(store: MeshStore, tasks: int, liars: set[str], house: str) -> int:
    with store.reading() as db:
        assert books.ledger_fault(db) is None
        assert books.audit_fault(db) is None
        nodes = rows.nodes(db, 1_000, 0)
        entries = [entry for entry, _ in books.entries(db, None, None, 10**6, 0)]
        done = [rows.task(db, number) for number in range(1, tasks + 1)]
        for number, task in enumerate(done):
            assert task
            _is_right(task, sha256(b"input %d" % number).hexdigest())
            assert rows.blob(db, task.output or "") == task.input.encode()
            words = [one.node_id for one in rows.attempts(db, task.id) if one.state == "right"]
            assert len(words) == len(set(words))
    rewards = [(one.node, one.task) for one in entries if one.kind == "reward"]
    assert len(rewards) == len(set(rewards)), "somebody was paid twice"
    by_task: dict[str, int] = {}
    for one in entries:
        if one.kind == "reward":
            by_task[one.task] = by_task.get(one.task, 0) + one.credits
    assert by_task == {task.name: task.reward for task in done if task}
    owed = balances(entries)
    assert {node.did: node.credits for node in nodes} == {n.did: owed.get(n.did, 0) for n in nodes}
    return _judge(nodes, liars, house)


def _is_right(task: Task, input: str) -> None:
    assert (task.state, task.status, task.input) == ("done", "ok", input), task


def _judge(nodes: list[Node], liars: set[str], house: str) -> int:
    honest = [one for one in nodes if one.did not in liars and one.did != house]
    lying = [one for one in nodes if one.did in liars]
    assert honest
    assert lying
    assert all(one.standing.wrong == 0 for one in honest)
    assert max(one.standing.score for one in lying) < min(one.standing.score for one in honest)
    assert {one.state for one in lying} == {"banned"}
    assert all(one.credits == 0 for one in lying)
    return len(lying)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_task_is_done_once_and_rightly_whoever_is_killed_and_a_third_lie() -> None:
    await chaos(tasks=600, nodes=9, kills=12, restarts=2, seed=1)


def main() -> None:
    """Run a longer one."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, most in (("tasks", 3_000), ("nodes", 9), ("kills", 60), ("restarts", 8), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=most)
    given = parser.parse_args()
    sys.stdout.write(f"{anyio.run(partial(chaos, **vars(given)))}\n")


if __name__ == "__main__":
    main()
