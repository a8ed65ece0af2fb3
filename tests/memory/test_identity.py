"""Who the assistant is: levels, rendering, checkpoints and the way back, on both databases."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from arsenale_core.errors import InvalidError, NotFoundError, UnavailableError
from arsenale_memory import levels
from arsenale_memory.objects import Objects
from arsenale_memory.opening import Services
from arsenale_memory.watching import watch

Call = Callable[..., Awaitable[Any]]

TOML = """\
name = "Ada"
class = "a careful developer"
template = "developer"
rules = ["Run the tests."]
core_memories = ["We ship on Tuesdays."]
[facts]
editor = "Helix"
"""


@pytest.fixture
def folder(services: Services) -> Path:
    """The default persona's folder, described."""
    found = services.personas.place("default")
    found.mkdir(parents=True)
    (found / "identity.toml").write_text(TOML, encoding="utf-8")
    return found


def notes(*contents: str) -> list[dict[str, str]]:
    return [{"content": content} for content in contents]


def test_the_nearer_level_wins_lists_go_on_and_origins_are_told() -> None:
    merged = levels.merge(
        [
            ("global", {"name": "Ada", "rules": ["a"], "facts": {"x": 1, "y": 1}}),
            ("project", {"rules": ["b", "a"], "facts": {"y": 2}}),
            ("local", {"name": "Bo"}),
        ]
    )
    assert merged.values == {"name": "Bo", "rules": ["a", "b"], "facts": {"x": 1, "y": 2}}
    assert merged.origins == {
        "name": "local", "rules[0]": "global", "rules[1]": "project", "facts.x": "global",
        "facts.y": "project",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 80, "a\0b"])
async def test_a_persona_cannot_lead_out_of_its_folder(name: str, services: Services) -> None:
    with pytest.raises(InvalidError, match="no name for a persona"):
        services.personas.place(name)


def test_objects_are_shared_checked_and_whole(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    name = objects.put(b"x" * 1000)
    assert objects.put(b"x" * 1000) == name
    assert objects.get(name) == b"x" * 1000
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UnavailableError, match="damaged"):
        objects.get(name)
    with pytest.raises(NotFoundError, match="incomplete"):
        objects.get("0" * 64)


async def test_a_checkpoint_renders_and_keeps_what_the_user_wrote(folder: Path, call: Call) -> None:
    (folder / "CLAUDE.md").write_bytes(b"My own words.\r\n")
    done = await call(
        "checkpoint_memory",
        decisions=["Use SQLite for state."],
        conversations=["We talked about storage."],
        relationships={"Anna": "leads the team"},
    )
    assert (done["new"], done["memories"]) == (True, 2)
    assert "Use SQLite for state." in done["briefing"]
    text = (folder / "CLAUDE.md").read_bytes().decode()
    assert text.startswith("My own words.\r\n")
    for said in ("Ada", "a careful developer", "Run the tests.", "We ship on Tuesdays.", "Helix"):
        assert said in text
    assert "Use SQLite for state." in (folder / "CLAUDE.local.md").read_text(encoding="utf-8")
    assert json.loads((folder / "relationships.json").read_text()) == {"Anna": "leads the team"}
    [page] = (folder / "memories").rglob("*.md")
    assert "We talked about storage." in page.read_text(encoding="utf-8")
    assert (folder / ".mcp" / "servers.json").is_file()
    assert (folder / "knowledge_base.json").is_file()


async def test_a_checkpoint_of_nothing_new_is_the_last_one(folder: Path, call: Call) -> None:
    await call("remember", memories=notes("one", "two"))
    first = await call("checkpoint_memory")
    again = await call("checkpoint_memory")
    assert (again["new"], again["id"], again["at"]) == (False, first["id"], first["at"])


async def test_a_block_that_was_changed_by_hand_is_left_alone(
    folder: Path, services: Services, call: Call
) -> None:
    await call("checkpoint_memory")
    file = folder / "CLAUDE.md"
    mine = file.read_text(encoding="utf-8").replace("Run the tests.", "Run all the tests.")
    file.write_text(mine, encoding="utf-8")
    await call("remember", memories=notes("something new to show"))
    await call("checkpoint_memory")
    assert file.read_text(encoding="utf-8") == mine
    assert "CLAUDE.md" in await services.personas.render("default", force=True)


