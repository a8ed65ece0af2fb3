"""The process of a model worker: `python -m arsenale_inference.worker OPTIONS`, OPTIONS as JSON.

Requests come on stdin, events go to stdout, one JSON object a line; the log goes to stderr. It ends
when stdin does: a worker does not outlive its sidecar.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from arsenale_core.errors import ArsenaleError
from arsenale_inference.messages import Event, Failed, decode, encode


def main() -> int:
    """Serve one model."""
    options: dict[str, Any] = orjson.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not come between the events

    def send(event: Event) -> None:
        out.write(encode(event))

    try:
        worker, engine = _opened(options, send)
    except ArsenaleError as exc:
        send(Failed(id="", kind="invalid", what=exc.what, hint=exc.hint))
        return 1
    threading.Thread(target=_read, args=(sys.stdin.buffer, worker), daemon=True).start()
    worker.run()
    engine.close()
    return 0


def _opened(options: dict[str, Any], send: Any) -> Any:
    from arsenale_inference.engine.context import ContextOptions  # noqa: PLC0415  # loads llama.cpp
    from arsenale_inference.engine.engine import Engine, EngineOptions  # noqa: PLC0415
    from arsenale_inference.worker.loop import Worker  # noqa: PLC0415

    context = ContextOptions(
        tokens=options["context"], sequences=options["sequences"] * 2, batch=options["batch"],
        threads=options["threads"], kv_f32=options["kv_f32"],
    )  # fmt: skip
    engine = Engine.open(
        Path(options["model"]),
        EngineOptions(
            context=context, gpu_layers=options["gpu_layers"],
            build_folder=Path(options["build_folder"]), compact=options["compact"],
        ),
        clock=time.process_time,
    )  # fmt: skip
    return Worker(engine, send, now=time.monotonic, live=options["sequences"]), engine


def _read(source: BinaryIO, worker: Any) -> None:
    try:
        for line in source:
            worker.submit(decode(line))
    finally:  # nobody would hear what it does
        worker.submit(None)


if __name__ == "__main__":
    sys.exit(main())
