"""How many files this process may have open, and what of that connections may take."""

import resource
from dataclasses import dataclass

MACOS_OPEN_MAX = 10_240
"""The highest soft limit that macOS accepts where its hard limit is unlimited (`OPEN_MAX`)."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the soft limit that holds.

    The usual soft limit of 1,024 is for programs that use `select`, which nothing here does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MACOS_OPEN_MAX):
        if wanted == soft or 0 <= wanted < soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue  # macOS refuses "unlimited", and some containers any change
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many connections one listener holds.

    Attributes:
        strangers: Connections that have not said who they are.
        known: Connections of clients that have.
    """

    strangers: int
    known: int


MOST_STRANGERS = 256
"""An honest client stops being a stranger with its first bytes, which arrive with it. So this
bounds a burst of new clients, not their number: it is twice the backlog of a listener (128)."""

MOST_KNOWN = 1_024
"""Thirty assistants with five servers each take 150."""


def room() -> Room:
    """Return the room of one listener; a process has two, and needs files for other things too.

    Under the usual limits it is the whole `MOST_STRANGERS` and `MOST_KNOWN`; with 1,024 open files
    it is 128 and 256, with 256 it is 32 and 64.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return Room(strangers=MOST_STRANGERS, known=MOST_KNOWN)
    return Room(
        strangers=max(8, min(MOST_STRANGERS, limit // 8)),
        known=max(16, min(MOST_KNOWN, limit // 4)),
    )
