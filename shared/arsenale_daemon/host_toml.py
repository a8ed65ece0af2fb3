"""Codex's `config.toml`: our server tables in or out; comments and order stay. Pure."""

from pathlib import Path
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from arsenale_core.errors import InvalidError
from arsenale_daemon.host_entries import Install, is_our_server, server_entries

KEY = "mcp_servers"


def servers(path: Path, before: str | None, install: Install, *, undo: bool) -> str | None:
    """Return the text of the file after the change; `None` when no file is to remain.

    Raises:
        InvalidError: The file is no TOML, or `mcp_servers` in it no table.
    """
    try:
        document = tomlkit.parse(before or "")
    except TOMLKitError as exc:
        raise InvalidError(f"{path}: {exc}", hint="mend it, then run init again") from exc
    had: Any = document.unwrap().get(KEY, {})
    if not isinstance(had, dict):
        raise InvalidError(f"{path}: {KEY} is no table", hint="mend it, then run init again")
    wanted = {} if undo else server_entries(install, typed=False)
    entries = cast("dict[str, Any]", had)
    ours = {name: entry for name, entry in entries.items() if is_our_server(name, entry)}
    if ours == wanted:
        return before
    found = cast("Any", document.get(KEY))  # pyright: ignore[reportUnknownMemberType]
    for name in ours:
        del found[name]
    if found is None:
        found = document[KEY] = tomlkit.table(is_super_table=True)
    for name, entry in wanted.items():
        found[name] = _table(entry)
    if undo and not found:
        del document[KEY]
    text = tomlkit.dumps(document)
    return None if undo and not text.strip() else text


def our_servers(path: Path, text: str | None) -> list[str]:
    """Return the names of our servers, without their prefix.

    Raises:
        InvalidError: The file is not TOML.
    """
    try:
        entries = tomlkit.parse(text or "").unwrap().get(KEY, {})
    except TOMLKitError as exc:
        raise InvalidError(f"{path}: {exc}", hint="fix it, then run init again") from exc
    if not isinstance(entries, dict):
        return []
    found = cast("dict[str, Any]", entries).items()
    return [name.removeprefix("arsenale-") for name, one in found if is_our_server(name, one)]


def _table(entry: dict[str, Any]) -> Table:
    table = tomlkit.table()
    for name, value in entry.items():
        table[name] = value
    return table
