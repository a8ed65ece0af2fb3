"""The JSON files of hosts: put our entries in, or take them out; the rest stays as it is. Pure."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from arsenale_core.errors import InvalidError
from arsenale_daemon import jsonc
from arsenale_daemon.host_entries import (
    Install,
    Json,
    Style,
    is_our_server,
    server_entries,
)

Entries: TypeAlias = Mapping[str, list[Json]]
Ours: TypeAlias = Callable[[object], bool]


def servers(
    path: Path, before: str | None, key: str, install: Install, *, undo: bool, typed: bool
) -> str | None:
    """Return the text of a server file after the change; `None` when no file is to remain.

    Raises:
        InvalidError: The file is no JSON object, or KEY in it no object.
    """
    document = _parse(path, before)
    table = _object(path, document, key)
    ours = [name for name, entry in table.items() if is_our_server(name, entry)]
    wanted = {} if undo else server_entries(install, typed=typed)
    for name in ours:
        if name not in wanted:
            del table[name]
    table.update(wanted)
    _put(document, key, table, keep_empty=not (ours and undo))
    return _print(before, document)


def hooks(path: Path, before: str | None, style: Style, wanted: Entries, ours: Ours) -> str | None:
    """Return the text of a hook file after the change; `None` when no file is to remain.

    Args:
        path: The file, for errors.
        before: Its text.
        style: How the host writes hooks.
        wanted: Entries by event; none to take out what is ours.
        ours: Tells our handlers from others'.

    Raises:
        InvalidError: The file is no JSON object, or its hooks have another shape.
    """
    document = _parse(path, before)
    table = _object(path, document, "hooks")
    undo, found = not wanted, False
    places: dict[str, int] = {}
    for event in list(table):
        kept = _without_ours(path, event, table[event], ours)
        if kept != table[event]:
            found = True
            places[event] = _place(table[event], kept)
            if kept:
                table[event] = kept
            else:
                del table[event]
    if undo and not found:
        return before
    for event, entries in wanted.items():
        there = table.get(event, [])
        place = places.get(event, len(there))
        table[event] = [*there[:place], *entries, *there[place:]]
    if style == "cursor" and not undo:
        document.setdefault("version", 1)
    _put(document, "hooks", table, keep_empty=not undo)
    after = _print(before, document)
    return before if before and after and says_the_same(before, after) else after


def our_servers(path: Path, text: str | None, key: str) -> list[str]:
    """Return the names of our servers under KEY, without their prefix."""
    entries = _object(path, _parse(path, text), key).items()
    return [name.removeprefix("arsenale-") for name, one in entries if is_our_server(name, one)]


def enables_plugin(text: str) -> bool:
    """Say whether a settings file of Claude Code enables the plugin `arsenale`."""
    try:
        document = _loads(text)
        enabled = document["enabledPlugins"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return any(str(name).startswith("arsenale@") and on is True for name, on in enabled)


def permissions(path: Path, text: str | None, tools: Sequence[str], *, undo: bool) -> str | None:
    """Return TEXT of Claude Code's settings with TOOLS in `permissions.allow`, or without them.

    Raises:
        InvalidError: The file is no JSON object, or its permissions have another shape.
    """
    document = _parse(path, text)
    rules = _object(path, document, "permissions")
    there: Any = rules.get("allow", [])
    if not isinstance(there, list):
        raise InvalidError(f"{path}: permissions.allow is not a list", hint="fix it, then retry")
    others = [one for one in cast("list[object]", there) if one not in tools]
    gone = len(cast("list[object]", there)) - len(others)
    if gone == (0 if undo else len(tools)):
        return text
    allowed = others if undo else [*others, *tools]
    if allowed or not undo:
        rules["allow"] = allowed
    else:
        rules.pop("allow", None)
    _put(document, "permissions", rules, keep_empty=False)
    return _print(text, document)


def handlers(path: Path, text: str | None) -> list[Json]:
    """Return every handler of a hook file, whatever its event.

    Raises:
        InvalidError: The file is no JSON object, or its hooks have another shape.
    """
    found: list[Json] = []
    for groups in _object(path, _parse(path, text), "hooks").values():
        for group in cast("list[object]", groups) if isinstance(groups, list) else []:
            if isinstance(group, dict):
                inner = cast("Json", group).get("hooks")
                each = cast("list[object]", inner if isinstance(inner, list) else [group])
                found += [cast("Json", one) for one in each if isinstance(one, dict)]
    return found


def _place(groups: list[Any], kept: list[Any]) -> int:
    """Return where in KEPT the first group stood that is not there any more."""
    same = (i for i, (one, other) in enumerate(zip(groups, kept, strict=False)) if one != other)
    return next(same, len(kept))


def _without_ours(path: Path, event: str, groups: object, ours: Ours) -> list[Any]:
    """Return the entries of EVENT without our handlers; a group that only held ours goes."""
    if not isinstance(groups, list):
        raise InvalidError(
            f"{path}: hooks.{event} is no list", hint="mend it by hand, then run init again"
        )
    kept: list[Any] = []
    for group in cast("list[object]", groups):
        if ours(group):
            continue
        if isinstance(group, dict) and isinstance(cast("Json", group).get("hooks"), list):
            handlers: list[Any] = cast("Json", group)["hooks"]
            others = [handler for handler in handlers if not ours(handler)]
            if len(others) != len(handlers):
                if others:
                    kept.append({**cast("Json", group), "hooks": others})
                continue
        kept.append(group)
    return kept


def _parse(path: Path, text: str | None) -> Json:
    if text is None or not text.strip():
        return {}
    try:
        document = _loads(text)
    except json.JSONDecodeError as exc:
        raise InvalidError(
            f"{path}, line {exc.lineno}: {exc.msg}", hint="fix that line, then run it again"
        ) from exc
    if not isinstance(document, dict):
        raise InvalidError(f"{path} is no JSON object", hint="mend or move it")
    return cast("Json", document)


def _object(path: Path, document: Json, key: str) -> Json:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise InvalidError(f"{path}: {key} is no object", hint="mend it, then run init again")
    return dict(cast("Json", table))


def says_something(text: str) -> bool:
    """Say whether a host's file, JSON or TOML, holds more than an empty frame."""
    try:
        return _loads(text) not in ({}, {"version": 1}) or "//" in text or "/*" in text
    except ValueError:
        return bool(text.strip())


