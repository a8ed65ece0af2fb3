"""What the ranking is given: turns read as replies, and words that are worth looking for."""

import numpy as np
import pytest

from arsenale_memory import asking, reading, search
from arsenale_memory.library import unpacked
from arsenale_memory.models import NewMemory
from arsenale_memory.opening import Services
from arsenale_memory.record import Source
from arsenale_memory.service import Query
from arsenale_memory.shelf import Shelf
from arsenale_memory.vectors import ExactIndex

BY_TEST = Source(via="tool")
TURNS = (
    "I moved. Where do you keep the backups?",
    "Oh, nice! In the cellar, on two disks.",
    "Fine.",
)


async def remember(services: Services, *contents: str, session: str | None = None) -> None:
    new = [NewMemory(content=content, session=session) for content in contents]
    await services.memory.remember(new, source=BY_TEST)


async def test_a_turn_is_also_embedded_as_a_reply_and_reindex_leaves_that(
    services: Services,
) -> None:
    await remember(services, *TURNS, session="s1")
    await remember(services, "A note of no session.")
    knowledge = services.memory.knowledge()
    await knowledge.embed_pending()
    stats = await services.memory.stats()
    assert (stats.replies, stats.replies_pending, stats.other_embedders) == (2, 0, {})

    with services.memory.store.reading() as db:
        rows = reading.pending_replies(db, "nobody", 10)
        kept = reading.vectors_of(db, knowledge.library.replies, [id for id, _, _ in rows])
    assert [body for _, _, body in rows] == list(TURNS[1:])
    [expected] = await knowledge.embedder.embed([asking.as_reply(TURNS[0], TURNS[1])])
    [got] = unpacked([kept[rows[0][0]]])
    assert float(got @ expected) == pytest.approx(1, abs=1e-3)

    await services.memory.reindex()
    assert (await services.memory.stats()).replies == 2


async def test_the_reply_counts_where_the_question_is_put_to_its_speaker(
    services: Services,
) -> None:
    new = [
        NewMemory(content=content, session="s1", subject=subject)
        for content, subject in zip(TURNS, ("Bo", "Ann", "Bo"), strict=True)
    ]
    await services.memory.remember(new, source=BY_TEST)
    knowledge = services.memory.knowledge()
    await knowledge.embed_pending()
    hits, _ = await knowledge.find(
        "Where does Ann keep the backups?", services.memory.filter(Query()), limit=3
    )
    got = next(hit.features["reply"] for hit, version in hits if version.content == TURNS[1])
    put = ["Where do you keep the backups?", asking.as_reply(TURNS[0], TURNS[1]), TURNS[1]]
    you, reply, alone = await knowledge.embedder.embed(put)
    assert got == pytest.approx(float(reply @ you), abs=1e-3)
    assert got > float(alone @ you)


async def test_words_that_are_everywhere_are_not_looked_for_beside_rare_ones(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_READ", 3)
    await remember(services, *(f"The server number {n} is up." for n in range(10)))
    await remember(services, "The zeppelin landed.")
    found = await services.memory.recall(
        "zeppelin server", Query(), mode="keyword", limit=20, budget_tokens=2000
    )
    assert [row.content for row in found.memories] == ["The zeppelin landed."]
    for alone in ("server", "server unheard"):  # a word that is nowhere is no rarer one
        found = await services.memory.recall(
            alone, Query(), mode="keyword", limit=20, budget_tokens=2000
        )
        assert len(found.memories) == 10


def test_places_of_turns_count_from_the_start_of_each_session() -> None:
    shelf = Shelf(1, ExactIndex(2))
    rows = [
        (part, part, 0, 5, session, None, 0.5, 1, None, 1, None, False)
        for part, session in enumerate(["a", "b", "a", None, "b", "a", None], 1)
    ]
    shelf.replace(None, rows)
    assert shelf.places().tolist() == [0, 0, 1, 0, 1, 2, 0]
    assert np.array_equal(Shelf(1, ExactIndex(2)).places(), [])
