"""Agents in one repository: globs, reservations, letters."""

import itertools
import re
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.conftest import Call, Time

from arsenale_coordinator.opening import Services
from arsenale_coordinator.projects import project_of
from arsenale_coordinator.repository import globs
from arsenale_core.errors import InvalidError
from arsenale_core.surface import PEER, Peer

Refusal = Callable[..., Awaitable[str]]

SEGMENT = st.text("ab*?", min_size=1, max_size=3)
PATTERN = st.lists(st.one_of(SEGMENT, st.just("**")), min_size=1, max_size=3).map("/".join)
NAMES = ["".join(x) for n in (1, 2, 3) for x in itertools.product("ab", repeat=n)]
PATHS = [
    "/".join(parts) for n in (1, 2, 3) for parts in itertools.product(NAMES[:6], repeat=n)
] + NAMES  # fmt: skip


def regex(pattern: str) -> re.Pattern[str]:
    """The same by other means: a regular expression over the path with a slash after it."""

    def segment(text: str) -> str:
        kinds = {"*": "[^/]*", "?": "[^/]"}
        return "".join(kinds.get(char, re.escape(char)) for char in text)

    parts = ("(?:[^/]+/)*" if p == "**" else f"(?!/){segment(p)}/" for p in pattern.split("/"))
    return re.compile("".join(parts))


@given(PATTERN, PATTERN)
def test_two_globs_overlap_if_a_path_matches_both(one: str, other: str) -> None:
    first, second = regex(one), regex(other)
    both = [p for p in PATHS if first.fullmatch(f"{p}/") and second.fullmatch(f"{p}/")]
    assert globs.overlap(one, other) >= bool(both)
    assert globs.overlap(one, other) == globs.overlap(other, one)


@given(PATTERN, st.one_of(PATTERN, st.sampled_from(PATHS)))
def test_looking_through_many_says_the_same_as_one_by_one(one: str, other: str) -> None:
    assert globs.meets(one)(other) == globs.overlap(one, other)


@given(PATTERN, st.sampled_from(PATHS))
def test_a_glob_matches_as_the_regular_expression_says(pattern: str, path: str) -> None:
    assert globs.matches(pattern, path) == bool(regex(pattern).fullmatch(f"{path}/"))


@given(PATTERN, PATTERN)
def test_globs_that_overlap_are_found_by_their_prefixes(one: str, other: str) -> None:
    if globs.overlap(globs.covering(one), globs.covering(other)):
        mine, theirs = globs.prefix(one), globs.prefix(other)
        low = mine if mine.endswith("/") or not mine else f"{mine}/"
        assert theirs in globs.above(mine) or theirs.startswith(low)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("src/**", "src/a/b.py", True), ("src/*.py", "src/*.js", False), ("a/*", "a/b/c", False),
        ("**/x", "a/b/x", True), ("[ab]x", "cx", False), ("[!ab]x", "cx", True),
        ("[a-c]*", "b?", True), ("a[*]b", "a*b", True),
    ],
)  # fmt: skip
def test_globs_that_people_write(one: str, other: str, meet: bool) -> None:
    assert globs.overlap(one, other) is meet


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "", "a/../../b", "a/**/../../b", "x" * 500, "a\0b"]
)
def test_a_path_outside_of_the_repository_is_refused(path: str) -> None:
    with pytest.raises(InvalidError):
        globs.normal(path)


async def test_a_conflict_says_who_what_and_until_when_and_nothing_is_reserved(
    team: Call, time: Time
) -> None:
    mine = await team(
        "reserve_files", action="reserve", agent="ann", paths=["src/api/"], reason="refactoring",
        minutes=10,
    )  # fmt: skip
    assert mine["granted"] and mine["held"][0]["path"] == "src/api/**"
    paths = ["README.md", "src/**/*.py"]
    theirs = await team("reserve_files", action="reserve", agent="bob", paths=paths)
    assert theirs["granted"] is False and "held" not in theirs
    [conflict] = theirs["conflicts"]
    assert (conflict["agent"], conflict["reason"], conflict["wanted"]) == (
        "ann", "refactoring", "src/**/*.py",
    )  # fmt: skip
    assert "ask ann with `exchange_messages`" in theirs["hint"]
    free = await team("reserve_files", action="check", agent="bob", paths=["README.md"])
    assert free["granted"] is True
    time.passes(601)
    assert (await team("reserve_files", action="reserve", agent="bob", paths=paths))["granted"]


