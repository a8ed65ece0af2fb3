"""What the memory store promises, on SQLite and on PostgreSQL."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from arsenale_core.errors import ConflictError, NotFoundError
from arsenale_memory import counting, reading, words
from arsenale_memory.record import Entry, Filter, Labels, Version
from arsenale_memory.store import MemoryStore

MakeEntry = Callable[..., Entry]
HOUR_US = 3_600_000_000


def found(store: MemoryStore, text: str, *spaces: str) -> list[int]:
    asked = words.full_text(words.terms(text), spaces or ("n1",))
    assert asked is not None
    with store.reading() as db:
        query = asked.of(store.dialect)
        return [id for id, _ in reading.keyword(db, query, (0, 1, 1, 1, 0.6, 0.4), 10)]


def listed(store: MemoryStore, **wanted: object) -> list[str]:
    with store.reading() as db:
        rows = reading.listed(db, Filter(**wanted), limit=100, by="id")  # type: ignore[arg-type]
    return [row.content for row in rows]


def current(store: MemoryStore, uid: str) -> Version | None:
    with store.reading() as db:
        return reading.current(db, uid)


def test_what_was_added_comes_back_as_it_was(store: MemoryStore, entry: MakeEntry) -> None:
    one = entry(
        "Grüße aus Wien ☕", subject="Anna", session="s", labels=Labels(tags=("a", "b")),
        valid_to_us=5,
    )  # fmt: skip
    store.add([one])
    assert current(store, one.version.uid) == one.version


def test_the_same_words_are_kept_once_whatever_the_white_space(
    store: MemoryStore, entry: MakeEntry
) -> None:
    first, again, elsewhere = entry("a b"), entry(" a\n b "), entry("a b", namespace="other")
    kept = store.add([first, again, elsewhere])
    assert [k.status for k in kept] == ["stored", "duplicate", "stored"]
    assert kept[1].uid == first.version.uid
    assert [k.status for k in store.add([entry("a b")])] == ["duplicate"]


def test_words_are_found_by_their_stems_and_without_accents(
    store: MemoryStore, entry: MakeEntry
) -> None:
    store.add([entry("She was painting the garden"), entry("nothing of the kind")])
    assert len(found(store, "who painted gardens?")) == 1


def test_a_memory_is_found_by_what_came_before_and_after_in_its_session(
    store: MemoryStore, entry: MakeEntry
) -> None:
    store.add([entry("Which harbour?", session="s"), entry("Trieste.", session="s")])
    store.add([entry("And the ferry?", session="s"), entry("Unrelated", session="t")])
    assert sorted(found(store, "trieste")) == [1, 2, 3]
    assert sorted(found(store, "ferry")) == [2, 3]


def test_a_revision_keeps_the_old_version_and_hides_it_from_the_present(
    store: MemoryStore, entry: MakeEntry
) -> None:
    one = entry("coffee with milk")
    store.add([one])

    def changed(before: Version) -> Entry:
        later = before.written_us + HOUR_US
        return entry("coffee without sugar", uid=before.uid, number=2, written_us=later)

    store.revise(one.version.uid, changed, one.version.written_us + HOUR_US)
    assert listed(store) == ["coffee without sugar"]
    assert listed(store, as_of_us=one.version.written_us + 1) == ["coffee with milk"]
    assert found(store, "milk") == []
    assert found(store, "milk", "n1", "h1") == [1]
    with store.reading() as db:
        assert [v.number for v in reading.history(db, one.version.uid)] == [2, 1]


def test_forgetting_can_be_undone_until_it_is_erased(store: MemoryStore, entry: MakeEntry) -> None:
    one = entry("secret plan")
    store.add([one])
    uid = one.version.uid
    assert store.forget([uid, uid], 10) == 1
    assert (listed(store), found(store, "secret")) == ([], [])
    store.unforget(uid)
    assert (listed(store), found(store, "secret")) == (["secret plan"], [1])
    with pytest.raises(ConflictError, match="nothing to undo"):
        store.unforget(uid)
    store.forget([uid], 10)
    assert store.erase_forgotten(5) == 0
    assert store.erase_forgotten(11) == 1
    with pytest.raises(NotFoundError, match="erased"):
        store.unforget(uid)


def test_what_supersedes_ends_the_other_and_says_so(store: MemoryStore, entry: MakeEntry) -> None:
    old = entry("the port is 80")
    new = entry("the port is 443", supersedes=(old.version.uid,))
    store.add([old])
    store.add([new])
    assert listed(store) == ["the port is 443"]
    with store.reading() as db:
        [link] = reading.links(db, old.version.uid)
        [gone] = reading.history(db, old.version.uid)
    assert (link.kind, link.source) == ("supersedes", new.version.uid)
    assert gone.ended == "superseded"


def test_filters_narrow_by_label_time_importance_and_kind(
    store: MemoryStore, entry: MakeEntry
) -> None:
    store.add(
        [
            entry("tagged", labels=Labels(tags=("Work",), domains=("food",))),
            entry("late", valid_from_us=2_000_000_000_000_000),
            entry("weighty", importance=0.9),
            entry("decided", kind="decision"),
            entry("echo", recalled=True),
            entry("other", namespace="m"),
        ]
    )
    assert listed(store, tags=("work",)) == ["tagged"]
    assert listed(store, domains=("food", "x"), tags=("work",)) == ["tagged"]
    assert listed(store, since_us=1_900_000_000_000_000) == ["late"]
    assert listed(store, min_importance=0.8) == ["weighty"]
    assert listed(store, kinds=("decision",)) == ["decided"]
    assert listed(store, namespaces=("m",)) == ["other"]
    assert "echo" in listed(store, include_recalled=True)
    assert "echo" not in listed(store)


def test_ids_are_never_given_twice_even_after_erasing(store: MemoryStore, entry: MakeEntry) -> None:
    one = entry("first")
    store.add([one])
    store.erase([one.version.uid])
    store.add([entry("second")])
    with store.reading() as db:
        assert [row[1] for row in reading.shelf(db, 1)] == [2]


def test_vectors_belong_to_an_embedder_and_what_lacks_one_is_pending(
    store: MemoryStore, entry: MakeEntry
) -> None:
    vector = np.array([[0.6, 0.8]], np.float32)
    store.add([replace(entry("has"), embedder="e", vectors=vector), entry("has not")])
    with store.reading() as db:
        assert reading.pending(db, "e", 10) == [(2, "has not")]
        assert len(reading.pending(db, "other", 10)) == 2
    store.add_vectors("e", 2, [(2, vector[0].astype("<f2").tobytes()), (99, b"\0\0\0\0")])
    with store.reading() as db:
        assert reading.pending(db, "e", 10) == []
        assert counting.vector_counts(db) == {"e": 2}
    assert store.forget_vectors("e") == 2


def test_followers_are_told_of_every_change_or_to_read_all(
    store: MemoryStore, entry: MakeEntry
) -> None:
    with store.reading() as db:
        seen, changed = reading.changes(db, 0)
    assert (seen, changed) == (0, [])
    one = entry("x")
    store.add([one])
    with store.reading() as db:
        seen, changed = reading.changes(db, 0)
    assert changed == [(1, 1)]
    store.forget([one.version.uid], 1)
    with store.reading() as db:
        assert reading.changes(db, seen) == (seen + 1, [(1, 1)])
        assert reading.changes(db, seen + 5)[1] is None


def test_neighbours_stand_in_the_order_of_the_session(store: MemoryStore, entry: MakeEntry) -> None:
    turns = [entry(word, session="s") for word in ("one", "two", "three", "four")]
    store.add(turns)
    with store.reading() as db:
        before, after = reading.neighbours(db, turns[2].version, 2)
    assert [v.content for v in before] == ["one", "two"]
    assert [v.content for v in after] == ["four"]
