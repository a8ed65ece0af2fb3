"""The seam to the MCP SDK: what every `server.py` needs of it, and nothing else does."""

import difflib
import functools
import re
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import cleandoc
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import anyio
from mcp import StdioServerParameters
from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated
from mcp.types import (
    CallToolResult,
    EmptyResult,
    ReadResourceResult,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
    UnsubscribeRequestParams,
)
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from arsenale_core import logs
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_core.metrics import CallMetrics
from arsenale_core.model_text import ModelText, escape, escaped
from arsenale_core.schemas import slim

P = ParamSpec("P")
T = TypeVar("T")

Target: TypeAlias = MCPServer[Any] | StdioServerParameters | str
"""What `mcp.Client` connects to: a server in memory, a command, or a URL."""

READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
DESTROYS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

TOOL_USE_ID = "claudecode/toolUseId"
"""Key of `_meta` under which Claude Code names the tool call: equal to its hooks' `tool_use_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a connection, as far as it said.

    Attributes:
        session: The host's session id (`CLAUDE_CODE_SESSION_ID` of the relay), the join key to the
            hooks' events; `None` over plain HTTP.
        project: The host's project directory.
    """

    session: str | None = None
    project: str | None = None


PEER: ContextVar[Peer | None] = ContextVar("PEER", default=None)
"""The peer of the connection that the current request came over; set by the transport."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a process lends the servers it runs.

    Attributes:
        awake: Each says whether there is something to stay up for though no client is there.
    """

    settings: Settings
    registry: CollectorRegistry = field(
        default_factory=lambda: CollectorRegistry(auto_describe=False)
    )
    now: Callable[[], float] = time.time
    awake: set[Callable[[], bool]] = field(default_factory=lambda: set[Callable[[], bool]]())

    @contextmanager
    def showing(self, collector: Collector, is_awake: Callable[[], bool]) -> Generator[None]:
        """Let a server be scraped, and keep the process up, as long as the block lasts."""
        self.awake.add(is_awake)
        self.registry.register(collector)
        try:
            yield
        finally:
            self.registry.unregister(collector)
            self.awake.discard(is_awake)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server of the suite, as its entry point in the group `arsenale.servers` names it.

    Attributes:
        open: Opens the service and all it holds, once per process; entered again after it closed.
        build: Gives the MCP surface over an open service; called once for each.
        answer: Gives what the assistant is to be told at an event of a hook; `None` for most.
        guard: Says why the tool call of a PreToolUse event, or a commit, must not happen; gives
            `None` when it may. Such a server is named in the group `arsenale.guards` too.
    """

    name: str
    open: Callable[[Runtime], AbstractAsyncContextManager[Any]]
    build: Callable[[Any], MCPServer[Any]]
    answer: Callable[[Any, Mapping[str, object]], Awaitable[ModelText | None]] | None = None
    guard: Callable[[Any, Mapping[str, object]], Awaitable[ModelText | None]] | None = None

    def mount(self, service: Any, runtime: Runtime, calls: CallMetrics) -> MCPServer[Any]:
        """Build the surface over SERVICE with what every surface has: metrics, checks, limits."""
        mcp = self.build(service)
        for known in mcp._tool_manager.list_tools():  # pyright: ignore[reportPrivateUsage]  # as above
            known.parameters = slim(known.parameters)
            known.description = cleandoc(known.description)
        mcp.middleware.append(_Guard(mcp, self.name, runtime.settings.result_max_chars, calls))
        return mcp


class News:
    """Tells clients that resources changed: those of 2026-07-28 that listen, and older ones.

    One a server; `surface` connects it. The SDK has no legacy `resources/subscribe` of its own.
    """

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self._older: dict[int, tuple[ServerSession, set[str]]] = {}

    @property
    def is_watched(self) -> bool:
        """Whether anybody listens."""
        listening = self.bus._listeners  # pyright: ignore[reportPrivateUsage]  # no other way
        return bool(listening or self._older)

    async def updated(self, uri: str) -> None:
        """Tell everyone who listens to URI that it changed."""
        await self.bus.publish(ResourceUpdated(uri))
        for session, uris in list(self._older.values()):
            if uri in uris:
                with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                    await session.send_resource_updated(uri)

    def connect(self, mcp: MCPServer[Any]) -> None:
        """Let older clients of MCP subscribe."""
        low = mcp._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # as in `wire`
        low.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        low.add_request_handler(
            "resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe
        )

    async def _subscribe(
        self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams
    ) -> EmptyResult:
        # A session is made for each request; the connection behind it stays.
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
        if id(connection) not in self._older:
            self._older[id(connection)] = (ctx.session, set())
            connection.exit_stack.callback(self._older.pop, id(connection), None)
        self._older[id(connection)][1].add(str(params.uri))
        return EmptyResult()

    async def _unsubscribe(
        self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
        if known := self._older.get(id(connection)):
            known[1].discard(str(params.uri))
        return EmptyResult()


def surface(
    name: str, service: T, *, version: str, instructions: str, news: News | None = None
) -> MCPServer[T]:
    """Return an empty MCP server whose tools are given SERVICE as their lifespan's state.

    The SDK enters a lifespan once a client, so it gets one that opens nothing.
    """
    mcp = MCPServer[T](
        f"arsenale-{name}",
        version=version,
        instructions=instructions,
        lifespan=lambda _: nullcontext(service),
        subscriptions=news.bus if news else None,
        log_level="WARNING",
    )
    if news is not None:
        news.connect(mcp)
    return mcp


def tool(fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Let the text of an `ArsenaleError` reach the model.

    The SDK shows the model the text of a `ToolError` only; any other exception is a crash, whose
    text stays in our log (mcp 2.3, `Tool.run`).
    """

    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await fn(*args, **kwargs)
        except ArsenaleError as exc:
            raise ToolError(str(exc)) from exc

    return call


