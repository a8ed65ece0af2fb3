"""Tests the installed engine in a child process: the tiny model decodes a prompt and answers.

A build for other processor instructions loads well and dies at the first batch of several rows;
a child process can die in our place. `python -m arsenale_inference.self_test` is that child.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from arsenale_core.errors import UnavailableError
from arsenale_core.terminal_text import write
from arsenale_inference import exits

QUESTION, ANSWER = "What is the capital of Italy?", "Rome."
"""In the tiny model's training data; every right build answers it so."""

THREADS = 2
"""More than one: a permission of the operating system may be missing in further threads only."""

TIMEOUT_S = 120.0
"""It takes half a second on a free core."""

REFUSED = 3
"""Exit status of the child when the dynamic linker refuses the engine."""

COMMAND = (sys.executable, "-P", "-m", "arsenale_inference.self_test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The engine works; `cpu` names the variant of its CPU backend, where it has several."""

    cpu: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The engine does not work."""

    reason: str


Verdict: TypeAlias = Passed | Failed


def run(command: Sequence[str] = COMMAND) -> Verdict:
    """Run the self-test in a child process and return its verdict.

    Raises:
        UnavailableError: It cannot run, for a reason that is not in the engine.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Failed(reason=f"the self-test did not end within {TIMEOUT_S:.0f} s")
    if done.returncode < 0:
        return Failed(reason=f"the self-test {exits.describe(done.returncode)}")
    if done.returncode == REFUSED:
        return Failed(reason=done.stderr.strip().rpartition("\n")[2])
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise UnavailableError(
            f"the engine's self-test cannot run: {last}",
            hint="install what is missing, then run the command again",
        )
    answer = json.loads(done.stdout)
    if answer["answer"] != ANSWER:
        return Failed(reason=f"the tiny model answers {answer['answer']!r}, not {ANSWER!r}")
    if answer["layouts"]:
        return Failed(reason=f"the bindings and llama.cpp disagree on {answer['layouts']}")
    return Passed(cpu=answer["cpu"])


# ---------------------------------------------------------------- in the child
def main() -> None:
    """Answer the question and print what was found as JSON."""
    try:
        from arsenale_inference.tiny.asking import asking  # noqa: PLC0415  # loads the engine
    except (OSError, RuntimeError, AttributeError) as exc:  # the linker refuses the library
        write(f"the engine cannot be loaded: {exc}\n", to=sys.stderr)
        sys.exit(REFUSED)
    from arsenale_inference.tiny.card import BASE, FOLDER  # noqa: PLC0415  # needs gguf

    with asking(FOLDER / BASE, threads=THREADS) as model:
        answer = model.answer(QUESTION)
    found = {"answer": answer, "cpu": loaded_variant(), "layouts": ", ".join(wrong_layouts())}
    write(json.dumps(found))
    os._exit(0)  # a library that dies while it is unloaded has passed


def loaded_variant() -> str | None:
    """Return the name of the CPU backend's variant that ggml chose, as `haswell`."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    prefix = "libggml-cpu-"
    names = {Path(line.rpartition(" ")[2]).stem for line in maps.splitlines() if prefix in line}
    return next((name.removeprefix(prefix) for name in sorted(names)), None)


def wrong_layouts() -> list[str]:
    """Return the structures whose size differs between the bindings and the loaded llama.cpp.

    A function that returns a structure of more than 16 bytes writes it to the address in its
    hidden first argument (System V ABI for x86-64, section 3.2.3). It is called with memory filled
    twice with different bytes: what is the same in both has been written.
    """
    if os.uname().machine != "x86_64":
        return []
    from arsenale_inference.engine import bindings  # noqa: PLC0415  # loads the engine

    llama = bindings.load()
    library = ctypes.CDLL(str(bindings.libraries() / "libllama.so"))
    return [
        name
        for name, structure in (
            ("llama_model_params", llama.llama_model_params),
            ("llama_context_params", llama.llama_context_params),
            ("llama_model_quantize_params", llama.llama_model_quantize_params),
        )
        if not _fits(library, name.replace("_params", "_default_params"), ctypes.sizeof(structure))
    ]


def _fits(library: ctypes.CDLL, function: str, size: int) -> bool:
    """Say whether FUNCTION writes a structure of SIZE bytes, up to padding of an 8-byte word."""
    room = size + 256
    written: list[bytes] = []
    for byte in (0xAA, 0x55):
        memory = ctypes.create_string_buffer(bytes([byte]) * room, room)
        library[function](ctypes.byref(memory))
        written.append(memory.raw)
    same = [index for index, (a, b) in enumerate(zip(*written, strict=True)) if a == b]
    return size - 8 < same[-1] + 1 <= size


if __name__ == "__main__":
    main()
