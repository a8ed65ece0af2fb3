"""Answers to the handshake and the lists of a server that is not up yet.

They depend on the server's version and the protocol revision only, so they are kept in files: those
of the suite's servers come with the package, and a daemon writes what differs from them, and those
of other servers, into its home. A host is served from them while the daemon starts.
"""

import json
import os
from typing import Any, cast

from arsenale_relay import __version__

MODERN = "2026-07-28"
"""The stateless protocol revision: no handshake, the revision stands in each request's `_meta`."""

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
DISCOVER, INITIALIZE = "server/discover", "initialize"

LISTEN, ACKNOWLEDGED = "subscriptions/listen", "notifications/subscriptions/acknowledged"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"


def shipped_file(server: str) -> str:
    """Return the path of the answers of SERVER that come with the package."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "handshakes", f"{server}.json")


def home_file(home: str, server: str) -> str:
    """Return the path of the answers of SERVER that HOME's daemon wrote."""
    return os.path.join(home, "run", "handshakes", f"{server}.json")


class Answers:
    """The kept answers of one server; the file is read when it is first needed.

    A file is `{"version": …, "versions": […], "legacy": {METHOD: RESULT}, "modern": {METHOD: …}}`:
    `versions` are the revisions with a handshake, the newest last; a result of `modern` is that of
    `legacy` with the members that differ.
    """

    def __init__(self, home: str, server: str) -> None:
        self._home, self._server = home, server
        self._kept: dict[str, Any] | None = None

    def answer(self, message: dict[str, Any]) -> bytes | None:
        """Return the answer to MESSAGE as a line; None where only the server knows it."""
        method, id = message.get("method"), message.get("id")
        params: Any = message.get("params") or {}
        if id is None or params.get("cursor") is not None:
            return None
        result = self._result(str(method), params)
        if result is None:
            return None
        return json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n"

    def acknowledgement(self, message: dict[str, Any]) -> bytes | None:
        """Return the line that acknowledges the subscription MESSAGE; None if the server must.

        A server that notifies of every change acknowledges what the client asked for.
        """
        capabilities = self._read().get("modern", {}).get(DISCOVER, {}).get("capabilities", {})
        resources = capabilities.get("resources", {})
        notifies = all(
            capabilities.get(kind, {}).get("listChanged") for kind in ("tools", "prompts")
        )
        if not (notifies and resources.get("listChanged") and resources.get("subscribe")):
            return None
        asked: dict[str, Any] = message.get("params") or {}
        wanted: Any = asked.get("notifications")
        if not isinstance(wanted, dict):
            return None
        meta = {SUBSCRIPTION_KEY: message.get("id")}
        params = {"_meta": meta, "notifications": cast("dict[str, Any]", wanted)}
        said = {"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": params}
        return json.dumps(said).encode() + b"\n"

    def negotiated(self, requested: object) -> str | None:
        """Return the protocol revision that the server agrees on with a client; None if unknown."""
        versions: list[str] = self._read().get("versions", [])
        if requested in versions:
            return str(requested)
        return versions[-1] if versions else None

    def _result(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        meta: Any = params.get("_meta")
        revision = cast("dict[str, Any]", meta).get(VERSION_KEY) if isinstance(meta, dict) else None
        if revision is not None and revision != MODERN:
            return None
        if method == "ping":
            return {}
        kept = self._read()
        legacy: dict[str, Any] | None = kept.get("legacy", {}).get(method)
        if revision == MODERN or method == DISCOVER:
            modern = kept.get("modern", {}).get(method)
            return None if modern is None else {**(legacy or {}), **modern}
        if method == INITIALIZE and legacy is not None:
            return {**legacy, "protocolVersion": self.negotiated(params.get("protocolVersion"))}
        return legacy

    def _read(self) -> dict[str, Any]:
        if self._kept is None:
            self._kept = {}
            for path in (home_file(self._home, self._server), shipped_file(self._server)):
                try:
                    with open(path, "rb") as file:
                        kept = json.load(file)
                except (OSError, ValueError, RecursionError):
                    continue
                if _is_sound(kept):
                    self._kept = cast("dict[str, Any]", kept)
                    break
        return self._kept


def _is_sound(kept: Any) -> bool:
    """Say whether KEPT, read from a file, has this version's shape."""
    if not isinstance(kept, dict):
        return False
    found = cast("dict[str, Any]", kept)
    return (
        found.get("version") == __version__
        and all(_is_table(found.get(era, {})) for era in ("legacy", "modern"))
        and isinstance(found.get("versions", []), list)
    )


def _is_table(results: Any) -> bool:
    return isinstance(results, dict) and all(
        isinstance(result, dict) for result in cast("dict[str, Any]", results).values()
    )