def resource(fn: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Let the text of an `ArsenaleError` reach whoever reads the resource."""

    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await fn(*args, **kwargs)
        except ArsenaleError as exc:
            raise ResourceError(str(exc)) from exc

    return call


_HALF = re.compile("[\ud800-\udfff]")


class _Guard:
    """Middleware of every surface: refuses unknown arguments, bounds results, counts and times."""

    def __init__(
        self, mcp: MCPServer[Any], server: str, max_chars: int, calls: CallMetrics
    ) -> None:
        self._mcp = mcp
        self._server = server
        self._max_chars = max_chars
        self._calls = calls
        self._arguments: dict[str, frozenset[str]] = {}
        self._log = logs.get("arsenale.mcp")

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if ctx.method == "resources/read":
            return _escaped(await call_next(ctx))
        if ctx.method != "tools/call" or not ctx.params:
            return await call_next(ctx)
        name = str(ctx.params.get("name"))
        begun = time.perf_counter()
        status = "crash"
        try:
            result = await self._checked(name, ctx, call_next)
            status = "error" if _failed(result) else "ok"
        finally:
            self._record(name, ctx, status, time.perf_counter() - begun)
        return result

    async def _checked(
        self, name: str, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        known = await self._known_arguments(name)
        given = (ctx.params or {}).get("arguments")
        if known is not None and isinstance(given, Mapping):
            names = cast("Mapping[str, object]", given)
            unknown = [str(argument) for argument in names if argument not in known]
            if unknown:
                return _refusal(_unknown_argument(name, unknown[0], known))
        if isinstance(given, dict):
            arguments = cast("dict[str, object]", given)
            for argument, value in arguments.items():
                arguments[argument] = _whole_characters(value)
        return _escaped(self._bounded(name, await call_next(ctx)))

    async def _known_arguments(self, name: str) -> frozenset[str] | None:
        if name not in self._arguments:
            self._arguments = {
                tool.name: frozenset(tool.input_schema.get("properties", {}))
                for tool in await self._mcp.list_tools()
            }
        return self._arguments.get(name)

    def _bounded(self, name: str, result: HandlerResult) -> HandlerResult:
        chars = _text_chars(result)
        if chars <= self._max_chars:
            return result
        return _refusal(
            f"the result of {name} has {chars:,} characters, more than the limit of "
            f"{self._max_chars:,}: ask for fewer items or a narrower filter"
        )

    def _record(
        self, name: str, ctx: ServerRequestContext[Any, Any], status: str, seconds: float
    ) -> None:
        label = name if name in self._arguments else "unknown"
        self._calls.observe(server=self._server, tool=label, status=status, seconds=seconds)
        meta = cast("Mapping[str, object]", ctx.meta or {})
        self._log.debug(
            "call",
            server=self._server,
            tool=label,
            status=status,
            ms=round(seconds * 1e3, 2),
            tool_use_id=meta.get(TOOL_USE_ID),
            session=peer.session if (peer := PEER.get()) else None,
        )


def _whole_characters(value: object) -> object:
    """Return VALUE, of JSON, with U+FFFD for each half of a surrogate pair.

    JSON can spell halves as escapes; no file, database or answer can hold them.
    """
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_whole_characters(one) for one in cast("list[object]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return {str(_whole_characters(k)): _whole_characters(v) for k, v in members.items()}
    return value


def _failed(result: HandlerResult) -> bool:
    """Say whether a result, as a model or as it goes on the wire, is an error."""
    if isinstance(result, CallToolResult):
        return bool(result.is_error)
    return isinstance(result, dict) and result.get("isError") is True


def _text_chars(result: HandlerResult) -> int:
    """Return how many characters of text a result, as a model or on the wire, has."""
    if isinstance(result, CallToolResult):
        return sum(len(part.text) for part in result.content if isinstance(part, TextContent))
    parts: Any = result.get("content", []) if isinstance(result, dict) else []
    return sum(len(part.get("text", "")) for part in cast("list[dict[str, str]]", parts))


def _escaped(result: HandlerResult) -> HandlerResult:
    """Return RESULT, whose texts of others cannot pass for a message of the system."""
    if isinstance(result, CallToolResult):
        content = [_escaped_part(part) for part in result.content]
        safe = {"content": content, "structured_content": escaped(result.structured_content)}
        return result.model_copy(update=safe)
    if isinstance(result, ReadResourceResult):
        contents = [_escaped_part(part) for part in result.contents]
        return result.model_copy(update={"contents": contents})
    if isinstance(result, dict):
        return {**result, **{key: escaped(result[key]) for key in RESULTS if key in result}}
    return result


def _escaped_part(part: T) -> T:
    if isinstance(part, TextContent | TextResourceContents):
        return part.model_copy(update={"text": escape(part.text)})
    return part


RESULTS = ("content", "structuredContent", "contents")
"""Where results have text of others (MCP, `CallToolResult` and `ReadResourceResult`)."""


def _unknown_argument(tool: str, argument: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(argument, known, n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]!r}?" if near else "leave it out."
    return (
        f"{tool} has no argument {argument!r}: {suggestion} "
        f"It takes {', '.join(sorted(known)) or 'none'}."
    )


def _refusal(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
