"""The command line, run as a user would."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from arsenale_daemon import cli

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
ARSENALE = str(Path(sys.executable).with_name("arsenale"))


@pytest.fixture
def arsenale(environment: dict[str, str], tmp_path: Path) -> Run:
    user = tmp_path / "user"
    user.mkdir()

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ARSENALE, *words], env={**environment, "HOME": str(user), **env}, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


def test_up_status_down_tell_what_is(arsenale: Run, home: Path) -> None:
    down = arsenale("status")
    assert (down.returncode, "The daemon is down" in down.stdout) == (3, True)
    assert json.loads(arsenale("status", "--json").stdout) == {"running": False, "home": str(home)}
    assert arsenale("up").returncode == 0
    status = json.loads(arsenale("status", "--json").stdout)
    up = {"state": "up", "connections": 0}
    assert status["servers"] == {
        "coordinator": up, "genome": up, "memory": up, "mesh": up, "telemetry": up,
    }  # fmt: skip
    assert json.loads(arsenale("up", "--json").stdout)["pid"] == status["pid"]
    assert "has ended" in arsenale("down").stdout
    assert "No daemon was running" in arsenale("down").stdout


def test_a_home_with_a_long_path_is_found_by_hosts_that_drop_tmpdir(
    arsenale: Run, tmp_path: Path
) -> None:
    home, temporary = tmp_path / ("h" * 90), tmp_path / ("t" * 90)
    for folder in (home, temporary):
        folder.mkdir()
    (home / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
    there = {"ARSENALE_HOME": str(home)}
    up = arsenale("up", **there, TMPDIR=str(temporary))
    try:
        assert up.returncode == 0, up.stderr
        assert arsenale("status", **there).returncode == 0
    finally:
        assert "has ended" in arsenale("down", **there).stdout
    assert list(temporary.iterdir()) == []


def test_a_daemon_that_does_not_come_up_is_told_with_what_it_said(
    arsenale: Run, home: Path
) -> None:
    (home / "run" / "daemon.sock" / "no socket").mkdir(parents=True)
    up = arsenale("up")
    assert (up.returncode, "it said: IsADirectoryError" in up.stderr) == (1, True), up.stderr


def test_logs_show_the_last_lines_and_say_when_there_are_none(arsenale: Run) -> None:
    none = arsenale("logs")
    assert (none.returncode, "arsenale up" in none.stderr) == (1, True)
    arsenale("up")
    assert '"event": "up"' in arsenale("logs", "-n", "20", "--json").stdout
    readable = arsenale("logs", "-n", "20", TZ="Asia/Tokyo").stdout
    assert re.search(
        r"^2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d INFO    arsenale.daemon: up ", readable, re.M
    )
    assert '{"' not in readable


@pytest.mark.parametrize("name", ["nope", "../token", "/etc/passwd", ""])
def test_a_log_that_does_not_exist_names_those_that_do(arsenale: Run, name: str) -> None:
    arsenale("up")
    done = arsenale("logs", name)
    assert (done.returncode, "there are daemon" in done.stderr) == (1, True), done.stderr


def test_help_lists_every_command_with_its_line(arsenale: Run) -> None:
    shown = " ".join(arsenale("--help").stdout.split())
    for name, (module, line) in cli.COMMANDS.items():
        assert f"{name} {line}" in shown
        function = getattr(import_module(f"arsenale_daemon.commands.{module}"), name)
        assert function.__doc__.split("\n")[0]
    for entry in entry_points(group=cli.GROUPS):
        assert re.search(rf"{entry.name} [A-Z][^.]*\.", shown), entry.name


def test_a_command_that_needs_no_server_imports_none() -> None:
    heavy = ("mcp", "sqlalchemy", "pydantic", "numpy", "rich", "anyio", "httpx2")
    for words in (["--version"], ["--help"], ["status"], ["status", "--json"]):
        code = (
            "import sys\nfrom arsenale_daemon import cli\n"
            f"sys.argv = ['arsenale', *{words!r}]\n"
            "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
            f"sys.stderr.write(' '.join(m for m in {heavy!r} if m in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True)  # fmt: skip
        assert done.stderr == "", words


def test_python_m_arsenale_daemon_is_the_command_line(
    environment: dict[str, str], home: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "arsenale_daemon", "status", "--json"], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"running": False, "home": str(home)}


def test_logs_follow(arsenale: Run, environment: dict[str, str]) -> None:
    arsenale("up")
    with subprocess.Popen(
        [ARSENALE, "logs", "-f", "-n", "0", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout
        time.sleep(1.0)
        arsenale("down")
        try:
            assert any('"event": "ended"' in line for line in follower.stdout)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(10) == 130
        finally:
            follower.kill()


def test_init_connects_twice_is_once_and_undo_takes_it_out(arsenale: Run, tmp_path: Path) -> None:
    dry = arsenale("init", "--dry-run")
    assert "+++ " in dry.stdout and "Nothing was written" in dry.stdout
    assert not (tmp_path / ".mcp.json").exists()
    assert "--yes" in arsenale("init").stderr
    assert not (tmp_path / ".mcp.json").exists(), "nobody agreed"
    assert arsenale("init", "--yes").returncode == 0
    assert (tmp_path / ".mcp.json").is_file()
    assert "all set" in arsenale("init").stdout
    doctor = json.loads(arsenale("doctor", "--json").stdout)
    assert {c["name"]: c["found"] for c in doctor}["hosts"] == "connected: claude (project)"
    assert arsenale("init", "--undo", "--yes").returncode == 0
    assert not (tmp_path / ".mcp.json").exists()


@pytest.mark.parametrize("host", ["cursor", "vscode", "codex"])
def test_init_knows_the_other_hosts(host: str, arsenale: Run) -> None:
    assert "Wrote" in arsenale("init", "--yes", "--host", host).stdout
    assert "all set" in arsenale("init", "--host", host).stdout


def test_doctor_is_well_on_a_sound_home_and_measures_the_hook(arsenale: Run) -> None:
    checks = {c["name"]: c for c in json.loads(arsenale("doctor", "--json").stdout)}
    assert [name for name, check in checks.items() if check["state"] == "fail"] == []
    assert "x starting Python; 20 of 20 test events arrived" in checks["hook"]["found"]


def test_doctor_finds_what_is_wrong_and_says_how_to_mend(arsenale: Run, home: Path) -> None:
    (home / "token").write_text("x\n", encoding="ascii")
    (home / "token").chmod(0o644)
    spool = home / "spool"
    spool.mkdir()
    (spool / "full").touch()
    done = arsenale("doctor")
    assert done.returncode == 1
    assert "chmod 600" in done.stdout
    assert "make room on the disk" in done.stdout


def test_a_setting_that_does_not_parse_is_one_line(arsenale: Run) -> None:
    done = arsenale("up", ARSENALE_HTTP_PORT="soon")
    assert done.returncode == 1
    assert "http_port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_server_names_those_there_are_and_leaves_no_log(
    arsenale: Run, home: Path
) -> None:
    done = arsenale("serve", "nope")
    assert not (home / "logs").exists()
    assert (
        done.returncode,
        "there are coordinator, genome, memory, mesh, telemetry" in done.stderr,
    ) == (
        1,
        True,
    )


def test_foreground_logs_to_stderr_and_ends_on_ctrl_c(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [ARSENALE, "up", "--foreground"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            assert any("arsenale.daemon" in line for line in process.stderr)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(15) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "entry", ["nosuchmodule.sub:app", "badmodule:app", "json:dumps", "badmodule:nothing"]
)
def test_a_broken_command_of_another_package_costs_only_itself(
    environment: dict[str, str], tmp_path: Path, entry: str
) -> None:
    info = tmp_path / "bad-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[arsenale.commands]\nbad = {entry}\n", "utf-8")
    (tmp_path / "badmodule.py").write_bytes(b"# \xe9\nimport nothing_here\n")
    command = [sys.executable, "-m", "arsenale_daemon"]
    for arguments, status in ((["--help"], 0), (["bad", "x"], 2)):
        done = subprocess.run(
            [*command, *arguments], env={**environment, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert "bad" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["doctor"], ["init", "--dry-run"], ["guard", "status"]])
def test_a_command_in_a_deleted_folder_names_the_remedy(
    environment: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    run = f'cd "{folder}" && rmdir "{folder}" && exec "{sys.executable}" -m arsenale_daemon "$@"'
    done = subprocess.run(
        ["sh", "-c", run, "sh", *command], env=environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: the current folder is deleted: go to another one, with `cd`\n"
