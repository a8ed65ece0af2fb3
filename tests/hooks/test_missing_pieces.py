"""Whatever is missing, a hook exits 0 in silence: exit status 2 would refuse the user's prompt."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arsenale_daemon import git_guard, host_json
from arsenale_daemon.host_entries import Install, Style, guard_entries, hook_entries

ROOT = Path(__file__).parents[2]
EVENT = b'{"hook_event_name":"UserPromptSubmit","session_id":"s","prompt":"hello"}\n'
SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
STYLES: tuple[Style, ...] = ("claude", "cursor", "vscode", "codex")


@pytest.fixture
def installed(tmp_path: Path) -> Install:
    """Copy the hooks and the relay, and link a Python, as a virtual environment has them."""
    shutil.copytree(ROOT / "hooks", tmp_path / "my package" / "hooks")
    shutil.copytree(ROOT / "shared" / "arsenale_relay", tmp_path / "my package" / "arsenale_relay")
    python = tmp_path / "venv" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    return Install(
        python=str(python),
        relay=tmp_path / "my package" / "arsenale_relay" / "__main__.py",
        hook=tmp_path / "my package" / "hooks" / "log_event.sh",
        spool=tmp_path / "home" / "spool",
        home=tmp_path / "home",
        default_home=tmp_path / "home",
        servers=("memory",),
        tracking=True,
    )


def commands(install: Install, style: Style) -> list[list[str]]:
    """Return every distinct command that init and the guard write for a host."""
    found: list[list[str]] = []
    for entries in (hook_entries(install, style), guard_entries(install, style, closed=True)):
        for handler in host_json.handlers(Path("x"), json.dumps({"hooks": entries})):
            given: Any = handler.get("args")
            words = [handler["command"], *given] if given else ["/bin/sh", "-c", handler["command"]]
            if words not in found:
                found.append(words)
    return found


def damage_file(install: Install, name: str, content: bytes | None) -> None:
    path = install.hook.with_name(name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)


SCRIPTS = ("log_event.sh", "inject.py", "tracking_id.py", "guard.py")


def broken_python(install: Install, script: str) -> None:
    python = Path(install.python)
    python.unlink()
    python.write_text(script, encoding="utf-8")
    python.chmod(0o755)


DAMAGES: dict[str, Callable[[Install], object]] = {
    **{f"no {name}": (lambda i, name=name: damage_file(i, name, None)) for name in SCRIPTS},
    **{f"empty {name}": (lambda i, name=name: damage_file(i, name, b"")) for name in SCRIPTS},
    **{
        f"cut off {name}": (lambda i, name=name: damage_file(i, name, b"if [ (x\n\xff"))
        for name in SCRIPTS
    },
    "no hooks folder": lambda i: shutil.rmtree(i.hook.parent),
    "hooks folder renamed": lambda i: i.hook.parent.rename(i.hook.parent.with_name("old")),
    "script is a folder": lambda i: (i.hook.unlink(), i.hook.mkdir()),
    "no relay": lambda i: shutil.rmtree(i.relay.parent),
    "no package": lambda i: shutil.rmtree(i.hook.parents[1]),
    "no python": lambda i: Path(i.python).unlink(),
    "python links to nothing": lambda i: (
        Path(i.python).unlink(), Path(i.python).symlink_to("/nowhere/python3"),
    ),
    "python is a folder": lambda i: (Path(i.python).unlink(), Path(i.python).mkdir()),
    "python exits 2": lambda i: broken_python(i, "#!/bin/sh\necho broken >&2\nexit 2\n"),
    "python is killed": lambda i: broken_python(i, "#!/bin/sh\nkill -9 $$\n"),
    "python of another machine": lambda i: broken_python(i, "#!/nowhere/sh\n"),
    "no venv": lambda i: shutil.rmtree(Path(i.python).parent),
    "nothing at all": lambda i: (
        shutil.rmtree(i.hook.parents[1]), shutil.rmtree(Path(i.python).parent),
    ),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_missing_piece_blocks_the_host(damage: str, style: Style, installed: Install) -> None:
    DAMAGES[damage](installed)
    for words in commands(installed, style):
        done = subprocess.run(words, input=EVENT, capture_output=True, check=False, timeout=30)
        assert done.returncode == 0, words
        assert b"block" not in done.stdout and b"deny" not in done.stdout
        if damage not in ("no relay",):
            assert done.stderr == b"", words


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("damage", ["no package", "cut off log_event.sh", "no python"])
def test_every_shell_that_may_be_sh_exits_0(shell: str, damage: str, installed: Install) -> None:
    DAMAGES[damage](installed)
    for words in commands(installed, "claude"):
        as_sh = [shell, *(["--posix"] if shell == "bash" else []), *words[1:]]
        done = subprocess.run(as_sh, input=EVENT, capture_output=True, check=False, timeout=30)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_missing_script_still_reads_all_that_the_host_writes(installed: Install) -> None:
    shutil.rmtree(installed.hook.parents[1])
    for words in commands(installed, "claude"):
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hook:
            assert hook.stdin is not None
            hook.stdin.write(EVENT * 50_000)  # a broken pipe would raise here
            hook.stdin.close()
            assert hook.wait(30) == 0


@pytest.mark.parametrize("style", STYLES)
def test_whole_pieces_log_the_event(style: Style, installed: Install) -> None:
    for words in commands(installed, style):
        subprocess.run(words, input=EVENT, capture_output=True, check=True, timeout=30)
    assert [path.read_bytes() for path in installed.spool.iterdir()] == [EVENT]


def run_plugin(event: str, environment: dict[str, str]) -> list[subprocess.CompletedProcess[bytes]]:
    entries = json.loads((ROOT / "hooks" / "hooks.json").read_text(encoding="utf-8"))["hooks"]
    root = environment["CLAUDE_PLUGIN_ROOT"]
    return [
        subprocess.run(
            [one["command"], *(a.replace("${CLAUDE_PLUGIN_ROOT}", root) for a in one["args"])],
            input=EVENT, env=environment, capture_output=True, check=False, timeout=30,
        )
        for group in entries[event]
        for one in group["hooks"]
    ]  # fmt: skip


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """Copy the plugin as Claude Code does; return the environment of its hooks."""
    shutil.copytree(ROOT / "hooks", tmp_path / "copy")
    (tmp_path / "project" / ".claude").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    return {
        "HOME": str(tmp_path), "PATH": str(tmp_path / "bin"),
        "CLAUDE_PLUGIN_ROOT": str(tmp_path / "copy"),
        "CLAUDE_PLUGIN_DATA": str(tmp_path / "data"),
        "CLAUDE_PROJECT_DIR": str(tmp_path / "project"),
    }  # fmt: skip


@pytest.mark.parametrize("gone", ["plugin.sh", "log_event.sh", "inject.py", None])
def test_the_plugin_never_blocks_either(gone: str | None, plugin: dict[str, str]) -> None:
    for name in [gone] if gone else os.listdir(plugin["CLAUDE_PLUGIN_ROOT"]):
        path = Path(plugin["CLAUDE_PLUGIN_ROOT"], name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for event in ("SessionStart", "UserPromptSubmit", "PreToolUse", "Stop"):
        for done in run_plugin(event, plugin):
            assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(
    subprocess.run(
        ["python3", "-c", "import arsenale_relay"], env={"PATH": "/usr/bin:/bin"}, check=False,
        capture_output=True,
    ).returncode == 0,
    reason="this machine's own Python has Arsenale",
)  # fmt: skip
def test_a_plugin_without_an_installation_says_so_once_a_session(plugin: dict[str, str]) -> None:
    start = [done.stdout for done in run_plugin("SessionStart", plugin)]
    assert start[0] == b""
    assert "pip install" in json.loads(start[1])["systemMessage"]
    assert [done.stdout for done in run_plugin("UserPromptSubmit", plugin)] == [b"", b""]


def test_the_plugin_finds_the_python_of_a_checkout(plugin: dict[str, str], tmp_path: Path) -> None:
    checkout = tmp_path / "my checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    quoted = shlex.quote(str(ROOT / "shared"))
    python.write_text(f'#!/bin/sh\nPYTHONPATH={quoted} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    known = tmp_path / ".claude" / "plugins" / "known_marketplaces.json"
    known.parent.mkdir(parents=True)
    source = {"source": {"source": "directory"}, "installLocation": str(checkout)}
    known.write_text(json.dumps({"other": source, "arsenale": source}, indent=2))
    assert [done.stdout for done in run_plugin("UserPromptSubmit", plugin)] == [b"", b""]
    found = Path(plugin["CLAUDE_PLUGIN_DATA"], "installation").read_text().splitlines()
    assert found == [str(python), str(ROOT / "shared")]


@pytest.mark.parametrize("where", ["project/.claude/settings.local.json", ".claude/settings.json"])
def test_the_plugin_leaves_the_events_to_init_where_both_are_active(
    where: str, plugin: dict[str, str], tmp_path: Path, installed: Install
) -> None:
    settings = tmp_path / where
    settings.parent.mkdir(exist_ok=True)
    entries = hook_entries(installed, "claude")
    settings.write_text(json.dumps({"hooks": entries}), encoding="utf-8")
    for event in ("SessionStart", "UserPromptSubmit", "Stop"):
        assert {done.stdout for done in run_plugin(event, plugin)} == {b""}
    assert not (tmp_path / ".arsenale").exists()
    settings.write_text("{}", encoding="utf-8")
    run_plugin("Stop", plugin)
    assert len(list((tmp_path / ".arsenale" / "spool").iterdir())) == 1


def repository(folder: Path, install: Install, mode: Any, hook: str | None = None) -> None:
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    path = folder / ".git" / "hooks" / "pre-commit"
    if hook is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(hook, encoding="utf-8")
        path.chmod(0o755)
    for change in git_guard.plan(folder, install, mode):
        git_guard.apply(change)


@pytest.mark.parametrize("mode", ["open", "closed"])
@pytest.mark.parametrize("hook", [None, "#!/bin/sh -e\necho mine >&2\n"])
@pytest.mark.parametrize(
    "damage", ["no guard.py", "no package", "no python", "python exits 2", "python is killed"]
)
def test_a_commit_passes_with_one_warning_when_the_guard_cannot_run(
    damage: str, hook: str | None, mode: str, installed: Install, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    repository(repo, installed, mode, hook)
    DAMAGES[damage](installed)
    (repo / "a").write_text("1\n", encoding="utf-8")
    subprocess.run(["git", "-C", str(repo), "add", "a"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(repo), *who, "commit", "-q", "-m", "x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("arsenale guard: ")]
    assert len(warnings) == 1
    assert ("mine" in done.stderr) == (hook is not None)
