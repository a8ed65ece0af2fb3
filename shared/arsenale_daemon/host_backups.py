"""Copies of hosts' files as they were before us, and which folders we made for them.

They lie in `ARSENALE_HOME/backups`, by a hash of the file's path: nothing of ours stays in a
project. Version 0.1.0 kept its copies beside the files; those are still read.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from arsenale_core.files import make_private

OLD_SUFFIX = ".arsenale-backup"


@dataclass(frozen=True, slots=True)
class Backup:
    """What is kept of one file.

    Attributes:
        home: `ARSENALE_HOME`.
        path: The file, links resolved.
    """

    home: Path
    path: Path

    @property
    def _copy(self) -> Path:
        name = sha256(str(self.path).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.home / "backups" / f"{name}.bak"

    @property
    def _record(self) -> Path:
        return self._copy.with_suffix(".json")

    @property
    def _old(self) -> Path:
        return self.path.with_name(self.path.name + OLD_SUFFIX)

    def read(self) -> bytes | None:
        """Return the file as it was before us; `None` where nothing was kept."""
        for copy in (self._copy, self._old):
            with suppress(OSError):
                return copy.read_bytes()
        return None

    def keep(self, content: bytes | None) -> None:
        """Keep CONTENT, the file before our first change, and which folders are still missing.

        Args:
            content: `None` where there is no file.
        """
        missing = [str(p) for p in (self.path.parent, *self.path.parent.parents) if not p.exists()]
        self.forget()
        make_private(self._copy.parent)
        record: dict[str, Any] = {"path": str(self.path), "folders": missing}
        self._record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        self._record.chmod(0o600)
        if content is not None:
            self._copy.touch(mode=0o600)
            self._copy.write_bytes(content)

    def forget(self) -> None:
        """Delete what is kept."""
        for file in (self._copy, self._record, self._old):
            file.unlink(missing_ok=True)

    def remove_folders(self) -> list[Path]:
        """Remove the folders that we made and that are empty now; return them."""
        removed: list[Path] = []
        try:
            folders = json.loads(self._record.read_text(encoding="utf-8"))["folders"]
        except (OSError, ValueError, KeyError):
            return []
        for folder in map(Path, folders):  # the innermost first
            try:
                folder.rmdir()
            except OSError:
                break
            removed.append(folder)
        return removed
