"""Keeps what a server answers to a handshake and to lists, for relays that start before it is up.

`python -m arsenale_daemon.handshakes` writes the files that come with the package; a test compares
them with the servers.
"""

import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import orjson
from anyio import create_memory_object_stream
from mcp.server import MCPServer

from arsenale_core.config import Settings
from arsenale_core.metrics import CallMetrics
from arsenale_core.surface import Runtime
from arsenale_core.wire import Traffic, serve_lines
from arsenale_daemon import discovery
from arsenale_relay import __version__
from arsenale_relay.handshake import (
    DISCOVER,
    INITIALIZE,
    MODERN,
    VERSION_KEY,
    home_file,
    shipped_file,
)

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""The protocol revisions with a handshake that the MCP SDK 2.3 speaks."""

LISTS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")
_CLIENT = {"name": "arsenale", "version": __version__}


async def capture(mcp: MCPServer[Any]) -> dict[str, Any]:
    """Ask a server what a client asks first; return the answers as `arsenale_relay.handshake`."""
    hello = {"protocolVersion": LEGACY[-1], "capabilities": {}, "clientInfo": _CLIENT}
    requests = [(INITIALIZE, hello), *((method, dict[str, Any]()) for method in LISTS)]
    legacy = await _ask(mcp, requests, initialized=True)
    prefix = VERSION_KEY.removesuffix("protocolVersion")
    meta = {VERSION_KEY: MODERN, f"{prefix}clientInfo": _CLIENT, f"{prefix}clientCapabilities": {}}
    modern = await _ask(mcp, [(method, {"_meta": meta}) for method in (DISCOVER, *LISTS)])
    differing = {
        method: {k: v for k, v in result.items() if legacy.get(method, {}).get(k) != v}
        for method, result in modern.items()
    }
    return {"version": __version__, "versions": LEGACY, "legacy": legacy, "modern": differing}


async def _ask(
    mcp: MCPServer[Any], requests: list[tuple[str, dict[str, Any]]], *, initialized: bool = False
) -> dict[str, Any]:
    """Return the result of each of REQUESTS, over one connection; those that fail are left out."""
    lines_in, lines_out = create_memory_object_stream[bytes](0)
    results: dict[str, Any] = {}
    answered = anyio.Event()

    async def hear(line: bytes) -> None:
        nonlocal answered
        message = orjson.loads(line)
        if "result" in message:
            results[requests[message["id"]][0]] = message["result"]
        if "id" in message:
            answered.set()

    async def lines() -> AsyncGenerator[bytes]:
        async with lines_out:
            async for line in lines_out:
                yield line

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_lines, mcp, lines(), hear, Traffic())
        async with lines_in:
            for id, (method, params) in enumerate(requests):
                answered = anyio.Event()
                request = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
                await lines_in.send(orjson.dumps(request))
                await answered.wait()
                if initialized and method == INITIALIZE:
                    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
                    await lines_in.send(orjson.dumps(done))
    return results


async def keep(home: Path, surfaces: Mapping[str, MCPServer[Any]]) -> None:
    """Write into HOME the answers of those servers whose files in the package are not right."""
    for name, mcp in surfaces.items():
        text = orjson.dumps(await capture(mcp), option=orjson.OPT_SORT_KEYS)
        _write(Path(home_file(str(home), name)), Path(shipped_file(name)), text)


def _write(path: Path, shipped: Path, text: bytes) -> None:
    """Write TEXT to PATH, unless the SHIPPED file has it."""
    if _read(shipped) == text:
        path.unlink(missing_ok=True)
    elif _read(path) != text:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(text)
        fresh.replace(path)


def _read(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes().strip()
    return None


async def capture_all() -> dict[str, dict[str, Any]]:
    """Return the answers of every installed server, opened in a temporary home."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="arsenale-") as home:
        runtime = Runtime(settings=Settings.read({"ARSENALE_HOME": home}))
        calls = CallMetrics(runtime.registry)
        for name in discovery.names():
            spec = discovery.load(name)
            async with spec.open(runtime) as service:
                found[name] = await capture(spec.mount(service, runtime, calls))
    return found


def main() -> None:
    """Write the files that come with the package."""
    for name, answers in anyio.run(capture_all).items():
        path = Path(shipped_file(name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(orjson.dumps(answers, option=orjson.OPT_SORT_KEYS) + b"\n")


if __name__ == "__main__":
    main()
