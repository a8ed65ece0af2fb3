"""The servers of a daemon: each is opened when it is first asked for, the others soon after."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus
from mcp.server import MCPServer

from arsenale_core import logs
from arsenale_core.errors import ArsenaleError
from arsenale_core.metrics import CallMetrics
from arsenale_core.model_text import ModelText, join
from arsenale_core.surface import Runtime, ServerSpec
from arsenale_daemon import discovery, handshakes

HOOK_S = 3.5
"""How long the servers may think about a hook's event; the hook gives up earlier for a prompt."""

GUARD_S = 1.5
"""How long the servers may think about a call that waits; the hook gives up earlier."""

_Answer: TypeAlias = Callable[[Mapping[str, object]], Awaitable[ModelText | None]]


class Servers:
    """The installed servers, each open once, until `close`.

    A relay that starts the daemon waits for one server only: importing the other four takes twice
    as long as all else (benchmarks/bench_relay.py).

    Attributes:
        surfaces: Those that are open, by name.
        failed: Why others are not, by name; who is asked for again is tried again.

    `called` is called after each call of a tool, of any server.
    """

    def __init__(self, runtime: Runtime, called: Callable[[], None] = lambda: None) -> None:
        self.surfaces: dict[str, MCPServer[Any]] = {}
        self.failed: dict[str, str] = {}
        self._runtime = runtime
        self._calls = CallMetrics(runtime.registry, called)
        self._tasks: TaskGroup | None = None
        self._names = discovery.names()
        self._tried: set[str] = set()
        self._answers: dict[str, _Answer] = {}
        self._guards: dict[str, _Answer] = {}
        self._guarding = discovery.names(discovery.GUARDS)
        self._opening = anyio.Lock()
        self._end = anyio.Event()
        self._is_ending = False
        self._log = logs.get("arsenale.daemon")

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Keep open what is opened, until `close`."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await self._end.wait()

    async def open(self, name: str) -> None:
        """Open NAME, or try again if it failed: what kept it from opening may be gone."""
        async with self._opening:
            if name in self._names and name not in self.surfaces and not self._is_ending:
                await self._start(name)

    async def open_all(self) -> None:
        """Open those that nobody asked for yet."""
        for name in self._names:
            async with self._opening:
                if name not in self._tried and not self._is_ending:
                    await self._start(name)

    async def keep_handshakes(self) -> None:
        """Let relays that start before the next daemon is up answer as these servers do."""
        try:
            await handshakes.keep(self._runtime.settings.home, self.surfaces)
        except OSError as exc:
            self._log.warning("answers for relays not kept", reason=str(exc))

    def open_no_more(self) -> None:
        """Leave closed what is: the end has come."""
        self._is_ending = True

    def close(self) -> None:
        """Let the servers close; `run` waits until they have."""
        self._is_ending = True
        self._end.set()

    def why_not(self, name: str) -> str:
        """Return why NAME is not there."""
        if name in self.failed:
            return f"server {name} is not running: {self.failed[name]}"
        if name in self._names:
            return f"server {name} is not open: the daemon is just ending"
        known = ", ".join(self._names) or "none"
        return f"no server {name!r} is installed: there are {known}"

    def __contains__(self, name: object) -> bool:
        """Whether a server NAME is installed, open or not."""
        return name in self._names

    async def hook(self, event: object, *, starts: bool) -> ModelText | None:
        """Ask every server what the assistant gets at EVENT; a server that fails adds nothing.

        Where a session STARTS there is time to open all of them; a prompt does not wait for that.
        """
        if starts:
            await self.open_all()
        answers = await self._ask(self._answers, event, HOOK_S, "hook")
        return join(*(text for _, text in sorted(answers.items()) if text)) or None

    async def guard(self, event: object) -> dict[str, Any]:
        """Ask every server that guards whether EVENT may happen.

        One no is a no. `error` says who could not tell: it is the hook's to let pass or not.
        """
        for name in self._guarding:
            await self.open(name)
        reasons = await self._ask(self._guards, event, GUARD_S, "guard")
        silent = [name for name in self._guarding if name not in reasons]
        error = f"no answer from {', '.join(silent)}" if silent else None
        deny = join(*(reason for _, reason in sorted(reasons.items()) if reason)) or None
        return {"deny": deny, "error": error}

    async def _ask(
        self, asked: Mapping[str, _Answer], event: object, within_s: float, what: str
    ) -> dict[str, ModelText | None]:
        """Return what each of ASKED says of EVENT; who breaks, or takes longer, is left out."""
        said: dict[str, ModelText | None] = {}

        async def one(name: str, answer: _Answer) -> None:
            try:
                said[name] = await answer(cast("Mapping[str, object]", event))
            except Exception as exc:  # noqa: BLE001  # the edge between servers
                self._log.warning(f"no answer to a {what}", server=name, reason=str(exc))

        if isinstance(event, dict):
            with anyio.move_on_after(within_s):
                async with anyio.create_task_group() as tasks:
                    for name, answer in asked.items():
                        tasks.start_soon(one, name, answer)
        return said

    async def _start(self, name: str) -> None:
        assert self._tasks is not None
        self._tried.add(name)
        self.failed.pop(name, None)
        await self._tasks.start(self._host, name)

    async def _host(self, name: str, *, task_status: TaskStatus[None]) -> None:
        """Keep one server open. One that cannot open, or breaks, does not take the others down."""
        started = False
        try:
            # In a thread: an import takes 0.2 s, and a guard has 0.3 s to answer.
            spec: ServerSpec = await to_thread.run_sync(discovery.load, name)
            async with spec.open(self._runtime) as service:
                self.surfaces[name] = spec.mount(service, self._runtime, self._calls)
                if spec.answer is not None:
                    self._answers[name] = partial(spec.answer, service)
                if spec.guard is not None:
                    self._guards[name] = partial(spec.guard, service)
                task_status.started()
                started = True
                await self._end.wait()
        except Exception as exc:  # noqa: BLE001  # the edge between servers
            expected = isinstance(exc, ArsenaleError)
            self.failed[name] = str(exc) if expected else f"it crashed ({type(exc).__name__})"
            self.surfaces.pop(name, None)
            self._answers.pop(name, None)
            self._guards.pop(name, None)
            self._log.error("server failed", server=name, exc_info=not expected, reason=str(exc))
            if not started:
                task_status.started()
