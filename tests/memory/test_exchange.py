"""Memories into files and back: lossless where it is promised, and nothing hostile gets in."""

import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError
from arsenale_memory import answers, capture, claude_files, formats
from arsenale_memory.formats import Item
from arsenale_memory.opening import Services
from arsenale_memory.record import Kind, Labels, Source, Version
from arsenale_memory.service import Query

Call = Callable[..., Awaitable[Any]]

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60)
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
spaces = st.from_regex(answers.NAMESPACE, fullmatch=True)
said = text.map(lambda found: capture.plain(found).strip()).filter(bool)
labels = st.lists(words, max_size=3, unique=True).map(lambda found: tuple(sorted(found)))
moments = st.integers(0, 4_000_000_000_000_000)


@st.composite
def versions(draw: st.DrawFn, uid: str, number: int) -> Version:
    ended = draw(st.none() | moments)
    return Version(
        uid=uid,
        number=number,
        namespace=draw(spaces),
        owner=draw(words),
        kind=draw(st.sampled_from(get_args(Kind))),
        content=draw(said),
        subject=draw(st.none() | words),
        session=draw(st.none() | words),
        importance=draw(st.floats(0, 1)),
        labels=Labels(tags=draw(labels), domains=draw(labels), entities=draw(labels)),
        source=Source(via=draw(words), host=draw(st.none() | words)),
        recalled=draw(st.booleans()),
        created_us=draw(moments),
        written_us=draw(moments),
        valid_from_us=draw(moments),
        valid_to_us=draw(st.none() | moments),
        ended_us=ended,
        ended=None if ended is None else draw(st.sampled_from(["revised", "forgotten"])),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    count = draw(st.integers(1, 3))
    return [draw(versions("019ab000-0000-7000-8000-000000000001", n + 1)) for n in range(count)]


@given(histories())
def test_jsonl_gives_back_what_it_was_given(history: list[Version]) -> None:
    lines = list(formats.jsonl_out([history]))
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines)
    [item] = formats.jsonl_in(lines)
    assert isinstance(item, Item)
    assert list(item.versions) == history


@given(histories())
def test_markdown_gives_back_what_it_was_given(history: list[Version]) -> None:
    name, note = formats.markdown_out(history)
    assert ".." not in name.split("/")
    assert list(formats.markdown_in(name, note).versions) == history


@given(st.lists(st.text(max_size=80), max_size=6))
def test_any_lines_give_items_or_reasons_and_no_crash(lines: list[str]) -> None:
    for found in formats.jsonl_in(lines):
        assert isinstance(found, (Item, str))
    for found in claude_files.transcript(lines):
        assert isinstance(found, (Item, str))
    list(claude_files.memory_file("x.md", "\n".join(lines)))


@pytest.mark.parametrize(
    "front",
    ["a: &x [1]\nb: *x", "a: [", "- 1", "!!python/object/apply:os.system [id]", "a: b: c"],
)
def test_hostile_frontmatter_is_refused(front: str) -> None:
    with pytest.raises(InvalidError, match="frontmatter"):
        formats.markdown_in("n.md", f"---\n{front}\n---\ncontent")


def test_a_note_of_obsidian_becomes_a_memory() -> None:
    note = "---\ntags: [people, coffee]\ndate: 2024-05-01\ntitle: Anna\n---\n# Anna\nLikes tea.\n"
    item = formats.markdown_in("Anna.md", note)
    assert (item.content, item.subject, item.tags) == (
        "# Anna\nLikes tea.",
        "Anna",
        ("people", "coffee"),
    )
    assert item.at == "2024-05-01"


def test_claudes_memory_file_gives_a_memory_for_each_point() -> None:
    memory = "# Project\n\n- Uses pnpm\n- Tests with vitest,\n  in watch mode\n\n## Style\nTabs.\n"
    items = list(claude_files.memory_file("MEMORY.md", memory))
    assert [(i.subject, i.content) for i in items] == [
        ("Project", "Uses pnpm"),
        ("Project", "Tests with vitest, in watch mode"),
        ("Style", "Tabs."),
    ]


def test_a_transcript_gives_what_was_said_and_no_tool_results() -> None:
    lines = [
        {"type": "user", "uuid": "1", "sessionId": "s", "timestamp": "2026-01-02T03:04:05Z",
         "message": {"content": "Please mend the stock counter."}},
        {"type": "user", "message": {"content": [{"type": "tool_result", "content": "secret"}]}},
        {"type": "assistant", "sessionId": "s", "message": {"content": [
            {"type": "thinking", "thinking": "hidden thoughts of some length"},
            {"type": "text", "text": "The stock counter is mended now."}]}},
        {"type": "user", "isMeta": True, "message": {"content": "meta text that is long enough"}},
        {"type": "queue-operation"},
    ]  # fmt: skip
    found = [i for i in claude_files.transcript(map(json.dumps, lines)) if isinstance(i, Item)]
    assert [(i.subject, i.content) for i in found] == [
        ("user", "Please mend the stock counter."),
        ("assistant", "The stock counter is mended now."),
    ]
    assert (found[0].session, found[0].at) == ("s", "2026-01-02T03:04:05Z")


