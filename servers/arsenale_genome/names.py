"""Names of genomes, layers and tags: what they may be, and which one was meant. Pure."""

import difflib
import re
from collections.abc import Collection, Iterable

from arsenale_core.errors import InvalidError, NotFoundError

NAME_MAX = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_RESERVED = frozenset({"none", "both", "base"})
"""Words that mean something else where a name is expected."""

TAGS_MAX = 30
SHOWN = 5
"""So many names are told to who asked for one that is not there."""


def checked(kind: str, name: str) -> str:
    """Return NAME when a KIND may be called so.

    Raises:
        InvalidError: It may not; the hint has one that may.
    """
    if _NAME.fullmatch(name) and name not in _RESERVED:
        return name
    better = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:NAME_MAX]
    if better in _RESERVED:
        better = f"my-{better}"
    hint = f"as {better!r}" if better else "as 'my-first'"
    raise InvalidError(
        f"a {kind} cannot be called {name!r}",
        hint=f"use at most {NAME_MAX} of a-z, 0-9, '.', '_', '-', {hint}",
    )


def unknown(kind: str, name: str, known: Collection[str]) -> NotFoundError:
    """Return the error that tells which names near NAME there are."""
    if not known:
        todo = "`create_genome`" if kind == "genome" else "`add_layer`"
        return NotFoundError(kind, name, hint=f"there is none yet; make one with {todo}")
    near = difflib.get_close_matches(name, known, n=SHOWN, cutoff=0.4)
    if near:
        return NotFoundError(kind, name, hint=f"did you mean {', '.join(near)}?")
    some = ", ".join(sorted(known)[:SHOWN])
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return NotFoundError(kind, name, hint=f"there are {some}{more}")


def free(name: str, taken: Collection[str]) -> str:
    """Return NAME, or NAME with the lowest number that makes it free."""
    if name not in taken:
        return name
    number = 2
    while (other := f"{name[: NAME_MAX - 5]}-{number}") in taken:
        number += 1
    return other


def tags(given: Iterable[str]) -> tuple[str, ...]:
    """Return tags as they are kept: lowercase, sorted, without `#` and repetition.

    Raises:
        InvalidError: There are too many, or one is too long.
    """
    found = {tag.strip().lstrip("#").lower() for tag in given} - {""}
    if len(found) > TAGS_MAX or any(len(tag) > NAME_MAX for tag in found):
        raise InvalidError(
            "too many or too long tags", hint=f"give {TAGS_MAX} of {NAME_MAX} characters at most"
        )
    return tuple(sorted(found))
