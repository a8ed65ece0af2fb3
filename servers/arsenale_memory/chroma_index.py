"""Nearest vectors of a large namespace by chromadb: a cache that is made, checked and made again.

chromadb keeps an HNSW graph (Malkov & Yashunin, 2016). A folder of it that several processes open
loses vectors and breaks, so ours belongs to one process at a time, by a lock; who does not get it
searches exactly. It is looked at by another process before it is opened, since a damaged one can
end the process that opens it. Until it is ready, searches are exact.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# chromadb's types are partly unknown.

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from arsenale_core import logs
from arsenale_core.embedding.vectors import Vectors
from arsenale_core.files import make_private
from arsenale_memory.vectors import Close, ExactIndex, Ids, IndexLostError

BATCH = 500
FEW = 20_000
"""Of so many allowed vectors or fewer the nearest are found exactly, from the store."""

MORE = 4
"""So many times the limit is asked for when some of what comes back may not be allowed."""

CHECK_S = 60.0

OpenCollection = Callable[[], Any]
Load = Callable[[Ids], Vectors]
"""Gives the vectors of ids from the store; zeros where there is none."""


class ChromaIndex:
    """Vectors of one namespace and embedder in one collection.

    Args:
        open_collection: Opens the collection, made if need be; may take seconds.
        discard: Deletes what is damaged.
        load: Reads vectors from the store.
        dim: How many numbers a vector has.
    """

    def __init__(
        self, open_collection: OpenCollection, discard: Callable[[], None], load: Load, dim: int
    ) -> None:
        self._open = open_collection
        self._discard = discard
        self._load = load
        self._dim = dim
        self._lock = threading.Lock()
        self._exact: ExactIndex | None = ExactIndex(dim)
        self._collection: Any = None
        self._count = 0
        self._building: threading.Thread | None = None
        self._log = logs.get("arsenale.memory.index")

    def __len__(self) -> int:
        return len(self._exact) if self._exact is not None else self._count

    @property
    def dim(self) -> int:
        """Return how many numbers a vector has."""
        return self._dim

    @property
    def ready(self) -> bool:
        """Say whether chromadb answers; before that, searches are exact."""
        return self._exact is None

    def put(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Add or replace vectors; IDS rise."""
        with self._lock:
            if self._exact is not None:
                self._exact.put(ids, vectors)
                if self._building is None:
                    self._building = threading.Thread(target=self._build, daemon=True)
                    self._building.start()
                return
            try:
                self._upsert(ids, vectors)
                self._count = int(self._collection.count())
            except Exception as exc:
                raise self._lost(exc) from exc

    def remove(self, ids: Sequence[int]) -> None:
        """Take vectors out; unknown ids are passed over."""
        with self._lock:
            if self._exact is not None:
                self._exact.remove(ids)
                return
            try:
                for start in range(0, len(ids), BATCH):
                    names = [str(id) for id in ids[start : start + BATCH]]
                    self._collection.delete(ids=names)
                self._count = int(self._collection.count())
            except Exception as exc:
                raise self._lost(exc) from exc

    def nearest(self, query: Vectors, limit: int, allowed: Ids | None) -> Ids:
        """Return the ids of the LIMIT vectors nearest to QUERY by cosine, best first."""
        with self._lock:
            if self._exact is not None:
                return self._exact.nearest(query, limit, allowed)
        if allowed is not None and len(allowed) <= FEW:
            scores = self._load(allowed) @ query
            return allowed[np.argsort(-scores, kind="stable")[:limit]]
        wanted = limit if allowed is None else limit * MORE
        try:
            found = self._collection.query(
                query_embeddings=[query.tolist()], n_results=min(wanted, self._count), include=[]
            )
        except Exception as exc:
            raise self._lost(exc) from exc
        ids = np.array([int(name) for name in found["ids"][0]], np.int64)
        if allowed is not None:
            ids = ids[np.isin(ids, allowed)]
        return ids[:limit]

    def close(self, queries: Vectors, least: float, most: int) -> list[Close]:
        """Return for each of QUERIES the MOST ids whose cosine is LEAST or more, nearest first."""
        with self._lock:
            if self._exact is not None:
                return self._exact.close(queries, least, most)
        try:
            found = self._collection.query(
                query_embeddings=queries, n_results=min(most, self._count), include=["distances"]
            )
        except Exception as exc:
            raise self._lost(exc) from exc
        return [
            [(int(name), 1 - d) for name, d in zip(names, distances, strict=True) if 1 - d >= least]
            for names, distances in zip(found["ids"], found["distances"], strict=True)
        ]

    def get(self, ids: Ids) -> Vectors:
        """Return the vectors of IDS, shape `(len(ids), dim)`; zeros where there is none."""
        with self._lock:
            if self._exact is not None:
                return self._exact.get(ids)
        return self._load(ids)

    def wait(self, timeout_s: float) -> bool:
        """Wait until chromadb answers; false when it still does not."""
        if self._building is not None:
            self._building.join(timeout_s)
        return self.ready

    def _build(self) -> None:
        """Bring the collection up to what is known, then let it answer; twice at most."""
        for attempt in (1, 2):
            try:
                collection = self._open()
                self._fill(collection)
            except Exception as exc:  # noqa: BLE001  # whatever breaks here, searches stay exact
                self._log.warning("index not built", attempt=attempt, reason=str(exc)[:200])
                self._discard()
            else:
                self._log.info("index ready", vectors=self._count)
                return

    def _fill(self, collection: Any) -> None:
        have = {int(name) for name in collection.get(include=[])["ids"]}
        while True:
            with self._lock:
                assert self._exact is not None
                ids = self._exact.ids
                missing = [id for id in ids.tolist() if id not in have]
                stale = sorted(have - set(ids.tolist()))
                if not missing and not stale:
                    self._collection = collection
                    self._count = int(collection.count())
                    self._exact = None
                    return
                part = missing[:BATCH]
                vectors = self._exact.get(np.array(part, np.int64))
            if part:
                names = [str(id) for id in part]
                collection.upsert(ids=names, embeddings=vectors)
                have.update(part)
            for start in range(0, len(stale), BATCH):
                collection.delete(ids=[str(id) for id in stale[start : start + BATCH]])
                have.difference_update(stale[start : start + BATCH])

    def _upsert(self, ids: Sequence[int], vectors: Vectors) -> None:
        for start in range(0, len(ids), BATCH):
            names = [str(id) for id in ids[start : start + BATCH]]
            self._collection.upsert(ids=names, embeddings=vectors[start : start + BATCH])

    def _lost(self, exc: Exception) -> IndexLostError:
        self._log.warning("index lost", reason=str(exc)[:200])
        self._discard()
        return IndexLostError(str(exc))


