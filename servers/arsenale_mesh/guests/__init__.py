"""Ready-made guests: their modules beside this file, made of the C sources there (Makefile)."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyMade:
    """A guest that is there from the start; all are called by `run`."""

    name: str
    description: str


READY_MADE: tuple[ReadyMade, ...] = (
    ReadyMade(
        name="search",
        description="Lines of a text that match. Input: a pattern on the first line (literals, ."
        " x* ^ $ \\x), then the text. Output: number:line.",
    ),
    ReadyMade(
        name="csv",
        description="Statistics of each column of a CSV file with a head line. Output: CSV.",
    ),
    ReadyMade(
        name="json",
        description="A JSON text, or a part of it, indented. Input: a path on the first line"
        " (. or .a.b[2]), then the text.",
    ),
    ReadyMade(name="sha256", description="SHA-256 of the input, in hex."),
    ReadyMade(
        name="script",
        description="Runs a script of a tiny language: x = 1; while x < 9 { x = x * 2 }; print x;"
        " if/else; fn f(n) { return n }; input(i). Integers of 64 bits. Input: the script; after a"
        " line --- the numbers.",
    ),
    ReadyMade(
        name="matmul",
        description="Product of two integer matrices modulo 2^64. Input, little-endian: u32 width"
        " (4 or 8), n, k, m, then A (n x k) and B (k x m) by rows. Output: i64. Its result is"
        " checked without a run (Freivalds).",
    ),
)


@cache
def module(name: str) -> bytes:
    """Return the bytes of a ready-made module."""
    return (_FOLDER / f"{name}.wasm").read_bytes()


@cache
def sha_of(name: str) -> str:
    """Return their SHA-256, hex."""
    return sha256(module(name)).hexdigest()
