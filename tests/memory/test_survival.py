"""Several processes on one store, killed at any moment: what was acknowledged is found again."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from arsenale_memory import reading, tables, words
from arsenale_memory.library import Library
from arsenale_memory.store import MemoryStore

KILLS = int(os.environ.get("ARSENALE_TEST_KILLS", "25"))
WRITERS = int(os.environ.get("ARSENALE_TEST_WRITERS", "4"))
"""The long run has 1000 and 8."""

WRITER = """
import asyncio, json, os, sys, time
from pathlib import Path
import anyio
from arsenale_core.config import Settings
from arsenale_memory.models import NewMemory
from arsenale_memory.opening import open_services
from arsenale_memory.record import Source

async def main(home, name):
    settings = Settings.read({"ARSENALE_HOME": home, "ARSENALE_EMBEDDER": "static"})
    async with open_services(settings, time.time, lambda _: None) as services:
        for number in range(100_000):
            said = f"writer {name} keeps number{number}x{name} of its own"
            report = await services.memory.remember(
                [NewMemory(content=said, session=name)], source=Source(via="test"))
            [item] = report.items
            assert item.status == "stored", item
            os.write(1, (json.dumps([item.id, f"number{number}x{name}"]) + "\\n").encode())

anyio.run(main, sys.argv[1], sys.argv[2])
"""


def start(home: Path, name: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(home), name], stdout=out, stderr=subprocess.PIPE
        )


def run_and_kill(home: Path, kills: int, writers: int, seed: int) -> list[tuple[str, str]]:
    """Let WRITERS write, kill one KILLS times at random; return what was acknowledged."""
    chance = random.Random(seed)
    log = home / "acknowledged"
    running = [start(home, f"w{i}", log) for i in range(writers)]
    made = writers
    try:
        for _ in range(kills):
            before = log.stat().st_size
            time.sleep(chance.uniform(0.02, 0.4))
            deadline = time.monotonic() + 20
            while log.stat().st_size == before and time.monotonic() < deadline:
                time.sleep(0.01)  # on a busy machine nobody would get to write between two kills
            victim = chance.randrange(writers)
            dead = running[victim]
            assert dead.poll() is None, dead.communicate()[1].decode()[-2000:]
            dead.send_signal(signal.SIGKILL)
            dead.communicate()
            running[victim] = start(home, f"w{made}", log)
            made += 1
        time.sleep(1.0)
    finally:
        for process in running:
            process.kill()
            process.communicate()
    lines = log.read_bytes().split(b"\n")
    return [tuple(json.loads(line)) for line in lines[:-1]]  # a last line may be cut


@pytest.mark.slow
@pytest.mark.timeout(200 + KILLS)
def test_killed_at_random_nothing_acknowledged_is_lost_or_unfindable(tmp_path: Path) -> None:
    acknowledged = run_and_kill(tmp_path, KILLS, WRITERS, seed=KILLS)
    assert len(acknowledged) > KILLS
    with MemoryStore(tmp_path) as store, store.reading() as db:
        spaces = reading.namespace_ids(db)
        [space] = spaces.values()
        [shelf] = Library("wordllama-256").shelves(db, [space])
        stored = {row.uid[-12:]: row for row in reading.listed(db, reading.Filter(), limit=10**6)}
        lost = [id for id, _ in acknowledged if id not in stored]
        unfindable: list[str] = []
        by_memory = dict(
            zip(shelf.column("memory").tolist(), shelf.column("part").tolist(), strict=True)
        )
        texts = reading.texts(db, list(by_memory.values()))
        part_of = {text.body: part for part, text in texts.items()}
        for id, word in acknowledged:
            if id not in stored:
                continue
            asked = words.full_text([word], [tables.current(space)])
            assert asked is not None
            found = reading.keyword(db, asked.sqlite, (0, 1, 1, 1, 0.6, 0.4), 5)
            part = part_of[stored[id].content]
            own = shelf.index.get(np.array([part]))[0]
            near = shelf.index.nearest(own, 20, None)
            same = float((shelf.index.get(near) @ own).max()) > 0.999 and own.any()
            if part not in [p for p, _ in found] or part not in near or not same:
                unfindable.append(id)
    assert (lost, unfindable) == ([], [])
    with sqlite3.connect(tmp_path / "memory.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("INSERT INTO part_fts(part_fts) VALUES ('integrity-check')")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_another_process_writes_is_found_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    log = tmp_path / "acknowledged"
    with MemoryStore(tmp_path) as store:
        library = Library("wordllama-256")
        process = start(tmp_path, "w", log)
        try:
            seen = 0
            late: list[float] = []
            deadline = time.monotonic() + 60
            while seen < 50:
                assert time.monotonic() < deadline
                lines = log.read_bytes().split(b"\n")[:-1]
                begun = time.monotonic()
                with store.reading() as db:
                    ids = list(reading.namespace_ids(db).values())
                    shelves = library.shelves(db, ids)
                    known = sum(len(shelf.index) for shelf in shelves)
                late.append(time.monotonic() - begun)
                assert known >= len(lines)
                seen = len(lines)
        finally:
            process.kill()
            process.communicate()
    assert sorted(late)[len(late) // 2] < 0.1
