"""`arsenale inference …` and `arsenale models …` with odd input: one line, no traceback."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from arsenale_core.config import plain_environment
from arsenale_inference.tiny.card import FOLDER


def cli(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("arsenale"), *words],
        env=plain_environment(home), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def refused(home: Path, *words: str) -> str:
    """What a command says that must fail in one line."""
    done = cli(home, *words)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def test_to_unload_a_model_starts_no_sidecar(tmp_path: Path) -> None:
    done = cli(tmp_path, "inference", "unload", "tiny")
    assert (done.returncode, done.stdout) == (0, "no sidecar runs: nothing is loaded.\n")
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_no_model_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    said = refused(tmp_path, "models", "add", str(tmp_path / "pipe.gguf"))
    assert "is no plain file" in said
    assert "is no plain file" in refused(tmp_path, "models", "add", "/dev/zero")


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("~nosuchuser/model.gguf", "nobody is called so here"),
        ("nowhere.gguf", "no model file"),
        ("/", "no plain file"),
        ("x" * 5_000, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(
    tmp_path: Path, file: str, why: str
) -> None:
    assert why in refused(tmp_path, "models", "add", file)


@pytest.mark.parametrize(
    "words",
    [("models", "list"), ("models", "add", str(FOLDER / "tone.gguf"), "--name", "t"),
     ("models", "remove", "t"), ("inference", "up"), ("inference", "ask", "tiny", "Hello"),
     ("inference", "load", "tiny"), ("genome", "list")],
    ids=" ".join,
)  # fmt: skip
def test_a_home_that_cannot_be_written_is_told_without_a_traceback(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    if words[0] == "inference" and find_spec("llama_cpp") is None:
        pytest.skip("the engine is not installed: `make inference`")
    (tmp_path / "file").write_bytes(b"")
    said = refused(tmp_path / "file" / "home", *words)
    assert str(tmp_path / "file") in said.replace("\n", "")


def test_names_that_are_no_utf_8_are_told_or_shown_but_never_a_traceback(tmp_path: Path) -> None:
    odd = (FOLDER / "tone.gguf").read_bytes().replace(b"general.name", b"general.na\xff\xfe", 1)
    (tmp_path / "odd.gguf").write_bytes(odd)
    assert cli(tmp_path, "models", "add", str(tmp_path / "odd.gguf")).returncode == 0
    (tmp_path / "models.json").write_bytes(b'{"bases": {"\xff\xfe": {"path": "/x"}}}')
    assert "mend it, or move it away" in refused(tmp_path, "models", "list")
    prompts = tmp_path / "prompts.json"
    prompts.write_bytes(b'["\xff\xfe"]')
    said = refused(
        tmp_path, "genome", "add-layer", "odd", str(tmp_path / "odd.gguf"), "--trait",
        "tone_and_voice", "--base", "tiny", "--rehearsal", str(prompts),
    )  # fmt: skip
    assert "cannot be read" in said