async def test_shared_reservations_stand_beside_one_another_and_release_frees(team: Call) -> None:
    for agent in ("ann", "bob"):
        got = await team(
            "reserve_files", action="reserve", agent=agent, paths=["docs/**"], shared=True
        )
        assert got["granted"]
    alone = await team("reserve_files", action="reserve", agent="cy", paths=["docs/a.md"])
    assert sorted(c["agent"] for c in alone["conflicts"]) == ["ann", "bob"]
    for agent in ("ann", "bob"):
        gone = await team("reserve_files", action="release", agent=agent)
        assert gone["released"] == ["docs/**"]
    assert (await team("reserve_files", action="list", agent="cy")).get("held", []) == []
    again = await team("reserve_files", action="reserve", agent="cy", paths=["docs/a.md"])
    assert again["granted"]


async def test_a_longer_reservation_is_not_cut_short_by_a_shorter_one(
    team: Call, time: Time
) -> None:
    hold = {"action": "reserve", "agent": "ann", "paths": ["a.py"]}
    await team("reserve_files", **hold, minutes=60)
    await team("reserve_files", **hold, minutes=1)
    time.passes(120)
    assert not (await team("reserve_files", action="check", agent="bob", paths=["a.py"]))["granted"]


async def test_of_many_who_want_one_file_at_once_one_gets_it(team: Call) -> None:
    granted: list[str] = []
    for n in range(20):
        await team("check_in", agent=f"a{n}", capabilities=["python"], take=False)

    async def grab(agent: str) -> None:
        got = await team("reserve_files", action="reserve", agent=agent, paths=["hot/*.py"])
        if got["granted"]:
            granted.append(agent)

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(grab, f"a{n}")
    assert len(granted) == 1


def test_worktrees_of_one_repository_are_one_project(tmp_path: Path) -> None:
    main, tree = tmp_path / "main", tmp_path / "tree"
    (main / ".git" / "worktrees" / "tree").mkdir(parents=True)
    (main / "src").mkdir()
    (main / ".git" / "worktrees" / "tree" / "commondir").write_text("../..\n", encoding="utf-8")
    tree.mkdir()
    link = f"gitdir: {main}/.git/worktrees/tree\n"
    (tree / ".git").write_text(link, encoding="utf-8")
    assert project_of(str(main / "src")) == project_of(str(tree)) == str(main.resolve())
    assert project_of(str(tmp_path)) == str(tmp_path)
    assert project_of(None) == ""


@pytest.fixture
async def three(call: Call) -> Call:
    for agent in ("ann", "bob", "cy"):
        await call("check_in", agent=agent, description="writes", take=False)
    return call


async def test_letters_are_unread_until_read_and_wait_for_acknowledgement(three: Call) -> None:
    call: Any = three
    sent = await call(
        "exchange_messages", action="send", agent="ann", to=["bob", "cy"], subject="API",
        body="I change the API", needs_ack=True,
    )  # fmt: skip
    assert sent["to"] == ["bob", "cy"]
    assert (await call("check_in", agent="bob"))["unread_messages"] == 1
    inbox = await call("exchange_messages", action="inbox", agent="bob")
    [letter] = inbox["messages"]
    assert (letter["sender"], letter["unread"], letter["needs_ack"]) == ("ann", True, True)
    assert inbox["unread"] == 0
    mine = await call("exchange_messages", action="inbox", agent="ann")
    assert mine["waiting_for"] == ["cy has not read #1 API", "bob has read #1 API"] or (
        mine["waiting_for"] == ["bob has read #1 API", "cy has not read #1 API"]
    )
    await call("exchange_messages", action="acknowledge", agent="bob", message=1)
    await call("exchange_messages", action="send", agent="bob", message=1, body="fine")
    thread = await call("exchange_messages", action="thread", agent="cy", message=1)
    assert [(m["sender"], m["subject"]) for m in thread["messages"]] == [
        ("ann", "API"), ("bob", "Re: API"),
    ]  # fmt: skip
    mine = await call("exchange_messages", action="inbox", agent="ann")
    assert mine["waiting_for"] == ["cy has read #1 API"]


