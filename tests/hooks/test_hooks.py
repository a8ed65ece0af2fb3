"""The hooks as a host runs them: whatever happens, silence and exit 0."""

import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arsenale_daemon.host_entries import EVENTS, INJECTS, TOOL_EVENTS

HOOKS = Path(__file__).parents[2] / "hooks"
SHELLS = {
    "sh": ["/bin/sh", str(HOOKS / "log_event.sh")],
    "bash": ["bash", "--posix", str(HOOKS / "log_event.sh")],
    "python": [sys.executable, "-I", "-S", str(HOOKS / "log_event.py")],
}
EVENT = b'{"hook_event_name":"PreToolUse","session_id":"s"}\n'

hook = pytest.mark.parametrize(
    "command", [pytest.param(c, id=n) for n, c in SHELLS.items() if shutil.which(c[0])]
)


def run(
    command: list[str], stdin: bytes = EVENT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, env=env, capture_output=True, check=False)


def silent(done: subprocess.CompletedProcess[bytes]) -> bool:
    return (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@hook
def test_an_event_goes_whole_and_privately_to_the_spool(command: list[str], tmp_path: Path) -> None:
    spool = tmp_path / "new" / "spool"
    assert silent(run([*command, str(spool)], EVENT * 20_000))
    [file] = spool.iterdir()
    assert file.read_bytes() == EVENT * 20_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert file.suffix == ".json"


@hook
def test_without_an_argument_the_spool_is_in_the_home(command: list[str], tmp_path: Path) -> None:
    assert silent(run(command, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}))
    assert len(list((tmp_path / ".arsenale" / "spool").iterdir())) == 1
    other = {"ARSENALE_HOME": str(tmp_path / "x"), "PATH": os.environ["PATH"]}
    assert silent(run(command, env=other))
    assert len(list((tmp_path / "x" / "spool").iterdir())) == 1


@hook
@pytest.mark.parametrize("spool", ["/proc/nowhere/spool", "/dev/null/spool", "/dev/full"])
def test_nothing_that_goes_wrong_shows(command: list[str], spool: str) -> None:
    assert silent(run([*command, spool], EVENT * 50_000))


@hook
def test_no_home_is_no_error(command: list[str]) -> None:
    assert silent(run(command, env={"PATH": os.environ["PATH"], "HOME": "/proc/nowhere"}))


@hook
def test_a_spool_that_is_full_takes_nothing(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    assert silent(run([*command, str(tmp_path)], EVENT * 50_000))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount a tmpfs")
@hook
def test_a_full_disk_is_no_error(command: list[str], tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if run(mount, b"").returncode:
        pytest.skip("may not mount here")
    try:
        assert silent(run([*command, str(tmp_path)], b"x" * 1_000_000))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@hook
def test_hooks_at_the_same_time_never_share_a_file(command: list[str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(12) as pool:
        payloads = [f'{{"n":{n},"x":"{"y" * 70_000}"}}\n'.encode() for n in range(48)]
        waiting = [pool.submit(run, [*command, str(tmp_path)], p) for p in payloads]
        assert all(silent(done.result()) for done in waiting)
    lines = [line for path in tmp_path.iterdir() for line in path.read_bytes().splitlines()]
    assert sorted(json.loads(line)["n"] for line in lines) == list(range(48))


def test_the_tracking_id_is_the_hosts_own_and_touches_no_permission() -> None:
    command = [sys.executable, "-I", "-S", str(HOOKS / "tracking_id.py")]
    answer = json.loads(run(command, b'{"tool_use_id":"toolu_1"}').stdout)["hookSpecificOutput"]
    assert answer["additionalContext"].endswith("toolu_1")
    assert set(answer) == {"hookEventName", "additionalContext"}
    assert silent(run(command, b"not json"))
    fresh = json.loads(run(command, b"{}").stdout)["hookSpecificOutput"]["additionalContext"]
    assert "arsenale-" in fresh


def test_the_plugin_logs_the_events_that_init_installs() -> None:
    hooks = json.loads((HOOKS / "hooks.json").read_text(encoding="utf-8"))["hooks"]
    assert set(hooks) == set(EVENTS["claude"])
    for event, [group] in hooks.items():
        handler, *others = group["hooks"]
        assert len(others) == (event.lower() in INJECTS)
        script = handler["args"][3].replace("${CLAUDE_PLUGIN_ROOT}", str(HOOKS))
        assert Path(script).is_file()
        assert handler["timeout"] <= 5
        assert ("matcher" in group) == (event in TOOL_EVENTS)


def test_the_plugin_and_the_package_have_one_version() -> None:
    from arsenale_relay import __version__  # noqa: PLC0415

    manifests = HOOKS / ".claude-plugin"
    for path in (*manifests.iterdir(), HOOKS.parent / ".claude-plugin" / "marketplace.json"):
        text = path.read_text(encoding="utf-8")
        assert f'"version": "{__version__}"' in text


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf{"tool_use_id":"toolu_1"}', b'{"tool_use_id":"toolu_1","a":"\\ud83d"}',
        b'{"tool_use_id":"toolu_1","a":"\xe9\xff"}', b'{"tool_use_id":"toolu_1","a":NaN}',
        b'{"tool_use_id":"toolu_1","a":"\x01\n"}',
    ],
)  # fmt: skip
def test_an_odd_byte_does_not_silence_a_hook(text: bytes) -> None:
    done = run([sys.executable, "-I", "-S", str(HOOKS / "tracking_id.py")], text)
    assert b"toolu_1" in done.stdout
