"""A project's git repository: its root, and what it leaves out of commits on this machine only."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMMENT = "# Files that `arsenale init` wrote: they name paths of this machine."


def root(folder: Path) -> Path:
    """Return the top folder of the working tree that FOLDER is in; FOLDER outside of one."""
    top = git(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else folder


def tracked(top: Path, files: Sequence[Path]) -> list[Path]:
    """Return those of FILES that the repository at TOP has under version control."""
    return [file for file in files if git(top, "ls-files", "--", _literal(file))]


def exclude(top: Path, files: Sequence[Path]) -> list[Path]:
    """Keep FILES out of commits, by `info/exclude`; return those that were not ignored before."""
    place = _exclude_file(top)
    if place is None:
        return []
    fresh = [file for file in files if _pattern(top, file) and not _is_ignored(top, file)]
    lines = [COMMENT, *(_pattern(top, file) for file in fresh)]
    if not fresh:
        return []
    text = _text(place)
    kept = text if not text or text.endswith("\n") else f"{text}\n"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(
        f"{kept}{''.join(line + chr(10) for line in lines)}".encode("utf-8", "surrogateescape")
    )
    return fresh


def include(top: Path, files: Sequence[Path]) -> None:
    """Take out the lines that `exclude` wrote for FILES; the user's own lines stay."""
    place = _exclude_file(top)
    text = _text(place) if place is not None else ""
    if place is None or COMMENT not in text:
        return
    gone = {_pattern(top, file) for file in files if not _elsewhere(top, file)}
    kept: list[str] = []
    ours: list[str] = []
    for line in [*text.splitlines(keepends=True), ""]:
        plain = line.rstrip("\r\n")
        if ours and plain.startswith("/") and plain in gone:
            continue
        if ours and plain.startswith("/"):
            ours.append(line)
            continue
        if len(ours) > 1:
            kept += ours
        ours = []
        if plain == COMMENT:
            ours = [line]
        else:
            kept.append(line)
    after = "".join(kept)
    if after != text:
        place.write_bytes(after.encode("utf-8", "surrogateescape"))


def git(folder: Path, *words: str) -> str:
    """Return what git prints about FOLDER; empty when it fails, or is not there."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return os.fsdecode(done.stdout).rstrip("\n") if done.returncode == 0 else ""


def _exclude_file(top: Path) -> Path | None:
    place = git(top, "rev-parse", "--git-path", "info/exclude")
    return top / place if place else None


def _pattern(top: Path, file: Path) -> str:
    """Return the pattern of gitignore(5) for FILE alone; empty where it lies outside of TOP."""
    try:
        inner = file.resolve().relative_to(top.resolve()).as_posix()
    except ValueError:
        return ""
    return "/" + "".join(f"\\{c}" if c in "\\*?[" else c for c in inner)


def _is_ignored(top: Path, file: Path) -> bool:
    return bool(git(top, "check-ignore", "--no-index", "--", str(file)))


def _elsewhere(top: Path, file: Path) -> bool:
    """Say whether another working tree of the repository, with the same exclusions, has FILE."""
    inner = _pattern(top, file).removeprefix("/")
    lines = git(top, "worktree", "list", "--porcelain").splitlines()
    trees = [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]
    return any((t / inner).exists() for t in trees if t.resolve() != top.resolve())


def _literal(file: Path) -> str:
    return f":(literal){file}"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""
