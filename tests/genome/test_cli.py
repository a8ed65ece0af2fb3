"""`arsenale genome` as a user types it: real processes, a home of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arsenale_inference.tiny.card import BASE, FACTS, FOLDER

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def genome(environment: dict[str, str]) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from arsenale_daemon.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, "genome", *arguments], text=True,
            env={**environment, "COLUMNS": "160"}, capture_output=True, check=False, timeout=50,
        )  # fmt: skip

    return run


def test_a_genome_from_a_layer_file_to_a_file_and_back(
    genome: Run, home: Path, tmp_path: Path
) -> None:
    assert "Nothing here yet" in genome("list").stdout
    added = genome(
        "add-layer", "facts", str(FOLDER / FACTS), "--trait", "domain_expertise", "--base", "tiny",
        "--base-path", str(FOLDER / BASE), "--rehearsal", str(FOLDER / "facts.rehearsal.json"),
        "--licence", "MIT", "--description", "ports of services", "-t", "ports",
    )  # fmt: skip
    assert (added.returncode, added.stdout) == (0, "Layer facts: rank 8, 221,088 bytes\n")
    made = genome("create", "ahab", "-l", "facts=0.5", "--instructions", "Be brief.")
    assert "Genome ahab on tiny, generation 0: facts 0.5" in made.stdout
    assert "generation 1: facts 0.5" in genome("create", "heir", "-p", "ahab").stdout
    assert "ahab" in genome("list", "--search", "anything").stdout
    assert "MIT" in genome("layers", "--trait", "domain_expertise").stdout
    shown = genome("show", "heir").stdout
    assert "└── ahab (generation 0)" in shown
    assert "revision 1" in shown
    assert "is private" in genome("export", "ahab").stderr
    file = tmp_path / "ahab.genome"
    written = json.loads(genome("export", "ahab", str(file), "--include-private", "--json").stdout)
    assert written["size_bytes"] == file.stat().st_size
    assert "4 checked. Everything is as it was written." in genome("check").stdout
    assert "here already, as 'ahab'" in genome("import", str(file)).stdout
    [layer] = (home / "artifacts").rglob("*.gguf")
    layer.write_bytes(b"damaged")
    wrong = genome("check", "facts")
    assert wrong.returncode == 1
    assert "problem: layer facts: its file" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nothing"), "error: no genome or layer 'nothing'"),
        (("create", "x"), "error: no base"),
        (("create", "x", "-l", "y=heavy"), "the weight is 0..1"),
        (("create", "x", "--choose", "y"), "has no ="),
        (("import", "/nowhere"), "error: no file '/nowhere'"),
        (("import", __file__), "is no genome file"),
        (("add-layer", "x", "/nowhere", "--trait", "odd", "--base", "b"), "it is one of"),
        (("add-layer", "x", "/nowhere", "--trait", "tone_and_voice", "--base", "b"), "no layer"),
    ],
)
def test_what_goes_wrong_is_a_line_and_no_traceback(
    genome: Run, arguments: tuple[str, ...], said: str
) -> None:
    done = genome(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
