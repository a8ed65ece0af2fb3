"""Model files as people have them: llama.cpp's reason reaches whoever asked, with a remedy."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arsenale_core.config import plain_environment
from arsenale_inference.tiny.card import BASE, FOLDER

if TYPE_CHECKING:
    from tests.inference.conftest import GgufCopy, Sidecar

RAW = (FOLDER / BASE).read_bytes()
PARTS = {"split.count": 2, "split.tensors.count": 60}


def entry(**change: Any) -> Callable[["GgufCopy", Path], Path]:
    """A copy of the tiny model with something changed."""

    def made(copy: "GgufCopy", folder: Path) -> Path:
        return copy(folder / "model.gguf", change=change.get("change"), drop=change.get("drop"),
                    skip=change.get("skip"))  # fmt: skip

    return made


def part(no: int, name: str) -> Callable[["GgufCopy", Path], Path]:
    def made(copy: "GgufCopy", folder: Path) -> Path:
        return copy(folder / name, change={"split.no": no, **PARTS})

    return made


def raw(data: bytes) -> Callable[["GgufCopy", Path], Path]:
    def made(_copy: "GgufCopy", folder: Path) -> Path:
        (folder / "model.gguf").write_bytes(data)
        return folder / "model.gguf"

    return made


FILES: dict[str, tuple[Callable[["GgufCopy", Path], Path], str, str]] = {
    "an unknown architecture": (
        entry(change={"general.architecture": "llama99"}),
        "unknown model architecture: 'llama99'", "does not know this kind of model",
    ),
    "an unknown pre-tokenizer": (
        entry(change={"tokenizer.ggml.pre": "brand-new-tokenizer"}),
        "unknown pre-tokenizer type: 'brand-new-tokenizer'", "does not know this kind of model",
    ),
    "a missing second part": (
        part(0, "model-00001-of-00002.gguf"), "model-00002-of-00002.gguf", "all parts of the model",
    ),
    "the second part alone": (
        part(1, "model-00002-of-00002.gguf"), "first split", "register the first part",
    ),
    "a missing tensor": (
        entry(skip="blk.2.ffn_down.weight"),
        "tensor 'blk.2.ffn_down.weight' not found", "fetch or convert it again",
    ),
    "no tokenizer": (
        entry(drop="tokenizer.ggml"), "tokenizer.ggml.model", "convert the model again",
    ),
    "no hyperparameters": (
        entry(drop="llama.attention.layer_norm_rms_epsilon"),
        "llama.attention.layer_norm_rms_epsilon", "convert the model again",
    ),
    "a wrong width": (
        entry(change={"llama.feed_forward_length": 513}),
        "tensor 'blk.0.ffn_gate.weight' has wrong shape", "fetch or convert it again",
    ),
    "too many blocks": (
        entry(change={"llama.block_count": 5}), "blk.4.", "fetch or convert it again",
    ),
    "a cut file": (raw(RAW[:900_000]), "not within the file bounds", "checksum"),
}  # fmt: skip


@pytest.fixture(scope="module")
def served(running: "Sidecar") -> "Sidecar":
    return running


@pytest.mark.parametrize("name", FILES)
def test_the_reason_why_a_model_does_not_load_is_in_the_answer(
    served: "Sidecar", gguf_copy: "GgufCopy", tmp_path: Path, name: str
) -> None:
    make, reason, remedy = FILES[name]
    path = make(gguf_copy, tmp_path)
    assert served.http.put("/admin/models/mine", json={"path": str(path)}).status_code == 200
    answer = served.chat(model="mine")
    said = answer.json()["error"]["message"]
    assert answer.status_code == 400, said
    assert path.name in said and reason in said and remedy in said
    assert "the log says why" not in said
    served.http.delete("/admin/models/mine")


def test_the_command_line_shows_the_same_reason(
    served: "Sidecar", gguf_copy: "GgufCopy", tmp_path: Path
) -> None:
    path = gguf_copy(tmp_path / "new.gguf", change={"general.architecture": "llama99"})

    def cli(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [Path(sys.executable).with_name("arsenale"), *words], timeout=60, check=False,
            env=plain_environment(served.home), capture_output=True, text=True,
        )  # fmt: skip

    added = cli("models", "add", str(path), "--name", "new")
    assert added.returncode == 0, added.stderr
    asked = cli("inference", "ask", "new", "Hello")
    assert asked.returncode == 1 and asked.stderr.startswith("error: ")
    assert "unknown model architecture: 'llama99'" in " ".join(asked.stderr.split())


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("root ::= x", "Undefined rule identifier 'x'"),
        ('root ::= a b\na ::= c\nb ::= "b"', "Undefined rule identifier 'c'"),
        ('root ::= "a', "unexpected end of input"),
        ("root ::= [^", "unexpected end of input"),
        ('answer ::= "a"', "grammar does not contain a 'root' symbol"),
        ("root ::= root", "left recursion"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= "a"{1000000000}', "number of repetitions exceeds sane defaults"),
        ('root = "a"', "expecting ::= at"),
        ('root ::= ("a"', "expecting ')' at"),
        ('root ::= "a" ::= "b"', "expecting"),
        ('root ::= "\\q"', "unknown escape at"),
        ("root ::= *", "expecting preceding item"),
    ],
)
def test_the_reason_why_a_grammar_is_refused_is_llama_cpp_s_own(
    served: "Sidecar", grammar: str, reason: str
) -> None:
    answer = served.chat(grammar=grammar)
    said = answer.json()["error"]["message"]
    assert answer.status_code == 400 and reason.lower() in said.lower(), said
    assert "GBNF" in said


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sampling", [{}, {"top_k": 3}, {"top_p": 0.5}, {"presence_penalty": 1}])
def test_a_grammar_is_followed_at_any_temperature(
    served: "Sidecar", seed: int, sampling: dict[str, Any]
) -> None:
    grammar = 'root ::= "{\\"n\\": " [0-9]{1,3} ", \\"s\\": \\"" [a-zäöü]{0,5} "\\"}"'
    answer = served.chat(grammar=grammar, temperature=3, seed=seed, max_tokens=60, **sampling)
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    form = r'\{"n": [0-9]{1,3}, "s": "[a-zäöü]{0,5}"\}'
    assert re.fullmatch(form, choice["message"]["content"])


@pytest.mark.parametrize("seed", range(21))
@pytest.mark.parametrize(
    "schema",
    [
        None,
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 3},
    ],
    ids=["json_object", "text", "texts"],
)
def test_a_finished_structured_answer_is_json_at_any_temperature(
    served: "Sidecar", schema: dict[str, Any] | None, seed: int
) -> None:
    wanted: dict[str, Any] = {"type": "json_object"}
    if schema is not None:
        wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    answer = served.chat(response_format=wanted, temperature=3, seed=seed, max_tokens=200)
    choice = answer.json()["choices"][0]
    if choice["finish_reason"] == "stop":
        json.loads(choice["message"]["content"])
    assert answer.status_code == 200
