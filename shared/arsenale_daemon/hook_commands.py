"""The commands of hooks in hosts' files: how ours are built and recognised. Pure but for one look.

Each command goes through `/bin/sh -c SCRIPT MARK ...`, which exits 0 whatever happens: Claude Code
takes exit status 2 as a refusal, and that is how both Python and dash report a script that is
missing. MARK becomes `$0` and tells our entries from the user's own, whose scripts may have any
name.
"""

import shlex
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

Kind: TypeAlias = Literal["hook", "guard"]

MARKS: dict[Kind, str] = {"hook": "arsenale-hook", "guard": "arsenale-guard"}
"""The word after the script of our commands: `init` writes hooks, `arsenale guard` guards."""

_READ = "command cat >/dev/null 2>&1"
"""Whatever fails, stdin is read to its end: the host must not get a broken pipe."""

_BEGIN = 'trap "exit 0" EXIT; PATH=${PATH:+$PATH:}/usr/bin:/bin; '

RUN_SHELL = _BEGIN + f'[ -f "$1" ] || {{ {_READ}; exit; }}; f=$1; shift; . "$f" 2>/dev/null'
"""Runs a shell script within the same shell: no second process, 0.0 ms more than without this."""

RUN_PYTHON = _BEGIN + f'{{ [ -f "$4" ] && "$@"; }} 2>/dev/null || {_READ}'
"""Runs PYTHON -I -S SCRIPT ...: silent where one of them is missing or dies."""

OLD_SHELL = ("log_event.sh",)
OLD_PYTHON: dict[str, Kind] = {
    "log_event.py": "hook", "tracking_id.py": "hook", "inject.py": "hook", "guard.py": "guard",
}  # fmt: skip
"""Scripts that version 0.1.0 called without a mark."""


def shell_command(script: Path, *arguments: str) -> list[str]:
    """Return the words that run the shell SCRIPT and never fail."""
    return ["/bin/sh", "-c", RUN_SHELL, MARKS["hook"], str(script), *arguments]


def python_command(kind: Kind, python: str, script: Path, *arguments: str) -> list[str]:
    """Return the words that run SCRIPT by PYTHON and never fail."""
    words = [python, "-I", "-S", str(script), *arguments]
    return ["/bin/sh", "-c", RUN_PYTHON, MARKS[kind], *words]


def kind_of(handler: object) -> Kind | None:
    """Return what a handler of a host's hook file is, if it is ours; `None` for the user's own."""
    words = words_of(handler)
    if len(words) > 4 and words[1] == "-c" and Path(words[0]).name == "sh":
        return next((kind for kind, mark in MARKS.items() if words[3] == mark), None)
    return _old_kind(words)


def words_of(handler: object) -> list[str]:
    """Return the words of a handler's command; none where it has no command we understand."""
    if not isinstance(handler, dict):
        return []
    fields = cast("dict[str, Any]", handler)
    command, arguments = fields.get("command"), fields.get("args")
    if not isinstance(command, str):
        return []
    if isinstance(arguments, list):
        return [command, *(str(word) for word in cast("list[object]", arguments))]
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _old_kind(words: list[str]) -> Kind | None:
    """Recognise the exact commands of version 0.1.0, in a hooks folder of an installation."""
    if len(words) == 3 and words[0] == "/bin/sh":
        script = Path(words[1])
        ours = script.name in OLD_SHELL and Path(words[2]).name == "spool"
        return "hook" if ours and _is_hooks_folder(script.parent) else None
    if len(words) < 4 or words[1:3] != ["-I", "-S"]:
        return None
    script = Path(words[3])
    kind = OLD_PYTHON.get(script.name)
    rest = [word for word in words[4:] if word != "--closed"]
    known = _is_hooks_folder(script.parent) or (
        len(rest) == 2 and Path(rest[0]) == script.parent.parent / "shared"
    )
    return kind if known else None


def _is_hooks_folder(folder: Path) -> bool:
    """Say whether FOLDER is the hooks folder of an installed package, or of a checkout."""
    installed = folder.parts[-3:] == ("arsenale_core", "_assets", "hooks")
    checkout = folder.name == "hooks" and (folder.parent / "shared" / "arsenale_relay").is_dir()
    return installed or checkout