async def test_a_letter_to_nobody_or_to_the_unknown_is_refused_and_a_repeated_one_is_sent_once(
    three: Call, refusal: Refusal
) -> None:
    send = {"action": "send", "agent": "ann", "body": "hello"}
    assert "needs a recipient" in await refusal("exchange_messages", **send)
    assert "no agent 'dan'" in await refusal("exchange_messages", **send, to=["dan"])
    for _ in range(2):
        sent = await three("exchange_messages", **send, to=["*"], key="k1")
        assert sent["sent"] == 1
    inbox = await three("exchange_messages", action="inbox", agent="cy")
    assert len(inbox["messages"]) == 1


async def test_a_thread_of_others_is_not_shown(three: Call, refusal: Refusal) -> None:
    await three("exchange_messages", action="send", agent="ann", to=["bob"], body="secret")
    said = await refusal("exchange_messages", action="thread", agent="cy", message=1)
    assert "no thread" in said


# Folders, absolute paths, and repositories within repositories.

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *words: str) -> None:
    more = ("-c", "protocol.file.allow=always")
    subprocess.run([*GIT, *more, *words], cwd=folder, check=True, capture_output=True)


def made(folder: Path, *names: str) -> Path:
    """Make a repository with files of these names."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@dataclass(frozen=True, slots=True)
class Nested:
    """A repository with a submodule, a clone within its tree, a worktree, and agents in each."""

    app: Path
    sub: Path
    clone: Path
    tree: Path
    call: Call
    refusal: Callable[..., Any]

    async def reserve(self, folder: Path, agent: str, *paths: str, action: str = "reserve") -> Any:
        PEER.set(Peer(session=f"session-of-{agent}", project=str(folder)))
        return await self.call("reserve_files", action=action, agent=agent, paths=list(paths))

    async def refused(self, file: Path, folder: Path, session: str = "session-of-bert") -> str:
        event = {
            "hook_event_name": "PreToolUse", "session_id": session, "cwd": str(folder),
            "project": str(folder), "tool_name": "Edit", "tool_input": {"file_path": str(file)},
        }  # fmt: skip
        return await self.refusal(event) or ""


@pytest.fixture
async def nested(call: Call, services: Services, tmp_path: Path) -> Nested:
    lib = made(tmp_path / "lib", "src/a.c", "src/b.c")
    app = made(tmp_path / "app", "src/api/users.py", "src/m.c", "README.md")
    git(app, "submodule", "-q", "add", str(lib), "libs/sub")
    git(app, "commit", "-q", "-m", "sub")
    git(app, "clone", "-q", str(lib), "vendored")
    git(app, "worktree", "add", "-q", str(tmp_path / "tree"))
    git(tmp_path / "tree", "submodule", "-q", "update", "--init")
    for agent in ("anna", "bert", "carl", "suse"):
        await call("check_in", agent=agent, capabilities=["c"], take=False)
    return Nested(
        app, app / "libs" / "sub", app / "vendored", tmp_path / "tree", call,
        services.guard.refusal,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "src/api", "./src/api", "src/api/", "src", "src//api", "src/x/../api", "src/api/**",
        "src/api/*", ".", "{top}/src/api", "{top}/src/api/", "{top}/src/**", "{door}/src/api",
        "{tree}/src/api", "alias/api", "{top}",
    ],
)  # fmt: skip
async def test_a_folder_reserved_by_its_name_protects_all_below_it(
    nested: Nested, tmp_path: Path, name: str
) -> None:
    (tmp_path / "door").symlink_to(nested.app)
    (nested.app / "alias").symlink_to(nested.app / "src")
    name = name.format(top=nested.app, door=tmp_path / "door", tree=nested.tree)
    answer = await nested.reserve(nested.app, "anna", name)
    assert answer["granted"] is True
    file = nested.app / "src" / "api" / "users.py"
    assert "users.py is held by anna" in await nested.refused(file, nested.app)
    assert "held by anna" in await nested.refused(file.with_name("new.py"), nested.app)
    for wish in ("src/api/users.py", str(file), "src/api/*.py", "src/api", "**/users.py"):
        assert (await nested.reserve(nested.app, "bert", wish, action="check"))["granted"] is False
        assert (await nested.reserve(nested.app, "bert", wish))["granted"] is False
    assert await nested.refused(file, nested.app, "session-of-anna") == ""
    gone = await nested.reserve(nested.app, "anna", name, action="release")
    assert len(gone["released"]) == 1
    assert await nested.refused(file, nested.app) == ""


async def test_a_folder_protects_neither_its_neighbours_nor_a_name_that_begins_alike(
    nested: Nested,
) -> None:
    await nested.reserve(nested.app, "anna", "src/api", "lib", "READ")
    for name in ("src/m.c", "src/api2/x.py", "src/api.py", "libs/x.c", "README.md"):
        assert await nested.refused(nested.app / name, nested.app) == ""
        assert (await nested.reserve(nested.app, "bert", name, action="check"))["granted"] is True


async def test_a_folder_whose_name_has_brackets_protects_what_is_below_it(nested: Nested) -> None:
    (nested.app / "app" / "[id]").mkdir(parents=True)
    await nested.reserve(nested.app, "anna", "app/[id]")
    page = nested.app / "app" / "[id]" / "page.tsx"
    assert "held by anna" in await nested.refused(page, nested.app)
    answer = await nested.reserve(nested.app, "bert", "app/[id]/page.tsx")
    assert answer["granted"] is False


async def test_a_file_within_cannot_be_reserved_once_a_folder_below_is_and_vice_versa(
    nested: Nested,
) -> None:
    await nested.reserve(nested.app, "anna", "src/api/users.py")
    for wish in ("src", "src/api", "src/*/users.py", "**"):
        assert (await nested.reserve(nested.app, "bert", wish))["granted"] is False
    assert (await nested.reserve(nested.app, "bert", "src/m.c"))["granted"] is True


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{top}/../lib/src", "{lib}/src/**", "{top}2/x", "/", "//", "/*"]
)
async def test_an_absolute_path_outside_of_the_checkout_is_refused_with_its_root(
    nested: Nested, refusal: Refusal, path: str
) -> None:
    path = path.format(top=nested.app, lib=nested.app.parent / "lib")
    PEER.set(Peer(session="s", project=str(nested.app)))
    text = await refusal("reserve_files", action="reserve", agent="anna", paths=[path])
    assert f"'{path}' is outside the repository {nested.app}: name a path below it" in text


@pytest.mark.parametrize(
    "name", ["libs/sub/src/**", "libs/sub/src", "libs/sub", "libs", "libs/**", "**/a.c"]
)
async def test_what_the_superproject_holds_in_a_submodule_binds_from_either_side(
    nested: Nested, name: str
) -> None:
    assert (await nested.reserve(nested.app, "anna", name))["granted"] is True
    file = nested.sub / "src" / "a.c"
    assert "held by anna" in await nested.refused(file, nested.app)
    assert "held by anna" in await nested.refused(file, nested.sub)
    assert "held by anna" in await nested.refused(
        nested.tree / "libs" / "sub" / "src" / "a.c", nested.tree
    )
    assert (await nested.reserve(nested.sub, "bert", "src/a.c"))["granted"] is False
    assert (await nested.reserve(nested.app, "anna", action="release"))["released"] == [name]
    assert await nested.refused(file, nested.sub) == ""
    assert (await nested.reserve(nested.sub, "bert", "src/a.c"))["granted"] is True


@pytest.mark.parametrize("name", ["src/**", "src/a.c", "src", "."])
async def test_what_a_submodule_holds_binds_the_superproject_and_its_other_worktrees(
    nested: Nested, name: str
) -> None:
    assert (await nested.reserve(nested.sub, "suse", name))["granted"] is True
    file = nested.sub / "src" / "a.c"
    assert "held by suse" in await nested.refused(file, nested.app)
    other = nested.tree / "libs" / "sub"
    assert "held by suse" in await nested.refused(other / "src" / "a.c", nested.tree)
    assert await nested.refused(nested.app / "src" / "m.c", nested.app) == ""
    assert (await nested.reserve(nested.app, "bert", "libs/**"))["granted"] is False
    assert (await nested.reserve(other, "carl", "src/a.c"))["granted"] is False
    await nested.reserve(nested.sub, "suse", name, action="release")
    assert await nested.refused(file, nested.app) == ""
    assert (await nested.reserve(nested.app, "bert", "libs/**"))["granted"] is True


@pytest.mark.parametrize("name", ["vendored/src/**", "vendored", "vendored/src/a.c", "vend*/**"])
async def test_what_is_held_in_a_clone_within_the_tree_binds_both(
    nested: Nested, name: str
) -> None:
    assert (await nested.reserve(nested.app, "anna", name))["granted"] is True
    file = nested.clone / "src" / "a.c"
    assert "held by anna" in await nested.refused(file, nested.app)
    assert "held by anna" in await nested.refused(file, nested.clone)
    assert (await nested.reserve(nested.clone, "bert", "src"))["granted"] is False


async def test_a_refusal_names_a_nested_file_once(nested: Nested) -> None:
    await nested.reserve(nested.app, "anna", "libs/sub/src/**")
    text = await nested.refused(nested.sub / "src" / "a.c", nested.app)
    assert text.count("is held by anna") == 1


async def test_a_commit_in_a_submodule_is_bound_by_its_superproject(nested: Nested) -> None:
    await nested.reserve(nested.app, "anna", "libs/sub/src/b.c")
    event: dict[str, object] = {"hook_event_name": "GitPreCommit", "cwd": str(nested.sub)}
    assert await nested.refusal({**event, "paths": ["src/a.c"]}) is None
    assert "held by anna" in await nested.refusal({**event, "paths": ["src/b.c"]})
    pointer = {"hook_event_name": "GitPreCommit", "cwd": str(nested.app), "paths": ["libs/sub"]}
    assert await nested.refusal(pointer) is None
    await nested.reserve(nested.app, "carl", "libs/sub/src/a.c")
    await nested.reserve(nested.app, "carl", action="release")
    await nested.reserve(nested.app, "anna", "libs/sub")
    assert "libs/sub is held by anna" in await nested.refusal(pointer)


async def test_every_tool_treats_an_unknown_agent_alike(call: Call, refusal: Refusal) -> None:
    await call("check_in", agent="ann", capabilities=["python"], take=False)
    await call("assign_task", tasks=[{"title": "one"}])
    calls: list[tuple[str, dict[str, Any]]] = [
        ("check_in", {}),
        ("check_workforce", {"view": "tasks"}),
        ("check_workforce", {"view": "agents"}),
        *(("reserve_files", {"action": one, "paths": ["a"]}) for one in ("reserve", "check")),
        *(("reserve_files", {"action": one}) for one in ("release", "list")),
        *(
            ("exchange_messages", {"action": one, "message": 1})
            for one in ("inbox", "thread", "acknowledge")
        ),
        ("exchange_messages", {"action": "send", "to": ["ann"], "body": "x"}),
        *(
            ("update_task", {"task": "t1", "action": one, "fence": 1})
            for one in ("progress", "complete", "fail", "hand_over", "approve", "cancel")
        ),
    ]
    for tool, arguments in calls:
        text = await refusal(tool, agent="nobody", **arguments)
        assert text.startswith("no agent 'nobody': register it with `check_in`"), (tool, text)
    text = await refusal("exchange_messages", agent="ann", action="send", to=["zed"], body="x")
    assert text.startswith("no agent 'zed': register it with `check_in`")
