"""Who the assistant is, from three levels: global, project, local. Pure, but for `read`.

The nearer level wins: a plain value replaces, a table is merged key by key, a list is continued.
Every value remembers which level it comes from.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from arsenale_core.errors import InvalidError

Level: TypeAlias = Literal["global", "project", "local"]

MAX_BYTES = 1 << 20

KNOWN = {
    "name": str, "class": str, "template": str, "namespace": str, "language": str,
    "core_memories": list, "projects": list, "rules": list, "facts": dict,
}  # fmt: skip
"""The keys of an identity and what they hold; `facts` takes whatever the user wants to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The merged values, and for each, by dotted key, the level that it comes from."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def text(self, key: str, default: str) -> str:
        """Return the text at KEY."""
        return str(self.values.get(key, default))

    def items(self, key: str) -> list[Any]:
        """Return the list at KEY, empty when there is none."""
        return list(self.values.get(key, []))


def files(persona_folder: Path, project: Path | None) -> dict[Level, Path]:
    """Return where each level's file may be."""
    found: dict[Level, Path] = {"global": persona_folder / "identity.toml"}
    if project is not None:
        found["project"] = project / ".arsenale" / "identity.toml"
        found["local"] = project / ".arsenale" / "identity.local.toml"
    return found


def read(path: Path) -> dict[str, Any]:
    """Return the values in the file PATH; none when it is not there.

    Raises:
        InvalidError: It does not parse, or a value is of the wrong kind.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidError(f"{path} is too large", hint="an identity is a page of text")
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise InvalidError(f"{path}: {exc}", hint="mend the file") from exc
    return checked(said, str(path))


def checked(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return SAID when every value is of the right kind.

    Raises:
        InvalidError: One is not; it says which, and in WHERE.
    """
    for key, value in said.items():
        if key not in KNOWN:
            known = ", ".join(KNOWN)
            raise InvalidError(f"{where}: no key {key!r}", hint=f"there are {known}")
        if not isinstance(value, KNOWN[key]):
            raise InvalidError(f"{where}: {key} must be a {KNOWN[key].__name__}")
    return dict(said)


def merge(levels: Sequence[tuple[str, Mapping[str, Any]]]) -> Identity:
    """Return the LEVELS (name, values) as one, the later ones nearer."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, given in levels:
        _merge_into(values, given, "", name, origins)
    return Identity(values=values, origins=origins)


def _merge_into(
    values: dict[str, Any],
    given: Mapping[str, Any],
    prefix: str,
    level: str,
    origins: dict[str, str],
) -> None:
    for key, value in given.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            inner = values.get(key)
            table = dict(cast("dict[str, Any]", inner)) if isinstance(inner, dict) else {}
            _merge_into(table, cast("Mapping[str, Any]", value), f"{name}.", level, origins)
            values[key] = table
        elif isinstance(value, list):
            before = cast("list[Any]", values.get(key, []))
            fresh = [item for item in cast("list[Any]", value) if item not in before]
            for number, _ in enumerate(fresh, len(before)):
                origins[f"{name}[{number}]"] = level
            values[key] = [*before, *fresh]
        else:
            values[key] = value
            origins[name] = level
