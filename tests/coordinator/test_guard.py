"""Guards that bind: real daemon, real git, the real hook as a host runs it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.conftest import Call, Time

from arsenale_coordinator.opening import Services
from arsenale_coordinator.repository import edits
from arsenale_core.surface import PEER, Peer
from arsenale_daemon import control
from arsenale_daemon.git_guard import GONE
from arsenale_relay import endpoint

HOOK = Path(__file__).parents[2] / "hooks" / "guard.py"
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")

Answer = dict[str, Any]
Ask = Callable[..., Answer]
Hold = Callable[..., None]


def git(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GIT, *words], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, **more},
    )  # fmt: skip


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "src").mkdir()
    (folder / "src" / "a.py").write_text("1\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.fixture
def hold(raw_host: Any, repo: Path, home: Path) -> Hold:
    """Reserve paths as an agent of a session, through a relay."""

    def reserve(agent: str, *paths: str, session: str | None = "one", **more: Any) -> None:
        env = {"CLAUDE_PROJECT_DIR": str(repo), "CLAUDE_CODE_SESSION_ID": session or ""}
        host = raw_host("coordinator", **env)
        host.shake_hands()
        control.ask(home, "status")  # answers when all servers are open: a guard has 0.3 s
        host.call(1, "check_in", agent=agent, capabilities=["python"], take=False)
        said = {"action": "reserve", "agent": agent, "paths": list(paths), **more}
        answer = host.call(2, "reserve_files", **said)
        assert answer["result"]["structuredContent"]["granted"], answer
        host.close()

    return reserve


@pytest.fixture
def ask(environment: dict[str, str], repo: Path) -> Ask:
    """Give the hook a PreToolUse event; return what it prints."""

    def run(
        file: str | Path, *flags: str, session: str = "two", tool: str = "Edit", env: Any = None,
        given: Any = None, cwd: Path = repo,
    ) -> Answer:  # fmt: skip
        event = {
            "hook_event_name": "PreToolUse", "session_id": session, "cwd": str(cwd),
            "tool_name": tool, "tool_input": given or {"file_path": str(file), "new_string": "x"},
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(HOOK), *flags], input=json.dumps(event).encode(),
            env={**environment, "CLAUDE_CODE_SESSION_ID": session, **(env or {})},
            capture_output=True, check=False, timeout=20,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        return json.loads(done.stdout) if done.stdout else {}

    return run


def denied(answer: Answer) -> str:
    said = answer["hookSpecificOutput"]
    assert (said["hookEventName"], said["permissionDecision"]) == ("PreToolUse", "deny")
    return str(said["permissionDecisionReason"])


def test_an_edit_of_what_another_holds_is_refused_with_who_what_why_and_until_when(
    ask: Ask, hold: Hold, repo: Path
) -> None:
    hold("otter", "src/**", reason="renaming the API")
    said = denied(ask(repo / "src" / "a.py"))
    assert "src/a.py is held by otter (src/**) until 20" in said
    assert "Z: renaming the API\n" in said
    assert "exchange_messages" in said
    assert ask(repo / "README.md") == {}
    assert ask(repo / "src" / "a.py", session="one") == {}
    assert ask(repo / "src" / "a.py", tool="Read") == {}
    assert ask("src/new/b.py") != {}  # relative to the session's folder; it need not exist
    assert ask("", tool="NotebookEdit", given={"notebook_path": str(repo / "src/n.ipynb")}) != {}
    patch = "*** Begin Patch\n*** Update File: src/a.py\n@@\n*** End Patch"
    assert "src/a.py" in denied(ask("", tool="apply_patch", given={"input": patch}))


def test_what_is_held_shared_or_let_go_binds_nobody(ask: Ask, hold: Hold, repo: Path) -> None:
    hold("otter", "src/**", shared=True)
    assert ask(repo / "src" / "a.py") == {}


def test_a_reservation_without_a_session_is_its_agents_by_name(
    ask: Ask, hold: Hold, repo: Path
) -> None:
    hold("otter", "src/**", session=None)
    assert "ARSENALE_AGENT=otter" in denied(ask(repo / "src" / "a.py", session=""))
    assert ask(repo / "src" / "a.py", session="", env={"ARSENALE_AGENT": "otter"}) == {}


def test_worktrees_links_and_names_with_brackets_are_seen_through(
    ask: Ask, hold: Hold, repo: Path, tmp_path: Path
) -> None:
    hold("otter", "src/**", "app/[id]/page.tsx")
    git(repo, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert "src/a.py" in denied(ask(tmp_path / "tree" / "src" / "a.py", cwd=tmp_path / "tree"))
    (repo / "alias").symlink_to(repo / "src")
    (repo / "link.py").symlink_to(repo / "src" / "a.py")
    (tmp_path / "door").symlink_to(repo)
    for way in ("alias/a.py", "link.py", "x/../src/a.py", tmp_path / "door" / "src" / "a.py"):
        assert "src/a.py" in denied(ask(way)), way
    assert "app/[id]/page.tsx" in denied(ask("app/[id]/page.tsx"))
    assert ask("app/[x]/page.tsx") == {}
    assert ask(tmp_path / "elsewhere.py") == {}


def test_without_a_daemon_an_edit_goes_on_with_a_loud_warning_or_not_at_all(
    ask: Ask, home: Path, repo: Path
) -> None:
    said = ask(repo / "src" / "a.py")
    assert list(said) == ["systemMessage"]
    assert "the daemon is down" in said["systemMessage"]
    assert "goes on unguarded" in said["systemMessage"]
    assert "arsenale up" in denied(ask(repo / "src" / "a.py", "--closed"))
    assert ask(repo / "src" / "a.py", "--closed", tool="Bash") == {}
    assert not (home / "run").exists()


def test_a_deaf_daemon_holds_an_edit_up_for_a_moment_only(ask: Ask, home: Path, repo: Path) -> None:
    endpoint.run_dir(str(home))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(endpoint.socket_path(str(home)))
        listener.listen()
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: held.append(listener.accept()[0]))
        thread.start()
        begun = time.monotonic()
        said = ask(repo / "src" / "a.py")
        took_s = time.monotonic() - begun
        thread.join()
        held[0].close()
    assert "did not answer in time" in said["systemMessage"]
    assert 0.25 < took_s < 1.5


def test_a_coordinator_that_cannot_open_is_no_yes(
    ask: Ask, home: Path, raw_host: Any, repo: Path
) -> None:
    (home / "coordinator.db").write_bytes(b"garbage" * 1_000)
    raw_host("telemetry").shake_hands()
    control.ask(home, "status")
    assert "no answer from coordinator" in ask(repo / "src" / "a.py")["systemMessage"]
    assert "no answer from coordinator" in denied(ask(repo / "src" / "a.py", "--closed"))


@pytest.mark.parametrize("event", [b"", b"[]", b"\xff", b'{"tool_name": 3}'])
def test_whatever_comes_the_hook_ends_well(environment: dict[str, str], event: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(HOOK)], input=event, env=environment,
        capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_cursor_is_refused_in_its_own_words(
    environment: dict[str, str], hold: Hold, repo: Path
) -> None:
    hold("otter", "src/**")
    event = {
        "hook_event_name": "preToolUse", "conversation_id": "c", "cwd": str(repo),
        "tool_name": "Write", "tool_input": {"file_path": "src/a.py"},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(HOOK)], input=json.dumps(event).encode(),
        env=environment, capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["permission"] == "deny"
    assert "otter" in said["agent_message"]


def test_the_hook_and_the_coordinator_know_the_same_tools() -> None:
    spec = importlib.util.spec_from_file_location("guard_hook", HOOK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TOOLS == edits.TOOLS


async def test_a_reservation_binds_while_it_lasts_on_every_database(
    call: Call, services: Services, time: Time, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"  # no repository: the session's folder is the project
    (folder / "src").mkdir(parents=True)
    event = {
        "hook_event_name": "PreToolUse", "session_id": "s", "tool_name": "Write",
        "cwd": str(folder / "src"), "project": str(folder), "tool_input": {"file_path": "a.py"},
    }  # fmt: skip
    wish = {"action": "reserve", "paths": ["src/*.py"], "minutes": 5}
    PEER.set(Peer(session="other", project=str(folder)))
    await call("check_in", agent="otter", capabilities=["python"], take=False)
    await call("reserve_files", agent="otter", **wish)
    said = await services.guard.refusal(event)
    assert said
    assert said.startswith("src/a.py is held by otter (src/*.py) until 2027-01-15T08:05:00Z\n")
    assert await services.guard.refusal({**event, "session_id": "other"}) is None
    assert await services.guard.refusal({**event, "tool_input": {}}) is None
    assert await services.guard.refusal({**event, "cwd": str(tmp_path), "project": ""}) is None
    time.passes(5 * 60 + 1)
    assert await services.guard.refusal(event) is None
    await call("reserve_files", agent="otter", **wish)
    assert await services.guard.refusal(event)
    await call("reserve_files", agent="otter", action="release")
    assert await services.guard.refusal(event) is None


# The command, and git.


@pytest.fixture
def guard(environment: dict[str, str], repo: Path, tmp_path: Path) -> Ask:
    def run(*words: str, folder: Path = repo) -> Any:
        code = "from arsenale_daemon.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *words], cwd=folder, text=True, capture_output=True,
            env={**environment, "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": os.devnull,
                 "COLUMNS": "200"},
            check=False, timeout=50, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


def commit(repo: Path, name: str = "src/a.py", **env: str) -> subprocess.CompletedProcess[str]:
    path = repo / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{time.monotonic_ns()}\n", encoding="utf-8")
    git(repo, "add", name)
    return git(repo, "commit", "-q", "-m", "more", **env)


def test_the_command_switches_on_and_off_and_leaves_all_as_it_was(guard: Any, repo: Path) -> None:
    local, hook = repo / ".claude" / "settings.local.json", repo / ".git" / "hooks" / "pre-commit"
    local.parent.mkdir()
    text = '{ "model":"x","hooks":{"PreToolUse":[{"matcher":"Bash","hooks":[]}] } }'
    local.write_text(text, encoding="utf-8")
    assert guard("guard", "status").returncode == 3
    assert "Nothing was written" in guard("guard", "on", "--git", "--dry-run").stdout
    on = guard("guard", "on", "--git", "--yes")
    assert (on.returncode, "+++ " in on.stdout) == (0, True), on.stderr
    assert hook.stat().st_mode & 0o777 == 0o755
    entries = json.loads(local.read_text(encoding="utf-8"))["hooks"]["PreToolUse"]
    assert [entry["matcher"] for entry in entries] == ["Bash", "Edit|Write|MultiEdit|NotebookEdit"]
    assert "it is on" in guard("guard", "on", "--git", "--yes").stdout
    closed = json.loads(guard("guard", "on", "--closed", "--json", "--yes").stdout)["guards"]
    assert [(o["where"], o["mode"], o["sound"]) for o in closed] == [
        ("claude (project)", "closed", True), ("git", "open", True),
    ]  # fmt: skip
    doctor = {c["name"]: c for c in json.loads(guard("doctor", "--json").stdout)}
    assert doctor["guards"]["found"] == "claude (project) (closed), git"
    assert guard("guard", "off").returncode == 0
    assert local.read_text(encoding="utf-8") == text
    assert not hook.exists()
    assert "all is off" in guard("guard", "off").stdout
    assert [path.name for path in local.parent.iterdir()] == [local.name]


def test_init_and_the_guard_leave_one_another_alone(guard: Any, repo: Path) -> None:
    guard("guard", "on", "--yes")
    guard("init", "--yes")
    assert "it is on" in guard("guard", "on", "--yes").stdout
    guard("guard", "on", "--closed", "--yes")
    assert "all set" in guard("init", "--yes").stdout
    assert json.loads(guard("guard", "status", "--json").stdout)["on"]
    guard("init", "--undo", "--yes")
    assert json.loads(guard("guard", "status", "--json").stdout)["on"]
    guard("guard", "off")
    assert not (repo / ".claude" / "settings.local.json").exists()


def test_the_entry_that_was_written_denies(
    guard: Any, hold: Hold, environment: dict[str, str], repo: Path
) -> None:
    guard("guard", "on", "--yes")
    hold("otter", "src/**")
    text = (repo / ".claude" / "settings.local.json").read_text(encoding="utf-8")
    [entry] = json.loads(text)["hooks"]["PreToolUse"]
    [handler] = entry["hooks"]
    event = {
        "hook_event_name": "PreToolUse", "session_id": "two", "cwd": str(repo),
        "tool_name": "Write", "tool_input": {"file_path": str(repo / "src/a.py")},
    }  # fmt: skip
    bare = {"PATH": os.environ["PATH"]}  # the home is named in the entry
    done = subprocess.run(
        [handler["command"], *handler["args"]], input=json.dumps(event).encode(), env=bare,
        capture_output=True, check=True, timeout=20,
    )  # fmt: skip
    assert "otter" in denied(json.loads(done.stdout))


def test_a_users_own_guard_of_that_name_stays(guard: Any, repo: Path) -> None:
    local = repo / ".claude" / "settings.local.json"
    local.parent.mkdir()
    mine = {"type": "command", "command": "python3 .claude/hooks/guard.py --closed"}
    text = json.dumps({"hooks": {"PreToolUse": [{"matcher": "Edit", "hooks": [mine]}]}})
    local.write_text(text, encoding="utf-8")
    assert guard("guard", "status").returncode == 3
    guard("guard", "on", "--yes")
    guard("guard", "off")
    assert local.read_text(encoding="utf-8") == text


def test_a_commit_of_what_another_holds_is_refused_by_path(
    guard: Any, hold: Hold, repo: Path, tmp_path: Path
) -> None:
    guard("guard", "on", "--git", "--yes")
    hold("otter", "src/**", reason="renaming")
    done = commit(repo)
    assert done.returncode == 1
    assert "src/a.py is held by otter (src/**) until 20" in done.stderr
    assert "--no-verify" in done.stderr
    assert commit(repo, CLAUDE_CODE_SESSION_ID="one").returncode == 0
    assert commit(repo, ARSENALE_AGENT="otter").returncode == 0
    assert commit(repo, "free/b.py").returncode == 0
    git(repo, "mv", "src/a.py", "free/a.py")
    assert "src/a.py" in git(repo, "commit", "-q", "-m", "away").stderr
    git(repo, "reset", "-q", "--hard")
    git(repo, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert "otter" in commit(tmp_path / "tree").stderr
    (tmp_path / "tree" / "free" / "sub").mkdir()
    (tmp_path / "tree" / "src" / "a.py").write_text("2\n", encoding="utf-8")
    inner = git(tmp_path / "tree" / "free" / "sub", "commit", "-q", "-a", "-m", "x")
    assert "otter" in inner.stderr


SHELL = '#!/bin/sh\n[ "$(basename "$0")" = pre-commit ] && echo "mine $#" >&2\n[ ! -e stop ]\n'
OTHER = f"""#!{sys.executable}
import os, sys
print("mine 0", file=sys.stderr)
sys.exit(os.path.exists("stop"))
"""


@pytest.mark.parametrize("where", [".git/hooks", "my hooks"])
@pytest.mark.parametrize("text", [SHELL, OTHER])
def test_a_hook_that_was_there_runs_after_ours_and_comes_back(
    guard: Any, hold: Hold, repo: Path, where: str, text: str
) -> None:
    if where != ".git/hooks":
        git(repo, "config", "core.hooksPath", where)
    hook = repo / where / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(text, encoding="utf-8")
    hook.chmod(0o750)
    said = guard("guard", "on", "--git", "--yes").stdout
    assert ("lies in the checkout" in said) == (where != ".git/hooks")
    assert "it is on" in guard("guard", "on", "--git", "--yes").stdout
    hold("otter", "src/**")
    refused = commit(repo)
    assert (refused.returncode, "mine" in refused.stderr) == (1, False)
    passed = commit(repo, "free.py", CLAUDE_CODE_SESSION_ID="one")
    assert (passed.returncode, passed.stderr) == (0, "mine 0\n")
    (repo / "stop").touch()
    assert commit(repo, "free.py", CLAUDE_CODE_SESSION_ID="one").returncode == 1
    guard("guard", "on", "--git", "--closed", "--yes")
    guard("guard", "off", "--git")
    assert (hook.read_text(encoding="utf-8"), hook.stat().st_mode & 0o777) == (text, 0o750)
    assert [path.name for path in hook.parent.iterdir() if "arsenale" in path.name] == []


def test_links_and_hooks_that_sleep_are_moved_aside_and_back(guard: Any, repo: Path) -> None:
    hook, target = repo / ".git" / "hooks" / "pre-commit", repo / "script.sh"
    target.write_text("#!/bin/sh\necho linked >&2\n", encoding="utf-8")
    target.chmod(0o755)
    before = target.read_bytes()
    hook.symlink_to("../../script.sh")
    guard("guard", "on", "--git", "--yes")
    assert "linked" in commit(repo).stderr
    guard("guard", "off")
    assert (hook.is_symlink(), target.read_bytes()) == (True, before)
    hook.unlink()
    hook.write_bytes(b"#!/bin/sh\nexit 1\n\xff")
    hook.chmod(0o644)  # git does not run it, and neither do we
    guard("guard", "on", "--git", "--yes")
    assert commit(repo).returncode == 0
    guard("guard", "off")
    assert (hook.read_bytes(), hook.stat().st_mode & 0o777) == (
        b"#!/bin/sh\nexit 1\n\xff", 0o644,
    )  # fmt: skip


def test_without_a_daemon_a_commit_goes_on_with_a_warning_or_not_at_all(
    guard: Any, repo: Path
) -> None:
    guard("guard", "on", "--git", "--yes")
    done = commit(repo)
    assert done.returncode == 0
    assert "the daemon is down" in done.stderr
    assert "goes on unguarded" in done.stderr
    guard("guard", "on", "--git", "--closed", "--yes")
    closed = commit(repo)
    assert (closed.returncode, "arsenale up" in closed.stderr) == (1, True)


@pytest.mark.parametrize("closed", [False, True])
def test_a_guard_whose_program_is_gone_only_warns_and_runs_no_word_of_its_warning(
    guard: Any, repo: Path, tmp_path: Path, closed: bool
) -> None:
    guard("guard", "on", "--git", "--yes", *(["--closed"] if closed else []))
    hook = repo / ".git" / "hooks" / "pre-commit"
    text = hook.read_text(encoding="utf-8").replace("/guard.py", "/gone.py")
    hook.write_text(text, encoding="utf-8")
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "arsenale"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/was-run'\n", encoding="utf-8")
    program.chmod(0o755)
    done = commit(repo, PATH=f"{programs}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert done.stderr.strip() == f"arsenale guard: {GONE}"
    assert not (tmp_path / "was-run").exists()


def test_outside_of_a_repository_there_is_no_git_to_guard(guard: Any, tmp_path: Path) -> None:
    done = guard("guard", "on", "--git", "--yes", folder=tmp_path)
    assert (done.returncode, "no git repository" in done.stderr) == (1, True)
    assert not (tmp_path / ".claude").exists()


@pytest.mark.parametrize("host", ["codex", "vscode", "cursor"])
def test_other_hosts_have_an_entry_in_their_own_form(guard: Any, repo: Path, host: str) -> None:
    assert guard("guard", "on", "--host", host, "--yes").returncode == 0
    found = json.loads(guard("guard", "status", "--json").stdout)["guards"]
    assert [(one["where"], one["sound"]) for one in found] == [(f"{host} (project)", True)]
    assert "guard.py" in Path(found[0]["path"]).read_text(encoding="utf-8")
    guard("guard", "off")
    assert not Path(found[0]["path"]).exists()
