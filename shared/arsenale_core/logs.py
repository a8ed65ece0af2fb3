"""Structured logs: JSON lines in a rotating file, readable lines on stderr. Never on stdout.

Nothing of a request's body, of the environment or of a token is logged: names, sizes, durations.
Log files rotate, and so does a file to which stderr goes. Equal lines are written a few times a
minute; how many were left out is logged.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TypeAlias, cast

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import Processor

from arsenale_core import err_files
from arsenale_core.files import make_private
from arsenale_core.throttling import Line, Suppressed, Throttle

Logger: TypeAlias = BoundLogger

_SHARED: tuple[Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
)


class _PrivateRotatingFile(RotatingFileHandler):
    """A rotating file that only its owner can read."""

    def _open(self):  # type: ignore[no-untyped-def]  # the parent's return type is private
        return os.fdopen(
            os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
            "a",
            encoding="utf-8",
        )


class Outlets(logging.Handler):
    """Passes records on to where they are written, as far as the throttle admits them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._throttle = Throttle(now)
        self._outlets: list[logging.Handler] = []
        self._err_file: Path | None = None
        self._timer: threading.Timer | None = None

    def add(self, outlet: logging.Handler, renderer: Processor) -> None:
        """Write to OUTLET as well, as RENDERER puts it."""
        outlet.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=_SHARED,
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            )
        )
        self._outlets.append(outlet)

    def bound_stderr_in(self, folder: Path) -> None:
        """Bound the file in FOLDER to which our stderr goes, if it does."""
        self._err_file = err_files.own(folder)

    def emit(self, record: logging.LogRecord) -> None:
        """Write RECORD, or count it."""
        try:
            self._report(self._throttle.over())
            if record.levelno <= logging.DEBUG or self._throttle.admits(_line(record)):
                self._write(record)
            elif self._timer is None:
                self._start_timer()
        except Exception:  # noqa: BLE001  # as every handler: a bad line ends nothing
            self.handleError(record)

    def bound_stderr(self) -> None:
        """Move what is in the file of our stderr aside when it is too much."""
        if self._err_file is not None:
            err_files.bound(self._err_file)

    def close(self) -> None:
        """Report what was left out, and close."""
        self.acquire()
        try:
            if self._timer is not None:
                self._timer.cancel()
            self._report(self._throttle.over(at_once=True))
            for outlet in self._outlets:
                if isinstance(outlet, logging.FileHandler):
                    outlet.close()
            self._outlets.clear()
        finally:
            self.release()
        super().close()

    def _write(self, record: logging.LogRecord) -> None:
        for outlet in self._outlets:
            if record.levelno >= outlet.level:
                outlet.handle(record)
        self.bound_stderr()

    def _start_timer(self) -> None:
        due_s = self._throttle.due_s()
        if due_s is not None:
            self._timer = threading.Timer(due_s + 0.1, self._timed)
            self._timer.daemon = True
            self._timer.start()

    def _timed(self) -> None:
        self.acquire()
        try:
            self._report(self._throttle.over())
            self._timer = None
            self._start_timer()
        finally:
            self.release()

    def _report(self, reports: list[Suppressed]) -> None:
        for one in reports:
            name, level = one.source
            text = f"{one.count:,} more lines in {one.within_s:g} s were left out: {one.event}"
            self._write(logging.LogRecord(name, level, __file__, 0, text[:1_000], None, None))


def _line(record: logging.LogRecord) -> Line:
    """Return what of RECORD counts for the throttle."""
    source = (record.name, record.levelno)
    message: object = record.msg  # pyright: ignore[reportUnknownMemberType]
    if isinstance(message, dict):  # structlog's
        said = cast("dict[str, object]", message)
        trace = str(said.get("exception", "")).rstrip().rpartition("\n")[2]
        details = {name: said[name] for name in sorted(said) if name not in _UNCOUNTED}
        event = str(said.get("event", ""))
        return Line(source=source, event=event[:500], text=f"{details} {trace}"[:2_000])
    kind = record.exc_info[0] if record.exc_info else None
    event = str(message)[:500]
    return Line(source=source, event=event, text=f"{record.getMessage()} {kind}"[:2_000])


_UNCOUNTED = frozenset({"timestamp", "exception", "level", "logger"})


def bound_stderr() -> None:
    """Bound the file to which our stderr goes: what is no log line grows too."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Outlets):
            handler.bound_stderr()


def configure(
    level: str,
    *,
    file: Path | None,
    max_bytes: int = 5 * 2**20,
    backups: int = 3,
    stderr_level: str | None = None,
) -> None:
    """Send the log of this process, ours and our libraries', to stderr and to FILE.

    STDERR_LEVEL says from which level on stderr is told; by default the same LEVEL. Called
    once, where a process begins. A FILE that cannot be opened is said on stderr and skipped: logs
    never keep a server from running.
    """
    root = logging.getLogger()
    for before in root.handlers:
        if isinstance(before, Outlets):
            before.close()
    root.handlers.clear()
    root.setLevel(level)
    outlets = Outlets()
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(stderr_level or level)
    outlets.add(stderr, structlog.dev.ConsoleRenderer(colors=False))
    root.addHandler(outlets)
    if file is not None:
        try:
            make_private(file.parent)
            outlets.bound_stderr_in(file.parent)
            handler = _PrivateRotatingFile(file, maxBytes=max_bytes, backupCount=backups)
        except OSError as exc:
            root.warning("no log file: %s", exc)
        else:
            outlets.add(handler, structlog.processors.JSONRenderer())
    for noisy in ("uvicorn.access", "watchfiles", "mcp", "sse_starlette"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(name: str) -> Logger:
    """Return the logger called NAME."""
    # Bound to the standard library here and not by global configuration: structlog's own default
    # would print on stdout, which belongs to the protocol.
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=BoundLogger,
    )
