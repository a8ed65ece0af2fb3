"""`arsenale memory` as a user types it: real processes, a home of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def memory(environment: dict[str, str]) -> Run:
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        code = "from arsenale_daemon.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, "memory", *arguments], input=stdin, text=True,
            env={**environment, "COLUMNS": "160"}, capture_output=True, check=False, timeout=50,
        )  # fmt: skip

    return run


def test_a_memory_is_added_found_shown_and_forgotten(memory: Run) -> None:
    empty = memory("list").stdout
    assert "No memories yet: keep some with `arsenale memory add`" in empty
    assert json.loads(memory("list", "--json").stdout)["listed"] == []
    added = memory("add", "Anna prefers dark roast coffee", "-t", "people")
    assert (added.returncode, "Stored" in added.stdout) == (0, True)
    assert "there already" in memory("add", "-", stdin="Anna prefers dark roast coffee\n").stdout
    found = json.loads(memory("search", "coffee", "--json").stdout)["memories"]
    assert [row["content"] for row in found] == ["Anna prefers dark roast coffee"]
    id = found[0]["id"]
    assert "dark roast" in memory("search", "coffee", "--explain").stdout
    shown = memory("show", id).stdout
    assert "people" in shown and "{" not in shown
    assert "forgotten (--undo until" in memory("forget", id).stdout
    assert json.loads(memory("list", "--json").stdout)["total"] == 0
    assert "restored" in memory("forget", id, "--undo").stdout
    assert json.loads(memory("stats", "--json").stdout)["memories"] == 1


def test_export_and_import_by_the_command_line(memory: Run, tmp_path: Path) -> None:
    memory("add", "one")
    memory("add", "two")
    out = tmp_path / "out.jsonl"
    assert "2 memories in" in memory("export", str(out)).stdout
    assert "0 imported, 2 were there already" in memory("import", str(out), "-f", "jsonl").stdout
    out.write_text(out.read_text(encoding="utf-8") + "garbage\n", encoding="utf-8")
    done = memory("import", str(out), "-f", "jsonl")
    assert (done.returncode, "not imported" in done.stderr) == (0, True)
    assert "the index is whole" in memory("reindex").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "nothing-like-it"), "error: no memory"),
        (("add", " "), "the memory is empty"),
        (("search", "x", "--since", "whenever"), "is no moment"),
        (("import", "/nowhere", "-f", "jsonl"), "is not there"),
        (("import", ".", "-f", "pdf"), "it is one of"),
    ],
)
def test_what_goes_wrong_is_a_line_and_no_traceback(
    memory: Run, arguments: tuple[str, ...], said: str
) -> None:
    done = memory(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_models_says_what_there_is(environment: dict[str, str]) -> None:
    code = "from arsenale_daemon.cli import main; main()"

    def said(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code, "models", *arguments],
            env=dict(environment, PATH=os.environ["PATH"]), capture_output=True, text=True,
            check=True, timeout=30,
        ).stdout  # fmt: skip

    assert "tiny-tone" in said()
    found = json.loads(said("list", "--json"))
    assert found["embedders"] == {"wordllama-256": True, "minilm-l6-int8": False}
    assert "tiny" in found["bases"]
