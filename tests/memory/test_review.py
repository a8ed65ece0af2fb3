"""What a review broke once: each stays mended."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from arsenale_memory import capture
from arsenale_memory.opening import Services

Call = Callable[..., Awaitable[Any]]


def notes(*contents: str, **more: Any) -> list[dict[str, Any]]:
    return [{"content": content, **more} for content in contents]


async def kept(call: Call, content: str, **more: Any) -> str:
    done = await call("remember", memories=notes(content, **more))
    return str(done["items"][0]["id"])


async def test_a_restore_deletes_only_what_a_snapshot_has(
    services: Services, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arsenale_memory.snapshots.MAX_FILE_BYTES", 100_000)
    await call("remember", memories=notes("one"))
    then = await call("checkpoint_memory")
    large = services.personas.place("default") / "large.bin"
    large.write_bytes(b"x" * 100_001)
    done = await call("restore_identity", date=then["at"], apply=True)
    assert "have their hashes" in done["verified"]
    assert large.stat().st_size == 100_001


LINE = {
    "type": "arsenale-memory", "id": "019ab000-0000-7000-8000-00000000abcd", "version": 1,
    "namespace": "default", "owner": "me", "kind": "note", "content": "imported", "importance": 0.5,
    "source": {"via": "t"}, "created_us": 1, "written_us": 1, "valid_from_us": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"ended_us": "abc"}, {"ended_us": 5}, {"ended": "revised"}, {"kind": "evil"},
        {"namespace": "*"}, {"namespace": ""}, {"version": 0}, {"version": True}, {"content": " "},
        {"tags": "abc"}, {"tags": [1]}, {"id": "../../etc/x"}, {"valid_from_us": 10**30},
        {"valid_from_us": 5 * 10**18}, {"subject": [1]}, {"kind": ["x"]}, {"source": "x"},
        {"importance": float("nan")}, {"version": float("inf")}, {"content": 3}, {"owner": None},
    ],
    ids=str,
)  # fmt: skip
async def test_a_wrong_line_is_told_and_harms_nothing(
    wrong: dict[str, Any], services: Services, call: Call, tmp_path: Path
) -> None:
    other = {**LINE, "id": "019ab000-0000-7000-8000-00000000beef", "content": "the good line"}
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(map(json.dumps, ({**LINE, **wrong}, other))), encoding="utf-8")
    done = await services.exchange.bring("jsonl", file, namespace=None, roots=None)
    assert (done.memories, len(done.failed)) == (1, 1)
    found = await call("recall", question="good line", namespace="*")
    assert found["memories"][0]["content"] == "the good line"


async def test_what_is_remembered_during_a_restore_is_kept_or_in_the_snapshot(
    services: Services, call: Call
) -> None:
    await call("remember", memories=notes("the beginning"))
    then = await call("checkpoint_memory")
    acknowledged: list[str] = []
    done: list[Any] = []

    async def write() -> None:
        for i in range(30):
            acknowledged.append(await kept(call, f"written while restoring, number {i}"))
            await anyio.sleep(0.01)

    async def restore() -> None:
        done.append(await call("restore_identity", date=then["at"], apply=True))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        tasks.start_soon(restore)
    undo = done[0]["undo"].split("'")[1]
    with_undo = await call("restore_identity", date=undo)
    before = {c["name"] for c in with_undo["changes"] if c["kind"] == "memory"}
    now = {m["id"] for m in (await call("read", limit=100))["listed"]}
    assert set(acknowledged) <= before | now


async def test_a_mention_of_our_tag_cuts_nothing_and_our_block_is_left_out(call: Call) -> None:
    said = "The hook wraps notes in <recalled-memories> tags. The rotation is on Friday."
    id = await kept(call, said)
    assert (await call("read", ids=[id]))["memories"][0]["content"] == said.replace(
        "<recalled", "&lt;recalled"
    )
    block = "<recalled-memories>\nold\n</recalled-memories>"
    assert capture.cleaned(f"before {block} after") == "before  after"


async def test_superseding_works_for_what_is_known_already(call: Call) -> None:
    a, b = await kept(call, "the port is 80"), await kept(call, "the host is alpha")
    again = await call("remember", memories=notes("the port is 80", supersedes=[b]))
    assert again["items"][0]["id"] == a
    assert [m["id"] for m in (await call("read"))["listed"]] == [a]
    await call("remember", memories=notes("the port is 80", supersedes=[a]))
    assert [m["id"] for m in (await call("read"))["listed"]] == [a]


async def test_what_was_superseded_can_be_forgotten_and_is_erased(
    services: Services, call: Call
) -> None:
    old = await kept(call, "the secret is 1234")
    await kept(call, "the secret is 5678", supersedes=[old])
    await call("revise", ids=[old], action="forget")
    assert (await call("read", ids=[old]))["memories"][0]["state"] == "forgotten"
    services.memory.undo_days = -1
    assert await services.memory.purge() == 1


@pytest.mark.parametrize("id", ["%%%%%%", "______", "\\\\\\\\\\\\", "abcdeg", "' or 1=1"])
async def test_no_wildcard_is_an_id(id: str, call: Call, refusal: Call) -> None:
    await kept(call, "one")
    assert "no memory" in await refusal("revise", ids=[id], action="forget")
    assert (await call("read"))["total"] == 1


async def test_a_broken_file_takes_no_server_down(services: Services, call: Call) -> None:
    await kept(call, "one")
    folder = services.personas.place("default")
    folder.mkdir(parents=True)
    (folder / "CLAUDE.md").write_bytes(b"caf\xe9")
    assert await services.injector.answer({"hook_event_name": "SessionEnd"}) is None
    await anyio.sleep(0.3)
    assert (await call("read"))["total"] == 1


async def test_one_bad_reference_or_moment_does_not_lose_the_others(call: Call) -> None:
    items = [
        {"content": "good"},
        {"content": "bad", "supersedes": ["abcdefabcdef"]},
        {"content": "old", "at": "99999y"},
        {"content": "early", "at": "0001-01-01T00:00+14:00"},
    ]
    done = await call("remember", memories=items)
    statuses = [item["status"] for item in done["items"]]
    assert statuses == ["stored", "failed", "failed", "failed"]


async def test_odd_dates_of_a_restore_are_refused_or_answered(call: Call, refusal: Call) -> None:
    await call("checkpoint_memory")
    assert "out of range" in await refusal("restore_identity", date="9999-12-31")
    assert "no moment" in await refusal("restore_identity", date="2026-13-45")


async def test_a_revision_is_held_to_what_a_capture_is(call: Call, refusal: Call) -> None:
    id = await kept(call, "one")
    assert "split it" in await refusal("revise", ids=[id], content="x" * 2_000_001)
    assert "too long tags" in await refusal("revise", ids=[id], tags=["y" * 500])
    await call("revise", ids=[id], content="a\x00b")
    assert (await call("read", ids=[id]))["memories"][0]["content"] == "ab"


async def test_several_are_changed_together_or_not_at_all(call: Call, refusal: Call) -> None:
    a = await kept(call, "first thing")
    b = await kept(call, "second thing")
    await call("revise", ids=[b], action="forget")
    assert "no current memory" in await refusal("revise", ids=[a, b], subject="S")
    assert "subject" not in (await call("read"))["listed"][0]
    assert len(await call("revise", ids=[b, b], action="undo")) == 1


async def test_names_in_filters_are_read_as_they_are_written(call: Call, refusal: Call) -> None:
    await call("remember", memories=notes("in a", tags=["Work"]), namespace="a")
    assert "names no namespace" in await refusal("recall", question="in", namespace=",")
    for name in ("*", " *", "x,*"):
        assert (await call("recall", question="in a", namespace=name))["memories"]
    for tag in ("#Work", "WORK ", "work"):
        assert (await call("recall", question="in a", namespace="a", tags=[tag]))["memories"]


async def test_withdrawing_stops_what_is_running(services: Services, call: Call) -> None:
    services.research.switched_on = True
    services.research.grant("named-embeddings", "me")
    await call("remember", memories=notes(*(f"thing number {i}" for i in range(100))))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(services.research.embed_pending)
        await anyio.sleep(0.01)
        await to_thread.run_sync(services.research.withdraw, "named-embeddings")
    stats = (await call("maintain"))["stats"]
    assert stats["memories"] == 100
    with services.memory.store.reading() as db:
        from arsenale_memory import counting  # noqa: PLC0415

        assert [n for name, n in counting.vector_counts(db).items() if "#" in name] == []
