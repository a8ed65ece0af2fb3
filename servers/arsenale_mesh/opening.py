"""How the mesh is put together: what it opens, and what runs beside it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus

from arsenale_core import logs
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_core.surface import News
from arsenale_core.tasks import background
from arsenale_mesh import identity, listening, pruning, running
from arsenale_mesh.committing import Committer
from arsenale_mesh.dispatching import DispatchLock
from arsenale_mesh.gateway import Clock, Gateway
from arsenale_mesh.house import House
from arsenale_mesh.record import Task
from arsenale_mesh.service import Mesh, add_ready_made
from arsenale_mesh.store import MeshStore

STATUS = "mesh://status"
"""The resource that says how the mesh is."""

PRUNE_S = 6 * 3_600.0

RETRY_S = 2.0
"""How often it is looked whether who dispatched has gone, or whether we still may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the surface calls.

    Attributes:
        lock: Held where nodes of this database join this process.
        port: Where nodes elsewhere do; `None` where none can.
    """

    mesh: Mesh
    news: News
    lock: DispatchLock
    port: int | None = None

    @property
    def dispatches(self) -> bool:
        """Whether this process gives out the tasks."""
        return self.lock.is_held


@asynccontextmanager
async def open_services(settings: Settings, clock: Clock) -> AsyncGenerator[Services]:
    """Open the store; dispatch, when no other process does."""
    news = News()
    home = settings.home

    async def changed(tasks: Sequence[Task]) -> None:
        mesh.wake(tasks)
        if news.is_watched:
            await news.updated(STATUS)
            for task in tasks:
                await news.updated(f"mesh://tasks/{task.name}")

    where = settings.database_url or home
    with MeshStore(where, lambda: clock.now_us() / 1e6) as store, DispatchLock(home, store) as lock:
        committer = Committer(store)
        house = identity.load_or_make(running.house_key(home))
        gateway = Gateway(
            store, committer, identity.load_or_make(home / "keys" / "mesh-gateway.key"),
            house.did, settings.mesh_heartbeat_s, clock, changed,
        )  # fmt: skip
        gateway.can_house = settings.mesh_house
        keeper = None
        if settings.mesh_house:
            keeper = House(gateway, home, settings.mesh_idle_s, clock.ticks_us)
        mesh = Mesh(store, committer, gateway, keeper, settings, changed)
        async with background() as tasks:
            tasks.start_soon(committer.run)
            await committer.do(add_ready_made)
            port = await tasks.start(_dispatch, lock, settings, gateway, keeper, clock)
            tasks.start_soon(_prune, store, settings.mesh_retention_days, clock)
            try:
                yield Services(mesh=mesh, news=news, lock=lock, port=port)
            finally:
                if keeper is not None:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                        await keeper.rest()


async def _dispatch(
    lock: DispatchLock, settings: Settings, gateway: Gateway, keeper: House | None, clock: Clock,
    *, task_status: TaskStatus[int | None],
) -> None:  # fmt: skip
    """Dispatch as long as we hold LOCK, and try to get it as long as we do not."""
    is_first = True
    while True:
        if await to_thread.run_sync(lock.take):
            async with background() as tasks:
                port = await _begin(settings, gateway, keeper, clock, tasks)
                if is_first:
                    task_status.started(port)
                is_first = False
                await _while_held(lock)
        if is_first:
            task_status.started(None)
        is_first = False
        await anyio.sleep(RETRY_S)


async def _while_held(lock: DispatchLock) -> None:
    if not lock.may_be_lost:
        await anyio.sleep_forever()
    while await to_thread.run_sync(lock.check):  # noqa: ASYNC110  # a database tells nobody
        await anyio.sleep(RETRY_S)
    logs.get("arsenale.mesh").error("the lock is lost: nothing is given out here")


async def _begin(
    settings: Settings, gateway: Gateway, keeper: House | None, clock: Clock, tasks: TaskGroup
) -> int | None:
    """Begin to dispatch; return the port at which nodes elsewhere join."""
    port = None
    await tasks.start(gateway.run)
    await tasks.start(listening.at_home, settings.home, gateway.serve)
    if settings.mesh_listen:
        port = await tasks.start(
            listening.elsewhere, settings.mesh_listen, settings.home, gateway.identity,
            clock.now_us() / 1e6, gateway.serve,
        )  # fmt: skip
    if keeper is not None:
        tasks.start_soon(keeper.run)
    return port


async def _prune(store: MeshStore, days: int, clock: Clock) -> None:
    """Let go of tasks that are over for long, now and then."""
    while True:
        before = clock.now_us() - days * 86_400_000_000
        try:
            await to_thread.run_sync(pruning.prune, store, before)
        except ArsenaleError as exc:
            logs.get("arsenale.mesh").warning("nothing is pruned", reason=str(exc))
        await anyio.sleep(PRUNE_S)
