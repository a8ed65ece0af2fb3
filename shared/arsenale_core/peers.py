"""Servers of the suite as any MCP client has them: through the relay, which starts the daemon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp import Client, MCPError, StdioServerParameters

from arsenale_core.errors import ArsenaleError, UnavailableError

IDLE_S = 60.0
"""How long a connection is kept for the next call."""


class RefusedError(ArsenaleError):
    """The tool answered that it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class As:
    """On whose behalf a server is called: the session and the project that it is told."""

    session: str = ""
    project: str = ""


@dataclass(slots=True, eq=False)
class _Connection:
    client: Client | None = None
    asked: int = 0
    opening: anyio.Lock = field(default_factory=anyio.Lock)


class Peers:
    """Connections to servers, opened at the first call and closed when none comes for a minute.

    Args:
        relay: The command of the relay, without the server's name.
        environment: Of the relay.
        tasks: In which connections live.
    """

    def __init__(
        self, relay: Sequence[str], environment: Mapping[str, str], tasks: TaskGroup
    ) -> None:
        self._relay = tuple(relay)
        self._environment = dict(environment)
        self._tasks = tasks
        self._open: dict[tuple[str, As], _Connection] = {}

    async def call(
        self, server: str, tool: str, arguments: Mapping[str, Any], who: As | None = None
    ) -> Any:
        """Call TOOL of SERVER; return its structured result, else its text.

        Raises:
            RefusedError: The tool answered with an error; its text.
            UnavailableError: The server does not answer.
        """
        key = (server, who or As())
        try:
            client = await self._connected(key)
            answer = await client.call_tool(tool, dict(arguments))
        except (MCPError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            self._open.pop(key, None)
            raise UnavailableError(
                f"server {server} does not answer ({exc})", hint="see `arsenale status`"
            ) from exc
        texts = [str(getattr(part, "text", "")) for part in answer.content]
        if answer.is_error:
            said = "\n".join(texts) or "no reason given"
            raise RefusedError(said.removeprefix(f"Error executing tool {tool}: "))
        return answer.structured_content if answer.structured_content else "\n".join(texts)

    async def tools(self, server: str) -> dict[str, dict[str, Any]]:
        """Return the input schemas of a server's tools, by name.

        Raises:
            UnavailableError: The server does not answer.
        """
        try:
            client = await self._connected((server, As()))
            return {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        except (MCPError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            self._open.pop((server, As()), None)
            raise UnavailableError(
                f"server {server} does not answer ({exc})", hint="see `arsenale status`"
            ) from exc

    async def _connected(self, key: tuple[str, As]) -> Client:
        connection = self._open.setdefault(key, _Connection())
        async with connection.opening:
            connection.asked += 1
            if connection.client is None:
                try:
                    await self._tasks.start(self._hold, key, connection)
                except Exception as exc:  # the SDK's are groups of groups
                    raise UnavailableError(
                        f"server {key[0]} does not answer ({_first(exc)})",
                        hint="see `arsenale status`",
                    ) from exc
            assert connection.client is not None
            return connection.client

    async def _hold(
        self, key: tuple[str, As], connection: _Connection, *, task_status: TaskStatus[None]
    ) -> None:
        server, who = key
        said = {"CLAUDE_CODE_SESSION_ID": who.session, "CLAUDE_PROJECT_DIR": who.project}
        relay = StdioServerParameters(
            command=self._relay[0], args=[*self._relay[1:], server],
            env={**self._environment, **{name: value for name, value in said.items() if value}},
        )  # fmt: skip
        try:
            async with Client(relay) as connection.client:
                task_status.started()
                before = -1
                while before != connection.asked:
                    before = connection.asked
                    await anyio.sleep(IDLE_S)
        finally:
            connection.client = None
            if self._open.get(key) is connection:
                del self._open[key]


def _first(exc: Exception) -> Exception:
    """Return the first of the exceptions that EXC holds, or itself."""
    while isinstance(exc, ExceptionGroup):
        exc = cast("ExceptionGroup[Exception]", exc).exceptions[0]
    return exc
