"""Errors of the suite. A message ends in what the caller can do next.

ArsenaleError
├── NotFoundError      the id names nothing (any more)
├── ConflictError      the write lost a race, or would break a uniqueness rule
├── InvalidError       what was asked, or what a file says, cannot be understood
└── UnavailableError   a peer, a file or a port is not there now: try again later
"""


class ArsenaleError(Exception):
    """Base of every error this suite raises on purpose: WHAT went wrong, HINT what to do next."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(f"{what}: {hint}" if hint else what)
        self.what = what
        self.hint = hint


class NotFoundError(ArsenaleError):
    """The id names nothing, or nothing any more."""

    def __init__(self, kind: str, id: str, *, hint: str) -> None:
        super().__init__(f"no {kind} {id!r}", hint=hint)
        self.kind = kind
        self.id = id


class ConflictError(ArsenaleError):
    """The write lost a race, or would break a uniqueness rule."""


class InvalidError(ArsenaleError):
    """What was asked, or what a file says, cannot be understood."""


class UnavailableError(ArsenaleError):
    """A peer process, a file or a port is not there now; the same call may succeed later."""
