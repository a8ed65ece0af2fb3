"""What `arsenale doctor` reports of memory: identity files that cannot be read whole."""

from collections.abc import Iterator
from pathlib import Path

from arsenale_core.checks import Check
from arsenale_core.config import Settings
from arsenale_core.trust import PROJECT_FILES, Trust
from arsenale_memory import identity_files


def examine(settings: Settings) -> Iterator[Check]:
    """Read the identity files of the home, and of the project that the command runs in."""
    own = sorted((settings.home / "identities").glob("*/identity.toml"))
    problems = [problem for file in own for problem in identity_files.read(file)[1]]
    used, unused = len(own), list[str]()
    for file in (Path.cwd() / name for name in PROJECT_FILES):
        _, found, why = identity_files.read_trusted(file, Trust(settings.home))
        problems += found
        unused += [f"{file} ({why})"] if why else []
        used += not why and file.is_file()
    if problems:
        text = "; ".join(str(problem) for problem in problems[:5])
        rest = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        fix = "edit the file at that line; the rest of it is used meanwhile"
        yield Check("identity", "warn", f"{text}{rest}", fix)
    elif unused:
        fix = "read and approve it with `arsenale trust`"
        yield Check("identity", "warn", f"not used: {', '.join(unused)}", fix)
    else:
        yield Check("identity", "ok", f"{used} identity files")
