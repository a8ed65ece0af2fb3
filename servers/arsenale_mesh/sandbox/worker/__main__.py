"""Open what is needed, close the doors, then answer frames until the pipe ends."""

import mmap
import os
import sys
import time
from dataclasses import asdict
from typing import Final

from arsenale_mesh.sandbox import frames, jail
from arsenale_mesh.sandbox.engine import compile_module
from arsenale_mesh.sandbox.pages import open_pages
from arsenale_mesh.sandbox.worker.serving import PROGRESS, Worker, read_exactly, write_all

FRAME_BYTES: Final = 512 << 20
"""Of blobs in one frame from our parent, whom we trust."""

_EMPTY: Final = b"\0asm\1\0\0\0"


def main(parent: int, progress: int, data_bytes: int) -> None:
    """Serve on 0 and 1. PROGRESS is the descriptor of the shared page, -1 for none."""
    shared = mmap.mmap(progress, mmap.PAGESIZE) if progress >= 0 else None
    if progress >= 0:
        os.close(progress)
    pages, why = open_pages()
    worker = Worker(pages=pages, progress=shared, now=time.monotonic)
    for engine, _ in worker.engines:
        compile_module(engine, _EMPTY)  # whatever it opens or imports lazily
    frames.parse(frames.pack({})[frames.LENGTH.size :], 0)
    watched = jail.ON if pages else why
    layers = jail.close_doors(parent, pages=watched, data_bytes=data_bytes)
    write_all(1, frames.pack({"status": "ok", **asdict(layers)}))
    while True:
        try:
            size = frames.head_size(read_exactly(0, frames.LENGTH.size))
            head, sizes = frames.parse(read_exactly(0, size), FRAME_BYTES)
            write_all(1, worker.answer(head, [read_exactly(0, size) for size in sizes]))
        except EOFError:
            os._exit(0)


if __name__ == "__main__":
    assert PROGRESS.size <= mmap.PAGESIZE
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
