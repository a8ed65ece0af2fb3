"""Memories as files and back: JSONL, Markdown with frontmatter, the knowledge-graph server's JSONL.

Pure: text in, items out. JSONL and Markdown are lossless: what is exported and imported again is
the same, every version of it. The graph's form has entities, observations and relations only.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# PyYAML says nothing about its types.

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args
from uuid import UUID

import yaml

from arsenale_core.errors import InvalidError
from arsenale_memory import answers, capture, codec, moments
from arsenale_memory.record import Ended, Kind, Labels, Version

Format: TypeAlias = Literal["jsonl", "markdown", "graph", "claude"]

MAX_NAME_CHARS = 400
MARK = "arsenale-memory"
"""First field of our own JSONL lines."""

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_ODD = re.compile(r"[^\x20-\x7e\xa1-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_SLUG = re.compile(r"[^\w]+", re.UNICODE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to import.

    Attributes:
        versions: All versions of a memory of ours, the oldest first; empty for what is not ours.
        content: What it says, when it is not ours.
        reference: Where in the source it stands.
    """

    reference: str
    versions: tuple[Version, ...] = ()
    content: str = ""
    subject: str | None = None
    kind: str = "note"
    tags: tuple[str, ...] = ()
    at: str | None = None
    session: str | None = None
    fields: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())


def version_out(version: Version) -> dict[str, Any]:
    """Return VERSION as JSON, without what is empty."""
    said: dict[str, Any] = {
        "id": version.uid,
        "version": version.number,
        "namespace": version.namespace,
        "owner": version.owner,
        "kind": version.kind,
        "content": version.content,
        "subject": version.subject,
        "session": version.session,
        "importance": version.importance,
        **codec.labels_out(version.labels),
        "source": codec.source_out(version.source),
        "recalled": version.recalled or None,
        "created_us": version.created_us,
        "written_us": version.written_us,
        "valid_from_us": version.valid_from_us,
        "valid_to_us": version.valid_to_us,
        "ended_us": version.ended_us,
        "ended": version.ended,
    }
    return {name: value for name, value in said.items() if value is not None}


