"""`arsenale trust`: what a person sees, agrees to, and takes back."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

INJECT = Path(__file__).parents[2] / "hooks" / "inject.py"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / ".arsenale"
    folder.mkdir(parents=True)
    (folder / "identity.toml").write_text('rules = ["Use tabs."]\n', encoding="utf-8")
    return folder.parent


@pytest.fixture
def trust(environment: dict[str, str], project: Path) -> Run:
    command = [sys.executable, "-m", "arsenale_daemon", "trust"]

    def run(*words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], env=environment, cwd=project, input=answer, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    return run


def test_the_content_is_shown_and_nothing_approved_without_a_terminal_or_yes(trust: Run) -> None:
    done = trust()
    assert (done.returncode, 'rules = ["Use tabs."]' in done.stdout) == (1, True)
    assert "--yes" in done.stderr
    assert "not approved" in trust("--show").stdout


def test_an_approval_holds_until_the_file_changes_or_it_is_revoked(
    trust: Run, project: Path
) -> None:
    assert trust("--yes").returncode == 0
    assert json.loads(trust("--show", "--json").stdout)["files"][0]["state"] == "approved"
    file = project / ".arsenale" / "identity.toml"
    file.write_text('rules = ["Use spaces."]\n', encoding="utf-8")
    assert json.loads(trust("--show", "--json").stdout)["files"][0]["state"] == "changed"
    assert "Use spaces" in trust("--yes").stdout
    assert "revoked" in trust("--revoke").stdout
    assert "not approved" in trust("--show").stdout
    assert "None of this project's files is approved" in trust("--revoke").stdout


def test_what_a_terminal_would_act_on_is_shown_as_an_escape(trust: Run, project: Path) -> None:
    text = 'rules = ["\x1b[2J\x1b]0;title\x07 \u202eevil", "\x85"]\r# ok\n[bold]markup[/]\n'
    (project / ".arsenale" / "identity.toml").write_bytes(text.encode())
    shown = trust("--yes").stdout
    assert not set("\x1b\x07\u202e\x85\r") & set(shown)
    assert "\\u001b[2J" in shown and "[bold]markup[/]" in shown


def test_a_link_is_refused_by_name(trust: Run, project: Path) -> None:
    (project / ".arsenale" / "identity.local.toml").symlink_to("/dev/zero")
    done = trust("--yes")
    assert (done.returncode, "identity.local.toml is a symbolic link" in done.stderr) == (1, True)
    states = {Path(r["path"]).name: r["state"] for r in json.loads(trust("--show", "--json").stdout)["files"]}  # noqa: E501  # fmt: skip
    assert states == {"identity.toml": "not approved", "identity.local.toml": "invalid"}


def test_a_project_without_files_says_which_it_may_have(trust: Run, tmp_path: Path) -> None:
    done = trust(str(tmp_path))
    assert (done.returncode, ".arsenale/identity.toml" in done.stderr) == (1, True)
    assert "no .arsenale files" in trust("--show", str(tmp_path)).stdout


@pytest.mark.slow
def test_a_session_uses_a_file_once_it_is_approved_and_no_longer_once_revoked(
    trust: Run, project: Path, environment: dict[str, str], raw_host: Any
) -> None:
    raw_host("memory").shake_hands()
    event = {"hook_event_name": "SessionStart", "source": "startup", "session_id": "s",
             "cwd": str(project)}  # fmt: skip

    def begin() -> str:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(INJECT)], input=json.dumps(event), env=environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def soon(holds: Callable[[str], bool]) -> None:
        assert any(holds(begin()) for _ in range(60)), begin()

    soon(lambda text: "not approved" in text and "tabs" not in text)
    trust("--yes")
    soon(lambda text: "Use tabs" in text and "not approved" not in text)
    trust("--revoke")
    for _ in range(5):
        assert "tabs" not in begin()
    soon(lambda text: "not approved" in text)
