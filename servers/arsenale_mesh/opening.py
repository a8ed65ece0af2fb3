"""How the mesh is put together: what it opens, and what runs beside it."""

import fcntl
import os
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError
from arsenale_core.store import Sql
from arsenale_core.surface import News
from arsenale_core.tasks import background
from arsenale_mesh import identity, listening, pruning, running
from arsenale_mesh.committing import Committer
from arsenale_mesh.gateway import Clock, Gateway
from arsenale_mesh.house import House
from arsenale_mesh.record import Task
from arsenale_mesh.service import Mesh, add_ready_made
from arsenale_mesh.store import MeshStore

STATUS = "mesh://status"
"""The resource that says how the mesh is."""

PRUNE_S = 6 * 3_600.0

_ONE_DISPATCHER = Sql("SELECT pg_try_advisory_lock(hashtext('arsenale_mesh_dispatcher'))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the surface calls.

    Attributes:
        dispatches: Nodes of this database join this process.
        port: Where nodes elsewhere do; `None` where none can.
    """

    mesh: Mesh
    news: News
    dispatches: bool
    port: int | None = None


def lock_file(home: Path) -> Path:
    """Return the file that the process holds locked which dispatches."""
    return home / "run" / "mesh.lock"


@asynccontextmanager
async def open_services(settings: Settings, clock: Clock) -> AsyncGenerator[Services]:
    """Open the store; dispatch, if no other process does."""
    news = News()
    home = settings.home

    async def changed(tasks: Sequence[Task]) -> None:
        mesh.wake(tasks)
        if news.is_watched:
            await news.updated(STATUS)
            for task in tasks:
                await news.updated(f"mesh://tasks/{task.name}")

    where = settings.database_url or home
    with MeshStore(where, lambda: clock.now_us() / 1e6) as store, _lock(home, store) as first:
        committer = Committer(store)
        house = identity.load_or_make(running.house_key(home))
        gateway = Gateway(
            store, committer, identity.load_or_make(home / "keys" / "mesh-gateway.key"),
            house.did, settings.mesh_heartbeat_s, clock, changed,
        )  # fmt: skip
        gateway.can_house = settings.mesh_house
        keeper = None
        if first and settings.mesh_house:
            keeper = House(gateway, home, settings.mesh_idle_s, clock.ticks_us)
        mesh = Mesh(store, committer, gateway, keeper, settings, changed)
        async with background() as tasks:
            tasks.start_soon(committer.run)
            await committer.do(add_ready_made)
            port = None
            if first:
                port = await _dispatch(settings, gateway, keeper, clock, tasks)
            tasks.start_soon(_prune, store, settings.mesh_retention_days, clock)
            try:
                yield Services(mesh=mesh, news=news, dispatches=first, port=port)
            finally:
                if keeper is not None:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                        await keeper.rest()


async def _dispatch(
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


@contextmanager
def _lock(home: Path, store: MeshStore) -> Generator[bool]:
    """Hold what says that this process dispatches; gives false where another one does."""
    file = lock_file(home)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        if store.dialect == "sqlite":
            yield True
            return
        with store.reading() as held:  # the lock is this connection's
            have = bool(_ONE_DISPATCHER.value(held))
            held.commit()
            yield have
    finally:
        os.close(descriptor)
