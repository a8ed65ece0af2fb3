"""`arsenale mesh …` over a real daemon, its own node, and nodes that join over TLS."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import end_daemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BIN = Path(sys.executable).parent
Run = Callable[..., subprocess.CompletedProcess[str]]

LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A home whose mesh listens for nodes elsewhere, and its port."""
    home = tmp_path_factory.mktemp("h")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = ("http_port = 0", f'mesh_listen = "127.0.0.1:{port}"', "mesh_heartbeat_s = 0.5",
             "mesh_max_fuel = 1_000_000_000_000_000")  # fmt: skip
    (home / "config.toml").write_text("\n".join(lines), encoding="utf-8")
    yield home, port
    end_daemon(home)


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "ARSENALE_HOME": str(home), "COLUMNS": "200"}


@pytest.fixture
def mesh(setting: tuple[Path, int], tmp_path: Path) -> Run:
    def run(
        *words: str, input: bytes = b"", home: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / "arsenale", "mesh", *words], env=environment(home or setting[0]), cwd=tmp_path,
            input=input, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run


def test_a_module_runs_on_text_a_file_or_standard_input(mesh: Run, tmp_path: Path) -> None:
    hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    ran = mesh("run", "sha256", "--text", "hello")
    assert (ran.returncode, ran.stdout) == (0, hello), ran.stderr
    assert "run here, by our own node" in ran.stderr
    (tmp_path / "in.txt").write_bytes(b"hello")
    assert mesh("run", "sha256", "--input", "in.txt").stdout == hello
    assert mesh("run", "sha256", "-i", "-", input=b"hello").stdout == hello
    assert mesh("run", "sha256", "-t", "hello", "-o", "out").stdout == ""
    assert (tmp_path / "out").read_text(encoding="ascii") == hello


def test_a_guest_that_fails_is_told_and_ends_with_1(mesh: Run, tmp_path: Path) -> None:
    (tmp_path / "loop.wat").write_text(LOOP, encoding="utf-8")
    ran = mesh("run", "loop.wat", "--fuel", "5000000")
    assert ran.returncode == 1 and "out_of_fuel, 5,000,000 fuel" in ran.stderr
    report = json.loads(mesh("run", "loop.wat", "--fuel", "5000000", "--json").stdout)
    assert report["status"] == "out_of_fuel" and report["attempts"]
    gone = mesh("run", "gone.wat")
    assert gone.returncode == 1 and "gone.wat: No such file" in gone.stderr
    assert "no module 'nope'" in mesh("run", "nope").stderr


