"""How the genome server is put together: what it opens, and in which order."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from arsenale_core import sidecar as sidecars
from arsenale_core.config import Settings
from arsenale_core.embedding.choice import open_embedder
from arsenale_core.errors import UnavailableError
from arsenale_genome import endpoint
from arsenale_genome.adding import Adding
from arsenale_genome.artifacts import Artifacts
from arsenale_genome.asking import Asking
from arsenale_genome.exchange import Exchange
from arsenale_genome.generation import Sidecar
from arsenale_genome.knowledge import Known, Recall
from arsenale_genome.listing import Listing
from arsenale_genome.service import Genomes
from arsenale_genome.store import GenomeStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the surface and the command line call."""

    genomes: Genomes
    adding: Adding
    exchange: Exchange
    listing: Listing
    asking: Asking


@asynccontextmanager
async def open_services(
    settings: Settings, now: Callable[[], float], recall: Recall | None = None
) -> AsyncGenerator[Services]:
    """Open store and embedder, and connections to the sidecar as they are needed.

    RECALL asks the memory server; without it a question about a namespace is refused.
    """
    find = partial(endpoint.resolved, settings)
    sidecar = Sidecar(find, partial(find, start=endpoint.none_runs), settings.chat_timeout_s)
    with GenomeStore(settings.database_url or settings.home) as store:
        async with open_embedder(settings) as embedder:
            genomes = Genomes(
                store=store,
                embedder=embedder,
                artifacts=Artifacts(settings.home / "artifacts"),
                now=now,
                served=partial(_served, settings),
            )
            listing = Listing(genomes=genomes, sidecar=sidecar)
            try:
                yield Services(
                    genomes=genomes,
                    adding=Adding(genomes=genomes, creator=settings.memory_owner),
                    exchange=Exchange(genomes=genomes, home=settings.home),
                    listing=listing,
                    asking=Asking(genomes=genomes, listing=listing, recall=recall or _no_memory),
                )
            finally:
                await sidecar.aclose()


def _served(settings: Settings) -> list[str] | None:
    return None if settings.inference_url else sidecars.base_models(settings.home)


async def _no_memory(question: str, namespace: str, tokens: int) -> list[Known]:
    del question, namespace, tokens
    raise UnavailableError(
        "no memory server is asked from here", hint="ask through the daemon (`arsenale up`)"
    )
