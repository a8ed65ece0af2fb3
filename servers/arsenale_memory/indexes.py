"""Which index a namespace gets: exact for small ones, chromadb beyond, where it is installed."""

from importlib.util import find_spec

import numpy as np

from arsenale_core import logs
from arsenale_core.config import Settings
from arsenale_core.embedding.vectors import Vectors
from arsenale_memory import reading
from arsenale_memory.chroma_index import (
    ChromaFolder,
    ChromaIndex,
    ChromaServer,
    collection_name,
)
from arsenale_memory.library import MakeIndex, unpacked
from arsenale_memory.store import MemoryStore
from arsenale_memory.vectors import ExactIndex, Ids, VectorIndex


def index_maker(settings: Settings, store: MemoryStore, embedder: str) -> MakeIndex:
    """Return what makes the index of a namespace for a process with SETTINGS."""
    folder = ChromaFolder(settings.home / "chroma")
    server = ChromaServer(settings.chroma_url) if settings.chroma_url else None
    database = settings.database_url or "sqlite"
    log = logs.get("arsenale.memory.index")

    def make(namespace_id: int, size: int, dim: int) -> VectorIndex:
        if size <= settings.memory_exact_max:
            return ExactIndex(dim)
        if find_spec("chromadb") is None:
            log.info("chromadb is not installed: searching exactly", vectors=size)
            return ExactIndex(dim)
        if server is None and not folder.acquire():
            log.info("another process has the index: searching exactly", vectors=size)
            return ExactIndex(dim)
        place, name = server or folder, collection_name(database, namespace_id, embedder)
        discard = folder.discard if server is None else _nothing
        return ChromaIndex(lambda: place.collection(name), discard, load, dim)

    def load(ids: Ids) -> Vectors:
        with store.reading() as db:
            found = reading.vectors_of(db, embedder, ids.tolist())
        if not found:
            return np.zeros((len(ids), 1), np.float32)
        empty = bytes(len(next(iter(found.values()))))
        return unpacked([found.get(id, empty) for id in ids.tolist()])

    return make


def _nothing() -> None:
    """A server's collections are not ours to delete."""
