"""Research features at work: consent, what they compute, what is measured, and how it is erased."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from arsenale_core import logs
from arsenale_core.embedding.base import Embedder
from arsenale_core.errors import ArsenaleError, NotFoundError
from arsenale_memory import moments, trials
from arsenale_memory.models import TrackRow
from arsenale_memory.store import MemoryStore
from arsenale_memory.tracks import (
    CONTEXT,
    FEATURES,
    NAMED_EMBEDDINGS,
    Feature,
    context_view,
    space_name,
)

if TYPE_CHECKING:
    from arsenale_core.embedding.vectors import Vectors

LOOK_EVERY_S = 20.0
BATCH = 32
SHOWN_KEPT = 500
"""So many shown memories are remembered, to see whether they are used."""


@dataclass(slots=True, eq=False)
class Research:
    """The research track of one store; without consent it does nothing and keeps nothing."""

    store: MemoryStore
    embedder: Embedder
    switched_on: bool
    now: Callable[[], float]
    _shown: OrderedDict[str, tuple[int, int]] = field(
        default_factory=lambda: OrderedDict[str, tuple[int, int]]()
    )

    def runs(self, feature: Feature) -> bool:
        """Say whether FEATURE is switched on and consented to, in its present text."""
        if not self.switched_on:
            return False
        with self.store.reading() as db:
            consent = trials.consent(db, feature.name)
        return (
            consent is not None
            and consent.withdrawn_us is None
            and bytes(consent.text_sha) == feature.text_sha
        )

    async def rows(self) -> list[TrackRow]:
        """Return each feature with its state, its text and its metrics."""
        return await to_thread.run_sync(lambda: [self._row(f) for f in FEATURES.values()])

    def grant(self, name: str, who: str) -> None:
        """Record that WHO consents to the feature NAME in its present text.

        Raises:
            NotFoundError: There is no such feature.
        """
        feature = self.feature(name)
        self.store.grant(name, who, int(self.now() * 1e6), feature.text_version, feature.text_sha)

    def withdraw(self, name: str) -> int:
        """Record the withdrawal and erase all that the feature NAME has made; say how many rows.

        Raises:
            NotFoundError: There is no such feature, or nobody has consented to it.
        """
        feature = self.feature(name)
        with self.store.reading() as db:
            if trials.consent(db, feature.name) is None:
                raise NotFoundError("consent", name, hint="there is nothing to withdraw")
            spaces = trials.spaces(db)
        self._shown.clear()
        gone = sum(self.store.forget_vectors(space) for space in spaces)
        return gone + self.store.withdraw(name, int(self.now() * 1e6))

    @staticmethod
    def feature(name: str) -> Feature:
        """Return the feature called NAME."""
        if name not in FEATURES:
            raise NotFoundError("feature", name, hint=f"there are {', '.join(FEATURES)}")
        return FEATURES[name]

    async def looked_up(self, question: str, hits: Sequence[tuple[int, str]]) -> None:
        """Note at which places both vectors have the HITS (row id, uid) of a search."""
        if not hits or not await to_thread.run_sync(self.runs, NAMED_EMBEDDINGS):
            return
        try:
            [query] = await self.embedder.embed([question])
            places = await to_thread.run_sync(self._places, query, [id for id, _ in hits])
        except ArsenaleError as exc:
            logs.get("arsenale.memory").warning("research skipped", reason=str(exc))
            return
        for place, (id, uid) in enumerate(hits, 1):
            self._shown[uid] = (place, places.get(id, 0))
            self._shown.move_to_end(uid)
        while len(self._shown) > SHOWN_KEPT:
            self._shown.popitem(last=False)

    async def was_used(self, uids: Sequence[str]) -> None:
        """Record the places of those of UIDS that a search had shown before."""
        found = [self._shown.pop(uid) for uid in uids if uid in self._shown]
        if found and await to_thread.run_sync(self.runs, NAMED_EMBEDDINGS):
            at_us = int(self.now() * 1e6)
            rows = [
                (NAMED_EMBEDDINGS.name, name, 1 / place if place else 0.0, at_us)
                for places in found
                for name, place in zip(("rr_ranking", "rr_named"), places, strict=True)
            ]
            await to_thread.run_sync(self.store.add_metrics, rows)

    async def run(self) -> None:
        """Make the named embeddings that are missing, while there is consent; until cancelled."""
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            try:
                if await to_thread.run_sync(self.runs, NAMED_EMBEDDINGS):
                    await self.embed_pending()
            except ArsenaleError as exc:
                logs.get("arsenale.memory").warning("research waits", reason=str(exc))

    async def embed_pending(self) -> int:
        """Give each part that lacks it its named embedding; return how many."""
        name = space_name(self.embedder.id, CONTEXT)
        done = after = 0
        while parts := await to_thread.run_sync(self._pending, name, after):
            texts = [context_view(before, body, later) for _, before, body, later in parts]
            vectors = await self.embedder.embed(texts, urgent=False)
            packed = [
                (part[0], vector.astype("<f2").tobytes())
                for part, vector in zip(parts, vectors, strict=True)
            ]
            dim = int(vectors.shape[1])
            add = partial(self.store.add_vectors, name, dim, packed, indexed=False)
            await to_thread.run_sync(add)
            if not await to_thread.run_sync(self.runs, NAMED_EMBEDDINGS):
                await to_thread.run_sync(self.store.forget_vectors, name)  # withdrawn meanwhile
                return 0
            done += len(parts)
            after = parts[-1][0]
        return done

    def _pending(self, name: str, after: int) -> list[tuple[int, str, str, str]]:
        with self.store.reading() as db:
            return trials.pending(db, name, BATCH, after)

    def _places(self, query: "Vectors", ids: Sequence[int]) -> dict[int, int]:
        """Return the place of each memory by its named embedding alone."""
        from arsenale_memory.library import unpacked  # noqa: PLC0415  # it brings numpy

        name = space_name(self.embedder.id, CONTEXT)
        with self.store.reading() as db:
            rows = trials.vectors_of_memories(db, name, ids)
        if not rows:
            return {}
        scores = unpacked([data for _, data in rows]) @ query
        best: dict[int, float] = {}
        for (id, _), score in zip(rows, scores, strict=True):
            best[id] = max(best.get(id, -1.0), float(score))
        return {id: place for place, id in enumerate(sorted(best, key=lambda i: -best[i]), 1)}

    def _row(self, feature: Feature) -> TrackRow:
        with self.store.reading() as db:
            consent = trials.consent(db, feature.name)
            metrics = trials.metrics(db, feature.name)
        if consent is None:
            said = f"none; `arsenale memory research grant {feature.name}`"
        elif consent.withdrawn_us is not None:
            said = f"withdrawn {moments.iso(consent.withdrawn_us)}"
        elif bytes(consent.text_sha) != feature.text_sha:
            said = "to an older text: consent anew"
        else:
            said = f"{consent.who}, {moments.iso(consent.granted_us)}, text {consent.text_version}"
            said += "" if self.switched_on else "; `research` is off in the settings"
        return TrackRow(
            feature=feature.name, on=self.runs(feature), consent=said,
            hypothesis=feature.hypothesis, text=feature.text, metrics=metrics,
        )  # fmt: skip
