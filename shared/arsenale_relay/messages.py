"""What a host's line is: a message, a batch of them, or neither. Pure.

JSON-RPC 2.0 sections 4 to 6, narrowed by MCP: an id is a string or an integer, params are an object
(specification 2025-11-25, "Base protocol"), and batches exist in revision 2025-03-26 only.
"""

import codecs
import json
import math
import re
from typing import Any, cast

PARSE_ERROR, INVALID_REQUEST, LOST = -32700, -32600, -32000
"""JSON-RPC 2.0 section 5.1; the last is of the range that it leaves to implementations."""

BATCH_VERSION = "2025-03-26"
"""The one protocol revision with batches."""

_STRING = rb'"(?:[^"\\]|\\.){0,500}"'
_ID = rb'"id"\s*:\s*(-?\d{1,40}(?![\d.eE])|' + _STRING + rb")"
_ID_FIRST = re.compile(rb'\s*\{(?:\s*"(?:jsonrpc|method)"\s*:\s*' + _STRING + rb"\s*,)*\s*" + _ID)
_ID_LAST = re.compile(rb",\s*" + _ID + rb"\s*\}\s*\Z")

TAIL_BYTES = 700


class Fault(Exception):
    """A line, or a member of a batch, that is not a valid message.

    Attributes:
        answer: The JSON-RPC error for it, as a line.
    """

    def __init__(self, code: int, text: str, id: str = "null") -> None:
        super().__init__(text)
        self.answer = error(id, text, code)


def parse(line: bytes) -> Any:
    """Return the JSON value of LINE, which is UTF-8 (MCP, "Transports").

    Raises:
        Fault: It is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except RecursionError:
        text = "Parse error: the message is nested too deeply; send it flatter"
    except UnicodeDecodeError as exc:
        text = f"Parse error: the message is not UTF-8 (byte {exc.start})"
    except ValueError as exc:
        text = f"Parse error: the message is not JSON ({exc})"
    raise Fault(PARSE_ERROR, text, find_id(line))


def check(message: object) -> dict[str, Any]:
    """Return MESSAGE, which is a request, a notification or a response.

    Raises:
        Fault: It is none of these.
    """
    if not isinstance(message, dict):
        raise Fault(INVALID_REQUEST, "Invalid request: a message is a JSON object")
    found = cast("dict[str, Any]", message)
    id = found.get("id")
    known = isinstance(id, (str, int)) and not isinstance(id, bool)
    finite = isinstance(id, float) and math.isfinite(id)  # JSON has no NaN to answer with
    key = json.dumps(id) if known or finite else "null"
    if found.get("jsonrpc") != "2.0":
        raise Fault(INVALID_REQUEST, 'Invalid request: "jsonrpc" must be "2.0"', key)
    if "id" in found and not known:
        raise Fault(INVALID_REQUEST, "Invalid request: an id is a string or an integer", key)
    if isinstance(id, str) and not _is_text(id):
        raise Fault(INVALID_REQUEST, "Invalid request: the id has half a surrogate pair", key)
    if "method" not in found:
        if ("result" in found and "id" in found) or "error" in found:
            return found
        raise Fault(INVALID_REQUEST, "Invalid request: the message has no method", key)
    if not isinstance(found["method"], str):
        raise Fault(INVALID_REQUEST, "Invalid request: a method is a string", key)
    if not isinstance(found.get("params"), (dict, type(None))):
        raise Fault(INVALID_REQUEST, "Invalid request: params must be an object", key)
    return found


def sendable(line: bytes, message: dict[str, Any]) -> bytes:
    """Return LINE, which is MESSAGE, without a byte order mark and without the relay's own mark.

    A line that begins with the member `arsenale` is the relay's to the daemon.
    """
    line = line.removeprefix(codecs.BOM_UTF8)
    if "arsenale" not in message:
        return line
    return json.dumps({k: v for k, v in message.items() if k != "arsenale"}).encode() + b"\n"


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_id(line: bytes) -> str:
    """Return the id of a request that cannot be read as a whole, as JSON; `null` without one.

    It is found as the first or the last member of the object, where clients put it. An id elsewhere
    may belong to something inside.
    """
    found = _ID_FIRST.match(line) or _ID_LAST.search(line[-TAIL_BYTES:])
    if found is None or not line.lstrip().startswith(b"{"):
        return "null"
    try:
        return json.dumps(json.loads(found[1]))
    except ValueError:
        return "null"


def error(id: str, text: str, code: int = LOST) -> bytes:
    """Return a JSON-RPC error line for the request whose id, as JSON, is ID."""
    retry = ',"data":{"retry":true}' if code == LOST else ""
    body = f'"error":{{"code":{code},"message":{json.dumps(text)}{retry}}}'
    return f'{{"jsonrpc":"2.0","id":{id},{body}}}\n'.encode()