async def test_restoring_is_exact_and_can_itself_be_undone(folder: Path, call: Call) -> None:
    await call("remember", memories=notes(*(f"fact {i} about module {i % 5}" for i in range(40))))
    kept = (await call("read", limit=1))["listed"][0]["id"]
    then = await call("checkpoint_memory", decisions=["Ship on Tuesdays."])
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    asked = await call("recall", question="fact about module 3", limit=10)

    await call("remember", memories=notes("a late fact about module 3"))
    await call("revise", ids=[kept], action="forget")
    (folder / "CLAUDE.md").write_text("ruined", encoding="utf-8")
    (folder / "junk.txt").write_text("junk", encoding="utf-8")

    shown = await call("restore_identity", date=then["at"])
    assert shown["applied"] is False
    whats = {(c["kind"], c["what"], c["name"]) for c in shown["changes"]}
    assert ("file", "added", "junk.txt") in whats
    assert ("memory", "forgotten", kept) in whats
    assert (folder / "junk.txt").exists()

    done = await call("restore_identity", date=then["at"], apply=True)
    assert "10 of 10 probe questions find the same" in done["verified"]
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
    assert (await call("recall", question="fact about module 3", limit=10)) == asked
    assert (await call("restore_identity", date=then["at"]))["hint"] == "Nothing differs."

    undo = done["undo"].split("'")[1]
    await call("restore_identity", date=undo, apply=True)
    assert (folder / "junk.txt").exists()
    late = await call("recall", question="late fact", limit=1)
    assert late["memories"][0]["content"] == "a late fact about module 3"


async def test_two_dates_are_compared(folder: Path, call: Call) -> None:
    first = await call("checkpoint_memory", decisions=["Use MySQL."])
    (folder / "identity.toml").write_text(TOML.replace("Helix", "Vim"), encoding="utf-8")
    second = await call("checkpoint_memory", decisions=["Use PostgreSQL."])
    shown = await call("restore_identity", date=first["at"], compare_with=second["at"])
    diffs = "\n".join(change["diff"] for change in shown["changes"])
    assert '+editor = "Vim"' in diffs
    assert "Use PostgreSQL." in diffs
    values = {row["key"]: row["value"] for row in shown["values"]}
    assert values["facts.editor"] == "Helix"


async def test_a_date_without_a_checkpoint_says_which_there_are(
    refusal: Call, call: Call, folder: Path
) -> None:
    assert "there are: none" in await refusal("restore_identity", date="2020-01-01")
    await call("checkpoint_memory")
    assert "there are: 20" in await refusal("restore_identity", date="2020-01-01")
    assert "is no moment" in await refusal("restore_identity", date="someday")


async def test_a_damaged_snapshot_changes_nothing(
    folder: Path, services: Services, call: Call, refusal: Call
) -> None:
    await call("remember", memories=notes("one"))
    then = await call("checkpoint_memory")
    await call("remember", memories=notes("two"))
    objects = services.personas.objects
    sha = services.personas._manifest(  # pyright: ignore[reportPrivateUsage]
        services.personas._as_of("default", then["at"])[0]  # pyright: ignore[reportPrivateUsage]
    ).files["CLAUDE.md"]
    path = objects._path(sha)  # pyright: ignore[reportPrivateUsage]
    path.write_bytes(b"broken")
    assert "damaged" in await refusal("restore_identity", date=then["at"], apply=True)
    assert (await call("read"))["total"] == 2


async def test_resources_and_prompts_tell_who_and_what(
    folder: Path, client: Client, call: Call
) -> None:
    await call("checkpoint_memory", decisions=["Use SQLite."])
    identity = json.loads((await client.read_resource("memory://identity")).contents[0].text)  # type: ignore[union-attr]
    assert {"key": "name", "value": "Ada", "level": "global"} in identity["values"]
    briefing = (await client.read_resource("memory://briefing")).contents[0].text  # type: ignore[union-attr]
    assert "Use SQLite." in briefing
    prompt = await client.get_prompt("recall-first", {"task": "mend the build"})
    assert "mend the build" in getattr(prompt.messages[0].content, "text", "")
    assert (await client.get_prompt("wrap-up-session")).messages


async def test_what_an_identity_is_made_of_is_watched(folder: Path, services: Services) -> None:
    file = folder / "CLAUDE.md"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, services.personas)
        with anyio.fail_after(20):
            turn = 0
            while not file.exists() or "Bo" not in file.read_text(encoding="utf-8"):
                turn += 1  # the watch may not have begun: write again
                changed = TOML.replace('"Ada"', '"Bo"') + f"# {turn}\n"
                (folder / "identity.toml").write_text(changed, encoding="utf-8")
                await anyio.sleep(0.5)
        tasks.cancel_scope.cancel()
