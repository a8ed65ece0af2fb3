"""One session must not configure another: a daemon takes its settings from the home alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arsenale_daemon import control

pytestmark = pytest.mark.slow

INJECT = Path(__file__).parents[2] / "hooks" / "inject.py"

HOSTILE = {
    "ARSENALE_EMBEDDER": "http", "ARSENALE_EMBEDDER_URL": "http://127.0.0.1:9/v1",
    "ARSENALE_CHAT_URL": "http://127.0.0.1:9/v1", "ARSENALE_CHAT_KEY": "sk-stolen",
    "ARSENALE_DATABASE_URL": "postgresql://127.0.0.1:9/evil", "PGHOST": "evil.example",
    "PGPASSWORD": "sk-pg", "ARSENALE_INFERENCE_URL": "http://127.0.0.1:9",
    "ARSENALE_PERSONA": "evil",
    "ARSENALE_MESH_LISTEN": "0.0.0.0:0", "ARSENALE_CAPTURE": "bodies", "ARSENALE_HTTP_PORT": "9",
    "ARSENALE_MEMORY_NAMESPACE": "evil", "HTTP_PROXY": "http://127.0.0.1:9",
    "PATH": "/tmp/evil:/bin",
    "HTTPS_PROXY": "http://127.0.0.1:9", "PYTHONPATH": "/tmp/evil", "LD_PRELOAD": "",
    "TZ": "Evil/Zone",
    "SSL_CERT_FILE": "/tmp/evil.pem", "XDG_CACHE_HOME": "/tmp/evil", "TMPDIR": "/tmp",
    "ANTHROPIC_API_KEY": "sk-ant-secret", "CHROMA_SERVER_HOST": "evil", "OPENAI_API_KEY": "sk-x",
    "HF_TOKEN": "hf-x", "PYTHONSTARTUP": "/tmp/evil.py", "ARSENALE_CHROMA_URL": "http://127.0.0.1:9",
}  # fmt: skip


def environ_of(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(line.split("=", 1) for line in raw.split("\0") if line)


def check_is_clean(status: dict[str, Any] | None, home: Path) -> None:
    assert status is not None
    assert [one["name"] for one in status["settings"]] == ["http_port"]  # of config.toml
    assert set(environ_of(status["pid"])) <= {"HOME", "PATH", "LANG", "LC_CTYPE", "ARSENALE_HOME"}
    assert environ_of(status["pid"])["ARSENALE_HOME"] == str(home)
    assert "evil" not in str(environ_of(status["pid"]))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_relay_starts_a_daemon_without_the_settings_of_its_session(
    raw_host: Callable[..., Any], home: Path
) -> None:
    host = raw_host("memory", **HOSTILE)
    host.shake_hands()
    check_is_clean(control.ask(home, "status"), home)
    kept = host.call(1, "remember", memories=[{"content": "The acquisition of Foo is private."}])
    assert not kept["result"].get("isError"), kept
    listed = str(host.ask(2, "resources/read", uri="memory://namespaces"))
    assert "default" in listed and "evil" not in listed


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_hook_starts_a_daemon_without_the_settings_of_its_session(
    environment: dict[str, str], home: Path, tmp_path: Path
) -> None:
    event = {"hook_event_name": "SessionStart", "source": "startup", "cwd": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-I", "-S", str(INJECT)], input=json.dumps(event).encode(),
        env={**environment, **HOSTILE, "PYTHONPATH": ""}, check=True, capture_output=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while (status := control.ask(home, "status")) is None:  # the hook's child starts the daemon
        assert time.monotonic() < deadline
        time.sleep(0.02)
    check_is_clean(status, home)


def test_a_person_who_starts_the_daemon_chooses_its_settings_and_status_shows_them(
    environment: dict[str, str], home: Path
) -> None:
    command = [sys.executable, "-m", "arsenale_daemon"]
    chosen = {**environment, "ARSENALE_CHAT_URL": "http://127.0.0.1:9/v1", "ARSENALE_CHAT_KEY": "k"}

    def run(*words: str, env: dict[str, str]) -> str:
        done = subprocess.run([*command, *words], env=env, capture_output=True, text=True,
                              check=True)  # fmt: skip
        return done.stdout

    run("up", env=chosen)
    shown = run("status", env=environment)
    assert "chat_url" in shown and "environment of `arsenale up`" in shown
    assert "write it into config.toml" in shown
    rows = json.loads(run("status", "--json", env=environment))["settings"]
    assert {"name": "chat_key", "value": "**********", "source": "environment"} in rows
    assert {"name": "http_port", "value": "0", "source": "config.toml"} in rows
    run("down", env=environment)
    assert "chat_url" not in run("up", env=environment)
    assert os.path.exists(home / "run")
