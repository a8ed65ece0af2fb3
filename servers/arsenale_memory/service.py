"""What the memory server does, apart from how it is asked."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import TYPE_CHECKING, Literal

from anyio import to_thread

from arsenale_core.errors import ArsenaleError, InvalidError, NotFoundError
from arsenale_memory import answers, counting, moments, reading
from arsenale_memory.answers import Changes
from arsenale_memory.models import (
    Detail,
    KeptMemory,
    MaintainReport,
    NamespaceRow,
    NewMemory,
    ReadReport,
    RecallReport,
    Related,
    RememberReport,
    RevisedMemory,
    Stats,
    WholeMemory,
)
from arsenale_memory.record import Filter, Kept, Mode, Source, Version
from arsenale_memory.store import MemoryStore

if TYPE_CHECKING:
    from arsenale_memory.capture import Draft
    from arsenale_memory.knowledge import Knowledge, Progress
    from arsenale_memory.research import Research

EMPTY_HINT = "No memories yet: keep some with `remember`, or import some with `maintain`."
NOTHING_HINT = "Nothing fits: use other words, drop filters, or look in another namespace."
NO_VECTORS_HINT = "Found by words alone: the embedder does not answer (`arsenale logs`)."
FIND_EXTRA = 3
"""So many times the limit is ranked, to say how much more there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The filters of a tool as they come: moments and names as text."""

    namespace: str | None = None
    tags: Sequence[str] = ()
    domains: Sequence[str] = ()
    kinds: Sequence[str] = ()
    session: str | None = None
    since: str | None = None
    until: str | None = None
    as_of: str | None = None
    min_importance: float = 0.0


@dataclass(slots=True, eq=False)
class Memory:
    """Memories and how they are asked for; `knowledge()` loads what computes when first needed.

    Attributes:
        namespace: Where memories go and are looked for when no namespace is named.
        undo_days: How long what was forgotten can be brought back.
        used: Told of each operation: its name, for the counters.
        removed: Called before and after something is taken out of what assistants may be given.
    """

    store: MemoryStore
    make_knowledge: "Callable[[], Knowledge]"
    namespace: str
    owner: str
    zone: tzinfo | None
    undo_days: int
    now: Callable[[], float]
    used: Callable[[str], None]
    removed: Callable[[], None] = lambda: None
    research: "Research | None" = None
    _knowledge: "Knowledge | None" = None

    def knowledge(self) -> "Knowledge":
        """Return what captures and searches; made at the first call."""
        if self._knowledge is None:
            self._knowledge = self.make_knowledge()
        return self._knowledge

    @property
    def now_us(self) -> int:
        """Return the present moment, Unix microseconds."""
        return int(self.now() * 1e6)

    async def remember(
        self,
        items: Sequence[NewMemory],
        *,
        namespace: str | None = None,
        source: Source,
        progress: "Progress | None" = None,
    ) -> RememberReport:
        """Keep ITEMS; those that cannot be kept are reported and leave the others alone."""
        self.used("remember")
        failed: list[KeptMemory] = []
        drafts: list[Draft] = []
        places: list[int] = []
        for index, item in enumerate(items):
            try:
                drafts.append(self._draft(item, namespace, source))
                places.append(index)
            except ArsenaleError as exc:
                failed.append(KeptMemory(index=index, status="failed", reason=str(exc)))
        kept, problems = await self.knowledge().remember(drafts, progress)
        failed += [
            KeptMemory(index=places[p.index], status="failed", reason=p.reason) for p in problems
        ]
        related = await to_thread.run_sync(self._related, kept)
        rows = [
            KeptMemory(
                index=places[k.index], status=k.status, id=answers.handle(k.uid),
                related=related.get(k.uid, []),
            )
            for k in kept
        ]  # fmt: skip
        rows = sorted(rows + failed, key=lambda row: row.index)
        if len(rows) > answers.MANY_ITEMS:  # what went well is a number
            told = [row for row in rows if row.status == "failed"][: answers.MANY_ITEMS]
        else:
            told = rows
        return RememberReport(
            stored=sum(row.status == "stored" for row in rows),
            duplicates=sum(row.status in ("duplicate", "echo") for row in rows),
            failed=len(failed),
            items=told,
            hint=answers.remember_hint(rows),
        )

    async def recall(
        self,
        text: str,
        query: Query,
        *,
        limit: int,
        budget_tokens: int,
        mode: Mode = "hybrid",
        detail: Detail = "concise",
        session: str | None = None,
    ) -> RecallReport:
        """Find the memories that best answer TEXT, best first, within the budget."""
        self.used("recall")
        if not text.strip():
            raise InvalidError("the question is empty", hint="ask in words, or list with `read`")
        wanted = self.filter(query)
        hits, with_vectors = await self.knowledge().find(
            text, wanted, limit=limit * FIND_EXTRA, mode=mode
        )
        hits = [pair for pair in hits if answers.says_something(pair[0])]
        several = len(wanted.namespaces) != 1
        rows = [answers.found(hit, version, detail, several) for hit, version in hits]
        shown = answers.within(rows[:limit], budget_tokens)
        self.knowledge().mark_recalled([version.uid for _, version in hits[: len(shown)]])
        if self.research is not None:
            await self.research.looked_up(text, [(h.memory_id, v.uid) for h, v in hits])
        hint = None if with_vectors or mode == "keyword" else NO_VECTORS_HINT
        if not rows:
            some = await to_thread.run_sync(self.count, wanted)
            hint = NOTHING_HINT if some else await to_thread.run_sync(self._empty_hint)
        elif len(shown) < min(limit, len(rows)):
            hint = "The token budget left some out: raise `budget_tokens` or lower `limit`."
        return RecallReport(memories=shown, more=len(rows) - len(shown), hint=hint)

    async def read(self, ids: Sequence[str], *, neighbours: int, start: int) -> ReadReport:
        """Return memories whole, with their history, neighbours and links."""
        self.used("read")
        report = await to_thread.run_sync(self._read, ids, neighbours, start)
        if self.research is not None:
            await self.research.was_used([self.uid(id) for id in ids])
        return report

    async def listed(
        self, query: Query, *, limit: int, offset: int, by: str = "written"
    ) -> ReadReport:
        """Return a page of the memories that fit QUERY, the newest first."""
        self.used("list")
        wanted = self.filter(query)
        return await to_thread.run_sync(self._list, wanted, limit, offset, by)

    async def revise(self, id: str, changes: Changes) -> RevisedMemory:
        """Add a version with CHANGES; the former one stays in the history."""
        self.used("revise")
        uid = await to_thread.run_sync(self.uid, id)
        changes = _cleaned(changes)

        def changed(before: Version, now_us: int) -> Version:
            return answers.revised(before, changes, now_us, self._moment)

        with self._removing():
            written = await self.knowledge().rewrite(uid, changed)
        return RevisedMemory(
            id=answers.handle(uid), action="revised", version=written.number,
            hint="The former version stays in the history (`read`).",
        )  # fmt: skip

    async def change(
        self, action: Literal["change", "forget", "undo"], ids: Sequence[str], changes: Changes
    ) -> list[RevisedMemory]:
        """Revise, forget or bring back the memories IDS; all exist, or nothing is done."""
        ids = list(dict.fromkeys([await to_thread.run_sync(self.uid, id) for id in ids]))
        if action == "change":
            for uid in ids:
                await to_thread.run_sync(self._must_be_current, uid)
        match action:
            case "change":
                return [await self.revise(id, changes) for id in ids]
            case "forget":
                return await self.forget(ids)
            case "undo":
                return [await self.unforget(id) for id in ids]

    async def browse(
        self, ids: Sequence[str], query: Query, *, neighbours: int, start: int, limit: int,
        offset: int,
    ) -> ReadReport:  # fmt: skip
        """Return the memories IDS whole; without IDS a page of those that fit QUERY."""
        if ids:
            return await self.read(ids, neighbours=neighbours, start=start)
        return await self.listed(query, limit=limit, offset=offset)

    async def forget(self, ids: Sequence[str], *, at_once: bool = False) -> list[RevisedMemory]:
        """Forget memories: they can be brought back for some days, or are erased AT_ONCE."""
        self.used("forget")
        uids = [await to_thread.run_sync(self.uid, id) for id in ids]
        if at_once:
            with self._removing():
                await to_thread.run_sync(self.store.erase, uids)
            return [
                RevisedMemory(id=answers.handle(uid), action="forgotten", hint="Erased for good.")
                for uid in uids
            ]
        with self._removing():
            await to_thread.run_sync(self.store.forget, uids, self.now_us)
        until = moments.iso(self.now_us + self.undo_days * 86_400_000_000)
        return [
            RevisedMemory(id=answers.handle(uid), action="forgotten", undo_until=until)
            for uid in uids
        ]

    @contextmanager
    def _removing(self) -> Generator[None]:
        """Report a removal on both sides of the commit: who asks between them gets the old."""
        self.removed()
        try:
            yield
        finally:
            self.removed()

    async def unforget(self, id: str) -> RevisedMemory:
        """Bring back what was forgotten."""
        self.used("unforget")
        uid = await to_thread.run_sync(self.uid, id)
        version = await to_thread.run_sync(self.store.unforget, uid)
        return RevisedMemory(id=answers.handle(uid), action="restored", version=version.number)

    async def stats(self) -> Stats:
        """Return how much there is and in what state the index is."""
        return await to_thread.run_sync(self._stats, self.knowledge())

    async def reindex(self, progress: "Progress | None" = None) -> int:
        """Drop every derived thing and make it anew: full-text index, vectors that lack, caches."""
        self.used("reindex")
        knowledge = self.knowledge()
        await to_thread.run_sync(self.store.rebuild_full_text)
        await to_thread.run_sync(knowledge.release)
        done = await knowledge.embed_pending(progress)
        with suppress(NotFoundError):
            for name in (await self.stats()).other_embedders:
                await to_thread.run_sync(self.store.forget_vectors, name)
        return done

    async def maintain(
        self,
        action: Literal["stats", "reindex", "purge", "research"],
        progress: "Progress | None" = None,
    ) -> MaintainReport:
        """Do ACTION and say how things stand after it."""
        done = 0
        if action == "research":
            rows = [] if self.research is None else await self.research.rows()
            return MaintainReport(action=action, tracks=rows)
        if action == "reindex":
            done = await self.reindex(progress)
        elif action == "purge":
            done = await self.purge()
        return MaintainReport(action=action, done=done, stats=await self.stats())

    async def purge(self) -> int:
        """Erase what was forgotten longer ago than it can be brought back."""
        before = self.now_us - self.undo_days * 86_400_000_000
        return await to_thread.run_sync(self.store.erase_forgotten, before)

    def uid(self, id: str) -> str:
        """Return the uid that ID means: a uid or its last characters.

        Raises:
            NotFoundError: It means none.
            InvalidError: It may mean several.
        """
        if not answers.HANDLE.fullmatch(id.lower()):
            raise NotFoundError("memory", id, hint="give the id that `recall` shows")
        with self.store.reading() as db:
            found = reading.resolve(db, id)
        if not found:
            raise NotFoundError("memory", id, hint="`recall` and `read` show ids")
        if len(found) > 1:
            raise InvalidError(f"{id!r} may be several memories", hint="give more characters")
        return found[0]

    def _must_be_current(self, uid: str) -> None:
        with self.store.reading() as db:
            if reading.current(db, uid) is None:
                raise NotFoundError(
                    "current memory", answers.handle(uid), hint="it was forgotten or superseded"
                )

    def filter(self, query: Query) -> Filter:
        """Return QUERY as the store understands it; `*` is every namespace."""
        asked = query.namespace or self.namespace
        names = tuple(part.strip() for part in asked.split(",") if part.strip())
        if not names:
            raise InvalidError(f"{asked!r} names no namespace", hint="* is every one")
        if "*" in names:
            names = ()
        return Filter(
            namespaces=names,
            tags=tuple(tag.strip().lstrip("#") for tag in query.tags),
            domains=tuple(query.domains),
            kinds=tuple(query.kinds),
            session=query.session,
            since_us=self._moment(query.since),
            until_us=self._moment(query.until),
            as_of_us=self._moment(query.as_of),
            min_importance=query.min_importance,
        )

    def _moment(self, text: str | None) -> int | None:
        return None if text is None else moments.parse(text, self.now(), self.zone)

    def _draft(self, item: NewMemory, namespace: str | None, source: Source) -> "Draft":
        from arsenale_memory.capture import Draft  # noqa: PLC0415  # it brings numpy

        return Draft(
            content=item.content,
            namespace=answers.namespace_name(namespace or self.namespace),
            owner=self.owner,
            source=source,
            kind=item.kind,
            subject=item.subject,
            session=item.session,
            tags=tuple(item.tags),
            importance=item.importance,
            at_us=self._moment(item.at),
            supersedes=tuple(self.uid(id) for id in item.supersedes),
        )

    def _related(self, kept: Sequence[Kept]) -> dict[str, list[Related]]:
        linked = {k.uid: k.links for k in kept if k.links}
        if not linked:
            return {}
        targets = {link.target for links in linked.values() for link in links}
        with self.store.reading() as db:
            known = {v.uid: v for v in reading.versions(db, uids=sorted(targets))}
        return {
            uid: [answers.related(link, known[link.target]) for link in links]
            for uid, links in linked.items()
        }

    def _read(self, ids: Sequence[str], neighbours: int, start: int) -> ReadReport:
        uids = [self.uid(id) for id in ids]
        memories: list[WholeMemory] = []
        with self.store.reading() as db:
            for uid in uids:
                history = reading.history(db, uid)
                around = reading.neighbours(db, history[0], neighbours)
                links = reading.links(db, uid)
                others = {link.target if link.source == uid else link.source for link in links}
                known = {v.uid: v for v in reading.versions(db, uids=sorted(others))}
                memories.append(answers.whole(history, around, links, known, start=start))
        return ReadReport(memories=memories, total=len(memories))

    def _list(self, wanted: Filter, limit: int, offset: int, by: str) -> ReadReport:
        with self.store.reading() as db:
            rows = reading.listed(db, wanted, limit=limit, offset=offset, by=by)
            total = reading.count(db, wanted)
            known = bool(reading.namespace_ids(db))
        following = offset + len(rows)
        hint = None
        if not rows:
            hint = NOTHING_HINT if known else EMPTY_HINT
        return ReadReport(
            listed=[answers.listed(version, len(wanted.namespaces) != 1) for version in rows],
            total=total,
            next_offset=following if following < total else None,
            hint=hint,
        )

    def count(self, wanted: Filter) -> int:
        """Return how many memories fit WANTED."""
        with self.store.reading() as db:
            return reading.count(db, wanted)

    def _empty_hint(self) -> str:
        with self.store.reading() as db:
            spaces = [row for row in counting.namespaces(db) if row.n]
        if not spaces:
            return EMPTY_HINT
        names = ", ".join(f"{row.name} ({row.n})" for row in spaces[:5])
        return f"No memory fits these filters. Namespaces: {names}; namespace='*' searches all."

    def _stats(self, knowledge: "Knowledge") -> Stats:
        embedder = knowledge.embedder.id
        with self.store.reading() as db:
            totals = counting.totals(db)
            vectors = counting.vector_counts(db)
            rows = counting.namespaces(db)
            tags = counting.label_counts(db, "tag", (), 10)
        mine = vectors.pop(embedder, 0)
        replies = vectors.pop(knowledge.library.replies, 0)
        turns = totals.pop("turns")
        vectors = {name: n for name, n in vectors.items() if "#" not in name}
        return Stats(
            **totals,
            namespaces=[
                NamespaceRow(
                    name=row.name, memories=row.n,
                    newest=moments.iso(row.newest) if row.newest else None,
                )
                for row in rows
            ],
            tags=[f"{name} ({n})" for name, n in tags],
            embedder=embedder,
            vectors=mine,
            pending=totals["parts"] - mine,
            replies=replies,
            replies_pending=turns - replies,
            other_embedders=vectors,
            index=knowledge.index_state(),
            database=self.store.dialect,
            hint=None if totals["memories"] else EMPTY_HINT,
        )  # fmt: skip


def _cleaned(changes: Changes) -> Changes:
    """Return CHANGES with content and tags as a capture would take them."""
    from arsenale_memory import capture  # noqa: PLC0415  # it brings numpy

    return replace(
        changes,
        content=None if changes.content is None else capture.cleaned(changes.content),
        tags=None if changes.tags is None else capture.labels("tags", tuple(changes.tags)),
    )
