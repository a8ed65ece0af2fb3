"""The store, the embedder and the library held together: capture, search, background embedding."""

import ctypes
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
import numpy as np
from anyio import to_thread

from arsenale_core import logs
from arsenale_core.derived import Derived
from arsenale_core.embedding.base import Embedder
from arsenale_core.embedding.vectors import Vectors
from arsenale_core.errors import ArsenaleError, UnavailableError
from arsenale_core.ids import uuid7
from arsenale_memory import asking, capture, reading, search, words
from arsenale_memory.asking import Asked
from arsenale_memory.capture import Draft
from arsenale_memory.library import Library
from arsenale_memory.record import Entry, Filter, Kept, Link, Mode, Part, Problem, Version
from arsenale_memory.store import MemoryStore
from arsenale_memory.vectors import IndexLostError

CHUNK = 200
"""Items of a batch that are embedded and committed together."""

PARTS_AT_ONCE = 16
"""Parts of one text that are embedded before it is acknowledged; the others follow."""

EMBED_BATCH = 64
"""Parts that the background embeds between two commits."""

RECALLED_KEPT = 2_000
"""How many of the newest recalled memories are remembered, to know an echo."""

NEAR_LOOKED_AT = 4

Progress = Callable[[int, int], Awaitable[None]]
"""Told how many of how many are done."""


