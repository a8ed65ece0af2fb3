"""A snapshot of a persona: its files and its memories as content-addressed objects.

A manifest names everything by SHA-256, so two snapshots share what has not changed, and a restore
can prove that it gave back what was there. Memories go in segments of a few hundred rows: old
segments stay the same as new memories come.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from arsenale_core.errors import InvalidError
from arsenale_core.files import make_private
from arsenale_memory.objects import Objects

_HERE_ONLY = frozenset({"memory_id", "namespace_id", "space", "vectors"})
"""Columns of a part that mean something in one database only, and the vectors, which are coded."""

SEGMENT_ROWS = 256
"""Rows with the same `id // 256` are one object."""

MAX_FILE_BYTES = 16 * 2**20
MAX_FILES = 5_000
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a snapshot holds.

    Attributes:
        files: SHA-256 by path within the persona's folder.
        segments: SHA-256 of the rows of memories, in order, by namespace.
        links: SHA-256 of the links by namespace.
        versions: How many versions there are.
        probes: What some questions find, so that a restore can be compared.
        values: The merged identity with its origins.
    """

    persona: str
    files: Mapping[str, str]
    segments: Mapping[str, Sequence[str]]
    links: Mapping[str, str]
    versions: int
    probes: Sequence[Mapping[str, Any]]
    values: Mapping[str, Any]

    def encoded(self) -> bytes:
        """Return the manifest as canonical JSON: the same content has the same bytes."""
        said = {
            "format": FORMAT,
            "persona": self.persona,
            "files": dict(self.files),
            "segments": {name: list(found) for name, found in self.segments.items()},
            "links": dict(self.links),
            "versions": self.versions,
            "probes": list(self.probes),
            "values": dict(self.values),
        }
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)


def manifest(data: bytes) -> Manifest:
    """Return the manifest that DATA is.

    Raises:
        InvalidError: A newer version wrote it.
    """
    said = orjson.loads(data)
    if said.pop("format") != FORMAT:
        raise InvalidError("the snapshot is of another version", hint="install the newer Arsenale")
    return Manifest(**said)


def keep_files(folder: Path, objects: Objects) -> dict[str, str]:
    """Put every file of FOLDER into OBJECTS; return their names by path. Links are left out."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            continue
        if len(found) == MAX_FILES:
            raise InvalidError(f"{folder} has more than {MAX_FILES} files", hint="move some away")
        found[path.relative_to(folder).as_posix()] = objects.put(path.read_bytes())
    return found


def files_of(files: Mapping[str, str], objects: Objects) -> dict[str, bytes]:
    """Return the content of FILES by path: of all of them, or an error."""
    return {path: objects.get(name) for path, name in files.items()}


def restore_files(folder: Path, files: Mapping[str, bytes], kept: Iterable[str]) -> None:
    """Make FOLDER hold FILES; of others only those go that a snapshot has: KEPT.

    Each file is written whole or not at all.
    """
    gone = set(kept) - set(files)
    for path, data in files.items():
        target = _inside(folder, path)
        target = target.resolve() if target.is_symlink() else target  # a link of the user stays
        make_private(target.parent)
        fresh = target.with_name(f".{target.name}.restore")
        fresh.write_bytes(data)
        fresh.replace(target)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink():
            continue
        if path.is_file() and path.relative_to(folder).as_posix() in gone:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of FOLDER by path."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def keep_rows(rows: Iterable[Mapping[str, Any]], objects: Objects) -> tuple[list[str], int]:
    """Put ROWS (`dumping.dumped`, by rising id) into OBJECTS in segments; say how many rows."""
    names: list[str] = []
    segment: list[Mapping[str, Any]] = []
    count = 0
    number: int | None = None
    for row in rows:
        count += 1
        here = row["memory"]["id"] // SEGMENT_ROWS
        if number is not None and here != number:
            names.append(objects.put(_encoded(segment)))
            segment = []
        number = here
        segment.append(row)
    if segment:
        names.append(objects.put(_encoded(segment)))
    return names, count


def rows(names: Sequence[str], objects: Objects) -> Iterator[dict[str, Any]]:
    """Give the rows of the segments NAMES."""
    for name in names:
        for line in objects.get(name).splitlines():
            row = orjson.loads(line)
            for part in row["parts"]:
                part["vectors"] = {k: b64decode(v) for k, v in part["vectors"].items()}
            yield row


def contents(names: Sequence[str], objects: Objects) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Return the versions in the segments NAMES by uid and number, without parts."""
    return {
        (row["memory"]["uid"], row["memory"]["number"]): row["memory"]
        for row in rows(names, objects)
    }


def _encoded(segment: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as lines of canonical JSON; what only this database knows is left out."""
    lines: list[bytes] = []
    for row in segment:
        memory = {k: v for k, v in row["memory"].items() if k != "namespace_id"}
        parts = [
            {k: v for k, v in part.items() if k not in _HERE_ONLY}
            | {"vectors": {k: b64encode(v).decode() for k, v in part["vectors"].items()}}
            for part in row["parts"]
        ]  # fmt: skip
        said = {"memory": memory, "parts": parts}
        lines.append(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))
    return b"\n".join(lines)


def _inside(folder: Path, path: str) -> Path:
    target = folder / path
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise InvalidError(f"the snapshot names {path!r}", hint="it is not one of ours")
    for parent in target.relative_to(folder).parents:
        if (folder / parent).is_symlink() and parent != Path():
            raise InvalidError(f"{folder / parent} is a link", hint="move it away, then restore")
    return target
