"""How the memory server is put together: what it opens, in which order, and what runs beside it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import anyio
from anyio import to_thread

from arsenale_core import logs
from arsenale_core.assets import asset_dir
from arsenale_core.chat import open_chat
from arsenale_core.config import Settings, one_thread_for_math
from arsenale_core.derived import Derived
from arsenale_core.embedding.base import Embedder
from arsenale_core.embedding.choice import open_embedder
from arsenale_core.errors import ArsenaleError
from arsenale_core.tasks import background
from arsenale_core.trust import Trust
from arsenale_memory import reading
from arsenale_memory.exchange import Exchange
from arsenale_memory.injection import Injector, Switches
from arsenale_memory.objects import Objects
from arsenale_memory.personas import Personas
from arsenale_memory.reflecting import Reflecting
from arsenale_memory.research import Research
from arsenale_memory.service import Memory
from arsenale_memory.store import MemoryStore
from arsenale_relay import session_start

if TYPE_CHECKING:
    from arsenale_memory.knowledge import Knowledge

QUESTIONS_KEPT = 500
"""Vectors of so many questions are kept: hosts ask the same again, and injection before them."""

SETTLE_S = 3.0
"""How long after the start it is looked for what waits: not while someone waits for us."""

PURGE_EVERY_S = 6 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the surface, the hooks and the command line call."""

    memory: Memory
    personas: Personas
    injector: Injector
    exchange: Exchange
    research: Research
    reflecting: Reflecting


@asynccontextmanager
async def open_services(
    settings: Settings, now: Callable[[], float], used: Callable[[str], None]
) -> AsyncGenerator[Services]:
    """Open store and embedder; embed, purge and give memory back while they are open."""
    zone = ZoneInfo(settings.timezone) if settings.timezone else None
    with MemoryStore(settings.database_url or settings.home) as store:
        async with open_embedder(settings) as embedder, background() as tasks:

            def make() -> "Knowledge":
                one_thread_for_math()
                from arsenale_memory.indexes import index_maker  # noqa: PLC0415
                from arsenale_memory.knowledge import Knowledge  # noqa: PLC0415  # numpy: 60 ms
                from arsenale_memory.library import Library  # noqa: PLC0415

                made = Knowledge(
                    store=store,
                    embedder=embedder,
                    library=Library(embedder.id, index_maker(settings, store, embedder.id), now),
                    now=now,
                    questions=Derived(QUESTIONS_KEPT, settings.cache_ttl_s, now),
                )
                tasks.start_soon(made.run_embedding)
                tasks.start_soon(made.run_release, settings.embedder_idle_s)
                return made

            memory = Memory(
                store=store,
                make_knowledge=make,
                namespace=settings.memory_namespace,
                owner=settings.memory_owner,
                zone=zone,
                undo_days=settings.memory_undo_days,
                now=now,
                used=used,
                removed=partial(_discard_session_starts, str(settings.home)),
            )
            personas = Personas(
                memory=memory,
                folder=settings.home / "identities",
                objects=Objects(settings.home / "artifacts"),
                templates=(
                    settings.home / "identity_templates",
                    asset_dir("identity_templates"),
                ),
                zone=zone,
                trust=Trust(settings.home),
            )
            research = Research(
                store=store, embedder=embedder, switched_on=settings.research, now=now
            )
            memory.research = research
            tasks.start_soon(research.run)
            tasks.start_soon(_look_after, memory, store, embedder)
            tasks.start_soon(_watch, personas)
            injector = Injector(
                memory=memory,
                personas=personas,
                tasks=tasks,
                switches=Switches(
                    identity=settings.inject_identity,
                    memories=settings.inject_memories,
                    checkpoints=settings.inject_checkpoints,
                    persona=settings.persona,
                    max_tokens=settings.inject_max_tokens,
                    min_relevance=settings.inject_min_relevance,
                ),
            )
            yield Services(
                memory=memory,
                personas=personas,
                injector=injector,
                exchange=Exchange(memory=memory, home=settings.home),
                research=research,
                reflecting=Reflecting(
                    memory=memory,
                    open_chat=partial(open_chat, settings),
                    folder=settings.home / "reflections",
                ),
            )


async def _look_after(memory: Memory, store: MemoryStore, embedder: Embedder) -> None:
    """Embed what a crash or another embedder left waiting; erase what was forgotten long ago."""
    log = logs.get("arsenale.memory")
    await anyio.sleep(SETTLE_S)
    while True:
        try:
            if await to_thread.run_sync(_something_waits, store, embedder.id):
                memory.knowledge().wake()
            gone = await memory.purge()
            if gone:
                log.info("forgotten memories erased", rows=gone)
        except ArsenaleError as exc:
            log.warning("maintenance waits", reason=str(exc))
        await anyio.sleep(PURGE_EVERY_S)


async def _watch(personas: Personas) -> None:
    await anyio.sleep(SETTLE_S)
    from arsenale_memory.watching import watch_when_there  # noqa: PLC0415  # not at the start

    await watch_when_there(personas)


def _something_waits(store: MemoryStore, embedder: str) -> bool:
    with store.reading() as db:
        return bool(reading.pending(db, embedder, 1))


def _discard_session_starts(home: str) -> None:
    """Delete the kept texts of sessions' starts: they may hold what must not be given again."""
    try:
        session_start.discard(home)
    except OSError as exc:
        logs.get("arsenale.memory").error("kept texts not discarded", reason=str(exc))
