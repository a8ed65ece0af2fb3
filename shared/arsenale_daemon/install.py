"""Where this installation's own pieces lie, as host configurations must name them."""

import sys
from pathlib import Path

import arsenale_relay
from arsenale_core.assets import asset_dir
from arsenale_core.config import DEFAULT_HOME, Settings
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


def current(settings: Settings, *, tracking: bool = False) -> Install:
    """Return what a host's configuration must name to reach this installation."""
    return Install(
        python=interpreter(),
        relay=relay_path(),
        hook=hook_path(),
        spool=settings.home / "spool",
        home=settings.home,
        default_home=DEFAULT_HOME.expanduser(),
        servers=tuple(discovery.names()),
        tracking=tracking,
        timeout_s=settings.hook_timeout_s,
    )
