"""The real daemon, its node, another node and their workers are killed while clients are served.

`python -m tests.mesh.test_mesh_survival --kills 150 --clients 6` takes longer; `--where URL` is for
a PostgreSQL that may be emptied, `--no-house` for a mesh without a node of its own.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from mcp import Client, MCPError, StdioServerParameters
from tests.conftest import end_daemon
from tests.mesh.proc import children
from tests.mesh.village import emptied

from arsenale_core import locks
from arsenale_mesh import books, rows
from arsenale_mesh.store import MeshStore

BIN = Path(sys.executable).parent
KINDS = ("daemon", "our node", "another node", "worker")
BACK_S = 60.0
"""So soon something is there again that was killed."""

GONE_S = 30.0
"""So soon after `arsenale down` no process is left."""

PAUSE_S = (0.05, 0.8)
SLOW = """(module (memory (export "memory") 64)
  (func (export "alloc") (param i32) (result i32) (i32.const 65536))
  (func (export "run") (param i32 i32) (result i64) (local i32)
    (local.set 2 (i32.const 40000000))
    (loop (br_if 0 (local.tee 2 (i32.sub (local.get 2) (i32.const 1)))))
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1)))))"""
"""Gives its input back after a moment, so that there is something to kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A task that is wanted under a key."""

    key: str
    module: str
    input: str

    @property
    def right(self) -> str:
        """What has to come out."""
        return self.input if self.module == "slow" else sha256(self.input.encode()).hexdigest()


# Processes.


@dataclass
class Machine:
    """A home's processes, as they are found and killed."""

    home: Path
    environment: dict[str, str]
    others: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, subprocess.Popen[bytes]]
    )
    nodes: set[int] = field(default_factory=set[int])

    def start(self, name: str) -> None:
        """Start a node by hand, as a user does."""
        command = [BIN / "arsenale", "mesh", "node", "--name", name, "--workers", "2"]
        self.others[name] = subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.nodes.add(self.others[name].pid)

    def find(self, kind: str, rolls: random.Random) -> int | None:
        """Return the process of that kind that is to be killed now, if there is one."""
        if kind == "daemon":
            return self._holder("daemon.lock")
        ours = self._holder("mesh-node.lock")
        if kind == "our node":
            return ours
        others = [one.pid for one in self.others.values() if children(one.pid)]
        if kind == "another node":
            return rolls.choice(others) if others else None
        nodes = [*others, *([ours] if ours else [])]
        workers = [worker for node in nodes for worker in children(node)]
        return rolls.choice(workers) if workers else None

    def killed(self, pid: int) -> None:
        """Note that PID was killed: who started a node by hand does so again."""
        for name, one in list(self.others.items()):
            if one.pid == pid:
                one.wait()
                self.start(name)

    def end_others(self) -> None:
        """Let the nodes that were started by hand leave, as Ctrl-C does."""
        for one in self.others.values():
            one.send_signal(signal.SIGINT)
        try:
            for one in self.others.values():
                one.wait(timeout=GONE_S)
        finally:
            for one in self.others.values():
                one.kill()
                one.wait()

    def left(self) -> dict[int, str]:
        """Return the processes of this home that run, and the workers of its nodes."""
        mark = f"ARSENALE_HOME={self.home}".encode()
        return {
            pid: command.replace("\0", " ")
            for pid, environment, command in _processes()
            if pid != os.getpid() and (mark in environment or self._is_worker(command))
        }

    def _holder(self, lock: str) -> int | None:
        file = self.home / "run" / lock
        if not locks.is_held(file):
            return None
        text = file.read_text(encoding="ascii").strip()
        if not text:
            return None
        if lock == "mesh-node.lock":
            self.nodes.add(int(text))
        return int(text)

    def _is_worker(self, command: str) -> bool:
        words = command.split("\0")
        if "arsenale_mesh.sandbox.worker" not in words:
            return False
        parent = words[words.index("arsenale_mesh.sandbox.worker") + 1]
        return int(parent) in self.nodes


def _processes() -> Iterator[tuple[int, list[bytes], str]]:
    """Give the processes that run, zombies left out, with environment and command."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            command = folder.joinpath("cmdline").read_text(encoding="utf-8", errors="replace")
            environment = b""
            with suppress(PermissionError):
                environment = folder.joinpath("environ").read_bytes()
        except OSError:
            continue
        yield int(folder.name), environment.split(b"\0"), command


# Who is served, and who kills.


@dataclass
class Caller:
    """A client over a relay that asks again when the daemon went."""

    client: Client
    again: int = 0

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call TOOL until it answers."""
        while True:
            try:
                result = await self.client.call_tool(tool, arguments)
            except MCPError as exc:
                said = str(exc)
                assert "daemon ended" in said or "was not made" in said, (tool, arguments, said)
                self.again += 1
                continue
            assert not result.is_error, (tool, str(arguments)[:300], result.content)
            assert result.structured_content
            return result.structured_content

    async def want(self, wish: Wish, wait_s: float) -> dict[str, Any]:
        """Ask for a task by its key."""
        return await self.call(
            "run_task", module=wish.module, input=wish.input, key=wish.key, wait_s=wait_s
        )


