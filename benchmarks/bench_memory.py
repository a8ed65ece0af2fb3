"""What memory costs: recall and capture through the real server, beside the bare index query.

    python benchmarks/bench_memory.py [--memories 10000] [--recalls 300]

The memories are sentences made of a vocabulary by chance, each with its own words, in sessions of
30. Prints wall time and the server's CPU time; the floor is the same question put to the two bare
indexes in this process: FTS5 and one matrix product.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from mcp import Client, StdioServerParameters
from measuring import machine, quantile, verdict

from arsenale_core.config import Settings, child_environment
from arsenale_core.embedding.choice import minilm_folder
from arsenale_daemon import control
from arsenale_daemon.install import interpreter, relay_path
from arsenale_memory import reading, tables, words
from arsenale_memory.library import Library
from arsenale_memory.store import MemoryStore

SUBJECTS = "Anna Boris Chen Dana Emil Farah Goran Hana Igor Julia".split()
VERBS = "decided noticed measured reviewed shipped broke mended tested wrote moved".split()
THINGS = (
    "the inventory service, the payment queue, the login page, the nightly backup, the search "
    "index, the release notes, the staging cluster, the invoice export, the image resizer"
).split(", ")
WHY = (
    "because the customer asked, after the outage, before the audit, to save money, since tests "
    "were slow, when the disk was full, as the team agreed, despite the deadline"
).split(", ")


def sentences(count: int, seed: int = 11) -> list[str]:
    """Return COUNT different sentences."""
    chance = random.Random(seed)
    made: list[str] = []
    for number in range(count):
        words_ = [chance.choice(part) for part in (SUBJECTS, VERBS, THINGS, WHY)]
        made.append(f"{' '.join(words_)}; ticket {number} took {chance.randrange(1, 99)} hours.")
    return made


def cpu_s(pid: int) -> float:
    """Return the CPU time that the process PID and its children have used, seconds."""
    total = 0.0
    for each in [pid, *_children(pid)]:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rss_mb(pid: int) -> float:
    """Return the resident memory of PID, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def measure(home: Path, memories: int, recalls: int) -> None:
    """Fill a store through the server, then ask."""
    relay = StdioServerParameters(
        command=interpreter(), args=["-I", "-S", str(relay_path()), "memory"],
        env=child_environment(home),
    )  # fmt: skip
    made = sentences(memories)
    rest = sentences(memories + 200)[memories:]
    async with Client(relay) as client:
        pid = int(json.loads((home / "run" / "daemon.json").read_text())["pid"])
        begun = time.perf_counter()
        for start in range(0, memories, 500):
            items = [
                {"content": text, "session": f"s{(start + i) // 30}"}
                for i, text in enumerate(made[start : start + 500])
            ]
            await call(client, "remember", memories=items)
        print(f"filled with {memories / (time.perf_counter() - begun):,.0f} memories/s")
        await call(client, "recall", question="warm up")
        took = await timed(client, pid, "remember", [{"memories": [{"content": t}]} for t in rest])
        verdict("capture p95", quantile(took, 0.95) * 1e3, 40, " ms")
        chance = random.Random(5)
        asked = [f"What did {chance.choice(SUBJECTS)} do with {chance.choice(THINGS)} "
                 f"{chance.choice(WHY)}?" for _ in range(recalls)]  # fmt: skip
        took = await timed(client, pid, "recall", [{"question": text} for text in asked])
        limit = 30 if memories <= 10_000 else 60
        verdict("recall p95", quantile(took, 0.95) * 1e3, limit, " ms")
        print(f"memory of the daemon {rss_mb(pid):.0f} MB", end="")
        for child in _children(pid):
            print(f", of the embedder {rss_mb(child):.0f} MB", end="")
        print()
    floor = bare(home, asked)
    print(f"the bare index query p50 {quantile(floor, 0.5) * 1e3:.2f} ms: recall is "
          f"{quantile(took, 0.5) / quantile(floor, 0.5):.1f} x that")  # fmt: skip


