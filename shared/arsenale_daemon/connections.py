"""Which assistants were connected where: `ARSENALE_HOME/connections.json`, for `uninstall`."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from arsenale_core.files import make_private

FILE = "connections.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One assistant that init has connected, or one repository that has a guard.

    Attributes:
        host: The assistant, or `git` for a guard of commits.
        scope: `project`, or `user` for all projects.
        folder: The project's root, or the user's home directory.
    """

    host: str
    scope: str
    folder: str


def read(home: Path) -> list[Connection]:
    """Return the connections that HOME knows, the oldest first; a damaged file counts as empty."""
    try:
        rows: Any = json.loads((home / FILE).read_text(encoding="utf-8"))["connections"]
        return [
            Connection(host=str(row["host"]), scope=str(row["scope"]), folder=str(row["folder"]))
            for row in cast("list[dict[str, Any]]", rows)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def record(home: Path, connection: Connection) -> None:
    """Add CONNECTION to those of HOME."""
    others = [one for one in read(home) if one != connection]
    _write(home, [*others, connection])


def forget(home: Path, connection: Connection) -> None:
    """Take CONNECTION out of those of HOME."""
    known = read(home)
    if connection in known:
        _write(home, [one for one in known if one != connection])


def _write(home: Path, connections: list[Connection]) -> None:
    make_private(home)
    rows = [asdict(connection) for connection in connections]
    document = {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "connections": rows}
    fresh = home / f".{FILE}.{os.getpid()}"
    fresh.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    fresh.chmod(0o600)
    fresh.replace(home / FILE)
