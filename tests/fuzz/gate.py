"""The gate's part of the fuzz jobs: each for a few seconds, always with the same inputs first."""

import subprocess
import sys
from pathlib import Path

from tests.fuzz.jobs import JOBS

SEED = 20_261_201
SECONDS = 60.0 / len(JOBS)
"""Of each job: all together run for a minute."""

ROOT = Path(__file__).parents[2]

TEXT = ("identity", "trust", "relay", "messages", "events", "config", "session-starts", "recipe")
IMPORTED = ("memories", "notes", "claude", "at-imports", "node", "receipt")
BINARY = ("genome", "gguf", "peft", "safetensors", "wasm")
"""The jobs in three parts, each a file of tests, for runs beside one another."""


def hold(job: str, kept: Path) -> None:
    """Run JOB in a process of its own, whose memory is bounded; failing inputs lie in KEPT."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--job", job, "--seed", str(SEED),
         "--minutes", str(SECONDS / 60), "--keep", str(kept)],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3_000:]
    assert f"{job} " in done.stdout and " 0 inputs" not in done.stdout, done.stdout