async def timed(client: Client, pid: int, tool: str, each: list[dict[str, Any]]) -> list[float]:
    """Call TOOL with EACH; print and return how long the calls took, seconds."""
    took: list[float] = []
    before = cpu_s(pid)
    for arguments in each:
        begun = time.perf_counter()
        await call(client, tool, **arguments)
        took.append(time.perf_counter() - begun)
    cpu = (cpu_s(pid) - before) / len(each)
    p50, p95 = (quantile(took, q) * 1e3 for q in (0.5, 0.95))
    print(f"{tool}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, "
          f"CPU {cpu * 1e3:.1f} ms a call")  # fmt: skip
    return took


async def call(client: Client, tool: str, **arguments: Any) -> None:
    """Call TOOL, which must not fail."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content


def bare(home: Path, asked: list[str]) -> list[float]:
    """Ask both indexes themselves, with vectors that are there: the floor of a recall, seconds."""
    took: list[float] = []
    with MemoryStore(home) as store, store.reading() as db:
        [space] = reading.namespace_ids(db).values()
        names = list(reading.vectors(db, "minilm-l6-int8", space)[:1]) or None
        embedder = "minilm-l6-int8" if names else "wordllama-256"
        [shelf] = Library(embedder).shelves(db, [space])
        query = shelf.index.get(np.array([1]))[0]
        for text in asked:
            found = words.full_text(words.terms(text), [tables.current(space)])
            assert found is not None
            begun = time.perf_counter()
            reading.keyword(db, found.sqlite, (0, 1, 1, 1, 0.6, 0.4), 120)
            shelf.index.nearest(query, 80, None)
            took.append(time.perf_counter() - begun)
    return took


async def first_recall(home: Path) -> None:
    """Measure from no process at all to the first answer."""
    relay = StdioServerParameters(
        command=interpreter(), args=["-I", "-S", str(relay_path()), "memory"],
        env=child_environment(home),
    )  # fmt: skip
    begun = time.perf_counter()
    async with Client(relay) as client:
        await call(client, "recall", question="What did Anna do with the login page?")
        verdict("first recall after a cold start", time.perf_counter() - begun, 1, " s")


async def idle(home: Path, wait_s: float) -> None:
    """Measure what is held when nobody has asked for a while."""
    relay = StdioServerParameters(
        command=interpreter(), args=["-I", "-S", str(relay_path()), "memory"],
        env=child_environment(home),
    )  # fmt: skip
    async with Client(relay) as client:
        pid = int(json.loads((home / "run" / "daemon.json").read_text())["pid"])
        bare_mb = rss_mb(pid)
        await call(client, "recall", question="What did Anna do with the login page?")
        used, children = rss_mb(pid), [rss_mb(child) for child in _children(pid)]
        verdict("the embedder's process in use", max(children, default=0), 150, " MB")
        await anyio.sleep(wait_s)
        now = rss_mb(pid)
        print(f"the daemon: {bare_mb:.0f} MB bare, {used:.0f} MB in use, {now:.0f} MB idle; "
              f"{len(_children(pid))} embedding processes when idle")  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--recalls", type=int, default=300)
    args = parser.parse_args()
    print(f"{args.memories:,} memories; {machine()}")
    model = minilm_folder(Settings.read().home)
    with tempfile.TemporaryDirectory(prefix="arsenale-") as folder:
        home = Path(folder)
        (home / "config.toml").write_text("http_port = 0\nembedder_idle_s = 3\n", encoding="utf-8")
        if model.is_dir():
            minilm_folder(home).parent.mkdir(parents=True)
            os.symlink(model, minilm_folder(home))
        try:
            anyio.run(measure, home, args.memories, args.recalls)
            control.down(home)
            anyio.run(first_recall, home)
            control.down(home)
            anyio.run(idle, home, 8.0)
        finally:
            control.down(home)


if __name__ == "__main__":
    main()