@dataclass
class Storm:
    """What is asked, what was acknowledged, and what was killed."""

    machine: Machine
    rolls: random.Random
    kinds: tuple[str, ...]
    kills: int
    acknowledged: dict[str, tuple[Wish, str]] = field(default_factory=dict[str, tuple[Wish, str]])
    hits: Counter[str] = field(default_factory=Counter[str])
    again: int = 0
    is_over: bool = False

    async def kill(self) -> None:
        """Kill as often as is asked, every kind about as often as any."""
        deck = [self.kinds[number % len(self.kinds)] for number in range(self.kills)]
        self.rolls.shuffle(deck)
        for kind in deck:
            await anyio.sleep(self.rolls.uniform(*PAUSE_S))
            await self._kill(kind)
        self.is_over = True

    async def _kill(self, kind: str) -> None:
        until = time.monotonic() + BACK_S
        while True:
            pid = self.machine.find(kind, self.rolls)
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    break
            assert time.monotonic() < until, f"no {kind} for {BACK_S:.0f} s, after {self.hits}"
            await anyio.sleep(0.02)
        self.hits[kind] += 1
        await to_thread.run_sync(self.machine.killed, pid)

    async def ask(self, number: int) -> None:
        """Be a client: want one task after another until nobody is killed any more."""
        rolls = random.Random(f"{number} {self.rolls.random()}")
        async with relayed(self.machine) as caller:
            count = 0
            while not self.is_over:
                wish = _wish(rolls, f"{number}-{count}")
                wait_s = rolls.choice([0.0, 0.0, 0.5, 20.0])
                report = await caller.want(wish, wait_s)
                self.acknowledged[wish.key] = (wish, report["task"])
                if report["state"] == "done":
                    assert report["output"] == wish.right, report
                count += 1
                await anyio.sleep(rolls.uniform(0, 0.15))
            self.again += caller.again


def _wish(rolls: random.Random, key: str) -> Wish:
    if rolls.random() < 0.2:
        return Wish(key=key, module="slow", input=f"slowly {key}")
    size = rolls.choice([10, 10, 1_000, 300_000])
    return Wish(key=key, module="sha256", input=f"{key} {rolls.random()} ".ljust(size, "."))


@asynccontextmanager
async def relayed(machine: Machine) -> AsyncGenerator[Caller]:
    """Give a client over a relay of its own."""
    relay = StdioServerParameters(
        command=str(BIN / "arsenale-stdio"), args=["mesh"], env=machine.environment
    )
    async with Client(relay) as client:
        yield Caller(client)


async def survive(
    *, home: Path, where: Path | str, clients: int, kills: int, seed: int, has_house: bool = True
) -> str:
    """Let CLIENTS be served by the daemon of HOME through KILLS; check what is left."""
    kinds = tuple(kind for kind in KINDS if has_house or kind != "our node")
    names = ("another",) if has_house else ("one", "two", "three")
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    machine = Machine(home, {**environment, "ARSENALE_HOME": str(home)})
    storm = Storm(machine, random.Random(seed), kinds, kills)
    begun = time.monotonic()
    try:
        async with relayed(machine) as caller:
            await caller.call("submit_module", name="slow", wat=SLOW)
            for name in names:
                machine.start(name)
            await _joined(caller, len(names))
            async with anyio.create_task_group() as tasks:
                for number in range(clients):
                    tasks.start_soon(storm.ask, number)
                tasks.start_soon(storm.kill)
            stormed_s = time.monotonic() - begun
            await _check_answers(caller, storm)
            ended_s = time.monotonic() - begun
            await _check_credits(caller, storm)
    finally:
        await to_thread.run_sync(machine.end_others)
    _check_rows(where, storm)
    gone_s = await to_thread.run_sync(_check_down, machine)
    assert all(storm.hits[kind] for kind in kinds), storm.hits
    return (
        f"{len(storm.acknowledged)} tasks, {storm.again} asked again; killed {dict(storm.hits)} in "
        f"{stormed_s:.1f} s, all done after {ended_s:.1f} s, processes gone {gone_s:.1f} s after"
    )


async def _joined(caller: Caller, count: int) -> None:
    """Wait until COUNT nodes are there: without a house a task fails where too few are to agree."""
    there = 0
    with anyio.fail_after(BACK_S):
        while there < count:
            there = len((await caller.call("check_mesh")).get("nodes", []))
            await anyio.sleep(0.1)


