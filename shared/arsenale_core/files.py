"""Folders and files that are for nobody but the user."""

from pathlib import Path


def make_private(folder: Path) -> None:
    """Make FOLDER and what is missing above it, for nobody but the user (0700).

    `Path.mkdir(parents=True, mode=0o700)` opens the folders above to others: its mode is only of
    the last.
    """
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)
