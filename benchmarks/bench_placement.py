"""Placement: how long a choice among 10,000 nodes takes while they change all the time.

    python benchmarks/bench_placement.py [--quick]

Each choice is followed by the load it makes, every second one by a task that ends, every fourth by
telemetry of some node. Beside it stand the floor, one argmax of numpy over as many numbers, and the
same formula in a loop of plain Python. What is told of CPU leaves out others on the machine.
"""

import argparse
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from measuring import machine, quantile, verdict

from arsenale_mesh.health import Telemetry, health
from arsenale_mesh.placement import LOAD_WEIGHT, Entry, Fleet, Wanted

NODES = 10_000
BATCH = 32
MIB = 1 << 20
KINDS = ("pc", "pc", "pc", "phone", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """How long each call took, milliseconds, by the wall and of CPU."""

    wall_ms: list[float]
    cpu_ms: list[float]

    def told(self, label: str) -> None:
        """Print p50 and p99."""
        wall = f"wall p50 {quantile(self.wall_ms, 0.5):.3f} ms, p99 {self.p99:.3f} ms"
        cpu = f"CPU p50 {quantile(self.cpu_ms, 0.5):.3f} ms, p99 {quantile(self.cpu_ms, 0.99):.3f}"
        print(f"{label:52} {wall}; {cpu} ms")

    @property
    def p50(self) -> float:
        """The median of the wall times."""
        return quantile(self.wall_ms, 0.5)

    @property
    def p99(self) -> float:
        """So much at most took 99 of 100, by the wall."""
        return quantile(self.wall_ms, 0.99)


def timed(times: int, work: Callable[[], object], between: Callable[[], None]) -> Taken:
    """Time WORK so many TIMES; BETWEEN them is not counted."""
    taken = Taken(wall_ms=[], cpu_ms=[])
    for _ in range(times):
        began, busy = time.perf_counter(), time.thread_time()
        work()
        taken.wall_ms.append(1000 * (time.perf_counter() - began))
        taken.cpu_ms.append(1000 * (time.thread_time() - busy))
        between()
    return taken


def some_entry(r: np.random.Generator) -> Entry:
    """Return a node: a third with energy that was measured, the rest of bandwidth and latency."""
    energy = float(r.lognormal(2.5)) if r.random() < 0.33 else None
    seen = Telemetry(bandwidth=float(r.lognormal(15, 2)), latency_s=float(r.lognormal(-3.5)),
                     joules_per_gfuel=energy)  # fmt: skip
    is_ours = bool(r.random() < 0.1)
    return Entry(
        health=health(seen, float(r.uniform(0.1, 1)), is_ours=is_ours), joules_per_gfuel=energy,
        carbon=float(r.uniform(20, 800)), slots=int(r.integers(1, 9)), queue=2, is_ours=is_ours,
        memory_bytes=int(r.choice([256, 512, 1024])) * MIB, kind=KINDS[int(r.integers(5))],
        engine="native" if r.random() < 0.9 else "pulley", is_vouched=bool(r.random() < 0.5),
    )  # fmt: skip


class Churn:
    """A fleet that changes: tasks end, telemetry comes."""

    def __init__(self, nodes: int) -> None:
        """Fill the fleet."""
        self.r = np.random.default_rng(1)
        self.fleet = Fleet()
        self.spare = [some_entry(self.r) for _ in range(1_000)]
        self.entries = [some_entry(self.r) for _ in range(nodes)]
        self.running: deque[int] = deque()
        self.count = self.failed = 0
        for node, entry in enumerate(self.entries):
            self.fleet.put(node, entry)

    def wanted(self) -> Wanted:
        """Return what a task asks; some are greener, some exclude the nodes that had it."""
        few = frozenset(int(n) for n in self.r.integers(len(self.entries), size=6))
        return Wanted(
            memory_bytes=512 * MIB, excluded=few if self.count % 2 else frozenset(),
            engines=frozenset({"native"}), prefers_green=self.count % 3 == 0,
            kinds=frozenset({"pc", "gateway"}) if self.count % 5 == 0 else frozenset(),
        )  # fmt: skip

    def choose(self, wanted: Wanted) -> None:
        """Choose, and note the load."""
        choice = self.fleet.choose(wanted)
        if choice is None:
            self.failed += 1
        else:
            self.fleet.load(choice.node, 1)
            self.running.append(choice.node)

    def change(self) -> None:
        """End a task, take in telemetry."""
        self.count += 1
        if self.running and (self.count % 2 or len(self.running) > 20_000):
            self.fleet.load(self.running.popleft(), -1)
        if self.count % 4 == 0:
            self.heartbeat()

    def heartbeat(self) -> None:
        """Take in what one node says."""
        node = int(self.r.integers(len(self.entries)))
        self.entries[node] = self.spare[self.count % len(self.spare)]
        self.fleet.put(node, self.entries[node])


def choosing(nodes: int, times: int) -> Taken:
    """Time `choose` and the load that follows it."""
    churn = Churn(nodes)
    asked = deque([churn.wanted()])

    def between() -> None:
        churn.change()
        asked[0] = churn.wanted()

    taken = timed(times, lambda: churn.choose(asked[0]), between)
    taken.told(f"choose among {nodes:,} and note the load")
    print(f"  {times - churn.failed:,} of {times:,} placed, {len(churn.running):,} in flight")
    return taken


def batches(nodes: int, times: int) -> Taken:
    """Time `choose_many` of `BATCH` tasks."""
    churn = Churn(nodes)
    asked: list[Wanted] = [churn.wanted() for _ in range(BATCH)]

    def between() -> None:
        churn.change()
        asked.pop(0)
        asked.append(churn.wanted())

    taken = timed(times, lambda: churn.fleet.choose_many(asked), between)
    taken.told(f"choose_many of {BATCH} among {nodes:,}")
    return taken


def loop(entries: list[Entry], wanted: Wanted, flight: list[int]) -> int:
    """Choose as `Fleet` does, one node at a time, without ties and traits but the engine."""
    best, top = -1, -np.inf
    for node, entry in enumerate(entries):
        if (
            not entry.is_open or flight[node] >= entry.slots + entry.queue
            or entry.memory_bytes < wanted.memory_bytes or node in wanted.excluded
            or entry.engine not in wanted.engines
        ):  # fmt: skip
            continue
        score = entry.health.score - LOAD_WEIGHT * flight[node] / entry.slots
        if score > top:
            best, top = node, score
    return best


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    args = parser.parse_args()
    times = 2_000 if args.quick else 20_000
    print(machine())
    one = choosing(NODES, times)
    many = batches(NODES, times // 20)
    churn = Churn(NODES)
    put = timed(times // 10, churn.heartbeat, lambda: None)
    put.told("take in telemetry of one node")
    wanted = replace(churn.wanted(), prefers_green=False, kinds=frozenset())
    ranked = timed(times // 20, lambda: churn.fleet.ranked(wanted, 10), lambda: None)
    ranked.told("the ten best, explained")
    flight = [0] * NODES
    plain = timed(times // 200, lambda: loop(churn.entries, wanted, flight), lambda: None)
    plain.told("peer: the formula in a loop of plain Python")
    column = churn.r.random(NODES)
    floor = timed(times, lambda: int(column.argmax()), lambda: None)
    floor.told("floor: one argmax of numpy")
    verdict("choose, p99", one.p99, 50, " ms")
    verdict(f"choose_many of {BATCH}, p99", many.p99, 50, " ms")
    verdict("a placed task of a batch, p50", many.p50 / BATCH, 1, " ms")
    print(f"choose / argmax {one.p50 / floor.p50:.1f} x; loop / choose {plain.p50 / one.p50:.0f} x")
    print(machine())


if __name__ == "__main__":
    main()