# What has to hold at the end.


async def _check_answers(caller: Caller, storm: Storm) -> None:
    """Every key is the task that it was, done, and right."""
    names = [name for _, name in storm.acknowledged.values()]
    assert len(set(names)) == len(names), "one task for two keys"
    for wish, name in storm.acknowledged.values():
        with anyio.fail_after(120):
            report = await caller.want(wish, 100)
        assert report["task"] == name, f"{wish.key} was {name} and is {report['task']}"
        assert (report["state"], report.get("status")) == ("done", "ok"), report
        assert report["output"] == wish.right, report
    for name in random.Random(len(names)).sample(names, min(20, len(names))):
        verified = await caller.call("verify_receipt", receipt=name, method="signature")
        assert verified["holds"] is True, verified
        assert verified["task"] == name


async def _check_credits(caller: Caller, storm: Storm) -> None:
    """Each task is paid once, and nodes have what the ledger says."""
    entries: list[dict[str, Any]] = []
    offset: int | None = 0
    while offset is not None:
        page = await caller.call("read_ledger", check_all=not offset, limit=200, offset=offset)
        assert page["whole"] is True, page
        entries += page["entries"]
        offset = page.get("next_offset")
    paid = Counter((one["task"], one["node"]) for one in entries)
    assert set(paid.values()) == {1}, paid.most_common(5)
    assert {task for task, _ in paid} == {name for _, name in storm.acknowledged.values()}
    earned: Counter[str] = Counter()
    for one in entries:
        assert one["what"] == "reward", one
        earned[one["node"]] += one["credits"]
    nodes = (await caller.call("check_mesh", limit=200))["nodes"]
    assert earned == Counter({one["name"]: one["credits"] for one in nodes})
    assert all("wrong" not in one for one in nodes), nodes


def _check_rows(where: Path | str, storm: Storm) -> None:
    """Nothing is begun and not ended, nothing is there twice, and the database is whole."""
    with MeshStore(where, time.time) as store, store.reading() as db:
        assert rows.leases(db) == []
        assert rows.task_counts(db) == {"done": len(storm.acknowledged)}
        assert books.ledger_fault(db) is None
        assert books.audit_fault(db) is None
        paid: Counter[str] = Counter()
        for entry, _ in books.entries(db, None, None, 10**6, 0):
            paid[entry.task] += entry.credits
        done = [rows.task(db, int(name[1:])) for _, name in storm.acknowledged.values()]
        assert paid == Counter({one.name: one.reward for one in done if one}), "paid twice"
    if isinstance(where, Path):
        database = sqlite3.connect(where / "mesh.db")
        try:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            database.close()


def _check_down(machine: Machine) -> float:
    """End the daemon, and wait until nothing runs; return how long that took."""
    begun = time.monotonic()
    subprocess.run([BIN / "arsenale", "down"], env=machine.environment, check=True, timeout=60)
    while left := machine.left():
        assert time.monotonic() - begun < GONE_S, f"these are left: {left}"
        time.sleep(0.05)
    return time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
@pytest.mark.parametrize(
    ("kind", "has_house", "kills"),
    [("sqlite", True, 16), ("postgresql", True, 8), ("sqlite", False, 6)],
)
async def test_the_daemon_nodes_and_workers_are_killed_and_every_task_is_done_and_paid_once(
    home: Path, kind: str, has_house: bool, kills: int, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else ""
    where = _settle(home, url, has_house=has_house)
    await survive(home=home, where=where, clients=4, kills=kills, seed=1, has_house=has_house)


def _settle(home: Path, url: str, *, has_house: bool) -> Path | str:
    """Write HOME's settings, and return where its mesh is: a PostgreSQL at URL is emptied."""
    lines = ["http_port = 0", f"mesh_house = {str(has_house).lower()}"]
    if url:
        lines.append(f'database_url = "{emptied(url)}"')
    (home / "config.toml").write_text("\n".join(lines), encoding="utf-8")
    return url or home


async def _main(given: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="survival-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        where = _settle(home, given.where, has_house=given.house)
        try:
            return await survive(
                home=home, where=where, clients=given.clients, kills=given.kills, seed=given.seed,
                has_house=given.house,
            )  # fmt: skip
        finally:
            end_daemon(home)


def main() -> None:
    """Run a longer one."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, most in (("clients", 6), ("kills", 150), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=most)
    parser.add_argument("--where", default="")
    parser.add_argument("--no-house", dest="house", action="store_false")
    sys.stdout.write(f"{anyio.run(_main, parser.parse_args())}\n")


if __name__ == "__main__":
    main()
