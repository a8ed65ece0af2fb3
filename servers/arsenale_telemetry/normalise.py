"""From whatever a host's hook was given to one redacted `HookEvent`. Pure; never raises."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Literal, TypeAlias, cast
from urllib.parse import unquote, urlsplit

import orjson

from arsenale_core.events import HookEvent, Payload, Phase, Status
from arsenale_core.redaction import JsonValue, names_secret, redact, redact_value
from arsenale_telemetry import hosts

Scalar: TypeAlias = str | int | float | bool | None

MAX_NAME = 200
"""Longest id, tool or agent name kept, characters."""

MAX_PATH = 1_000
MAX_SUBJECT = 200
MAX_ERROR = 500
MAX_ARGUMENTS = 16
MAX_SCANNED = 256 * 1024
"""Longest text that is looked through for secrets, characters; what is behind is never kept."""

CONTENT = frozenset(
    {
        "content", "contents", "new_string", "old_string", "newString", "oldString", "new_source",
        "prompt", "edits", "originalFile", "text", "body", "data", "todos", "code",
    }
)  # fmt: skip
"""Arguments that carry a body: only their size is kept."""

_DRIVE = re.compile(r"/?[A-Za-z]:(?:[/\\]|$)")

SUBJECTS = (
    "file_path", "filePath", "path", "command", "cmd", "pattern", "query", "url", "uri", "skill",
    "subagent_type", "description", "name", "id",
)  # fmt: skip
"""The arguments that say what a call is about, the most telling first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """How much of an event is kept.

    Attributes:
        level: `minimal`: names, times, sizes, hashes. `summary`: also short arguments. `bodies`:
            also inputs and outputs. What is kept is redacted.
        max_body_bytes: Where a kept body is cut.
    """

    level: Literal["minimal", "summary", "bodies"] = "summary"
    max_body_bytes: int = 32 * 1024


def normalise(raw: Mapping[str, object], *, at_us: int, origin: str, capture: Capture) -> HookEvent:
    """Return RAW, the JSON object a hook was given, as an event.

    Args:
        raw: Any object; a field of the wrong type counts as absent.
        at_us: When the hook ran, microseconds since the epoch, UTC.
        origin: Names the delivery, the same each time it is read: it tells events without a
            tool-use id apart.
        capture: What is kept.
    """
    own_name = _text(hosts.first(raw, hosts.EVENT)) or "Unknown"
    lower = own_name.lower()
    kind = hosts.EVENTS.get(lower, own_name)
    phase = _phase(kind)
    session = _text(hosts.first(raw, hosts.SESSION)) or "unknown"
    call_id = _text(hosts.first(raw, hosts.CALL))
    tool = _text(hosts.first(raw, hosts.TOOL)) or hosts.IMPLIED_TOOLS.get(lower)
    given, got = _bodies(raw, kind, lower)
    summary = capture.level != "minimal"
    body = _payload(given, capture)
    failed = _failed(raw, kind, got)
    return HookEvent(
        key=_key(session, kind, call_id, phase, origin, raw),
        at_us=at_us,
        host=hosts.host_of(raw),
        kind=kind,
        phase=phase if tool else "point",
        session=session,
        prompt_id=_text(hosts.first(raw, hosts.PROMPT)),
        tool_use_id=call_id,
        match_key=_digest(session, tool, body.sha256.hex() if body else "") if tool else None,
        tool=tool,
        server=_server(raw, tool),
        agent_id=_text(hosts.first(raw, hosts.AGENT)),
        agent_type=_text(hosts.first(raw, hosts.AGENT_TYPE)),
        cwd=_cwd(raw),
        status=_status(raw, got, failed) if phase == "end" else None,
        duration_us=_duration_us(raw),
        subject=_subject(given) if summary and tool else None,
        arguments=_arguments(given) if summary and tool else None,
        input=body,
        output=_payload(got, capture),
        error=_error(raw, got, failed) if summary else None,
        detail=_detail(raw),
    )


def _phase(kind: str) -> Phase:
    if kind == "PreToolUse":
        return "start"
    return "end" if kind in ("PostToolUse", "PostToolUseFailure") else "point"


def _bodies(raw: Mapping[str, object], kind: str, own_name: str) -> tuple[object, object]:
    """Return what went in and what came out, wherever the host puts it."""
    if kind == "UserPromptSubmit":
        return raw.get("prompt"), None
    if kind in ("Stop", "SubagentStop"):
        return None, raw.get("last_assistant_message")
    if _phase(kind) == "point":
        return None, None
    given = _parsed(hosts.first(raw, hosts.INPUT))
    if given is None and own_name in hosts.IMPLIED_TOOLS:
        given = {name: raw[name] for name in hosts.INPUT_FIELDS if name in raw}
    got = hosts.first(raw, hosts.OUTPUT) if kind != "PreToolUse" else None
    return given, _parsed(got)


