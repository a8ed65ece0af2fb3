"""A damaged identity file costs what is damaged: identity, briefing and memories go on."""

import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.trust import PROJECT_FILE_BYTES, Trust
from arsenale_memory import identity_files, persona_files
from arsenale_memory.injection import Injector, Switches
from arsenale_memory.opening import Services

Call = Callable[..., Awaitable[Any]]

GOOD = 'name = "Ada"\nrules = ["Run the tests."]\n\n[facts]\neditor = "Helix"\n'

DAMAGED: dict[str, tuple[bytes, int | None]] = {
    "CRLF": (GOOD.replace("\n", "\r\n").encode(), None),
    "BOM": (b"\xef\xbb\xbf" + GOOD.encode(), None),
    "Latin-1": (GOOD.encode() + 'city = "Zürich"\n'.encode("latin-1"), 6),
    "an unknown key": (b"nickname = 'x'\n" + GOOD.encode(), 1),
    "an unknown table": (GOOD.encode() + b"[later]\na = 1\n", 6),
    "a wrong type": (GOOD.encode().replace(b"\n\n", b"\nlanguage = 3\n\n"), 3),
    "a text for a list": (b"projects = 'x'\n" + GOOD.encode(), 1),
    "a table for a text": (GOOD.encode() + b"[language]\na = 1\n", 6),
    "a namespace that is no name": (b"namespace = 'a,*'\n" + GOOD.encode(), 1),
    "merge markers": (
        b'<<<<<<< HEAD\nname = "Ada"\n=======\nname = "Bo"\n>>>>>>> other\n'
        + GOOD.split("\n", 1)[1].encode(),
        1,
    ),
    "merge markers with a base": (
        b'name = "Ada"\n<<<<<<< HEAD\nrules = ["Run the tests."]\n||||||| base\nrules = []\n'
        b'=======\nrules = ["x"]\n>>>>>>> b\n[facts]\neditor = "Helix"\n',
        2,
    ),
    "merge markers in a table": (GOOD.encode() + b"<<<<<<< HEAD\na = 1\n=======\n>>>>>>> b\n", 6),
    "a line that is not TOML": (b"hello world\n" + GOOD.encode(), 1),
    "no value": (b"language =\n" + GOOD.encode(), 1),
    "a missing quote": (b'language = "en\n' + GOOD.encode(), 1),
    "an open list": (b'projects = ["a", \n' + GOOD.encode(), 1),
    "typographic quotes": ("language = “en”\n".encode() + GOOD.encode(), 1),
    "a key twice": (GOOD.encode().replace(b"\n\n", b'\nname = "Bo"\n\n'), 3),
    "a colon": (b"language: en\n" + GOOD.encode(), 1),
    "a NUL": (b"\0\n" + GOOD.encode(), 1),
    "a damaged last line": (GOOD.encode() + b"tools = {", 6),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_can_be_read_counts_and_the_line_is_named(kind: str, tmp_path: Path) -> None:
    content, line = DAMAGED[kind]
    path = tmp_path / "identity.toml"
    path.write_bytes(content)
    values, problems = identity_files.read(path)
    assert (values["name"], values["rules"]) == ("Ada", ["Run the tests."])
    assert values["facts"]["editor"] == "Helix"
    assert [problem.line for problem in problems][:1] == ([] if line is None else [line])
    assert all(str(problem).startswith(f"{path}:") for problem in problems)


def test_files_that_cannot_be_read_at_all_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "large.toml").write_bytes(b"# " + b"x" * PROJECT_FILE_BYTES)
    for name in ("folder.toml", "large.toml"):
        values, [problem] = identity_files.read(tmp_path / name)
        assert (values, name in str(problem)) == ({}, True)
    assert identity_files.read(tmp_path / "none.toml") == ({}, [])


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_no_bytes_raise(tmp_path_factory: pytest.TempPathFactory, odd: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("x") / "identity.toml"
    path.write_bytes(GOOD.encode()[:at] + odd + GOOD.encode()[at:])
    values, _ = identity_files.read(path)
    assert set(values) <= {"name", "rules", "facts", "language", "class", "projects"}


async def _prompted(services: Services, project: Path) -> list[str | None]:
    answers: list[str | None] = []
    async with create_task_group() as tasks:
        switches = Switches(
            identity=True, memories=True, checkpoints=True, persona="default", max_tokens=500,
            min_relevance=0.0,
        )  # fmt: skip
        injector = Injector(services.memory, services.personas, switches, tasks)
        event = {"session_id": "s", "cwd": str(project)}
        answers.append(await injector.answer({**event, "hook_event_name": "SessionStart"}))
        question = "which database does the inventory service use?"
        asked = {**event, "hook_event_name": "UserPromptSubmit", "prompt": question}
        answers.append(await injector.answer(asked))
    return answers


@pytest.mark.parametrize("kind", ["BOM", "Latin-1", "an unknown key", "merge markers",
                                  "a wrong type", "a namespace that is no name"])  # fmt: skip
@pytest.mark.parametrize("level", ["project", "home"])
async def test_memories_and_identity_are_given_whatever_the_identity_file_holds(
    kind: str, level: str, services: Services, call: Call, tmp_path: Path
) -> None:
    content, _ = DAMAGED[kind]
    project = tmp_path / "project"
    folder = project / ".arsenale"
    if level == "home":
        folder = services.personas.place("default")
    folder.mkdir(parents=True)
    (folder / "identity.toml").write_bytes(content)
    services.personas.trust.approve(folder / "identity.toml", content)
    await call("remember", memories=[{"content": "The inventory service uses PostgreSQL."}])
    started, asked = await _prompted(services, project)
    assert started is not None and "Ada" in started
    assert asked is not None and "PostgreSQL" in asked


@pytest.mark.slow
def test_doctor_names_the_file_and_the_line(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".arsenale").mkdir()
    path = tmp_path / ".arsenale" / "identity.toml"
    command = [str(Path(sys.executable).with_name("arsenale")), "doctor", "--json"]

    def check() -> dict[str, str]:
        done = subprocess.run(
            command, cwd=tmp_path, env={**environment, "HOME": str(tmp_path)},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return next(one for one in json.loads(done.stdout) if one["name"] == "identity")

    trust = Trust(Path(environment["ARSENALE_HOME"]))
    content, _ = DAMAGED["an unknown table"]
    path.write_bytes(content)
    assert (check()["state"], check()["found"]) == ("warn", f"not used: {path} (not approved)")
    trust.approve(path, content)
    assert check()["state"] == "warn"
    assert f"{path}:6: unknown key 'later'" in check()["found"]
    path.write_text(GOOD, encoding="utf-8")
    trust.approve(path, GOOD.encode())
    assert check()["state"] == "ok"


@pytest.mark.parametrize("target", ["file", "relative", "dangling", "chain", "nothing"])
async def test_a_link_stays_a_link_and_its_target_is_written(
    target: str, services: Services, tmp_path: Path
) -> None:
    folder = services.personas.place("default")
    folder.mkdir(parents=True)
    dotfile = tmp_path / "dotfiles" / "CLAUDE.md"
    dotfile.parent.mkdir()
    link = folder / "CLAUDE.md"
    if target != "dangling":
        dotfile.write_text("Mine.\n", encoding="utf-8")
        dotfile.chmod(0o640)
    if target == "relative":
        dotfile = folder / "own.md"
        dotfile.write_text("Mine.\n", encoding="utf-8")
        link.symlink_to("own.md")
    elif target == "chain":
        (tmp_path / "between").symlink_to(dotfile)
        link.symlink_to(tmp_path / "between")
    elif target != "nothing":
        link.symlink_to(dotfile)
    await services.personas.render("default")
    await services.personas.checkpoint("default", None, reason="test")
    assert link.is_symlink() == (target != "nothing")
    text = (link if target == "nothing" else dotfile).read_text(encoding="utf-8")
    assert "arsenale" in text.lower()
    assert ("Mine." in text) == (target not in ("dangling", "nothing"))
    if target == "file":
        assert dotfile.stat().st_mode & 0o777 == 0o640


def test_a_file_is_replaced_whole_and_leaves_no_other(tmp_path: Path) -> None:
    persona_files.replace_file(tmp_path / "new" / "a.md", "x\r\ny")
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"x\r\ny"]


ENDLESS = {
    "a statement that never ends": b"name = 'x'\n" + b"<\n" * 400_000,
    "an array that never ends": b"rules = [\n" + b"'x',\n" * 150_000,
    "a key of 300,000 parts": b"a" + b".a" * 300_000 + b" = 1\n",
    "a quoted key of 100,000 parts": b'"a"' + b' . "a"' * 100_000 + b" = 1\n",
    "a head of 300,000 parts": b"[a" + b".a" * 300_000 + b"]\nx = 1\n",
    "100,000 unknown keys": b"".join(b"k%d=1\n" % i for i in range(80_000)),
    "100,000 tables": b"".join(b"[k%d]\n" % i for i in range(80_000)),
    "a long head before damage": b"['" + b"a" * 300_000 + b"']\n" + b"a=1\n" * 100_000,
    "empty lines in a list": b"rules = [\n" + b"\r\n" * 300_000,
    "a table within 100,000": b"facts = " + b"{a=" * 100_000,
}


@pytest.mark.parametrize("content", ENDLESS.values(), ids=ENDLESS)
def test_a_hostile_megabyte_costs_seconds_at_most_and_few_problems(content: bytes) -> None:
    begun = time.process_time()
    _, problems = identity_files.parse(Path("identity.toml"), content[:PROJECT_FILE_BYTES])
    assert time.process_time() - begun < 10
    assert 1 <= len(problems) <= identity_files.MOST_PROBLEMS + 1


def test_a_list_of_many_lines_is_read_beside_a_damaged_line() -> None:
    rules = "".join(f'  "rule {i}",\n' for i in range(300))
    content = f"rules = [\n{rules}]\n<<<<<<< ours\nname = 'Ada'\n".encode()
    values, problems = identity_files.parse(Path("identity.toml"), content)
    assert len(values["rules"]) == 300 and values["name"] == "Ada"
    assert len(problems) == 1


def test_dots_in_a_text_are_no_key() -> None:
    text = ". " * 100 + "a.b.c. and so on"
    values, problems = identity_files.parse(Path("identity.toml"), f'name = "{text}"'.encode())
    assert values == {"name": text} and problems == []
