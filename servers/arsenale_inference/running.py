"""The sidecar as a process: one for each `ARSENALE_HOME`, on a loopback port of its own."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from arsenale_core import descriptors, logs
from arsenale_core.config import Settings
from arsenale_core.derived import Derived
from arsenale_core.errors import ArsenaleError, ConflictError, UnavailableError
from arsenale_core.files import make_private
from arsenale_core.sidecar import ALREADY_RUNS
from arsenale_daemon import paths
from arsenale_daemon.http_server import WebServer, bind
from arsenale_daemon.security import Gate, RateLimiter
from arsenale_inference.answering import Answers
from arsenale_inference.api import Api, application
from arsenale_inference.catalogue import Catalogue
from arsenale_inference.options import Options
from arsenale_inference.replies import error
from arsenale_inference.service import open_inference
from arsenale_inference.status import InferenceCollector

RATE_PER_MINUTE = 60_000
"""What a client may ask: the queue bounds the rest."""

MOST_BODY_BYTES = 64_000_000


def catalogue_file(home: Path) -> Path:
    """Return where models, layers and genomes are registered."""
    return home / "models.json"


def state_file(home: Path) -> Path:
    """Return where the running sidecar says its address."""
    return home / "run" / "inference.json"


def lock_file(home: Path) -> Path:
    """Return the file that the running sidecar holds locked."""
    return home / "run" / "inference.lock"


def options_of(settings: Settings) -> Options:
    """Return what SETTINGS say of the sidecar."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = settings.inference_memory_mb * 1_000_000 or total * 3 // 4
    threads = settings.inference_threads or max(1, (os.cpu_count() or 2) // 2)
    return Options(
        workers=settings.inference_workers,
        queue=settings.inference_queue,
        wait_s=settings.inference_wait_s,
        hang_s=settings.inference_hang_s,
        idle_s=settings.inference_idle_s,
        memory_bytes=memory,
        layers=settings.inference_layers,
        upstream_key=settings.inference_key.get_secret_value() if settings.inference_key else None,
        layers_bytes=settings.inference_layers_mb * 1_000_000,
        worker={
            "context": settings.inference_context, "sequences": settings.inference_sequences,
            "batch": 512, "threads": threads, "kv_f32": settings.inference_exact,
            "gpu_layers": settings.inference_gpu_layers, "compact": False,
            "build_folder": str(settings.home / "build"),
        },
    )  # fmt: skip


async def serve(settings: Settings) -> None:
    """Serve until somebody says stop, by HTTP or a signal.

    Raises:
        ConflictError: A sidecar of this home runs already.
        InvalidError: The catalogue cannot be read.
        UnavailableError: The port is taken.
    """
    home = settings.home
    with _only_one(home):
        logs.configure(
            settings.log_level, file=home / "logs" / "inference.log",
            max_bytes=settings.log_max_bytes, backups=settings.log_backups, stderr_level="ERROR",
        )  # fmt: skip
        descriptors.raise_limit()
        token = paths.token(home)
        listening = _listening(settings.inference_port)
        registry = CollectorRegistry(auto_describe=False)
        catalogue = Catalogue(catalogue_file(home))
        options = options_of(settings)
        async with open_inference(catalogue, options, time.monotonic, home / "logs") as inference:
            kept = Derived[str, Any](settings.inference_answers, 3_600.0, time.monotonic)
            answers = Answers(inference=inference, kept=kept)
            registry.register(InferenceCollector(inference, answers))

            def stop() -> None:
                server.end()

            api = Api(inference, answers, registry, now=time.time, stop=stop)
            gate = Middleware(
                Gate, token=token, limited={paths.chat_key(home): ("/v1/",)},
                key_file=paths.CHAT_KEY, max_body_bytes=MOST_BODY_BYTES,
                rate=RateLimiter(RATE_PER_MINUTE), shape=_refused,
            )  # fmt: skip
            server = WebServer(application(api, [gate]), handle_signals=True)
            host, port = listening.getsockname()[:2]
            _say(home, {"url": f"http://{host}:{port}", "pid": os.getpid()})
            try:
                await server.serve([listening])
            finally:
                state_file(home).unlink(missing_ok=True)


def _listening(port: int) -> socket.socket:
    try:
        return bind("127.0.0.1", port)
    except OSError as exc:
        raise UnavailableError(
            f"port {port} cannot be had ({exc.strerror})", hint="set `inference_port` to another"
        ) from exc


def _refused(status: int, text: str) -> dict[str, Any]:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    return error(text, kind=kinds.get(status, "invalid_request_error"), code=None)


def _say(home: Path, state: dict[str, Any]) -> None:
    path = state_file(home)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps(state), encoding="utf-8")
    fresh.replace(path)


@contextmanager
def _only_one(home: Path) -> Generator[None]:
    path = lock_file(home)
    make_private(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise ConflictError(
            "a sidecar of this home runs already", hint="`arsenale inference status` shows it"
        ) from exc
    try:
        yield
    finally:
        os.close(descriptor)


def main() -> int:
    """Serve in this process: `python -m arsenale_inference`."""
    try:
        anyio.run(serve, Settings.read())
    except ConflictError as exc:
        logs.get("arsenale.inference").error("not started", reason=str(exc))
        return ALREADY_RUNS
    except ArsenaleError as exc:
        logs.get("arsenale.inference").error("not started", reason=str(exc))
        return 1
    return 0
