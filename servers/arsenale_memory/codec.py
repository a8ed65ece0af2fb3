"""Versions as rows and back: the one place that knows how a field is kept."""

from hashlib import sha256
from typing import Any, cast

import orjson

from arsenale_memory.record import Labels, Source, Version


def content_sha(content: str) -> bytes:
    """Return what identifies CONTENT: SHA-256 of its words, whatever the white space between."""
    return sha256(" ".join(content.split()).encode()).digest()


def row(version: Version, id: int, namespace_id: int) -> dict[str, Any]:
    """Return VERSION as a row of the table `memory`."""
    return {
        "id": id,
        "uid": version.uid,
        "number": version.number,
        "namespace_id": namespace_id,
        "owner": version.owner,
        "kind": version.kind,
        "content": version.content,
        "sha": content_sha(version.content),
        "subject": version.subject,
        "session": version.session,
        "importance": version.importance,
        "labels": orjson.dumps(labels_out(version.labels)).decode(),
        "source": orjson.dumps(source_out(version.source)).decode(),
        "recalled": int(version.recalled),
        "created_us": version.created_us,
        "written_us": version.written_us,
        "valid_from_us": version.valid_from_us,
        "valid_to_us": version.valid_to_us,
        "ended_us": version.ended_us,
        "ended": version.ended,
    }


def version(row: Any, namespace: str) -> Version:
    """Return the version that ROW of the table `memory` holds."""
    return Version(
        uid=row.uid,
        number=row.number,
        namespace=namespace,
        owner=row.owner,
        kind=row.kind,
        content=row.content,
        subject=row.subject,
        session=row.session,
        importance=row.importance,
        labels=labels_in(orjson.loads(row.labels)),
        source=source_in(orjson.loads(row.source)),
        recalled=bool(row.recalled),
        created_us=row.created_us,
        written_us=row.written_us,
        valid_from_us=row.valid_from_us,
        valid_to_us=row.valid_to_us,
        ended_us=row.ended_us,
        ended=row.ended,
    )


def labels_out(labels: Labels) -> dict[str, list[str]]:
    """Return LABELS as JSON, without what is empty."""
    named = {"tags": labels.tags, "domains": labels.domains, "entities": labels.entities}
    return {name: list(values) for name, values in named.items() if values}


def labels_in(said: Any) -> Labels:
    """Return the labels that the JSON value SAID holds."""
    given = cast("dict[str, list[str]]", said)
    return Labels(
        tags=tuple(given.get("tags", ())),
        domains=tuple(given.get("domains", ())),
        entities=tuple(given.get("entities", ())),
    )


def source_out(source: Source) -> dict[str, str]:
    """Return SOURCE as JSON, without what is unknown."""
    named = {
        "via": source.via,
        "host": source.host,
        "session": source.session,
        "reference": source.reference,
    }
    return {name: value for name, value in named.items() if value}


def source_in(said: Any) -> Source:
    """Return the source that the JSON value SAID holds."""
    given = cast("dict[str, str]", said)
    return Source(
        via=given.get("via") or "unknown",
        host=given.get("host"),
        session=given.get("session"),
        reference=given.get("reference"),
    )