def version_in(said: Mapping[str, Any]) -> Version:
    """Return the version that SAID, as `version_out` gives it, holds.

    Raises:
        InvalidError: A field is missing or of the wrong kind.
    """
    try:
        found = Version(
            uid=str(UUID(_needed(said, "id"))),
            number=_number(said, "version", 1, 1_000_000),
            namespace=answers.namespace_name(_needed(said, "namespace")),
            owner=_needed(said, "owner"),
            kind=_one_of(said["kind"], get_args(Kind)),
            content=capture.cleaned(_needed(said, "content")),
            subject=_optional(said, "subject"),
            session=_optional(said, "session"),
            importance=float(said["importance"]),
            labels=_labels(said),
            source=codec.source_in({k: str(v) for k, v in dict(said["source"]).items()}),
            recalled=bool(said.get("recalled", False)),
            created_us=_moment(said, "created_us"),
            written_us=_moment(said, "written_us"),
            valid_from_us=_moment(said, "valid_from_us"),
            valid_to_us=_moment(said, "valid_to_us") if "valid_to_us" in said else None,
            ended_us=_moment(said, "ended_us") if "ended_us" in said else None,
            ended=_one_of(said["ended"], get_args(Ended)) if "ended" in said else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as exc:
        raise InvalidError(f"a field is missing or wrong ({exc})") from exc
    if not 0 <= found.importance <= 1 or (found.ended is None) != (found.ended_us is None):
        raise InvalidError("`importance`, or `ended` and `ended_us`, are wrong")
    return found


def _needed(said: Mapping[str, Any], name: str) -> str:
    if not isinstance(said[name], str):
        raise TypeError(f"{name} is no text")
    return capture.plain(said[name])


def _optional(said: Mapping[str, Any], name: str) -> str | None:
    return None if said.get(name) is None else _needed(said, name)[:MAX_NAME_CHARS]


def _number(said: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = said[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is out of range")
    return value


def _moment(said: Mapping[str, Any], name: str) -> int:
    return _number(said, name, moments.EARLIEST_US, moments.LATEST_US)


def _one_of(value: object, known: Sequence[Any]) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value


def _labels(said: Mapping[str, Any]) -> Labels:
    found: dict[str, tuple[str, ...]] = {}
    for name in ("tags", "domains", "entities"):
        values = said.get(name, [])
        if not isinstance(values, list):
            raise TypeError(f"{name} is no list")
        texts = cast("list[object]", values)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{name} has what is no text")
        found[name] = tuple(map(str, texts))
    return Labels(**found)


# JSONL.


def jsonl_out(histories: Iterable[Sequence[Version]]) -> Iterator[str]:
    """Give one line for each version, a memory's versions together, the oldest first."""
    for history in histories:
        for version in sorted(history, key=lambda v: v.number):
            yield json.dumps({"type": MARK, **version_out(version)}, ensure_ascii=False) + "\n"


def jsonl_in(lines: Iterable[str]) -> Iterator[Item | str]:
    """Give the items of LINES, and of a line that cannot be read the reason."""
    history: list[Version] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _jsonl_line(line, number)
        if isinstance(found, Version):
            if history and history[-1].uid != found.uid:
                yield _whole(history)
                history = []
            history.append(found)
        else:
            yield found
    if history:
        yield _whole(history)


def _jsonl_line(line: str, number: int) -> Version | Item | str:
    try:
        said = json.loads(line)
        if not isinstance(said, dict):
            return f"line {number}: it is no JSON object"
        row = cast("dict[str, Any]", said)
        if row.get("type") == MARK:
            return version_in(row)
    except (ValueError, InvalidError, RecursionError) as exc:
        return f"line {number}: {exc}"
    if row.get("type") in ("entity", "relation"):
        return _graph_item(row, number)
    content = row.get("content") or row.get("text")
    if not isinstance(content, str) or not content.strip():
        return f"line {number}: no `content`"
    tags = row.get("tags")
    return Item(
        reference=f"line {number}",
        content=content,
        subject=_text(row.get("subject")),
        kind=_text(row.get("kind")) or "note",
        tags=tuple(map(str, cast("list[object]", tags))) if isinstance(tags, list) else (),
        at=_text(row.get("at")),
        session=_text(row.get("session")),
    )


def _whole(history: Sequence[Version]) -> Item:
    return Item(reference=history[0].uid, versions=tuple(history))


# The reference knowledge-graph server's JSONL.


def graph_out(versions: Iterable[Version]) -> Iterator[str]:
    """Give each subject as an entity with its memories as observations."""
    observed: dict[str, list[str]] = {}
    for version in versions:
        observed.setdefault(version.subject or version.namespace, []).append(version.content)
    for name in sorted(observed):
        entity = {"type": "entity", "name": name, "entityType": "subject"}
        yield json.dumps({**entity, "observations": observed[name]}, ensure_ascii=False) + "\n"


def _graph_item(row: Mapping[str, Any], number: int) -> Item | str:
    """Return an entity with its observations, or a relation as a sentence."""
    if row["type"] == "relation":
        ends = [_text(row.get(name)) for name in ("from", "relationType", "to")]
        if None in ends:
            return f"line {number}: a relation has `from`, `relationType` and `to`"
        words = " ".join(str(end).replace("_", " ") for end in ends)
        return Item(
            reference=f"line {number}", content=f"{words}.", subject=ends[0], kind="fact",
            tags=("relation",), fields=dict(row),
        )  # fmt: skip
    name, observations = _text(row.get("name")), row.get("observations")
    if name is None or not isinstance(observations, list):
        return f"line {number}: an entity has `name` and `observations`"
    return Item(
        reference=f"line {number}", subject=name, kind="fact", fields=dict(row),
        tags=(kind,) if (kind := _text(row.get("entityType"))) else (),
    )  # fmt: skip


def observations(item: Item) -> list[Item]:
    """Return ITEM, or the observations of the entity that it is, each a memory."""
    if item.fields.get("type") != "entity":
        return [item]
    texts = cast("list[object]", item.fields["observations"])
    return [
        Item(
            reference=item.reference, content=_about(item.subject or "", str(text)),
            subject=item.subject, kind="fact", tags=item.tags,
        )
        for text in texts
        if str(text).strip()
    ]  # fmt: skip


def _about(name: str, text: str) -> str:
    """Return TEXT with the NAME that it is about, which an observation leaves out."""
    return text if name.lower() in text.lower() else f"{name}: {text}"


# Markdown with frontmatter.


def markdown_out(history: Sequence[Version]) -> tuple[str, str]:
    """Return the path and the text of a memory as a note; older versions are in its frontmatter."""
    *older, version = sorted(history, key=lambda v: v.number)
    front = {name: value for name, value in version_out(version).items() if name != "content"}
    front["date"] = moments.iso(version.valid_from_us)
    if older:
        front["history"] = [version_out(old) for old in older]
    body = yaml.dump(front, Dumper=_Exact, sort_keys=False, allow_unicode=True, width=10_000)
    words = _SLUG.sub("-", version.content.strip()[:60]).strip("-") or "memory"
    folder = _SLUG.sub("-", version.namespace).strip("-") or "memories"
    name = f"{folder}/{words[:50].strip('-')}-{version.uid[-8:]}.md"
    return name, f"---\n{body}---\n{version.content}"


def markdown_in(path: str, text: str) -> Item:
    """Return the note in the file PATH, ours or anyone's.

    Raises:
        InvalidError: Its frontmatter cannot be read, or it says nothing.
    """
    match = _FRONT.match(text)
    front = _frontmatter(path, match[1]) if match else {}
    content = text[match.end() :] if match else text
    if "id" in front and "written_us" in front:
        history = [version_in(old) for old in _list(front.pop("history", None))]
        return Item(reference=path, versions=(*history, version_in({**front, "content": content})))
    if not content.strip():
        raise InvalidError(f"{path} says nothing")
    tags = front.get("tags", ())
    listed = tags.split(",") if isinstance(tags, str) else _list(tags)
    when = front.get("date") or front.get("created")
    return Item(
        reference=path,
        content=content.strip(),
        subject=_text(front.get("subject") or front.get("title")),
        kind=str(front.get("kind", "note")),
        tags=tuple(str(tag).strip() for tag in listed),
        at=None if when is None else str(when),
    )


def _list(value: object) -> list[Any]:
    """Return VALUE if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _frontmatter(path: str, text: str) -> dict[str, Any]:
    try:
        said = yaml.load(text, _NoAliases)
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        first = str(exc).splitlines()[0]
        raise InvalidError(f"{path}: its frontmatter cannot be read ({first})") from exc
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise InvalidError(f"{path}: its frontmatter is no table")
    return cast("dict[str, Any]", said)


class _Exact(yaml.SafeDumper):
    """YAML in which every character of a text comes back: odd ones are written as escapes."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything where it stands."""
        return True


def _represent_text(dumper: _Exact, text: str) -> Any:
    style = '"' if _ODD.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Exact.add_representer(str, _represent_text)


class _NoAliases(yaml.SafeLoader):
    """YAML without aliases: they make much of little, and notes have no use for them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
