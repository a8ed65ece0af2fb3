"""A temporary `ARSENALE_HOME` of which nothing stays: no file, no process, whoever interrupts."""

import shutil
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from arsenale_core import sidecar
from arsenale_core.config import temporary_files_in
from arsenale_core.errors import ArsenaleError
from arsenale_daemon import control
from arsenale_relay import endpoint

SOCKETS = ("daemon", "mesh")

TERMINATE_S = 5.0
"""How long a process may take to end after SIGTERM, before SIGKILL."""


@contextmanager
def uninterrupted() -> Generator[None]:
    """Ignore Ctrl-C: an impatient second one must not stop the cleanup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def temporary_home() -> Generator[Path]:
    """Give a fresh home; end what runs in it and delete it afterwards."""
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="arsenale-example-"))
        home, temporary = folder / "home", folder / "tmp"
        for made in (home, temporary):
            made.mkdir(mode=0o700)
        (home / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
        with temporary_files_in(temporary):  # a worker that is killed leaves files there
            yield home
    finally:
        if folder is not None:
            remove(folder)


def remove(folder: Path) -> None:
    """End every process that uses FOLDER, whose `home` is an `ARSENALE_HOME`; then delete it."""
    with uninterrupted():
        end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def end(folder: Path) -> None:
    """End every process that uses FOLDER: by asking first, then by signals."""
    home = folder / "home"
    if home.is_dir():
        with suppress(ArsenaleError):
            sidecar.stop(home)
        with suppress(ArsenaleError):
            control.down(home)
    # A daemon that was about to start listens to nobody yet, and others may start meanwhile.
    while found := processes_of(folder):
        for process in found:
            with suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(found, TERMINATE_S)[1]:
            with suppress(psutil.Error):
                process.kill()
    for name in SOCKETS:  # a home with a long path has them elsewhere
        with suppress(OSError):
            Path(endpoint.socket_path(str(home), name)).unlink()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that have FOLDER in their environment or in their arguments."""
    me, found = psutil.Process(), list[psutil.Process]()
    mine = {me.pid, *(parent.pid for parent in me.parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in mine or process.status() == psutil.STATUS_ZOMBIE:
                continue
            home = process.environ().get("ARSENALE_HOME", "")
            if any(str(folder) in text for text in (home, *process.cmdline())):
                found.append(process)
    return found
