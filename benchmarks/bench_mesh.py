"""Warm tasks through the mesh: how many a second on this machine, and what each part takes.

The real shape: the gateway in this process over a fresh SQLite file, the node's agent in a process
of its own over a unix socket, two jailed workers below it. A requester in the gateway's process
keeps many tasks in flight; their inputs differ, so that nothing is at hand but the module. Each is
stored, leased, run, signed, checked, judged and paid; a task counts once all of that is committed.

Asked: >= 1,000 tasks a second on two cores. The floors of the same run: the pool alone (the jail,
no mesh), and a guest called in process.

What is promised of the store: WAL with `synchronous=NORMAL`. What was acknowledged survives a
kill -9 of any process; a power cut can undo the last commits, and never damages the file.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import anyio
import psutil
from anyio.abc import SocketAttribute, SocketStream
from measuring import machine, quantile, verdict

from arsenale_core import boot
from arsenale_core.tasks import background
from arsenale_mesh import books, changes, guests, identity, receipts, rows
from arsenale_mesh.committing import Committer
from arsenale_mesh.gateway import Clock, Gateway
from arsenale_mesh.links import StreamLink, Way
from arsenale_mesh.node.agent import Agent, Profile
from arsenale_mesh.record import ENDED, NewTask, Task
from arsenale_mesh.rows import Change
from arsenale_mesh.sandbox import guest
from arsenale_mesh.sandbox.engine import compile_module, make_engine
from arsenale_mesh.sandbox.host import Imports
from arsenale_mesh.sandbox.imports import IMPORTS
from arsenale_mesh.sandbox.jobs import Job, limits
from arsenale_mesh.sandbox.kinds import Kind
from arsenale_mesh.sandbox.pages import open_pages
from arsenale_mesh.sandbox.pool import Pool, Sizes
from arsenale_mesh.sandbox.scan import scan
from arsenale_mesh.store import MeshStore

WORKERS: Final = 2
HEARTBEAT_S: Final = 5.0
WARM: Final = 200
LIMITS: Final = limits(fuel=10**9)


def now_us() -> int:
    """UTC microseconds."""
    return int(time.time() * 1e6)


# The node, in a process of its own.


async def node(socket: str, key: Path) -> None:
    """Work for the gateway at SOCKET until it goes."""

    def measure(fuel_per_s: float | None) -> dict[str, Any]:
        return {"gfuel_per_s": fuel_per_s and fuel_per_s / 1e9}

    async def connect() -> StreamLink:
        return StreamLink(await anyio.connect_unix(socket), Way(local=True))

    profile = Profile(name="House", kind="pc", slots=WORKERS)
    async with Pool(Sizes(workers=WORKERS)) as pool:
        agent = Agent(identity.load_or_make(key), profile, pool, measure, now_us)
        await agent.serve(connect)


# The gateway and who asks.


class CountingStore(MeshStore):
    """Says how many commits there were."""

    commits = 0

    @contextmanager
    def changing(self) -> Generator[Change]:
        """See `MeshStore`."""
        with super().changing() as c:
            yield c
        self.commits += 1


@dataclass(slots=True, kw_only=True)
class Mesh:
    """All that runs here."""

    store: CountingStore
    committer: Committer
    gateway: Gateway
    waiters: dict[int, anyio.Event]
    ended: dict[int, Task]
    node: psutil.Process
    module: str
    asked: int = 0

    async def ask(self) -> Task:
        """Have a task run whose input was never seen; return it as it ended."""
        self.asked += 1
        data = b"input %d" % self.asked
        new = NewTask(
            module=self.module, function="run", input=sha256(data).hexdigest(), limits=LIMITS
        )
        made = await self.committer.do(lambda c: changes.enqueue(c, new, (data,)))
        self.waiters[made.id] = waiter = anyio.Event()
        self.gateway.nudge()
        await waiter.wait()
        return self.ended.pop(made.id)

    def cpu_s(self) -> tuple[float, float, float]:
        """Return the CPU time so far of gateway, node and workers."""
        workers = sum(_cpu_s(one) for one in self.node.children(recursive=True))
        return time.process_time(), _cpu_s(self.node), workers


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


@asynccontextmanager
async def mesh(folder: Path) -> AsyncGenerator[Mesh]:
    """Open a mesh with a node at work; all of it is closed at the end."""
    socket, key = folder / "mesh.sock", folder / "house.key"
    house = identity.load_or_make(key)
    waiters, ended = dict[int, anyio.Event](), dict[int, Task]()

    async def changed(tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.state in ENDED and task.id in waiters:
                ended[task.id] = task
                waiters.pop(task.id).set()

    with CountingStore(folder / "store", time.time) as store:
        committer = Committer(store)
        clock = Clock(ticks_us=boot.ticks, now_us=now_us)
        made = identity.make()
        gateway = Gateway(store, committer, made, house.did, HEARTBEAT_S, clock, changed)

        async def serve(stream: SocketStream) -> None:
            assert stream.extra(SocketAttribute.local_address) is not None
            await gateway.serve(StreamLink(stream, Way(local=True)))

        listener = await anyio.create_unix_listener(socket)
        command = [sys.executable, __file__, "--node", str(socket), "--key", str(key)]
        child = await anyio.open_process(command, stdin=None, stdout=None, stderr=None)
        try:
            async with background() as tasks:
                tasks.start_soon(committer.run)
                tasks.start_soon(gateway.run)
                tasks.start_soon(listener.serve, serve)
                module = guests.module("sha256")
                sha = await committer.do(lambda c: changes.keep(c, module))
                yield Mesh(
                    store=store, committer=committer, gateway=gateway, waiters=waiters,
                    ended=ended, node=psutil.Process(child.pid), module=sha,
                )  # fmt: skip
        finally:
            child.terminate()
            with anyio.CancelScope(shield=True):
                await child.wait()


# What is measured.


async def alone(one: Mesh, count: int) -> float:
    """Print how long a task takes that is alone; return the median, milliseconds."""
    for _ in range(WARM):
        await one.ask()
    taken: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        await one.ask()
        taken.append((time.perf_counter() - begun) * 1e3)
    p50, p99 = quantile(taken, 0.5), quantile(taken, 0.99)
    print(f"  a task alone, asked to acknowledged: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    return p50


async def many(one: Mesh, count: int, flight: int) -> float:
    """Print what COUNT tasks take, FLIGHT of them at a time; return tasks a second."""
    left = iter(range(count))

    async def requester() -> None:
        for _ in left:
            task = await one.ask()
            assert (task.state, task.how) == ("done", "house"), task

    before, commits, begun = one.cpu_s(), one.store.commits, time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(flight):
            tasks.start_soon(requester)
    took = time.perf_counter() - begun
    commits = one.store.commits - commits
    used = [1e3 * (b - a) / count for a, b in zip(before, one.cpu_s(), strict=True)]
    print(
        f"  {count:,} tasks, {flight} in flight: {count / took:,.0f}/s; CPU a task:"
        f" gateway {used[0]:.2f} ms, node {used[1]:.2f} ms, workers {used[2]:.2f} ms;"
        f" {commits / took:,.0f} commits/s, {count / commits:.0f} tasks a commit"
    )
    return count / took


def whole(one: Mesh) -> None:
    """Look whether the books are right, and print what a receipt's check takes."""
    with one.store.reading() as db:
        counts, (entries, credits) = rows.task_counts(db), books.totals(db)
        assert counts == {"done": one.asked}, counts
        assert entries == one.asked and credits == 2 * one.asked, (entries, credits)
        assert books.ledger_fault(db) is None
        [mode] = db.exec_driver_sql("PRAGMA journal_mode").fetchone() or ("",)
        task = rows.task(db, one.asked)
        assert task and task.receipt
        kept = rows.receipt(db, task.receipt)
    assert kept is not None

    def check() -> None:
        assert not receipts.problems(receipts.parse(kept.plain))

    print(f"  the books are right: {entries:,} tasks paid once each; journal: {mode}")
    print(f"  a receipt read and its signature checked: {1e3 * median_s(check):.3f} ms")