def _parsed(value: object) -> object:
    """Return VALUE, read once more if it is an object written as a string (Copilot, Cursor)."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _payload(value: object, capture: Capture) -> Payload | None:
    if value is None:
        return None
    data = _canonical(value)
    text = _kept_body(value, capture.max_body_bytes) if capture.level == "bodies" else None
    return Payload(size_bytes=len(data), sha256=sha256(data).digest(), text=text)


def _kept_body(value: object, max_bytes: int) -> str:
    clean = redact_value(cast("JsonValue", value), max_text=MAX_SCANNED)
    data = clean.encode(errors="replace") if isinstance(clean, str) else _canonical(clean)
    if len(data) <= max_bytes:
        return data.decode(errors="replace")
    return data[:max_bytes].decode(errors="ignore") + f"…[truncated {len(data) - max_bytes} bytes]"


def _canonical(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # integers past 64 bits, lone surrogates
        return repr(value).encode(errors="replace")


def _key(
    session: str, kind: str, call_id: str | None, phase: Phase, origin: str,
    raw: Mapping[str, object],
) -> bytes:  # fmt: skip
    if call_id is not None and phase != "point":
        return _digest(session, kind, call_id)
    return _digest(session, kind, origin, sha256(_canonical(raw)).hexdigest())


def _digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).digest()


def _server(raw: Mapping[str, object], tool: str | None) -> str | None:
    named = raw.get("mcp_server")
    if isinstance(named, Mapping):
        return _text(cast("Mapping[str, object]", named).get("name"))
    return hosts.mcp_server(tool) if tool else None


def _cwd(raw: Mapping[str, object]) -> str | None:
    roots = raw.get("workspace_roots")
    first_root = cast("list[object]", roots)[0] if isinstance(roots, list) and roots else None
    for value in (raw.get("cwd"), first_root):
        if isinstance(value, str) and value.strip():
            return _text(normal_path(value), MAX_PATH)
    return None


def normal_path(path: str) -> str:
    """Return one spelling for the ways in which hosts write a folder.

    Trailing and doubled separators, `.`, `..` and `file:` go; Windows paths keep their drive, in
    capitals, with `/`. Nothing is looked up: the folder may be on another machine.
    """
    path = path.strip()
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    if path.startswith("\\\\?\\"):
        path = path[4:]
    if _DRIVE.match(path):
        path = path.lstrip("/")
        path = path[0].upper() + path[1:]
    network = path.startswith("\\\\")
    if path[1:2] == ":" or network:
        path = path.replace("\\", "/")
    plain = posixpath.normpath(path)
    if not network:
        plain = re.sub(r"^//+", "/", plain)
    return f"{plain}/" if _DRIVE.fullmatch(plain) else plain


def _failed(raw: Mapping[str, object], kind: str, got: object) -> bool:
    return kind == "PostToolUseFailure" or (kind == "PostToolUse" and hosts.failed(got))


def _status(raw: Mapping[str, object], got: object, failed: bool) -> Status:
    stopped = isinstance(got, Mapping) and cast("Mapping[str, object]", got).get("interrupted")
    if raw.get("is_interrupt") is True or stopped is True:
        return "interrupted"
    return "error" if failed else "ok"


def _duration_us(raw: Mapping[str, object]) -> int | None:
    value = hosts.first(raw, hosts.DURATION)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A year is longer than any call; NaN fails both comparisons.
    return int(value * 1000) if 0 <= value <= 31_536_000_000 else None


def _subject(given: object) -> str | None:
    if isinstance(given, str):
        return _short(given)
    if not isinstance(given, Mapping):
        return None
    arguments = cast("Mapping[str, object]", given)
    for name in SUBJECTS:
        value = arguments.get(name)
        if isinstance(value, str) and value.strip():
            return _short(value)
    for name, value in arguments.items():
        if isinstance(value, str | int) and name not in CONTENT and not names_secret(str(name)):
            return _short(f"{name}={value}")
    return None


def _arguments(given: object) -> dict[str, Scalar] | None:
    if not isinstance(given, Mapping):
        return None
    kept: dict[str, Scalar] = {}
    for name, value in cast("Mapping[str, object]", given).items():
        if len(kept) == MAX_ARGUMENTS:
            break
        kept[_name(name[:MAX_NAME])] = _argument(name, value)
    return kept or None


def _argument(name: str, value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if names_secret(name):
        return "[redacted:value]"
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and name not in CONTENT and len(value) <= MAX_SUBJECT:
        return _name(value)
    return f"<{len(_canonical(value))} bytes>"


def _short(text: str) -> str:
    flat = " ".join(text[: MAX_SUBJECT * 8].split())
    clean = _name(flat) if len(flat) <= MAX_SUBJECT else _clean(redact(flat))
    return clean[:MAX_SUBJECT]


def _error(raw: Mapping[str, object], got: object, failed: bool) -> str | None:
    said = hosts.first(raw, hosts.ERROR)
    if said is None and failed and isinstance(got, Mapping):
        result = cast("Mapping[str, object]", got)
        said = result.get("error") or result.get("stderr") or result.get("message")
    if isinstance(said, Mapping):
        said = cast("Mapping[str, object]", said).get("message")
    return _clean(redact(said[: MAX_ERROR * 8]))[:MAX_ERROR] if isinstance(said, str) else None


def _detail(raw: Mapping[str, object]) -> dict[str, Scalar] | None:
    kept: dict[str, Scalar] = {}
    for name in hosts.DETAIL:
        value = raw.get(name)
        if isinstance(value, str):
            kept[name] = _name(value[:MAX_NAME])
        elif isinstance(value, bool | int | float):
            kept[name] = value
    effort = raw.get("effort")
    if isinstance(effort, Mapping):
        kept["effort"] = _text(cast("Mapping[str, object]", effort).get("level"))
    calls = raw.get("tool_calls")
    if isinstance(calls, list):
        kept["calls"] = len(cast("list[object]", calls))
    return kept or None


def _text(value: object, limit: int = MAX_NAME) -> str | None:
    """Return VALUE if it is text worth keeping, redacted, without NUL, at most LIMIT long."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        return None
    return _name(value[:limit])


@lru_cache(maxsize=4096)
def _name(value: str) -> str:
    """Redact a short text: ids, names and arguments come again with every event of a call."""
    return _clean(redact(value))


def _clean(text: str) -> str:
    return text.replace("\0", "")
