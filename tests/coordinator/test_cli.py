"""`arsenale workforce` as a user types it: real processes, a home of their own."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
MAIN = "from arsenale_daemon.cli import main; main()"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    return tmp_path / "repo"


@pytest.fixture
def workforce(environment: dict[str, str], repo: Path) -> Run:
    def run(*arguments: str, folder: Path = repo) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", MAIN, "workforce", *arguments], text=True, cwd=folder,
            env={**environment, "COLUMNS": "180"}, stdin=subprocess.DEVNULL,
            capture_output=True, check=False, timeout=50,
        )  # fmt: skip

    return run


@pytest.fixture
def tool(raw_host: Any, repo: Path) -> Callable[..., Any]:
    """Call a tool of the coordinator in the daemon, as an assistant in the repository does."""
    hosts: list[Any] = []

    def call(name: str, **arguments: Any) -> Any:
        if not hosts:
            hosts.append(raw_host("coordinator", CLAUDE_PROJECT_DIR=str(repo)))
            hosts[0].shake_hands()
        answer = hosts[0].call(1, name, **arguments)["result"]
        assert not answer.get("isError"), answer
        return answer["structuredContent"]

    return call


def loaded(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_empty_workforce_says_what_to_do(workforce: Run) -> None:
    assert "registers with the tool `check_in`" in workforce("agents").stdout
    assert "arsenale workforce add" in workforce("tasks").stdout
    assert "Nobody holds a file here" in workforce("files").stdout
    assert "No agents yet" in workforce("top").stdout
    none = loaded(workforce("tasks", "--json"))
    assert (none["summary"], none["tasks"]) == ("tasks: none", [])
    assert loaded(workforce("files", "--json"))["held"] == []
    assert loaded(workforce("agents", "--json"))["agents"] == []
    missing = workforce("show", "t9").stderr
    assert "`arsenale workforce tasks` lists them" in missing


def test_a_task_is_added_shown_cancelled_and_tried_again(workforce: Run, tmp_path: Path) -> None:
    first = workforce("add", "Write the parser", "-n", "python", "-p", "8", "--deadline", "3d",
                      "-d", "LL(1) [will] do")  # fmt: skip
    assert (first.returncode, first.stdout.startswith("t1 is ready: ")) == (0, True), first
    second = loaded(workforce("add", "Review it", "--after", "t1", "--json"))
    assert second["tasks"][0]["dependencies"] == ["t1"]
    listed = workforce("tasks").stdout
    assert "Write the parser" in listed
    assert "1 ready, 1 waiting" in listed
    assert "LL(1) [will] do" in workforce("show", "t1").stdout
    assert "t1 is cancelled" in workforce("cancel", "t1", "--note", "not now").stdout
    assert "Write the parser" not in workforce("tasks").stdout
    assert "Write the parser" in workforce("tasks", "--all").stdout
    gone = loaded(workforce("tasks", "--state", "cancelled", "--json"))["tasks"]
    assert [(one["task"], one["note"]) for one in gone] == [("t1", "not now")]
    assert "t1 is ready" in workforce("retry", "t1").stdout
    refused = workforce("approve", "t1").stderr
    assert "t1 is ready and cannot be approved: an agent begins it when it checks in" in refused
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    assert "Write the parser" not in workforce("tasks", folder=other).stdout
    assert "Write the parser" in workforce("tasks", "--everywhere", folder=other).stdout


def test_what_agents_do_in_the_daemon_is_seen_and_decided_here(
    workforce: Run, tool: Callable[..., Any]
) -> None:
    tool("check_in", agent="otter", capabilities=["python"])
    tool("check_in", agent="heron", capabilities=["review"])
    tool("assign_task", tasks=[{"title": "Draw [it]", "needs": ["python"], "gate": "after"}])
    [work] = tool("check_in", agent="otter")["work"]
    lines = loaded(workforce("agents", "--json"))["agents"]
    assert [(one["agent"], one["load"]) for one in lines] == [("heron", "0 of 1"),
                                                              ("otter", "1 of 1")]  # fmt: skip
    assert "t1 Draw [it]" in workforce("agents").stdout
    tool("update_task", task="t1", action="complete", agent="otter", fence=work["fence"])
    assert "t1 is done" in workforce("approve", "t1").stdout
    assert "attempt otter done" in workforce("show", "t1").stdout
    tool("reserve_files", action="reserve", agent="otter", paths=["src/[a]/**"], reason="why")
    files = workforce("files").stdout
    assert "src/[a]/**" in files and "exclusive" in files and "mode" in files
    tool("exchange_messages", action="send", agent="heron", to=["otter"], subject="Hi", body="[x]")
    for _ in range(2):  # looking does not read it for the agent
        assert "Hi unread\n[x]" in workforce("mail", "otter").stdout
    assert tool("exchange_messages", action="inbox", agent="otter")["messages"][0]["unread"]
    seen = loaded(workforce("top", "--json"))
    assert (len(seen["agents"]["agents"]), "tasks" in seen) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "t99"), "error: no task 't99'"),
        (("show", "what"), "error: 'what' is no task"),
        (("approve", "t99"), "error: no task 't99'"),
        (("tasks", "--state", "wrong"), "no state 'wrong'"),
        (("tasks", "--agent", "nobody"), "no agent 'nobody'"),
        (("mail", "nobody"), "no agent 'nobody'"),
        (("add", " "), "a task has no title"),
        (("add", "x" * 201), "error: title: String should have at most 200"),
        (("add", "x", "--after", "t99"), "t99"),
        (("add", "x", "--deadline", "whenever"), "'whenever' is not a date or a time"),
    ],
)
def test_what_goes_wrong_is_one_line_and_exit_status_one(
    workforce: Run, arguments: tuple[str, ...], said: str
) -> None:
    done = workforce(*arguments)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("leave", ["q", "ctrl-c"])
def test_top_shows_what_changes_and_leaves_the_terminal_as_it_was(
    environment: dict[str, str], workforce: Run, repo: Path, leave: str
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "workforce", "top"], stdin=theirs, stdout=theirs,
        stderr=theirs, cwd=repo, env={**environment, "TERM": "xterm"}, start_new_session=True,
    )  # fmt: skip
    try:
        _until(ours, "No agents yet")
        workforce("add", "Watched task")
        _until(ours, "Watched task")
        if leave == "q":
            os.write(ours, b"q")
        else:
            process.send_signal(signal.SIGINT)
        rest = _until(ours, "\x1b[?1049l")
        assert process.wait(10) == 0, rest
        assert "Traceback" not in rest
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def _until(terminal: int, text: str) -> str:
    """Read the screen until TEXT is on it."""
    shown = ""
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 20
    while text not in shown:
        assert time.monotonic() < deadline, shown
        try:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
        except BlockingIOError:
            time.sleep(0.02)
    return shown