def says_the_same(one: str, other: str) -> bool:
    """Say whether two texts of a host's file mean the same but for white space and empty frames."""
    try:
        return _items(_pruned(_loads(one))) == _items(_pruned(_loads(other)))
    except ValueError:
        return one.rstrip() == other.rstrip()


def _pruned(document: Any) -> Any:
    """Return DOCUMENT without the empty frames that taking out the last of our entries leaves."""
    if not isinstance(document, dict):
        return document
    kept = dict(cast("Json", document))
    for key in ("hooks", "mcpServers", "servers"):
        table: Any = kept.get(key)
        if isinstance(table, dict):
            full = {name: value for name, value in cast("Json", table).items() if value != []}
            kept.pop(key)
            if full:
                kept[key] = full
    return kept


def _put(document: Json, key: str, table: Json, *, keep_empty: bool) -> None:
    if table or (keep_empty and key in document):
        document[key] = table
    else:
        document.pop(key, None)


def _print(before: str | None, document: Json) -> str | None:
    """Return DOCUMENT in the manner of BEFORE; `None` when nothing is left of it."""
    if before is None:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n" if document else None
    if before.strip() and _loads(before) == document:
        return before
    if _needs_care(before):
        after = jsonc.edited(before, document)
        if _loads(after) != document:
            raise InvalidError(
                "this file's comments or doubled keys cannot be kept",
                hint="add by hand what `arsenale init --dry-run` shows in an empty folder",
            )
        return after
    if not document and not before.strip():
        return before
    indent = re.search(r"\n([ \t]+)\S", before)
    escaped = re.search(r"\\u[0-9a-fA-F]{4}", before) is not None
    if indent is None and before.strip() not in ("", "{}"):
        text = json.dumps(document, ensure_ascii=escaped, separators=_separators(before))
    else:
        width: str | int = indent[1] if indent else 2
        text = json.dumps(document, indent=width, ensure_ascii=escaped)
    return text + ("\n" if before.endswith("\n") or not before.strip() else "")


def _loads(text: str) -> Any:
    """Read JSON, with comments, trailing commas and a byte order mark where there are any."""
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError:
        return json.loads(jsonc.plain(text))


def _needs_care(text: str) -> bool:
    """Say whether writing TEXT anew would lose something: comments, doubled keys, CRLF, a BOM."""
    if not text.strip():
        return False
    if text.startswith("\ufeff") or "\r\n" in text:
        return True
    doubled: list[bool] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        doubled.append(len({key for key, _ in found}) < len(found))
        return dict(found)

    try:
        json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError:
        return True
    return any(doubled)


def _separators(before: str) -> tuple[str, str]:
    return (", ", ": ") if '": ' in before else (",", ":")


def _items(value: Any) -> list[Any]:
    """Return VALUE with the order of keys made comparable."""
    if isinstance(value, dict):
        return [[key, _items(item)] for key, item in cast("Json", value).items()]
    if isinstance(value, list):
        return [_items(item) for item in cast("list[Any]", value)]
    return [value]
