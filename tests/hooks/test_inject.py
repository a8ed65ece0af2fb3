"""The hook that tells the assistant what memory knows: real daemon, real memory, real processes."""

import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from arsenale_daemon import control
from arsenale_daemon.session_starts import SessionStarts
from arsenale_relay import endpoint, session_start

INJECT = Path(__file__).parents[2] / "hooks" / "inject.py"

Ask = Callable[..., tuple[str, float]]


@pytest.fixture
def ask(environment: dict[str, str], home: Path) -> Iterator[Ask]:
    """Give an event to the hook; return what the assistant gets, and how long it took.

    A session's start lets a child process start a daemon; the test ends when that is up.
    """
    starts: list[object] = []

    def run(event: dict[str, Any] | bytes) -> tuple[str, float]:
        begun = time.monotonic()
        given = event if isinstance(event, bytes) else json.dumps(event).encode()
        starts.append(b"SessionStart" in given)
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(INJECT)],
            input=given,
            env=environment, capture_output=True, check=False, timeout=20,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        if not done.stdout:
            return "", time.monotonic() - begun
        said = json.loads(done.stdout)["hookSpecificOutput"]
        assert isinstance(event, dict)
        assert said["hookEventName"] == event["hook_event_name"]
        return str(said["additionalContext"]), time.monotonic() - begun

    yield run
    if any(starts):
        control.up(home)


def prompt(text: str, session: str = "s") -> dict[str, Any]:
    return {"hook_event_name": "UserPromptSubmit", "session_id": session, "prompt": text}


def start(source: str = "startup", cwd: str | Path = "/w/project") -> dict[str, Any]:
    return {
        "hook_event_name": "SessionStart", "session_id": "s", "source": source, "cwd": str(cwd),
    }  # fmt: skip


