"""The process of a node: `python -m arsenale_mesh.running` is the one of this home.

It holds `run/mesh-node.lock`, so that there is one of it, and ends when the gateway sends it to
rest or has been gone for a while.
"""

import fcntl
import os
import platform
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
import httpx2
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.config import Settings
from arsenale_core.errors import ArsenaleError, InvalidError, UnavailableError
from arsenale_core.files import make_private
from arsenale_core.tasks import background
from arsenale_mesh import identity
from arsenale_mesh.identity import Identity
from arsenale_mesh.links import Link
from arsenale_mesh.listening import socket_path
from arsenale_mesh.measuring import carbon, energy
from arsenale_mesh.measuring.carbon import CarbonSource
from arsenale_mesh.measuring.sampling import Sampler
from arsenale_mesh.node.agent import Agent, Profile
from arsenale_mesh.node.joining import Gateway, RefusedError, connect
from arsenale_mesh.record import NodeKind
from arsenale_mesh.sandbox import codes
from arsenale_mesh.sandbox.codes import CodeFolder
from arsenale_mesh.sandbox.jail import LAYERS, Layer
from arsenale_mesh.sandbox.pool import Pool, Sizes
from arsenale_mesh.store import MeshStore

ALREADY_RUNS = 3

PATIENCE_S = 30.0
"""How long our own node waits for a gateway that went."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which node. `patience_s`: it ends after so long without a gateway; `None` is never."""

    gateway: Gateway
    identity: Identity
    name: str
    kind: NodeKind
    workers: int
    carbon: str = ""
    require: tuple[Layer, ...] = ()
    patience_s: float | None = None


def lock_file(home: Path) -> Path:
    """Return the file that this home's own node holds locked."""
    return home / "run" / "mesh-node.lock"


def house_key(home: Path) -> Path:
    """Return where the key of this home's own node lies."""
    return home / "keys" / "mesh-house.key"


def layers(said: str) -> tuple[Layer, ...]:
    """Return the layers that the setting `mesh_require` names.

    Raises:
        InvalidError: One is none.
    """
    names = [name.strip() for name in said.split(",") if name.strip()]
    for name in names:
        if name not in LAYERS:
            raise InvalidError(
                f"mesh_require: no layer {name!r}", hint=f"some of {', '.join(LAYERS)}"
            )
    return cast("tuple[Layer, ...]", tuple(names))


def store_of(settings: Settings) -> MeshStore:
    """Open the mesh's database for a command."""
    return MeshStore(settings.database_url or settings.home, time.time)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


async def serve(options: Options, home: Path) -> None:
    """Be a node until the gateway sends it to rest.

    Raises:
        RefusedError: The gateway does not admit it, or is gone for too long.
        UnavailableError: No guest can be run here.
    """
    key = codes.load_or_make_key(home / "keys" / "mesh-code.key")
    folder = CodeFolder(home / "cache" / "mesh-code", key)
    sizes = Sizes(workers=options.workers, spares=1, compilers=1)
    failure: ArsenaleError | None = None
    async with background() as tasks, _carbon(options.carbon, tasks) as source:
        sampler = Sampler(options.kind, monotonic=time.monotonic, now=time.time, carbon=source)
        async with Pool(sizes, require=options.require, folder=folder) as pool:
            profile = Profile(
                name=options.name, kind=options.kind, slots=options.workers,
                invitation=options.gateway.invitation,
            )  # fmt: skip
            agent = Agent(
                options.identity, profile, pool, lambda speed=None: _measured(sampler, speed),
                lambda: int(time.time() * 1e6),
            )  # fmt: skip
            with anyio.CancelScope() as scope:
                tasks.start_soon(_leave_at_signal, agent, scope)
                try:
                    await agent.serve(_patient(options))
                except ArsenaleError as exc:  # here: outside of the pool it is one of a group
                    failure = exc
    if failure is not None:
        raise failure


def _patient(options: Options) -> Any:
    """Return what connects, and gives up when there was nobody for too long."""
    missed: float | None = None

    async def attempt() -> Link:
        nonlocal missed
        try:
            link = await connect(options.gateway)
        except UnavailableError as exc:
            now = time.monotonic()
            missed = now if missed is None else missed  # not since it came: it may be here for long
            if options.patience_s is not None and now - missed > options.patience_s:
                raise RefusedError(f"no gateway for {options.patience_s:.0f} s") from exc
            raise
        missed = None
        return link

    return attempt


def _measured(sampler: Sampler, fuel_per_s: float | None) -> dict[str, Any]:
    """Return how this machine is, as a node says it."""
    now = sampler.sample()
    watts, cores = now.power.watts, now.cores
    joules = None
    if watts is not None and fuel_per_s:
        joules = energy.joules_per_gfuel(watts, 1 / cores, fuel_per_s)
    said = {
        "cpu": now.cpu, "memory_free": now.memory_free, "watts": watts,
        "energy": now.power.source, "celsius": now.heat.celsius,
        "carbon": now.carbon.fresh, "carbon_from": now.carbon.origin,
        "joules_per_gfuel": joules,
        "gfuel_per_s": None if fuel_per_s is None else fuel_per_s / 1e9,
        "battery": now.battery.share if now.battery else None,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value is not None}


@asynccontextmanager
async def _carbon(said: str, tasks: TaskGroup) -> AsyncGenerator[CarbonSource | None]:
    """Give what tells carbon intensity: a number, a file or a service."""
    if not said:
        yield None
    elif said.startswith(("http://", "https://")):
        async with httpx2.AsyncClient() as http:
            service = carbon.Service(http, said)
            tasks.start_soon(service.keep_fresh, time.time)
            yield service
    else:
        yield _local_carbon(said)


def _local_carbon(said: str) -> CarbonSource:
    try:
        grams = float(said)
    except ValueError:
        return carbon.SeriesFile(Path(said).expanduser())
    return carbon.Setting(grams)


async def _leave_at_signal(agent: Agent, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            with anyio.move_on_after(2):
                await agent.leave()
            scope.cancel()


def main() -> int:
    """Run this home's own node; return the exit status."""
    settings = Settings.read()
    home = settings.home
    logs.configure(
        settings.log_level, file=home / "logs" / "mesh-node.log",
        max_bytes=settings.log_max_bytes, backups=settings.log_backups, stderr_level="ERROR",
    )  # fmt: skip
    make_private(lock_file(home).parent)
    descriptor = os.open(lock_file(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return ALREADY_RUNS
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    try:
        options = Options(
            gateway=Gateway(path=socket_path(home)),
            identity=identity.load_or_make(house_key(home)),
            name=platform.node() or "house", kind="pc",
            workers=settings.mesh_workers or processors(), carbon=settings.mesh_carbon,
            require=layers(settings.mesh_require), patience_s=PATIENCE_S,
        )  # fmt: skip
        anyio.run(serve, options, home)
    except ArsenaleError as exc:
        logs.get("arsenale.mesh.node").error("ended", reason=str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