def committing(folder: Path) -> None:
    """Print the floor of the store: a transaction that writes one blob."""
    with MeshStore(folder / "floor", time.time) as store:
        made = iter(range(10**9))

        def write(c: Change) -> None:
            changes.keep(c, b"floor %d" % next(made))

        def one() -> None:
            with store.changing() as c:
                write(c)

        print(f"  a commit of one blob alone: {1e3 * median_s(one):.3f} ms")


async def floors(module: bytes, count: int) -> None:
    """Print what the jail takes without a mesh, and a guest without a jail."""
    inside = in_process(module)
    async with Pool(Sizes(workers=WORKERS)) as pool:

        async def run(number: int) -> None:
            job = Job(module=module, function="run", input=b"%d" % number, limits=LIMITS)
            assert (await pool.run(job)).status == "ok"

        for number in range(WARM):
            await run(number)
        trips, calls = list[float](), list[float]()
        for number in range(count // 4):
            begun = time.perf_counter()
            await run(number)
            trips.append((time.perf_counter() - begun) * 1e3)
            begun = time.perf_counter()
            inside()
            calls.append((time.perf_counter() - begun) * 1e3)
        left = iter(range(count))

        async def runner() -> None:
            for number in left:
                await run(number)

        begun = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(2 * WORKERS):
                tasks.start_soon(runner)
        rate = count / (time.perf_counter() - begun)
    p50, p99, floor = quantile(trips, 0.5), quantile(trips, 0.99), quantile(calls, 0.5)
    print(f"  the pool alone: {rate:,.0f} round trips/s into the jail")
    print(f"  a round trip alone: p50 {p50:.2f} ms, p99 {p99:.2f} ms; in process {floor:.3f} ms")
    print(f"  jail / in process: {p50 / floor:.1f} x at p50, {p99 / floor:.1f} x at p99")


def in_process(module: bytes) -> Callable[[], object]:
    """Return a call of the guest with no jail around it."""
    shape = scan(module, IMPORTS)
    engine = make_engine(Kind(canonical_nan=shape.floats))
    imports, compiled = Imports(engine), compile_module(engine, module)
    pages = open_pages()[0]
    job = Job(module=module, input=b"12345", limits=LIMITS)
    call = guest.Call(
        function="run", input=job.input, limits=LIMITS, seed=0, clock_us=0,
        slice_fuel=job.slice_fuel, trace=True,
    )  # fmt: skip
    return lambda: guest.run(compiled, imports, shape, call, now=time.monotonic, pages=pages)


def median_s(one: Callable[[], None], times: int = 500) -> float:
    """Return the median time of a call, seconds."""
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        one()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


async def compare(folder: Path, count: int, flight: int, rounds: int) -> None:
    """Measure all of it."""
    await floors(guests.module("sha256"), min(count, 4_000))
    committing(folder)
    async with mesh(folder) as one:
        await alone(one, 300)
        rates = [await many(one, count, flight) for _ in range(rounds)]
        whole(one)
    verdict("warm tasks through the mesh", statistics.median(rates), 1_000, "/s", at_least=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000, help="in a round")
    parser.add_argument("--flight", type=int, default=256, help="tasks at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--node", default="", help=argparse.SUPPRESS)
    parser.add_argument("--key", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.node:
        anyio.run(node, given.node, given.key)
        return
    print(machine())
    with tempfile.TemporaryDirectory(prefix="arsenale-bench-") as folder:
        anyio.run(compare, Path(folder), given.tasks, given.flight, given.rounds)
    print(machine())


if __name__ == "__main__":
    main()
