"""A Messages API on loopback that plays a script: enough for the real Claude Code to run offline.

Each request of the main loop is answered with the next tool call of the script, and with a text
after the last. What the model is sent is kept, so that a test can look at it.
"""

import json
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias, cast

Call: TypeAlias = tuple[str, dict[str, Any]]
Script: TypeAlias = list[list[Call]]

USAGE = {
    "input_tokens": 100, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    "output_tokens": 1, "service_tier": "standard",
}  # fmt: skip


@dataclass(slots=True)
class Api:
    """A running API.

    Attributes:
        script: Tool calls: in each step those that are made in parallel, as name and arguments.
        requests: The bodies that the host sent, the main loop's only.
        times: When they came, seconds of the monotonic clock.
    """

    url: str = ""
    script: Script = field(default_factory=lambda: list[list[Call]]())
    requests: list[dict[str, Any]] = field(default_factory=lambda: list[dict[str, Any]]())
    times: list[float] = field(default_factory=lambda: list[float]())

    def reply(self, request: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """Return the content and the stop reason of the next message."""
        if not request.get("tools"):
            return [{"type": "text", "text": "a title"}], "end_turn"
        self.requests.append(request)
        self.times.append(time.monotonic())
        answers = sum(_is_tool_result(message) for message in request["messages"])
        if answers >= len(self.script):
            return [{"type": "text", "text": "done"}], "end_turn"
        calls = [
            _tool_use(f"toolu_{len(self.requests)}_{n}", *call)
            for n, call in enumerate(self.script[answers])
        ]
        return calls, "tool_use"

    @property
    def seen(self) -> str:
        """Everything that the model was sent, as JSON."""
        return json.dumps(self.requests, ensure_ascii=False)


def _tool_use(id: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


def _is_tool_result(message: dict[str, Any]) -> bool:
    content = message.get("content")
    parts = cast("list[dict[str, Any]]", content) if isinstance(content, list) else []
    return any(part.get("type") == "tool_result" for part in parts)


@contextmanager
def messages_api(script: Sequence[list[Call]] = ()) -> Generator[Api]:
    """Serve SCRIPT on a free port of loopback."""
    api = Api(script=list(script))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._send(b"", "text/plain")

        def do_GET(self) -> None:
            self._send(b'{"data":[],"has_more":false}', "application/json")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
            if "count_tokens" in self.path or "/v1/messages" not in self.path:
                self._send(b'{"input_tokens":1000}', "application/json")
                return
            content, stop = api.reply(request)
            message = {
                "id": f"msg_{id(request)}", "type": "message", "role": "assistant",
                "model": request.get("model"), "stop_sequence": None, "usage": USAGE,
            }  # fmt: skip
            if not request.get("stream"):
                whole = {**message, "content": content, "stop_reason": stop}
                self._send(json.dumps(whole).encode(), "application/json")
                return
            self._send(_events(message, content, stop), "text/event-stream")

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def _events(message: dict[str, Any], content: list[dict[str, Any]], stop: str) -> bytes:
    begun = {**message, "content": list[object](), "stop_reason": None}
    events: list[tuple[str, dict[str, Any]]] = [("message_start", {"message": begun})]
    for index, block in enumerate(content):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            given = json.dumps(block["input"])
            empty, delta = (
                {**block, "input": dict[str, Any]()},
                {"type": "input_json_delta", "partial_json": given},
            )
        events += [
            ("content_block_start", {"index": index, "content_block": empty}),
            ("content_block_delta", {"index": index, "delta": delta}),
            ("content_block_stop", {"index": index}),
        ]
    ended = {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 20}}
    events += [("message_delta", ended), ("message_stop", {})]
    return "".join(
        f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events
    ).encode()
