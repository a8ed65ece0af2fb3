"""What `arsenale doctor` reports of memory: identity files that cannot be read whole."""

from collections.abc import Iterator
from pathlib import Path

from arsenale_core.checks import Check
from arsenale_core.config import Settings
from arsenale_memory import identity_files, levels


def examine(settings: Settings) -> Iterator[Check]:
    """Read the identity files of the home, and of the project that the command runs in."""
    folders = sorted((settings.home / "identities").glob("*/identity.toml"))
    personas = [file.parent for file in folders] or [settings.home / "identities" / "default"]
    files: dict[Path, None] = {}
    for persona in personas:
        for file in levels.files(persona, Path.cwd()).values():
            files[file] = None
    problems = [problem for file in files for problem in identity_files.read(file)[1]]
    if problems:
        found = "; ".join(str(problem) for problem in problems[:5])
        rest = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        fix = "edit the file at that line; the rest of it is used meanwhile"
        yield Check("identity", "warn", f"{found}{rest}", fix)
    else:
        there = sum(file.is_file() for file in files)
        yield Check("identity", "ok", f"{there} identity files")