@pytest.mark.parametrize("form", ["jsonl", "markdown"])
async def test_an_export_imported_elsewhere_is_the_same(
    form: formats.Format, services: Services, call: Call, tmp_path: Path
) -> None:
    kept = await call(
        "remember",
        memories=[
            {"content": "first fact", "tags": ["a"], "session": "s"},
            {"content": "zweite Tatsache ☕\nmit Zeilen", "session": "s", "at": "2024-01-02"},
        ],
    )
    await call("revise", ids=[kept["items"][0]["id"]], content="first fact, revised")
    target = tmp_path / ("notes" if form == "markdown" else "out.jsonl")
    out = await services.exchange.take(form, target, Query(namespace="*"), None)
    assert out.memories == 2
    before = [await call("read", ids=[item["id"]]) for item in kept["items"]]

    services.memory.store.erase([services.memory.uid(item["id"]) for item in kept["items"]])
    assert (await call("read"))["total"] == 0
    back = await services.exchange.bring(form, target, namespace=None, roots=None)
    assert (back.memories, back.failed) == (3, [])
    assert [await call("read", ids=[item["id"]]) for item in kept["items"]] == before
    again = await services.exchange.bring(form, target, namespace=None, roots=None)
    assert (again.memories, again.duplicates) == (0, 3)
    found = await call("recall", question="first fact revised")
    assert found["memories"][0]["content"] == "first fact, revised"


@pytest.mark.parametrize("form", ["jsonl", "markdown"])
async def test_an_import_goes_into_the_namespace_that_is_named(
    form: formats.Format, services: Services, call: Call, tmp_path: Path
) -> None:
    kept = await call("remember", memories=[{"content": "a fact"}], namespace="there")
    target = tmp_path / ("notes" if form == "markdown" else "out.jsonl")
    await services.exchange.take(form, target, Query(namespace="there"), None)
    services.memory.store.erase([services.memory.uid(item["id"]) for item in kept["items"]])
    with pytest.raises(InvalidError, match="without comma"):
        await services.exchange.bring(form, target, namespace="a,b", roots=None)
    done = await services.exchange.bring(form, target, namespace="here", roots=None)
    assert done.memories == 1
    assert (await call("read", namespace="here"))["total"] == 1
    assert (await call("read", namespace="there"))["total"] == 0


async def test_the_knowledge_graphs_file_comes_in_as_sentences(
    services: Services, call: Call, tmp_path: Path
) -> None:
    lines = [
        {"type": "entity", "name": "Anna", "entityType": "person", "observations": ["likes tea"]},
        {"type": "relation", "from": "Anna", "to": "Acme", "relationType": "works_at"},
        {"type": "entity", "name": 3},
    ]
    file = tmp_path / "memory.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n", encoding="utf-8")
    done = await services.exchange.bring("graph", file, namespace=None, roots=None)
    assert (done.memories, len(done.failed)) == (2, 2)
    assert "line 4" in done.failed[1]
    listed = {m["content"] for m in (await call("read"))["listed"]}
    assert listed == {"Anna: likes tea", "Anna works at Acme."}


