"""Where this installation's own pieces lie, as host configurations must name them."""

import sys
from collections.abc import Sequence
from pathlib import Path

import arsenale_relay
from arsenale_core.assets import asset_dir
from arsenale_core.config import DEFAULT_HOME, Settings
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_daemon import discovery
from arsenale_daemon.host_entries import Install


def interpreter() -> str:
    """Return the absolute path of this Python, by which a host starts the relay."""
    return sys.executable


def relay_path() -> Path:
    """Return the file that runs the relay with `python -I -S`."""
    assert arsenale_relay.__file__ is not None
    return Path(arsenale_relay.__file__).with_name("__main__.py")


def hook_path() -> Path:
    """Return the hook script that logs events."""
    return asset_dir("hooks") / "log_event.sh"


def current(
    settings: Settings, *, tracking: bool = False, servers: Sequence[str] | None = None
) -> Install:
    """Return what a host's configuration must name to reach this installation.

    Args:
        settings: The settings.
        tracking: Answer each tool call with its tracking id.
        servers: The servers to connect, by default all. Hooks follow: without telemetry no event
            is logged, without memory nothing is added to prompts.

    Raises:
        NotFoundError: A server of that name is not installed.
    """
    known = discovery.names()
    for name in servers or ():
        if name not in known:
            raise NotFoundError("server", name, hint=f"choose from {', '.join(known)}")
    chosen = tuple(name for name in known if servers is None or name in servers)
    if not chosen:
        raise InvalidError("no server was chosen", hint=f"choose from {', '.join(known)}")
    return Install(
        python=interpreter(),
        relay=relay_path(),
        hook=hook_path(),
        spool=settings.home / "spool",
        home=settings.home,
        default_home=DEFAULT_HOME.expanduser(),
        servers=chosen,
        tracking=tracking and "telemetry" in chosen,
        inject="memory" in chosen,
        log="telemetry" in chosen,
        all_servers=len(chosen) == len(known),
        timeout_s=settings.hook_timeout_s,
    )
