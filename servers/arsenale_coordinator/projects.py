"""Which repository a folder belongs to: the same name for all its worktrees."""

from pathlib import Path

HOPS = 60
"""A folder deeper than this below its repository is taken to have none."""


def project_of(folder: str | None) -> str:
    """Return the path of the repository's common git directory, without a last `.git`.

    A worktree's is that of its main checkout (gitrepository-layout(5), `commondir`). A folder in
    no repository is its own project; empty for no folder.
    """
    if not folder:
        return ""
    place = Path(folder)
    for here in [place, *place.parents][:HOPS]:
        common = _common_dir(here / ".git")
        if common is not None:
            return str(common.parent if common.name == ".git" else common)
    return str(place)


def top_of(folder: str | None) -> Path | None:
    """Return the checkout that FOLDER lies in: paths in reservations are relative to it."""
    if not folder:
        return None
    place = Path(folder)
    for here in [place, *place.parents][:HOPS]:
        if (here / ".git").exists():
            return here
    return place


def tops_of(path: Path) -> list[Path]:
    """Return every checkout that PATH lies in, the innermost first.

    A submodule and a clone within a tree are checkouts in a checkout.
    """
    return [here for here in [path, *path.parents][:HOPS] if (here / ".git").exists()]


def _common_dir(git: Path) -> Path | None:
    try:
        if git.is_dir():
            return git.resolve()
        if not git.is_file():
            return None
        text = git.read_text(encoding="utf-8", errors="replace")
        own = (git.parent / text.removeprefix("gitdir:").strip()).resolve()
        common = own / "commondir"
        if common.is_file():
            return (own / common.read_text(encoding="utf-8").strip()).resolve()
    except OSError:
        return None
    return own