async def test_an_assistant_reads_and_writes_within_its_folders_only(
    services: Services, call: Call, refusal: Call, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("the secret", encoding="utf-8")
    assert "may not be used" in await refusal(
        "maintain", action="import", format="markdown", path=str(secret)
    )
    exports = services.exchange.home / "exports"
    exports.mkdir(parents=True)
    (exports / "link.md").symlink_to(secret)
    (exports / "way").symlink_to(tmp_path)
    for path in ("link.md", "way/secret.md", "../../secret.md"):
        assert "may not be used" in await refusal(
            "maintain", action="import", format="markdown", path=str(exports / path)
        )
    assert "may not be used" in await refusal(
        "maintain", action="export", path=str(tmp_path / "out.jsonl")
    )
    os.mkfifo(exports / "pipe.md")
    (exports / "bad.md").write_bytes(b"\xff\xfe")
    (exports / "good.md").write_text("a good note", encoding="utf-8")
    done = await call("maintain", action="import", format="markdown", path=str(exports))
    assert done["moved"]["memories"] == 1
    assert {line.split(":")[0] for line in done["moved"]["failed"]} == {"pipe.md", "bad.md"}
    out = await call("maintain", action="export")
    assert Path(out["moved"]["path"]).is_relative_to(exports)


async def test_an_export_replaces_nothing(services: Services, call: Call, refusal: Call) -> None:
    exports = services.exchange.home / "exports"
    exports.mkdir(parents=True)
    kept = exports / "main.py"
    kept.write_text("print()", encoding="utf-8")
    said = await refusal("maintain", action="export", path=str(kept), namespace="nothing")
    assert "is there already" in said
    assert kept.read_text(encoding="utf-8") == "print()"
    assert [each.name for each in exports.iterdir()] == ["main.py"]
    settings = Path.home() / ".claude" / "new.jsonl"
    assert "may not be used" in await refusal("maintain", action="export", path=str(settings))
    assert not settings.exists()


@pytest.mark.parametrize("spelling", ["notes", "./notes", ".", "notes/", "../{here}/notes", "link"])
async def test_a_relative_folder_is_imported_like_an_absolute_one(
    services: Services, tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "a.md").write_text("The sky is blue.\n", encoding="utf-8")
    (tmp_path / "notes" / "deep" / "b.md").write_text("Grass is green.\n", encoding="utf-8")
    (tmp_path / "link").symlink_to("notes")
    monkeypatch.chdir(tmp_path)
    path = Path(spelling.format(here=tmp_path.name))
    report = await services.exchange.bring("markdown", path, namespace=None, roots=None)
    assert (report.memories, report.failed) == (2, [])


async def test_exports_are_private_and_never_hidden_files_of_a_project(
    services: Services, tmp_path: Path, call: Call
) -> None:
    await call("remember", memories=[{"content": "The sky is blue."}])
    before = os.umask(0)
    try:
        await services.exchange.take("jsonl", tmp_path / "new" / "a.jsonl", Query(), None)
        await services.exchange.take("markdown", tmp_path / "md", Query(), [tmp_path])
    finally:
        os.umask(before)
    written = [path for name in ("new", "md") for path in (tmp_path / name).rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in written if path.is_file()} == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "md").stat().st_mode & 0o777 == 0o700
    for name in (".mcp.json", ".claude/settings.json", "a/.envrc", ".git/hooks/pre-commit"):
        with pytest.raises(InvalidError, match="is hidden"):
            await services.exchange.take("jsonl", tmp_path / name, Query(), [tmp_path])
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "text",
    ["# a" + " " * 200_000 + "b", "# " + "#" * 200_000 + "b", "<!-- arsenale:begin " * 20_000,
     "<!-- arsenale:begin " + "arsenale:end " * 30_000],
)  # fmt: skip
def test_a_memory_file_is_read_in_time_that_grows_with_its_size(text: str) -> None:
    begun = time.process_time()
    list(claude_files.memory_file("CLAUDE.md", text))
    assert time.process_time() - begun < 2


def test_a_transcript_is_read_in_time_that_grows_with_its_size() -> None:
    for said in ("<system-reminder>" * 20_000, "<command-a>" * 20_000, "".join(
        f"<command-{'a' * (i % 50)}>" for i in range(20_000)
    )):  # fmt: skip
        row = json.dumps({"type": "user", "message": {"content": said}})
        begun = time.process_time()
        list(claude_files.transcript([row]))
        assert time.process_time() - begun < 2


def test_what_the_host_put_into_a_turn_is_left_out() -> None:
    said = "before <system-reminder>a <b></system-reminder>and <command-name>x</command-name>after"
    row = json.dumps({"type": "user", "message": {"content": said + "<system-reminder> open"}})
    [item] = claude_files.transcript([row])
    assert isinstance(item, Item) and item.content == "before and after<system-reminder> open"
    text = "one line\n<!-- arsenale:begin v1 -->\nours\n<!-- arsenale:end v1 -->\n\nanother"
    assert [i.content for i in claude_files.memory_file("x.md", text)] == ["one line", "another"]
    [head] = claude_files.memory_file("x.md", "## About C# ##  \n\nsome text")
    assert head.subject == "About C#"


def test_a_line_of_a_transcript_nested_without_end_costs_itself() -> None:
    good = json.dumps({"type": "user", "message": {"content": "a turn that is long enough"}})
    reason, item = claude_files.transcript(["[" * 100_000, good])
    assert isinstance(reason, str) and reason.startswith("line 1: ")
    assert isinstance(item, Item)


@pytest.mark.parametrize("field", ["tags: 5", "tags: {a: 1}", "tags: true", "history: 3"])
def test_a_field_of_a_note_of_the_wrong_type_counts_as_absent(field: str) -> None:
    assert formats.markdown_in("n.md", f"---\n{field}\n---\ncontent").tags == ()
