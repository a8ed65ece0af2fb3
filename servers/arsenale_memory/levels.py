"""Who the assistant is, from three levels: global, project, local. Pure.

The nearer level wins: a plain value replaces, a table is merged key by key, a list is continued.
Every value remembers which level it comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from arsenale_core import trust

Level: TypeAlias = Literal["global", "project", "local"]

KNOWN = {
    "name": str, "class": str, "template": str, "namespace": str, "language": str,
    "core_memories": list, "projects": list, "rules": list, "facts": dict,
}  # fmt: skip
"""The keys of an identity and what they hold; `facts` takes whatever the user wants to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The merged values, and for each, by dotted key, the level that it comes from.

    Attributes:
        unused: The project's files that are not used, each with the reason: nobody approved them.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    unused: Sequence[str] = ()

    def text(self, key: str, default: str) -> str:
        """Return the text at KEY."""
        return str(self.values.get(key, default))

    def items(self, key: str) -> list[Any]:
        """Return the list at KEY, empty when there is none."""
        return list(self.values.get(key, []))

    def is_own(self, key: str) -> bool:
        """Return whether the value at KEY is the user's own, not from a file of a project."""
        return self.origins.get(key, "global") == "global"

    def own(self, key: str) -> list[Any]:
        """Return those of the list at KEY that are the user's own."""
        return [item for n, item in enumerate(self.items(key)) if self.is_own(f"{key}[{n}]")]

    def foreign(self, key: str) -> list[Any]:
        """Return those of the list at KEY that come from files of the project."""
        return [item for n, item in enumerate(self.items(key)) if not self.is_own(f"{key}[{n}]")]


def files(persona_folder: Path, project: Path | None) -> dict[Level, Path]:
    """Return where each level's file may be."""
    found: dict[Level, Path] = {"global": persona_folder / "identity.toml"}
    if project is not None:
        found["project"], found["local"] = (project / file for file in trust.PROJECT_FILES)
    return found


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
            there = values.get(key)
            before = cast("list[Any]", there) if isinstance(there, list) else []
            fresh = [item for item in cast("list[Any]", value) if item not in before]
            for number, _ in enumerate(fresh, len(before)):
                origins[f"{name}[{number}]"] = level
            values[key] = [*before, *fresh]
        else:
            values[key] = value
            origins[name] = level
