"""Small files of a tree like Linux's /sys; what cannot be read is None, as on any other system."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")

_LONGEST: Final = 4096


def word(file: Path) -> str | None:
    """Return what a file says, or None: it is not there, only root may read it, it fails."""
    try:
        with file.open("rb") as opened:
            return opened.read(_LONGEST).decode("utf-8", "replace").strip()
    except OSError:
        return None


def whole(file: Path) -> int | None:
    """Return the whole number that a file says, or None."""
    said = word(file)
    return int(said) if said is not None and re.fullmatch(r"-?[0-9]{1,20}", said) else None


def folders(parent: Path, pattern: str) -> Iterator[Path]:
    """Yield the folders of PARENT whose names match PATTERN, a regular expression, in order."""
    try:
        found = sorted(parent.iterdir())
    except OSError:
        return
    yield from (each for each in found if re.fullmatch(pattern, each.name))
