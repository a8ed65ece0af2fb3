"""Processes that add and delete layers, killed at any moment: each row has its file."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arsenale_genome import reading
from arsenale_genome.artifacts import Artifacts
from arsenale_genome.record import Filter
from arsenale_genome.store import GenomeStore
from arsenale_inference.tiny.card import FACTS, FOLDER

KILLS = int(os.environ.get("ARSENALE_TEST_KILLS", "8"))

WRITER = """
import os, sys, time
from pathlib import Path
import anyio
from arsenale_core.config import Settings
from arsenale_genome.adding import NewLayer
from arsenale_genome.opening import open_services
from arsenale_genome.service import NewGenome
from arsenale_genome.models import Weighted
from arsenale_genome.changing import Changes

async def main(home, source, start):
    settings = Settings.read({"ARSENALE_HOME": home, "ARSENALE_EMBEDDER": "static"})
    whole = bytearray(Path(source).read_bytes())
    async with open_services(settings, time.time) as services:
        for number in range(start, start + 100_000):
            whole[-4:-2] = number.to_bytes(2, "little")  # another layer each time, still finite
            file = Path(home, "next.gguf")
            file.write_bytes(whole)
            name = f"layer{number}"
            await services.adding.add(
                NewLayer(name=name, path=file, trait="general_reasoning", base="tiny"))
            await services.genomes.create(
                NewGenome(name=f"genome{number}", layers=[Weighted(layer=name)]))
            os.write(1, f"{number}\\n".encode())
            if number % 3 == 0:
                for kind in ("genome", "layer"):
                    await services.genomes.revise(
                        kind, f"{kind}{number}", "delete", Changes(), None)

anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_whoever_is_killed_each_row_has_its_file_and_what_was_acknowledged_is_there(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    acknowledged: list[int] = []
    for kill in range(KILLS):
        started = kill * 1_000
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(FOLDER / FACTS), str(started)],
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout
            most = chance.randrange(1, 12)
            acknowledged += [int(child.stdout.readline()) for _ in range(most)]
            os.kill(child.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in child.stdout.read().split()]
    artifacts = Artifacts(tmp_path / "artifacts")
    with GenomeStore(tmp_path) as store, store.reading() as db:
        layers = {layer.name: layer for layer in reading.layers(db, Filter())}
        genomes = reading.names(db, "genome")
    with artifacts.staging():  # whoever stages next removes what the killed ones left
        assert len(list((tmp_path / "artifacts").glob(".staging-*"))) == 1
    for layer in layers.values():
        assert artifacts.fault(layer.file.sha256) is None
    kept = {number for number in acknowledged if number % 3}
    assert {f"layer{number}" for number in kept} <= set(layers)
    assert {f"genome{number}" for number in kept} <= set(genomes)