def until(holds: Callable[[], object]) -> None:
    """Wait until HOLDS."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def known(raw_host: Any, home: Path) -> Callable[..., None]:
    """Let memory know some sentences, through a relay."""

    def remember(*sentences: str) -> None:
        host = raw_host("memory")
        host.shake_hands()
        control.ask(home, "status")  # answers when all servers are open: a prompt has 0.3 s
        answer = host.call(1, "remember", memories=[{"content": text} for text in sentences])
        assert not answer["result"].get("isError"), answer
        host.close()

    return remember


def test_without_a_daemon_a_prompt_goes_on_at_once_and_untold(ask: Ask, home: Path) -> None:
    told, took_s = ask(prompt("which database does the inventory service use?"))
    assert (told, took_s < 2) == ("", True)
    assert not (home / "run").exists()


def test_a_fresh_install_says_nothing_but_starts_the_daemon(ask: Ask, home: Path) -> None:
    assert ask(start())[0] == ""
    until((home / "run" / "daemon.json").exists)


def test_a_prompt_is_told_what_fits_it_once_a_session_and_nothing_else(
    ask: Ask, known: Callable[..., None]
) -> None:
    known("The inventory service uses PostgreSQL as its database.", "Anna likes green tea.")
    question = prompt("which database does the inventory service use?")
    told, _ = ask(question)
    assert "PostgreSQL" in told
    assert "tea" not in told
    assert told.startswith("<recalled-memories>")
    assert ask(question)[0] == ""
    assert "PostgreSQL" in ask({**question, "session_id": "other"})[0]
    assert ask(prompt("write a haiku about rain in spring"))[0] == ""
    assert ask(prompt("yes"))[0] == ""


def test_a_session_learns_who_it_is_and_again_shortly_after_compaction(
    ask: Ask, home: Path, known: Callable[..., None]
) -> None:
    folder = home / "identities" / "default"
    folder.mkdir(parents=True)
    toml = 'name = "Ada"\nclass = "a careful developer"\nrules = ["Run the tests."]\n'
    (folder / "identity.toml").write_text(toml, encoding="utf-8")
    known("We decided to always ship on Tuesdays because of the warehouse.")
    until(lambda: ask(start())[0])
    told, _ = ask(start())
    assert "You are Ada, a careful developer." in told
    assert "# Briefing" in told
    until(lambda: ask(start("compact"))[0])
    card, _ = ask(start("compact"))
    assert "You are Ada" in card
    assert "# Briefing" not in card
    assert len(card) < 1_300


def test_a_session_gets_its_kept_text_without_a_daemon_which_is_started_meanwhile(
    ask: Ask, home: Path, known: Callable[..., None], tmp_path: Path
) -> None:
    known("The inventory service uses PostgreSQL as its database.")
    project = tmp_path / "project"
    until(lambda: "PostgreSQL" in ask(start(cwd=project))[0])  # a busy machine may be late
    until(lambda: session_start.read(str(home), str(project)))
    assert control.down(home)
    told, took_s = ask(start(cwd=f"{project}/"))
    assert "PostgreSQL" in told
    assert took_s < 1
    until((home / "run" / "daemon.json").exists)


def test_the_first_session_of_a_project_gets_the_text_of_any_folder_without_a_daemon(
    ask: Ask, home: Path, known: Callable[..., None], tmp_path: Path
) -> None:
    known("The inventory service uses PostgreSQL as its database.")
    until(lambda: session_start.read(str(home), session_start.ANYWHERE))
    assert control.down(home)
    assert "PostgreSQL" in ask(start(cwd=tmp_path / "never seen"))[0]


def test_what_the_command_line_adds_is_in_the_next_session(
    ask: Ask, home: Path, environment: dict[str, str], known: Callable[..., None], tmp_path: Path
) -> None:
    known("The inventory service uses PostgreSQL as its database.")
    until(lambda: "PostgreSQL" in ask(start(cwd=tmp_path))[0])
    known("Anna likes green tea.")
    until(lambda: "tea" in (session_start.read(str(home), str(tmp_path)) or ""))
    command = [sys.executable, "-m", "arsenale_daemon", "memory", "add", "Mail goes over Redis."]
    hook = runpy.run_path(str(INJECT))
    until(lambda: ask(start(cwd=tmp_path))[0] and hook["kept"](start(cwd=tmp_path), str(home))[1])
    subprocess.run(command, env=environment, check=True, capture_output=True)
    text, usable = hook["kept"](start(cwd=tmp_path), str(home))
    assert (not usable, "tea" in text) == (True, True)  # it is asked for again, or is the last
    until(lambda: "Redis" in ask(start(cwd=tmp_path))[0])
    until(lambda: ask(start(cwd=tmp_path))[0] and hook["kept"](start(cwd=tmp_path), str(home))[1])


def test_a_kept_text_follows_what_memory_learns_and_forgets(
    ask: Ask, home: Path, raw_host: Any, known: Callable[..., None], tmp_path: Path
) -> None:
    known("The inventory service uses PostgreSQL as its database.")
    ask(start(cwd=tmp_path))
    known("The mail service uses Redis as its queue.")
    until(lambda: "Redis" in (session_start.read(str(home), str(tmp_path)) or ""))
    host = raw_host("memory")
    host.shake_hands()
    found = host.call(1, "recall", question="Redis queue")["result"]["structuredContent"]
    [uid] = [hit["id"] for hit in found["memories"] if "Redis" in hit["content"]]
    host.call(2, "revise", action="forget", ids=[uid])
    assert "Redis" not in (session_start.read(str(home), str(tmp_path)) or "")
    until(lambda: "PostgreSQL" in (session_start.read(str(home), str(tmp_path)) or ""))
    assert "Redis" not in (session_start.read(str(home), str(tmp_path)) or "")


def test_a_changed_identity_is_seen_by_the_next_session(
    ask: Ask, home: Path, known: Callable[..., None], tmp_path: Path
) -> None:
    known("something worth keeping")
    ask(start(cwd=tmp_path))
    until(lambda: session_start.read(str(home), str(tmp_path)))
    folder = home / "identities" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identity.toml").write_text('name = "Grace"\n', encoding="utf-8")
    later = time.time() + 1
    os.utime(folder / "identity.toml", (later, later))
    until(lambda: "You are Grace" in ask(start(cwd=tmp_path))[0])
    os.utime(folder / "identity.toml", (1, 1))
    until(lambda: "Grace" in (session_start.read(str(home), str(tmp_path)) or ""))
    (folder / "identity.toml").unlink()
    until(lambda: "Grace" not in ask(start(cwd=tmp_path))[0])


def test_a_text_that_was_asked_for_before_something_was_forgotten_is_not_kept(
    home: Path, tmp_path: Path
) -> None:
    asked_ns = time.time_ns()
    session_start.discard(str(home))
    session_start.write(str(home), str(tmp_path), "the forgotten text", asked_ns)
    assert session_start.read(str(home), str(tmp_path)) is None
    path = Path(session_start.file_of(str(home), str(tmp_path)))
    assert not path.exists()
    session_start.write(str(home), str(tmp_path), "the new text", time.time_ns())
    assert session_start.read(str(home), str(tmp_path)) == "the new text"
    kept = json.loads(path.read_text(encoding="utf-8"))
    session_start.discard(str(home))
    path.write_text(json.dumps(kept), encoding="utf-8")  # its writer was killed before it looked
    assert session_start.read(str(home), str(tmp_path)) is None


def test_a_renewal_that_overlaps_a_removal_keeps_nothing_of_what_was_removed(
    home: Path, tmp_path: Path
) -> None:
    """The servers answer from before the removal, and the answer is written after it."""

    async def ask(event: dict[str, Any]) -> str:
        session_start.discard(str(home))
        return "the forgotten text"

    async def renew() -> None:
        session_start.write(str(home), str(tmp_path), "the forgotten text", time.time_ns())
        with anyio.move_on_after(0.5):
            await SessionStarts(str(home), ask).run()

    anyio.run(renew)
    assert session_start.read(str(home), str(tmp_path)) is None


def test_a_text_of_an_older_version_is_not_used(home: Path, tmp_path: Path) -> None:
    session_start.write(str(home), str(tmp_path), "You are safe.", time.time_ns())
    path = Path(session_start.file_of(str(home), str(tmp_path)))
    kept = json.loads(path.read_bytes())
    for change in ({"form": 1}, {"form": None}, {"form": session_start.FORM + 1}):
        path.write_text(json.dumps({**kept, **change}), encoding="utf-8")
        assert session_start.read(str(home), str(tmp_path)) is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"project": "/other", "text": "x"}'])
def test_a_damaged_kept_text_is_not_used(
    home: Path, environment: dict[str, str], tmp_path: Path, text: bytes
) -> None:
    path = Path(session_start.file_of(str(home), str(tmp_path)))
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    assert session_start.read(str(home), str(tmp_path)) is None


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000, b'{"project": "\\ud800", "text": "x"}', b'{"project": "a\\u0000b"}',
        b'{"project": 3}', b'{"project": "/w/another", "text": "x"}', b"null",
    ],
)  # fmt: skip
def test_a_daemon_starts_and_stays_up_beside_a_damaged_kept_text(
    home: Path, tmp_path: Path, ask: Ask, text: bytes
) -> None:
    path = Path(session_start.file_of(str(home), "/w/damaged"))
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    pid = control.up(home)["pid"]
    ask(start(cwd=tmp_path))
    until(lambda: session_start.read(str(home), str(tmp_path)) is not None)
    answer = control.ask(home, "status")
    assert answer and answer["pid"] == pid


def test_before_compaction_a_checkpoint_is_taken_in_the_background(
    ask: Ask, home: Path, known: Callable[..., None]
) -> None:
    known("something worth keeping")
    _, took_s = ask({"hook_event_name": "PreCompact", "session_id": "s"})
    assert took_s < 2
    deadline = time.monotonic() + 10
    while not (home / "identities" / "default" / "CLAUDE.md").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("event", [b"", b"garbage", b"[]", b'{"hook_event_name": 3}', b"\xff"])
def test_whatever_comes_the_session_goes_on(ask: Ask, event: bytes) -> None:
    assert ask(event)[0] == ""


def test_a_daemon_that_does_not_answer_holds_a_prompt_up_for_a_moment_only(
    ask: Ask, home: Path
) -> None:
    endpoint.run_dir(str(home))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(endpoint.socket_path(str(home)))
        listener.listen()
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(listener.accept()[0]))
        thread.start()
        told, took_s = ask(prompt("which database does the inventory service use?"))
        thread.join()
        held[0].close()
    assert told == ""
    assert 0.25 < took_s < 1.5