@dataclass(slots=True, eq=False)
class Knowledge:
    """Everything that reads and writes memories; one a process.

    Searches run one at a time in a worker thread; so do writes, on the store's own lock. Who holds
    the `gate` keeps new memories of this process out: a restore does, other processes it notices.
    """

    store: MemoryStore
    embedder: Embedder
    library: Library
    now: Callable[[], float]
    questions: Derived[tuple[str, str, str], Vectors]
    gate: anyio.Lock = field(default_factory=anyio.Lock)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _recalled: deque[str] = field(default_factory=lambda: deque[str](maxlen=RECALLED_KEPT))
    _searches: int = 0
    _filled: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    """By name of vectors: up to which part nothing is missing."""

    @property
    def now_us(self) -> int:
        """Return the present moment, Unix microseconds."""
        return int(self.now() * 1e6)

    # Capture.

    async def remember(
        self, drafts: Sequence[Draft], progress: Progress | None = None
    ) -> tuple[list[Kept], list[Problem]]:
        """Keep DRAFTS, in order; one that cannot be kept leaves the others alone.

        When this returns, everything kept is committed, findable by its words and, if there is an
        embedder, by its vector. Chunks of 200 are committed as they are ready.
        """
        kept: list[Kept] = []
        problems: list[Problem] = []
        for start in range(0, len(drafts), CHUNK):
            chunk = list(enumerate(drafts[start : start + CHUNK], start))
            done, wrong = await self._keep(chunk)
            kept += done
            problems += wrong
            if progress:
                await progress(min(start + CHUNK, len(drafts)), len(drafts))
        return kept, problems

    async def _keep(self, chunk: Sequence[tuple[int, Draft]]) -> tuple[list[Kept], list[Problem]]:
        good: list[tuple[int, Draft]] = []
        problems: list[Problem] = []
        for index, draft in chunk:
            try:
                good.append((index, capture.checked(draft)))
            except ArsenaleError as exc:
                problems.append(Problem(index=index, reason=str(exc)))
        if not good:
            return [], problems
        parts = [capture.parts(draft.content) for _, draft in good]
        versions: list[Version] = []
        vectors: list[Vectors | None] = []

        async def embed() -> None:
            vectors.extend(await self._embed_parts(parts))

        async def extract() -> None:
            now_us = self.now_us
            versions.extend(
                await to_thread.run_sync(
                    lambda: [
                        capture.version(draft, draft.uid or uuid7(now_us / 1e6), now_us)
                        for _, draft in good
                    ]
                )
            )

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(embed)
            tasks.start_soon(extract)
        entries = [
            Entry(
                version=version,
                parts=p,
                embedder=self.embedder.id,
                vectors=v,
                supersedes=draft.supersedes,
            )
            for (_, draft), version, p, v in zip(good, versions, parts, vectors, strict=True)
        ]
        async with self.gate:
            kept = await to_thread.run_sync(self._store_entries, entries)
        self.wake()
        numbered = [
            Kept(index=good[k.index][0], status=k.status, uid=k.uid, links=k.links) for k in kept
        ]
        return numbered, problems

    async def keep_versions(self, versions: Sequence[Version]) -> list[Kept]:
        """Store VERSIONS as they are, in order: an import of what was exported.

        One that is there already, or whose id and number another one has, is a duplicate.
        """
        parts = [capture.parts(version.content) for version in versions]
        vectors = await self._embed_parts(parts)
        entries = [
            Entry(version=version, parts=p, embedder=self.embedder.id, vectors=v)
            for version, p, v in zip(versions, parts, vectors, strict=True)
        ]
        self.wake()
        return await to_thread.run_sync(self.store.add_versions, entries)

    def _store_entries(self, entries: Sequence[Entry]) -> list[Kept]:
        echoes = self._echoes(entries)
        fresh = [i for i in range(len(entries)) if i not in echoes]
        stored = self.store.add([entries[i] for i in fresh])
        kept = [Kept(index=fresh[k.index], status=k.status, uid=k.uid, links=()) for k in stored]
        added = {fresh[k.index]: entries[fresh[k.index]] for k in stored if k.status == "stored"}
        links = self._relations(list(added.values()))
        self.store.add_links([link for found in links.values() for link in found], self.now_us)
        kept = [
            Kept(index=k.index, status=k.status, uid=k.uid, links=tuple(links.get(k.uid, ())))
            for k in kept
        ]
        for i, uid in echoes.items():
            if entries[i].supersedes:
                self.store.supersede(uid, entries[i].supersedes, self.now_us)
            kept.append(Kept(index=i, status="echo", uid=uid))
        return sorted(kept, key=lambda k: k.index)

    def _echoes(self, entries: Sequence[Entry]) -> dict[int, str]:
        """Return which ENTRIES only repeat what was recalled, and the memory they repeat."""
        if not self._recalled:
            return {}
        recalled = set(self._recalled)
        found: dict[int, str] = {}
        for i, near in enumerate(self._near(entries)):
            for old, cosine in near:
                content = entries[i].version.content
                if old.uid in recalled and capture.is_echo(content, old.content, cosine):
                    found.setdefault(i, old.uid)
        return found

    def _relations(self, entries: Sequence[Entry]) -> dict[str, list[Link]]:
        found: dict[str, list[Link]] = {}
        for entry, near in zip(entries, self._near(entries), strict=True):
            for old, cosine in near:
                if old.uid != entry.version.uid and old.uid not in entry.supersedes:
                    link = capture.relation(entry.version, old, cosine)
                    if link is not None:
                        found.setdefault(entry.version.uid, []).append(link)
        return found

    def _near(self, entries: Sequence[Entry]) -> list[list[tuple[Version, float]]]:
        """Return for each entry the current memories of its namespace near to its first part."""
        found: list[list[tuple[Version, float]]] = [[] for _ in entries]
        places: dict[str, list[int]] = {}
        for i, entry in enumerate(entries):
            if entry.vectors is not None and len(entry.vectors):
                places.setdefault(entry.version.namespace, []).append(i)
        for namespace, which in places.items():
            queries = np.stack([_first(entries[i]) for i in which])
            for i, near in zip(which, self._close(namespace, queries), strict=True):
                found[i] = near
        return found

    def _close(self, namespace: str, queries: Vectors) -> list[list[tuple[Version, float]]]:
        with self._reading, self.store.reading() as db:
            ids = list(reading.namespace_ids(db, [namespace]).values())
            shelves = self.library.shelves(db, ids)
            if not shelves or shelves[0].index.dim != queries.shape[1]:
                return [[] for _ in queries]
            close = shelves[0].index.close(queries, capture.NEAR_COSINE, NEAR_LOOKED_AT)
            texts = reading.texts(db, sorted({part for each in close for part, _ in each}))
            rows = {part: text.memory_id for part, text in texts.items()}
            known = reading.versions_by_id(db, sorted(set(rows.values())))
        return [
            [
                (known[rows[part]], cosine)
                for part, cosine in each
                if part in rows and rows[part] in known and known[rows[part]].ended_us is None
            ]
            for each in close
        ]

    # Revision.

    async def rewrite(self, uid: str, make: Callable[[Version, int], Version]) -> Version:
        """Add the version that MAKE makes of the current one of UID and of the present moment.

        Raises:
            NotFoundError: UID names no memory that is current.
        """
        before = await to_thread.run_sync(self._current, uid)
        with_content = [] if before is None else [make(before, self.now_us).content]
        parts = [capture.parts(content) for content in with_content]
        vectors = await self._embed_parts(parts)

        def entry_of(current: Version) -> Entry:
            version = make(current, self.now_us)
            same = bool(with_content) and with_content[0] == version.content
            return Entry(
                version=version,
                parts=parts[0] if same else capture.parts(version.content),
                embedder=self.embedder.id,
                vectors=vectors[0] if same else None,
            )

        written = await to_thread.run_sync(self.store.revise, uid, entry_of, self.now_us)
        self.wake()
        return written

    def _current(self, uid: str) -> Version | None:
        with self.store.reading() as db:
            return reading.current(db, uid)

    # Search.

    async def find(
        self, text: str, wanted: Filter, *, limit: int, mode: Mode = "hybrid"
    ) -> tuple[list[tuple[search.Hit, Version]], bool]:
        """Return hits with their versions, best first, and whether vectors took part."""
        self._searches += 1
        subjects = await to_thread.run_sync(self._subjects, wanted)
        asked = asking.asked(text, words.named(text, subjects))
        vectors = None if mode == "keyword" else await self._embed_question(asked)
        question = search.Question(
            asked=asked,
            vector=None if vectors is None else vectors[0],
            you=None if vectors is None else vectors[1],
            wanted=wanted,
            mode="keyword" if vectors is None else mode,
            limit=limit,
        )
        found = await to_thread.run_sync(self._search, question)
        return found, vectors is not None

    def _search(self, question: search.Question) -> list[tuple[search.Hit, Version]]:
        with self._reading, self.store.reading() as db:
            try:
                hits = search.search(db, self.library, question)
            except IndexLostError:
                self.library.release()  # the store has everything: read it again
                hits = search.search(db, self.library, question)
            known = reading.versions_by_id(db, [hit.memory_id for hit in hits])
        return [(hit, known[hit.memory_id]) for hit in hits if hit.memory_id in known]

    def mark_recalled(self, uids: Sequence[str]) -> None:
        """Note that UIDS were shown to an assistant: what repeats them is no news."""
        self._recalled.extend(uids)

    async def _embed_question(self, asked: Asked) -> Vectors | None:
        key = (self.embedder.id, asked.text, asked.you)
        known = self.questions.get(key)
        if known is not None:
            return known
        try:
            texts = list(dict.fromkeys([asked.text, asked.you]))
            found = await self.embedder.embed(texts)
            vectors = found[[0, len(texts) - 1]]
            self.questions.put(key, vectors)
            return vectors
        except UnavailableError as exc:
            logs.get("arsenale.memory").warning("no vectors for a question", reason=str(exc))
            return None

    def _subjects(self, wanted: Filter) -> list[str]:
        with self._reading, self.store.reading() as db:
            ids = list(reading.namespace_ids(db, wanted.namespaces).values())
            shelves = self.library.shelves(db, ids)
            return [subject for shelf in shelves for subject in shelf.subjects]

    async def _embed_parts(self, parts: Sequence[tuple[Part, ...]]) -> list[Vectors | None]:
        """Return the vectors of the first parts of each text; `None` where none can be had now."""
        firsts = [part.body for each in parts for part in each[:PARTS_AT_ONCE]]
        try:
            vectors = await self.embedder.embed(firsts, urgent=len(firsts) <= PARTS_AT_ONCE)
        except UnavailableError as exc:
            logs.get("arsenale.memory").warning("embedding waits", reason=str(exc))
            return [None] * len(parts)
        sizes = [len(each[:PARTS_AT_ONCE]) for each in parts]
        ends = np.cumsum(sizes)
        return [vectors[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    # In the background.

    def wake(self) -> None:
        """Let the background look for parts without a vector."""
        self._wake.set()

    async def embed_pending(self, progress: Progress | None = None) -> int:
        """Embed every part that has no vector of the present embedder; return how many.

        Then every turn of a session as a reply, for the ranking: a search before that takes the
        vector of the turn alone.
        """
        done = await self._fill(self.embedder.id, self._pending, progress)
        await self._fill(self.library.replies, self._pending_replies, None)
        return done

    async def _fill(
        self, space: str, pending: Callable[[int], list[tuple[int, str]]], progress: Progress | None
    ) -> int:
        done, after = 0, self._filled.get(space, 0)
        newest = await to_thread.run_sync(self._newest_part)
        while waiting := await to_thread.run_sync(pending, after):
            vectors = await self.embedder.embed([text for _, text in waiting], urgent=False)
            packed = [
                (id, vector.astype("<f2").tobytes())
                for (id, _), vector in zip(waiting, vectors, strict=True)
            ]
            dim = int(vectors.shape[1])
            add = partial(
                self.store.add_vectors, space, dim, packed, indexed=space == self.embedder.id
            )
            await to_thread.run_sync(add)
            done += len(waiting)
            after = waiting[-1][0]
            if progress:
                await progress(done, done)
        self._filled[space] = newest  # ids rise in the order of commits: one writer at a time
        return done

    def _newest_part(self) -> int:
        with self.store.reading() as db:
            return reading.newest_part(db)

    def _pending(self, after: int) -> list[tuple[int, str]]:
        with self.store.reading() as db:
            return reading.pending(db, self.embedder.id, EMBED_BATCH, after)

    def _pending_replies(self, after: int) -> list[tuple[int, str]]:
        with self.store.reading() as db:
            found = reading.pending_replies(db, self.library.replies, EMBED_BATCH, after)
        return [(id, asking.as_reply(before, body)) for id, before, body in found]

    async def run_embedding(self, retry_s: float = 30.0) -> None:
        """Embed what waits, whenever something may wait; until cancelled."""
        log = logs.get("arsenale.memory")
        while True:
            try:
                done = await self.embed_pending()
                if done:
                    log.info("embedded", parts=done, embedder=self.embedder.id)
                await self._wake.wait()
                self._wake = anyio.Event()
            except UnavailableError as exc:
                log.warning("embedding waits", reason=str(exc))
                await anyio.sleep(retry_s)

    async def run_release(self, idle_s: float) -> None:
        """Give memory back when nothing has been searched for IDLE_S; until cancelled."""
        while True:
            before = self._searches
            await anyio.sleep(idle_s)
            if before and before == self._searches:
                await to_thread.run_sync(self.release)
                self._searches = 0

    def release(self) -> None:
        """Forget what is cached, and give its memory back to the system."""
        with self._reading:
            self.library.release()
        self._filled.clear()
        self.questions.forget()
        with suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL(None).malloc_trim(0)

    def index_state(self) -> str:
        """Say in words which indexes are open."""
        return self.library.describe()


def _first(entry: Entry) -> Vectors:
    assert entry.vectors is not None
    return entry.vectors[0]