class ChromaFolder:
    """Collections in a folder of ours that no other process opens meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None
        self._client: Any = None

    def acquire(self) -> bool:
        """Take the folder; false when another process has it."""
        if self._lock is not None:
            return True
        make_private(self._folder)
        descriptor = os.open(self._folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def collection(self, name: str) -> Any:
        """Open the collection NAME."""
        data = self._folder / "data"
        if self._client is None:
            if data.exists() and not _opens(data):
                self.discard()
            import chromadb  # noqa: PLC0415  # 300 ms and 30 MB

            self._client = chromadb.PersistentClient(str(data), settings=_quiet())
        return _collection(self._client, name)

    def discard(self) -> None:
        """Delete everything: it is made again from the store."""
        if self._client is not None:
            from chromadb.api.shared_system_client import SharedSystemClient  # noqa: PLC0415

            SharedSystemClient.clear_system_cache()
            self._client = None
        shutil.rmtree(self._folder / "data", ignore_errors=True)


class ChromaServer:
    """Collections of a Chroma server by its URL."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def collection(self, name: str) -> Any:
        """Open the collection NAME."""
        import chromadb  # noqa: PLC0415

        secure = self._url.scheme == "https"
        client = chromadb.HttpClient(
            host=self._url.hostname or "localhost",
            port=self._url.port or (443 if secure else 8000),
            ssl=secure,
            settings=_quiet(),
        )
        return _collection(client, name)


def collection_name(database: str, namespace_id: int, embedder: str) -> str:
    """Return the name of the collection of a namespace of a database and an embedder."""
    key = blake2b(f"{database}\n{embedder}".encode(), digest_size=6).hexdigest()
    slug = re.sub(r"[^a-zA-Z0-9]+", "-", embedder).strip("-")[:24]
    return f"n{namespace_id}-{slug}-{key}"


def _collection(client: Any, name: str) -> Any:
    return client.get_or_create_collection(
        name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )


def _quiet() -> Any:
    from chromadb.config import Settings  # noqa: PLC0415

    return Settings(anonymized_telemetry=False)


def _opens(folder: Path) -> bool:
    """Say whether another process can open FOLDER and ask each collection something."""
    command = [sys.executable, "-P", "-m", "arsenale_memory.chroma_check", str(folder)]
    try:
        return (
            subprocess.run(command, capture_output=True, check=False, timeout=CHECK_S).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False
