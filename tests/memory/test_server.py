"""Memory through its MCP surface, with the real store and real static embeddings."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp import Client

from arsenale_memory.service import Memory

Call = Callable[..., Awaitable[Any]]


def notes(*contents: str, **more: Any) -> list[dict[str, Any]]:
    return [{"content": content, **more} for content in contents]


async def test_an_empty_store_says_what_to_do(call: Call) -> None:
    assert "`remember`" in (await call("recall", question="anything"))["hint"]
    assert (await call("read"))["total"] == 0
    assert (await call("maintain"))["stats"]["memories"] == 0


async def test_what_is_remembered_is_recalled_by_meaning_and_by_words(call: Call) -> None:
    kept = await call(
        "remember",
        memories=notes(
            "We chose PostgreSQL for the inventory service because of JSONB.",
            "Anna is allergic to peanuts.",
            "The marathon in Vienna is on 18 April.",
        ),
    )
    assert kept["stored"] == 3
    by_words = await call("recall", question="Which database does inventory use? PostgreSQL?")
    assert "PostgreSQL" in by_words["memories"][0]["content"]
    by_meaning = await call("recall", question="running race", mode="semantic")
    assert "marathon" in by_meaning["memories"][0]["content"]
    explained = await call("recall", question="Anna's allergies", detail="full")
    assert explained["memories"][0]["why"]["keywords"] == 1.0
    assert explained["memories"][0]["content"] == "Anna is allergic to peanuts."


async def test_one_bad_item_does_not_lose_the_others(call: Call) -> None:
    kept = await call("remember", memories=notes("good one", "", "x" * 2_000_001, "good two"))
    assert [item["status"] for item in kept["items"]] == ["stored", "failed", "failed", "stored"]
    assert "split it" in kept["items"][2]["reason"]


async def test_the_same_again_is_a_duplicate_and_a_repeated_recall_an_echo(call: Call) -> None:
    text = "The staging cluster runs Kubernetes 1.34 in Frankfurt for the payments team."
    await call("remember", memories=notes(text))
    assert (await call("remember", memories=notes(text)))["items"][0]["status"] == "duplicate"
    await call("recall", question="staging cluster")
    again = "The staging cluster runs Kubernetes 1.34 in Frankfurt, for the payments team"
    echoed = await call("remember", memories=notes(again))
    assert echoed["items"][0]["status"] == "echo"
    injected = "<recalled-memories>" + text + "</recalled-memories>"
    kept = await call("remember", memories=notes(injected))
    assert "only repeats what was recalled" in kept["items"][0]["reason"]
    assert (await call("read"))["total"] == 1


async def test_a_contradiction_is_told_and_both_stay(call: Call) -> None:
    await call("remember", memories=notes("Deploys happen on Tuesday at 14:00 from release."))
    kept = await call(
        "remember", memories=notes("Deploys happen on Tuesday at 16:00 from release.")
    )
    [related] = kept["items"][0]["related"]
    assert related["kind"] == "contradicts"
    assert "supersedes" in kept["hint"]
    assert (await call("read"))["total"] == 2


async def test_superseding_hides_the_old_now_but_not_from_the_past(call: Call) -> None:
    old = await call("remember", memories=notes("The API listens on port 8080."))
    id = old["items"][0]["id"]
    await call("remember", memories=notes("The API listens on port 9090.", supersedes=[id]))
    found = await call("recall", question="API port")
    assert [m["content"] for m in found["memories"]] == ["The API listens on port 9090."]
    [whole] = (await call("read", ids=[id]))["memories"]
    assert whole["state"] == "superseded"


async def test_revise_forget_undo(call: Call) -> None:
    kept = await call("remember", memories=notes("Bob likes tea.", tags=["people"]))
    id = kept["items"][0]["id"]
    [done] = await call("revise", ids=[id], content="Bob likes coffee.", importance=0.9)
    assert done["version"] == 2
    assert (await call("recall", question="Bob"))["memories"][0]["content"] == "Bob likes coffee."
    [done] = await call("revise", ids=[id], action="forget")
    assert "undo_until" in done
    assert (await call("recall", question="Bob")).get("memories", []) == []
    await call("revise", ids=[id], action="undo")
    [whole] = (await call("read", ids=[id]))["memories"]
    assert (whole["state"], whole["tags"]) == ("current", ["people"])
    assert [old["content"] for old in whole["history"]] == ["Bob likes tea."]


async def test_errors_say_what_to_do(refusal: Call) -> None:
    assert "give the id that `recall` shows" in await refusal("read", ids=["x"])
    assert "no memory 'abcdefabcdef'" in await refusal("read", ids=["abcdefabcdef"])
    assert "ask in words" in await refusal("recall", question="  ")
    assert "is no moment" in await refusal("recall", question="x", since="whenever")
    assert "did you mean 'question'" in await refusal("recall", quesion="x")


async def test_filters_and_namespaces(call: Call) -> None:
    await call("remember", memories=notes("alpha plan", tags=["x"], at="2024-05-01"))
    await call("remember", memories=notes("alpha result"), namespace="lab")
    only = await call("recall", question="alpha", tags=["x"])
    assert [m["content"] for m in only["memories"]] == ["alpha plan"]
    recent = await call("recall", question="alpha", since="2025-01-01")
    assert recent["memories"] == []
    both = await call("recall", question="alpha", namespace="*")
    assert {m["namespace"] for m in both["memories"]} == {"default", "lab"}
    nowhere = await call("recall", question="alpha", namespace="none")
    assert "lab (1)" in nowhere["hint"]


async def test_a_budget_is_kept_and_what_it_left_out_is_told(call: Call) -> None:
    await call("remember", memories=notes(*(f"fact {i}: " + "word " * 100 for i in range(6))))
    found = await call("recall", question="word fact", budget_tokens=400, limit=6)
    assert len(json.dumps(found)) / 4 < 520
    assert found["more"] >= 3
    assert "budget" in found["hint"]


async def test_a_long_text_is_one_memory_found_by_any_part(call: Call) -> None:
    filler = "Nothing much happened that day and the weather was as always. " * 300
    text = filler + "The zeppelin landed in Graz. " + filler
    kept = await call("remember", memories=notes(text))
    assert kept["stored"] == 1
    [hit] = (await call("recall", question="zeppelin"))["memories"]
    assert "zeppelin landed in Graz" in hit["content"]
    assert len(hit["content"]) < 1_500
    [whole] = (await call("read", ids=[hit["id"]], start=18_000))["memories"]
    assert "zeppelin" in whole["content"]


async def test_other_scripts_and_odd_characters_survive(call: Call) -> None:
    texts = [
        "東京の会議は火曜日です",
        "Встреча в Москве во вторник",
        "emoji 🦊 and \u202eRTL",
        "a\tb",
    ]
    await call("remember", memories=notes(*texts))
    listed = {m["content"] for m in (await call("read"))["listed"]}
    assert listed == {text.replace("\u202e", "") for text in texts}  # hidden from models only
    assert (await call("recall", question="Москве"))["memories"][0]["content"] == texts[1]
    for hostile in ('"', "'", "a OR", "NEAR(", "*", "body:x", "(((", "\x00", "--", "a AND NOT b"):
        await call("recall", question=f"{hostile} вторник")


async def test_eight_clients_at_once_lose_nothing(memory: Memory, call: Call) -> None:
    async def one(number: int) -> None:
        for i in range(5):
            await call("remember", memories=notes(f"client {number} says item {i} of its list"))
            assert (await call("recall", question=f"client {number} item {i}"))["memories"]

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(one, number)
    stats = (await call("maintain"))["stats"]
    assert (stats["memories"], stats["pending"]) == (40, 0)
    assert memory.knowledge().library.describe() == "40 parts, ExactIndex"


async def test_progress_is_told_in_a_long_batch(client: Client) -> None:
    told: list[tuple[float, float | None]] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total))

    items = notes(*(f"item number {i}" for i in range(450)))
    await client.call_tool("remember", {"memories": items}, progress_callback=progress)
    assert told == [(200, 450), (400, 450), (450, 450)]


async def test_resources_show_the_newest_and_the_namespaces(client: Client, call: Call) -> None:
    await call("remember", memories=notes("the newest thing"))
    recent = await client.read_resource("memory://recent")
    assert "the newest thing" in getattr(recent.contents[0], "text", "")
    spaces = await client.read_resource("memory://namespaces")
    assert json.loads(getattr(spaces.contents[0], "text", ""))["namespaces"][0]["name"] == "default"


@pytest.mark.parametrize("tool", ["remember", "recall", "read", "revise", "maintain"])
async def test_a_tool_takes_little_of_the_models_context(client: Client, tool: str) -> None:
    [found] = [each for each in (await client.list_tools()).tools if each.name == tool]
    assert len(found.description or "") / 4 <= 200
    assert len(json.dumps(found.input_schema)) / 4 <= 700
