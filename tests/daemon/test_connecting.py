"""`arsenale init` and `uninstall` in a person's projects: written, kept out of git, undone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arsenale_daemon import checkout, connections, init_summary
from arsenale_daemon.connections import Connection

Run = Callable[..., subprocess.CompletedProcess[str]]
ARSENALE = str(Path(sys.executable).with_name("arsenale"))
slow = pytest.mark.slow


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    command = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    return folder


@pytest.fixture
def user(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


@pytest.fixture
def arsenale(environment: dict[str, str], user: Path, project: Path) -> Run:
    def run(*words: str, folder: Path = project) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ARSENALE, *words], env={**environment, "HOME": str(user)}, cwd=folder,
            capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts
    }


@slow
def test_init_shows_a_summary_and_the_diff_only_on_request(arsenale: Run, project: Path) -> None:
    before = contents(project)
    done = arsenale("init")
    assert 7 <= len(done.stdout.splitlines()) <= 12
    assert "+++" not in done.stdout
    for word in ("5: coordinator", "tokens", "11 log events", "may add text", "--undo"):
        assert word in done.stdout
    assert "+++ " in arsenale("init", "--diff").stdout
    assert "add --yes" in done.stderr
    assert contents(project) == before


@slow
def test_init_in_a_subfolder_connects_the_repository(arsenale: Run, project: Path) -> None:
    deep = project / "src" / "deep"
    deep.mkdir(parents=True)
    done = arsenale("init", "--yes", folder=deep)
    assert f"Using the repository's root, {project}" in done.stdout
    assert (project / ".mcp.json").is_file()
    assert list(deep.iterdir()) == []
    assert git(project, "status", "--porcelain") == ""
    assert "Removed the empty folder" in arsenale("init", "--undo", "--yes", folder=deep).stdout
    assert set(contents(project)) == {"a.py", "src", "src/deep"}


@slow
def test_only_the_chosen_servers_and_their_hooks_are_connected(
    arsenale: Run, project: Path
) -> None:
    local = project / ".claude" / "settings.local.json"
    assert arsenale("init", "--yes", "--servers", "memory").returncode == 0
    servers = json.loads((project / ".mcp.json").read_text(encoding="utf-8"))["mcpServers"]
    assert list(servers) == ["arsenale-memory"]
    text = local.read_text(encoding="utf-8")
    assert ("inject.py" in text, "log_event.sh" in text) == (True, False)
    doctor = json.loads(arsenale("doctor", "--json").stdout)
    assert {c["name"]: c["found"] for c in doctor}["hosts"] == "connected: claude (project)"
    assert arsenale("init", "--yes", "--servers", "telemetry, mesh").returncode == 0
    text = local.read_text(encoding="utf-8")
    assert ("inject.py" in text, "log_event.sh" in text) == (False, True)
    arsenale("init", "--yes", "--servers", "mesh")
    assert not local.exists()
    unknown = arsenale("init", "--yes", "--servers", "memory,nope")
    assert unknown.returncode == 1
    assert "choose from coordinator, genome, memory, mesh, telemetry" in unknown.stderr


@slow
def test_read_only_tools_are_allowed_on_request_and_the_users_rules_stay(
    arsenale: Run, project: Path
) -> None:
    local = project / ".claude" / "settings.local.json"
    local.parent.mkdir()
    text = json.dumps({"permissions": {"allow": ["Bash(ls:*)"], "deny": []}})
    local.write_text(text, encoding="utf-8")
    assert "--allow" in arsenale("init", "--yes").stdout
    arsenale("init", "--yes", "--allow")
    rules = json.loads(local.read_text(encoding="utf-8"))["permissions"]["allow"]
    assert rules[0] == "Bash(ls:*)"
    assert "mcp__arsenale-memory__recall" in rules
    assert "mcp__arsenale-memory__remember" not in rules
    assert "all set" in arsenale("init", "--allow").stdout
    arsenale("init", "--undo", "--yes")
    assert local.read_text(encoding="utf-8") == text


@slow
def test_a_file_under_version_control_is_named_and_not_excluded(
    arsenale: Run, project: Path
) -> None:
    (project / ".mcp.json").write_text('{"mcpServers": {}}\n', encoding="utf-8")
    git(project, "add", ".mcp.json")
    git(project, "commit", "-q", "-m", "mine")
    done = arsenale("init", "--yes")
    assert ".mcp.json is under version control" in done.stdout
    exclude = (project / ".git" / "info" / "exclude").read_text(encoding="utf-8")
    assert "/.mcp.json" not in exclude
    assert "/.claude/settings.local.json" in exclude
    arsenale("init", "--undo", "--yes")
    assert git(project, "status", "--porcelain") == ""


@slow
def test_the_plugin_beside_init_is_reported(arsenale: Run, user: Path) -> None:
    (user / ".claude").mkdir()
    settings = user / ".claude" / "settings.json"
    settings.write_text('{"enabledPlugins": {"arsenale@arsenale": true}}', encoding="utf-8")
    assert "only init's hooks will take effect" in arsenale("init", "--yes").stdout
    doctor = {c["name"]: c for c in json.loads(arsenale("doctor", "--json").stdout)}
    assert doctor["plugin"]["state"] == "warn"
    arsenale("init", "--undo", "--yes")
    doctor = {c["name"]: c for c in json.loads(arsenale("doctor", "--json").stdout)}
    assert doctor["hosts"]["found"] == "connected: claude (plugin)"
    assert "claude plugin uninstall arsenale@arsenale" in arsenale("uninstall", "--yes").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("init", "--yes"),
        ("init", "--yes", "--scope", "user"),
        ("guard", "on", "--yes"),
        ("guard", "on", "--git", "--yes"),
        ("memory", "add", "We release on Tuesdays."),
        ("up",),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_whatever_makes_the_home_it_is_private(
    arsenale: Run, environment: dict[str, str], home: Path, words: tuple[str, ...]
) -> None:
    home /= "new"
    environment |= {"ARSENALE_HOME": str(home), "ARSENALE_HTTP_PORT": "0"}
    arsenale(*words)
    try:
        assert home.stat().st_mode & 0o777 == 0o700
        folders = [path for path in home.rglob("*") if path.is_dir()]
        assert [path for path in folders if path.stat().st_mode & 0o077] == []
    finally:
        arsenale("down")


@pytest.mark.parametrize("words", [("init",), ("init", "--diff"), ("uninstall",)], ids=" ".join)
def test_what_nobody_agreed_to_fails(arsenale: Run, words: tuple[str, ...]) -> None:
    done = arsenale(*words)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr and "add --yes" in done.stderr


@slow
def test_a_users_own_file_with_comments_fails_no_check(arsenale: Run, project: Path) -> None:
    (project / ".vscode").mkdir()
    (project / ".vscode" / "mcp.json").write_text("// mine\n{broken", encoding="utf-8")
    checks = json.loads(arsenale("doctor", "--json").stdout)
    assert [check for check in checks if check["state"] == "fail"] == []


@slow
@pytest.mark.timeout(240)
def test_uninstall_takes_everything_back_wherever_it_was_connected(
    arsenale: Run, project: Path, user: Path, home: Path, tmp_path: Path
) -> None:
    other, gone = tmp_path / "other", tmp_path / "gone"
    for folder in (other, gone):
        folder.mkdir()
        git(folder, "init", "-q")
    mine = '{\n\t"mcpServers": {"mine": {}}\n}\n'
    (other / ".mcp.json").write_text(mine, encoding="utf-8")
    before = {folder: contents(folder) for folder in (project, other, user)}
    arsenale("init", "--yes", "--allow", folder=other)
    arsenale("guard", "on", "--git", "--closed", "--yes", folder=other)
    arsenale("init", "--yes", "--host", "codex")
    arsenale("init", "--yes", "--scope", "user")
    arsenale("init", "--yes", folder=gone)
    shutil.rmtree(gone)
    arsenale("up")
    shown = arsenale("uninstall", "--dry-run").stdout
    assert str(other / ".mcp.json") in shown
    assert "add --yes" in arsenale("uninstall").stderr
    assert arsenale("status").returncode == 0
    done = arsenale("uninstall", "--yes", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {folder: contents(folder) for folder in before} == before
    assert not (other / ".git" / "hooks" / "pre-commit").exists()
    assert f"skipped {gone}" in done.stdout
    assert "Ended the daemon" in done.stdout
    assert "pip uninstall arsenale" in done.stdout
    assert home.is_dir() and connections.read(home) == []
    again = arsenale("uninstall", "--yes", "--data", folder=tmp_path)
    assert f"Deleted {home}" in again.stdout
    assert not home.exists()


@pytest.mark.parametrize("kind", ["plain", "worktree", "submodule", "no end of line", "CRLF"])
def test_exclusions_work_in_every_sort_of_checkout_and_go_again(
    kind: str, project: Path, tmp_path: Path
) -> None:
    top = project
    if kind == "worktree":
        top = tmp_path / "tree"
        git(project, "worktree", "add", "-q", str(top))
    elif kind == "submodule":
        git(project, "submodule", "add", "-q", str(project), "inner")
        top = project / "inner"
    place = top / git(top, "rev-parse", "--git-path", "info/exclude").strip()
    place.parent.mkdir(exist_ok=True)
    own = {"no end of line": b"*.log", "CRLF": b"*.log\r\n/x\r\n"}.get(kind, b"*.log\n")
    place.write_bytes(own)
    files = [top / ".mcp.json", top / ".claude" / "settings [local].json"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}", encoding="utf-8")
    assert checkout.exclude(top, files) == files
    assert checkout.exclude(top, files) == []
    assert git(top, "status", "--porcelain") == ""
    checkout.include(top, files)
    assert place.read_bytes().rstrip(b"\n") == own.rstrip(b"\n")
    assert ".mcp.json" in git(top, "status", "--porcelain")


def test_what_another_rule_ignores_gets_no_second_rule(project: Path) -> None:
    (project / ".gitignore").write_text(".mcp.json\n", encoding="utf-8")
    assert checkout.exclude(project, [project / ".mcp.json"]) == []
    assert checkout.COMMENT not in (project / ".git" / "info" / "exclude").read_text()


def test_a_line_stays_while_another_worktree_needs_it(project: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    git(project, "worktree", "add", "-q", str(tree))
    for top in (project, tree):
        (top / ".mcp.json").write_text("{}", encoding="utf-8")
    checkout.exclude(project, [project / ".mcp.json"])
    (project / ".mcp.json").unlink()
    checkout.include(project, [project / ".mcp.json"])
    assert git(tree, "status", "--porcelain") == ""


def test_outside_of_a_repository_nothing_is_excluded(tmp_path: Path) -> None:
    assert checkout.root(tmp_path) == tmp_path
    assert checkout.exclude(tmp_path, [tmp_path / "a"]) == []
    checkout.include(tmp_path, [tmp_path / "a"])
    assert checkout.tracked(tmp_path, [tmp_path / "a"]) == []


def test_connections_are_kept_once_and_forgotten(tmp_path: Path) -> None:
    one = Connection(host="claude", scope="project", folder="/p")
    two = Connection(host="codex", scope="user", folder="/home/a")
    for connection in (one, two, one):
        connections.record(tmp_path, connection)
    assert connections.read(tmp_path) == [two, one]
    connections.forget(tmp_path, two)
    assert connections.read(tmp_path) == [one]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"connections": 1}', '{"connections": [1]}',
             '{"connections": [{"host": "x"}]}'],
)  # fmt: skip
def test_a_damaged_list_of_connections_counts_as_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / connections.FILE).write_text(text, encoding="utf-8")
    assert connections.read(tmp_path) == []


def test_the_cost_of_the_tool_lists_is_computed_from_what_the_package_ships() -> None:
    costs = {name: init_summary.token_cost(name) for name in ("memory", "telemetry", "mesh")}
    assert all(500 < cost < 2_500 for cost in costs.values()), costs
    assert init_summary.token_cost("of somebody else") == 0
    shown: Any = init_summary.read_only_tools(["telemetry", "mesh"])
    assert "mcp__arsenale-telemetry__usage_report" in shown
    assert all(name.startswith("mcp__arsenale-") for name in shown)
