"""`python -m arsenale_daemon`: the daemon itself, as the first relay or `arsenale up` starts it.

With the words of a command it is that command: `python -m arsenale_daemon status`.
"""

import gc
import sys

if sys.argv[1:] and sys.argv[1:] != ["--foreground"]:
    from arsenale_daemon.cli import main as run_command

    run_command()
    sys.exit()

gc.disable()  # nothing of the imports is garbage: this takes a sixth off the start

import os  # noqa: E402

import anyio  # noqa: E402
import prometheus_client  # noqa: E402

from arsenale_core import descriptors, logs  # noqa: E402
from arsenale_core.config import Settings  # noqa: E402
from arsenale_core.errors import ArsenaleError  # noqa: E402
from arsenale_core.terminal_text import write  # noqa: E402
from arsenale_daemon import paths  # noqa: E402
from arsenale_daemon.process import Daemon, hold_lock  # noqa: E402


def main() -> int:
    """Serve until the end; return the exit status."""
    try:
        settings = Settings.read()
        lock = hold_lock(settings.home)
    except (ArsenaleError, OSError) as exc:
        write(f"arsenale: {exc}\n", to=sys.stderr)
        return 1
    if lock is None:
        write("arsenale: the daemon is running already\n", to=sys.stderr)
        return 0
    os.chdir(settings.home)  # not the folder of whoever started it
    logs.configure(
        settings.log_level,
        file=paths.log_file(settings.home),
        max_bytes=settings.log_max_bytes,
        backups=settings.log_backups,
        stderr_level=None if sys.stderr.isatty() or "--foreground" in sys.argv else "WARNING",
    )
    descriptors.raise_limit()
    prometheus_client.disable_created_metrics()
    gc.freeze()  # what is here now stays: no collection need look at it
    gc.enable()
    anyio.run(Daemon(settings).run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