def test_ctrl_c_lets_the_task_go_on_and_says_how_to_end_it(
    mesh: Run, setting: tuple[Path, int], tmp_path: Path
) -> None:
    (tmp_path / "loop.wat").write_text(LOOP, encoding="utf-8")
    mesh("run", "sha256")
    with subprocess.Popen(
        [BIN / "arsenale", "mesh", "run", "loop.wat"], env=environment(setting[0]), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        for _ in range(200):
            tasks = json.loads(mesh("tasks", "--state", "running", "--json").stdout)
            if tasks.get("tasks"):
                break
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    assert running.returncode == 130 and "goes on: `arsenale mesh cancel" in said
    name = re.findall(r"cancel (m\d+)`", said)[0]
    assert mesh("cancel", name).stdout == f"{name} is cancelled\n"


def test_a_module_is_submitted_and_listed(mesh: Run, tmp_path: Path) -> None:
    (tmp_path / "loop.wat").write_text(LOOP, encoding="utf-8")
    kept = mesh("submit", "spin", "loop.wat", "-d", "never ends")
    assert kept.stdout.startswith("spin ") and "exports _start" in kept.stdout
    assert "never ends" in mesh("modules").stdout
    assert "matmul" in mesh("modules", "--json").stdout


def test_a_receipt_is_exported_and_verified_elsewhere(
    mesh: Run, setting: tuple[Path, int], tmp_path: Path
) -> None:
    task = json.loads(mesh("run", "sha256", "-t", "proof", "--json").stdout)["task"]
    assert mesh("verify", task).returncode == 0
    assert mesh("receipt", task, "--whole", "-o", "r.json").returncode == 0
    verify = [BIN / "arsenale-verify", "r.json", "--rerun"]
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "The receipt holds" in done.stdout
    changed = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    changed["receipt"]["fuel"] -= 1
    (tmp_path / "r.json").write_text(json.dumps(changed), encoding="utf-8")
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    refused = mesh("verify", "r.json")
    assert refused.returncode == 1 and "does not hold" in refused.stdout
    assert mesh("show", task).stdout.count("sha256") == 1


def test_tables_have_something_to_say_before_and_after(mesh: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
    try:
        assert "our own starts with the first task" in mesh("nodes", home=empty).stdout
        assert "No tasks yet" in mesh("tasks", home=empty).stdout
        ledger = mesh("ledger", home=empty).stdout
        assert "0 entries" in ledger and "No credits yet" in ledger and "receipt" not in ledger
        for view in ("tasks", "audit"):
            assert json.loads(mesh(view, "--json", home=empty).stdout)[view] == []
        assert json.loads(mesh("ledger", "--json", home=empty).stdout)["entries"] == []
        assert "Nothing has happened yet" in mesh("audit", home=empty).stdout
    finally:
        end_daemon(empty)
    mesh("run", "sha256")
    nodes = mesh("nodes").stdout
    assert "(ours)" in nodes and "online" in nodes
    name = json.loads(mesh("nodes", "--json").stdout)["nodes"][0]["name"]
    assert "health: bandwidth" in mesh("nodes", name).stdout
    assert "the chain is whole" in mesh("ledger").stdout
    assert "node.admitted" in mesh("audit").stdout
    assert "sha256" in mesh("top").stdout
    assert "did:key:" in mesh("node", "mesh://x").stderr  # no emoji is made of it


def test_top_shows_what_changes_until_q(mesh: Run, setting: tuple[Path, int]) -> None:
    mesh("run", "sha256", "--label", "seen")
    main, other = pty.openpty()
    with subprocess.Popen(
        [BIN / "arsenale", "mesh", "top"], env={**environment(setting[0]), "TERM": "xterm"},
        stdin=other, stdout=other, stderr=other,
    ) as process:  # fmt: skip
        seen = b""
        ends = time.monotonic() + 30
        while b"seen" not in seen and time.monotonic() < ends:
            if select.select([main], [], [], 0.2)[0]:
                seen += os.read(main, 65536)
        os.write(main, b"q")
        assert process.wait(timeout=20) == 0, seen
    os.close(other)
    os.close(main)
    assert b"seen" in seen


def test_a_node_elsewhere_joins_by_an_invitation_once(
    mesh: Run, setting: tuple[Path, int], tmp_path: Path
) -> None:
    joined = json.loads(mesh("invite", "--host", "127.0.0.1", "--json").stdout)["join"]
    phone, thief = tmp_path / "phone", tmp_path / "thief"
    words = ["mesh", "node", "-", "--kind", "phone", "--name", "handy", "--carbon", "30"]
    with subprocess.Popen(
        [BIN / "arsenale", *words], env=environment(phone), stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as node:  # fmt: skip
        assert node.stdin
        node.stdin.write(joined.encode() + b"\n")
        node.stdin.close()
        line = _node(mesh, "handy", "online")
        assert (line["kind"], line["carbon_g_per_kwh"]) == ("phone", 30.0)
        assert line["power"] == "estimated" and line["latency_ms"] > 0
        stolen = mesh("node", "-", "--name", "thief", input=joined.encode(), home=thief)
        assert stolen.returncode == 1 and "unknown, used or older" in stolen.stderr
        node.send_signal(signal.SIGINT)
        assert node.wait(timeout=20) == 0
    _node(mesh, "handy", "left")
    words[2] = joined.partition("#")[0]
    with subprocess.Popen(
        [BIN / "arsenale", *words], env=environment(phone), stderr=subprocess.DEVNULL
    ) as node:  # known now: its key is enough
        _node(mesh, "handy", "online")
        assert "is banned" in mesh("ban", "handy", "-m", "a test").stdout
        assert node.wait(timeout=20) == 1  # it is cut off, comes again and is refused
    again = subprocess.run(
        [BIN / "arsenale", *words], env=environment(phone), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert again.returncode == 1 and "handy is banned: a test" in again.stderr
    assert "may join again" in mesh("pardon", "handy").stdout


def test_what_cannot_be_done_is_said_in_a_line(mesh: Run, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    for words, said in (
        (["run", "sha256", "-t", "a", "-o", "/nowhere/x"], "/nowhere/x: No such file"),
        (["receipt", "m1", "-o", "/nowhere/x"], "/nowhere/x: No such file"),
        (["run", odd], "module is no UTF-8 text"),
        (["tasks", "-s", "bogus"], "no task is 'bogus'"),
    ):
        refused = mesh(*words)
        assert refused.returncode == 1, words
        assert said in refused.stderr and "Traceback" not in refused.stderr


def test_bytes_of_the_shell_are_an_input(mesh: Run) -> None:
    report = json.loads(mesh("run", "sha256", "-t", os.fsdecode(b"\xff\xfe"), "--json").stdout)
    assert report["output"].startswith("b3d510ef04275ca8e698e5b3cbb0ece3")


def test_what_a_guest_says_does_not_steer_the_terminal(mesh: Run) -> None:
    label = "\x1b]0;owned\x07"
    assert mesh("run", "sha256", "-t", "a", "--label", label).returncode == 0
    for words in (["tasks"], ["top"]):
        assert "\x1b]0;" not in mesh(*words).stdout


def test_a_mesh_that_does_not_open_says_why(mesh: Run, tmp_path: Path) -> None:
    home = tmp_path / "h"
    home.mkdir()
    (home / "config.toml").write_text('http_port = 0\nmesh_require = "nope"', encoding="utf-8")
    try:
        refused = mesh("tasks", home=home)
    finally:
        end_daemon(home)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "no layer 'nope'" in refused.stderr


def test_an_invitation_is_never_an_argument_of_a_command(mesh: Run, tmp_path: Path) -> None:
    invitation = json.loads(mesh("invite", "--host", "127.0.0.1", "--json").stdout)["join"]
    refused = mesh("node", invitation, home=tmp_path / "n")
    assert refused.returncode == 1 and "`arsenale mesh node -`" in refused.stderr
    assert invitation.partition("#")[2] not in refused.stderr
    assert "run `arsenale mesh node -`" in mesh("invite", "--host", "127.0.0.1").stderr


def test_another_gateway_at_the_same_place_is_not_joined(
    mesh: Run, setting: tuple[Path, int], tmp_path: Path
) -> None:
    joined = json.loads(mesh("invite", "--host", "127.0.0.1", "--json").stdout)["join"]
    other = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    forged = re.sub(r"did:key:[^#]+", other, joined)
    refused = mesh("node", "-", input=forged.encode(), home=tmp_path / "n")
    assert refused.returncode == 1 and f"expected was {other}" in refused.stderr


def test_the_mesh_goes_into_a_file_and_back(mesh: Run, setting: tuple[Path, int]) -> None:
    before = json.loads(mesh("run", "sha256", "-t", "kept", "--json").stdout)["task"]
    file = setting[0] / "mesh.snapshot"
    assert mesh("snapshot", str(file), "--force").returncode == 0
    after = json.loads(mesh("run", "sha256", "-t", "dropped", "--json").stdout)["task"]
    assert "`arsenale down`" in mesh("restore", str(file), "--yes").stderr
    subprocess.run([BIN / "arsenale", "down"], env=environment(setting[0]), check=True)
    assert mesh("restore", str(file), "--yes").returncode == 0
    assert mesh("show", before).returncode == 0
    assert f"no task '{after}'" in mesh("show", after).stderr


def _node(mesh: Run, name: str, state: str) -> dict[str, Any]:
    """Return a node's line when it is in STATE."""
    for _ in range(150):
        lines = json.loads(mesh("nodes", "--json").stdout).get("nodes", [])
        for line in lines:
            measured = state != "online" or "latency_ms" in line
            if measured and (line["name"], line["state"]) == (name, state):
                return dict(line)
        time.sleep(0.1)
    raise AssertionError(f"{name} is not {state}")
