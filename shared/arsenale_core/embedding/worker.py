"""The process that holds an embedding engine, so that the servers stay small and it can go.

    python -P -m arsenale_core.embedding.worker static | minilm FOLDER

Frames on stdin and stdout: a 4-byte big-endian length, then the bytes. A request is a JSON array of
texts. The answer is a JSON head, `{"id", "rows", "dim"}` or `{"error"}`, and a second frame: the
vectors as little-endian float32. It ends with its stdin.
"""

import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

from arsenale_core.embedding.base import Engine

LENGTH_BYTES = 4


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next frame; `None` at the end, or when the other side went in its middle."""
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "big")
    body = stream.read(size)
    return body if len(body) == size else None


def frame(body: bytes) -> bytes:
    """Return BODY with its length before it."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def load(kind: str, folder: str | None) -> Engine:
    """Load the engine called KIND. What it needs is imported here, and nothing else."""
    if kind == "minilm":
        from arsenale_core.embedding.minilm import MiniLMEngine  # noqa: PLC0415

        return MiniLMEngine(Path(folder or "."))
    from arsenale_core.embedding.static import StaticEngine  # noqa: PLC0415

    return StaticEngine()


def serve(engine: Engine, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer REQUESTS until they end."""
    while (body := read_frame(requests)) is not None:
        try:
            vectors = engine(json.loads(body))
        except Exception as exc:  # noqa: BLE001  # the edge of the worker: its client is told
            answers.write(frame(json.dumps({"error": f"{type(exc).__name__}: {exc}"}).encode()))
        else:
            rows, dim = vectors.shape
            head = {"id": engine.id, "rows": rows, "dim": dim}
            answers.write(frame(json.dumps(head).encode()))
            answers.write(frame(vectors.astype("<f4").tobytes()))
        answers.flush()


def main() -> None:
    """Load the engine that the arguments name and serve it."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the frames
    kind, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    serve(load(kind, folder), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
