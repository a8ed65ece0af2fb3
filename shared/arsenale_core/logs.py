"""Structured logs: JSON lines in a rotating file, readable lines on stderr. Never on stdout.

Nothing of a request's body, of the environment or of a token is logged: names, sizes, durations.
"""

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TypeAlias

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import Processor

from arsenale_core.files import make_private

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
    root.handlers.clear()
    root.setLevel(level)
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(stderr_level or level)
    _attach(stderr, structlog.dev.ConsoleRenderer(colors=False))
    if file is not None:
        try:
            make_private(file.parent)
            handler = _PrivateRotatingFile(file, maxBytes=max_bytes, backupCount=backups)
        except OSError as exc:
            root.warning("no log file: %s", exc)
        else:
            _attach(handler, structlog.processors.JSONRenderer())
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


def _attach(handler: logging.Handler, renderer: Processor) -> None:
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.getLogger().addHandler(handler)
