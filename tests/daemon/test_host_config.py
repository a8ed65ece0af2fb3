"""Connecting an assistant: what is there stays, twice is once, undo is exact."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arsenale_core.errors import ConflictError, InvalidError, UnavailableError
from arsenale_daemon import host_config, jsonc
from arsenale_daemon.host_config import HOSTS, SCOPES, FileChange, Host, Scope
from arsenale_daemon.host_entries import GuardMode, Install

HOMES: list[Path] = []


@pytest.fixture(autouse=True, scope="session")
def arsenale_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give all of this file one `ARSENALE_HOME`."""
    HOMES.append(tmp_path_factory.mktemp("arsenale"))


def install(root: str = "/opt/arsenale", **more: Any) -> Install:
    values: dict[str, Any] = {
        "python": "/usr/bin/python3",
        "relay": Path(f"{root}/arsenale_relay/__main__.py"),
        "hook": Path(f"{root}/hooks/log_event.sh"),
        "spool": Path("/home/a/.arsenale/spool"),
        "home": HOMES[-1],
        "default_home": HOMES[-1],
        "servers": ("telemetry",),
        **more,
    }
    return Install(**values)


def planned(
    folder: Path, host: Host = "claude", scope: Scope = "project", *, undo: bool = False,
    what: Install | None = None,
) -> list[FileChange]:  # fmt: skip
    return host_config.plan(
        host, project=folder, home=folder, scope=scope, install=what or install(), undo=undo
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scope", SCOPES)
def test_twice_is_once_and_undo_leaves_no_file(host: Host, scope: Scope, tmp_path: Path) -> None:
    changes = planned(tmp_path, host, scope)
    assert len(changes) == 2
    host_config.apply(changes)
    assert planned(tmp_path, host, scope) == []
    host_config.apply(planned(tmp_path, host, scope, undo=True))
    assert files(tmp_path) == {}
    assert planned(tmp_path, host, scope, undo=True) == []


def test_claude_gets_the_relay_and_every_event(tmp_path: Path) -> None:
    host_config.apply(planned(tmp_path, what=install(default_home=Path("/other"))))
    servers = json.loads((tmp_path / ".mcp.json").read_text(encoding="utf-8"))
    assert servers["mcpServers"]["arsenale-telemetry"] == {
        "command": "/usr/bin/python3",
        "args": ["-I", "-S", "/opt/arsenale/arsenale_relay/__main__.py", "telemetry"],
        "env": {"ARSENALE_HOME": str(HOMES[-1])},
    }
    local = tmp_path / ".claude" / "settings.local.json"
    hooks = json.loads(local.read_text(encoding="utf-8"))["hooks"]
    assert len(hooks) == 11
    assert hooks["PreToolUse"][0]["matcher"] == "*"
    assert hooks["PreToolUse"][0]["hooks"][0]["async"] is True
    assert "async" not in hooks["SessionEnd"][0]["hooks"][0]


def test_another_timeout_renews_the_entries(tmp_path: Path) -> None:
    host_config.apply(planned(tmp_path))
    host_config.apply(planned(tmp_path, what=install(timeout_s=7)))
    text = (tmp_path / ".claude" / "settings.local.json").read_text(encoding="utf-8")
    assert text.count('"timeout": 7') == 11
    assert text.count("inject.py") == 4


def test_what_is_told_to_the_assistant_can_be_left_out(tmp_path: Path) -> None:
    host_config.apply(planned(tmp_path, what=install(inject=False)))
    text = (tmp_path / ".claude" / "settings.local.json").read_text(encoding="utf-8")
    assert "inject.py" not in text


def test_what_is_there_stays(tmp_path: Path) -> None:
    mine: dict[str, Any] = {
        "permissions": {"allow": ["Bash(ls:*)"]},
        "hooks": {
            "PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "mine"}]}],
            "Custom": [],
        },
        "model": "x",
    }
    path = tmp_path / ".claude" / "settings.local.json"
    path.parent.mkdir()
    text = json.dumps(mine, indent=4) + "\n"
    path.write_text(text, encoding="utf-8")
    host_config.apply(planned(tmp_path))
    after = json.loads(path.read_text(encoding="utf-8"))
    assert list(after)[:1] == ["permissions"]
    assert after["hooks"]["PreToolUse"][0] == mine["hooks"]["PreToolUse"][0]
    assert len(after["hooks"]["PreToolUse"]) == 2
    assert path.read_text(encoding="utf-8").startswith('{\n    "permissions"')
    host_config.apply(planned(tmp_path, undo=True))
    assert files(tmp_path) == {".claude/settings.local.json": text.encode()}


def test_an_older_installation_is_renewed_and_not_doubled(tmp_path: Path) -> None:
    host_config.apply(planned(tmp_path, what=install("/old")))
    host_config.apply(planned(tmp_path, what=install("/new")))
    text = b"".join(files(tmp_path).values()).decode()
    assert "/old" not in text
    assert text.count("/new/hooks/log_event.sh") == 11


def test_comments_and_order_of_toml_stay(tmp_path: Path) -> None:
    path = tmp_path / ".codex" / "config.toml"
    path.parent.mkdir()
    text = '# mine\nmodel = "x"  # why\n\n[mcp_servers.other]\ncommand = "c"\n'
    path.write_text(text, encoding="utf-8")
    host_config.apply(planned(tmp_path, "codex"))
    now = path.read_text(encoding="utf-8")
    assert now.startswith(text.rstrip("\n")[:30])
    assert "[mcp_servers.arsenale-telemetry]" in now
    assert '[mcp_servers.other]\ncommand = "c"' in now
    host_config.apply(planned(tmp_path, "codex", undo=True))
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("host", "file", "text"),
    [
        ("claude", ".mcp.json", "{not json"),
        ("claude", ".mcp.json", "[]"),
        ("claude", ".mcp.json", '{"mcpServers": []}'),
        ("claude", ".claude/settings.local.json", '{"hooks": {"Stop": 1}}'),
        ("vscode", ".vscode/mcp.json", '// mine\n{"servers": }'),
        ("codex", ".codex/config.toml", "= broken"),
        ("codex", ".codex/config.toml", "mcp_servers = 1"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named_and_left_alone(
    host: Host, file: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidError, match=path.name):
        planned(tmp_path, host)
    assert files(tmp_path) == {file: text.encode()}


def test_a_link_is_followed_and_the_mode_kept(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}", encoding="utf-8")
    real.chmod(0o640)
    (tmp_path / ".mcp.json").symlink_to(real)
    host_config.apply(planned(tmp_path))
    assert (tmp_path / ".mcp.json").is_symlink()
    assert "arsenale-telemetry" in real.read_text(encoding="utf-8")
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("host", "file", "text"),
    [
        ("claude", ".mcp.json", ""),
        ("claude", ".mcp.json", "{}\n"),
        ("claude", ".mcp.json", '{"mcpServers":{}}'),
        ("claude", ".claude/settings.local.json", '{"hooks":{"Stop":[]}}'),
        ("cursor", ".cursor/hooks.json", '{"version":1,"hooks":{}}'),
        ("codex", ".codex/config.toml", ""),
        ("codex", ".codex/config.toml", "[mcp_servers]\n"),
        ("codex", ".codex/config.toml", "a = 1\r\n[b]\r\nc = 2\r\n"),
    ],
)
def test_a_file_that_said_nothing_comes_back_and_is_not_deleted(
    host: Host, file: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    host_config.apply(planned(tmp_path, host))
    host_config.apply(planned(tmp_path, host, undo=True))
    assert files(tmp_path) == {file: text.encode()}


def test_a_file_that_changed_since_the_plan_is_left_alone_and_so_are_the_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / ".claude" / "settings.local.json"
    changes = planned(tmp_path)
    path.parent.mkdir()
    path.write_text('{"model": "the host wrote this while we asked"}', encoding="utf-8")
    before = files(tmp_path)
    with pytest.raises(ConflictError, match=r"settings\.local\.json has just changed"):
        host_config.apply(changes)
    assert files(tmp_path) == before


def test_what_the_user_adds_between_install_and_undo_stays(tmp_path: Path) -> None:
    path = tmp_path / ".mcp.json"
    path.write_text('{"mcpServers": {}}', encoding="utf-8")
    host_config.apply(planned(tmp_path))
    document = json.loads(path.read_text(encoding="utf-8"))
    document["mcpServers"]["mine"] = {"command": "m"}
    path.write_text(json.dumps(document), encoding="utf-8")
    host_config.apply(planned(tmp_path, undo=True))
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after == {"mcpServers": {"mine": {"command": "m"}}}


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / ".mcp.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InvalidError, match=r"\.mcp\.json is not UTF-8"):
        planned(tmp_path)


def test_a_place_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    changes = planned(tmp_path)
    (tmp_path / ".claude").write_text("a file where a folder belongs", encoding="utf-8")
    with pytest.raises(UnavailableError, match="make it"):
        host_config.apply(changes)


def test_the_users_profile_of_vscode_is_found_on_a_mac(tmp_path: Path) -> None:
    elsewhere = planned(tmp_path, "vscode", "user")[0].path
    assert elsewhere == tmp_path / ".config" / "Code" / "User" / "mcp.json"
    profile = tmp_path / "Library" / "Application Support" / "Code" / "User"
    profile.mkdir(parents=True)
    assert planned(tmp_path, "vscode", "user")[0].path == profile / "mcp.json"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
)
groups = st.lists(
    st.fixed_dictionaries(
        {
            "hooks": st.lists(
                st.fixed_dictionaries({"type": st.just("command"), "command": st.text()})
            )
        }
    ),
    max_size=2,
)
documents = st.dictionaries(
    st.text(max_size=6).filter(lambda key: key not in ("hooks", "mcpServers")), values
) | st.fixed_dictionaries(
    {"hooks": st.dictionaries(st.sampled_from(["PreToolUse", "Stop", "Mine"]), groups, min_size=1)}
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents, indent=st.sampled_from([None, 2, 4, "\t"]), end=st.booleans())
def test_whatever_was_there_is_there_again_byte_by_byte(
    document: dict[str, Any], indent: int | str | None, end: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("project")
    path = folder / ".claude" / "settings.local.json"
    path.parent.mkdir()
    text = json.dumps(document, indent=indent) + ("\n" if end else "")
    path.write_bytes(text.encode())
    host_config.apply(planned(folder))
    assert planned(folder) == []
    host_config.apply(planned(folder, undo=True))
    assert files(folder) == {".claude/settings.local.json": text.encode()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=documents, indent=st.sampled_from([None, 2, 4, "\t"]), there=st.booleans(),
    first=st.sampled_from(["guard", "init"]), out_first=st.sampled_from(["guard", "init"]),
)  # fmt: skip
def test_the_guard_and_init_leave_nothing_behind_in_whatever_order_they_come_and_go(
    document: dict[str, Any], indent: int | str | None, there: bool, first: str, out_first: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("project")
    path = folder / ".claude" / "settings.local.json"
    path.parent.mkdir()
    if there:
        path.write_bytes(json.dumps(document, indent=indent).encode())
    before = files(folder)

    def guard(mode: GuardMode) -> list[FileChange]:
        return host_config.plan_guard(
            "claude", project=folder, home=folder, scope="project", install=install(), mode=mode
        )

    steps = {"guard": lambda: guard("open"), "init": lambda: planned(folder)}
    for name in (first, "guard" if first == "init" else "init"):
        host_config.apply(steps[name]())
    assert (guard("open"), planned(folder)) == ([], [])
    outs = {"guard": lambda: guard("off"), "init": lambda: planned(folder, undo=True)}
    for name in (out_first, "guard" if out_first == "init" else "init"):
        host_config.apply(outs[name]())
    assert files(folder) == before


USERS_OWN = [
    "python3 .claude/hooks/inject.py",
    "$CLAUDE_PROJECT_DIR/.claude/hooks/log_event.sh",
    "/bin/sh /home/a/project/.claude/hooks/log_event.sh",
    "/bin/sh /home/a/project/hooks/log_event.sh /home/a/log",
    "uv run hooks/log_event.py --verbose",
    "python3 -I -S /home/a/bin/tracking_id.py",
    "python3 -I -S /home/a/hooks/guard.py --closed",
    "python3 -I -S /home/a/hooks/inject.py /home/a/data /home/a/.cache",
    "node /opt/inject.py.js",
    "/bin/sh -c 'exec my-tool' not-arsenale-hook /x/inject.py",
    "echo arsenale-hook",
    "cat 'unbalanced /hooks/inject.py",
    "/usr/bin/env bash ~/dotfiles/arsenale/hooks/log_event.sh",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("command", USERS_OWN)
def test_a_users_own_hook_survives_whatever_its_script_is_called(
    command: str, host: Host, tmp_path: Path
) -> None:
    path = host_config.hook_file(host, project=tmp_path, home=tmp_path, scope="project")
    path.parent.mkdir(parents=True)
    mine: dict[str, Any] = {"type": "command", "command": command}
    exec_form = {"type": "command", "command": "python3", "args": command.split()[1:]}
    flat = host in ("cursor", "vscode")
    groups = [mine, exec_form] if flat else [{"matcher": "*", "hooks": [mine, exec_form]}]
    event = "preToolUse" if host == "cursor" else "PreToolUse"
    text = json.dumps({"version": 1, "hooks": {event: groups}})
    path.write_text(text, encoding="utf-8")
    assert planned(tmp_path, host, undo=True) == []
    host_config.apply(planned(tmp_path, host))
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["hooks"][event][: len(groups)] == groups
    host_config.apply(planned(tmp_path, host, undo=True))
    assert path.read_text(encoding="utf-8") == text


def old_entries(folder: str, relay: str) -> dict[str, Any]:
    """Return hooks as version 0.1.0 wrote them."""
    log = {"type": "command", "command": "/bin/sh", "timeout": 2, "async": True,
           "args": [f"{folder}/log_event.sh", "/home/a/.arsenale/spool"]}  # fmt: skip
    told = {"type": "command", "command": "/v/bin/python", "timeout": 6,
            "args": ["-I", "-S", f"{folder}/inject.py", relay, "/home/a/.arsenale"]}  # fmt: skip
    track = {"type": "command", "timeout": 2,
             "command": shlex.join(["/v/py", "-I", "-S", f"{folder}/tracking_id.py"])}  # fmt: skip
    return {
        "PreToolUse": [{"matcher": "*", "hooks": [log, track]}],
        "SessionStart": [{"hooks": [log, told]}],
    }


@pytest.mark.parametrize("kind", ["package", "checkout"])
def test_entries_of_version_0_1_0_are_renewed_and_taken_out(kind: str, tmp_path: Path) -> None:
    folder, relay = "/v/lib/python3.11/site-packages/arsenale_core/_assets/hooks", "/v/lib/x"
    if kind == "checkout":
        root = tmp_path / "old checkout"
        (root / "shared" / "arsenale_relay").mkdir(parents=True)
        folder, relay = str(root / "hooks"), "/x"
    project = tmp_path / "project"
    path = project / ".claude" / "settings.local.json"
    path.parent.mkdir(parents=True)
    old = old_entries(folder, relay)
    mine = {"matcher": "Bash", "hooks": [{"type": "command", "command": "./inject.py"}]}
    old["PreToolUse"].insert(0, mine)
    for undo in (True, False):
        path.write_text(json.dumps({"hooks": old}), encoding="utf-8")
        host_config.apply(planned(project, undo=undo))
        text = path.read_text(encoding="utf-8")
        assert folder not in text
        assert json.loads(text)["hooks"]["PreToolUse"][0] == mine


def test_the_guard_of_version_0_1_0_is_known_and_taken_out(tmp_path: Path) -> None:
    path = tmp_path / ".claude" / "settings.local.json"
    path.parent.mkdir()
    words = ["-I", "-S", "/old/hooks/guard.py", "--closed", "/old/shared", "/home/a/.arsenale"]
    guard = {"type": "command", "command": "/v/bin/python", "args": words}
    path.write_text(json.dumps({"hooks": {"PreToolUse": [{"hooks": [guard]}]}}), encoding="utf-8")
    where: dict[str, Any] = {"project": tmp_path, "home": tmp_path, "scope": "project"}
    assert host_config.guard_mode("claude", **where) == "closed"
    host_config.apply(host_config.plan_guard("claude", install=install(), mode="off", **where))
    assert not path.exists()
    assert host_config.guard_mode("claude", **where) == "off"


def test_nothing_of_ours_stays_in_a_project(tmp_path: Path) -> None:
    (tmp_path / ".mcp.json").write_text('{"mcpServers": {"a": {}}}', encoding="utf-8")
    for host in HOSTS:
        host_config.apply(planned(tmp_path, host))
    assert [path for path in tmp_path.rglob("*") if "backup" in path.name] == []
    for host in HOSTS:
        host_config.apply(planned(tmp_path, host, undo=True))
    assert [path.name for path in tmp_path.rglob("*")] == [".mcp.json"]


def test_a_backup_of_version_0_1_0_is_still_read_and_then_removed(tmp_path: Path) -> None:
    text = '{"mcpServers":\n\t{}}'
    path = tmp_path / ".mcp.json"
    path.write_text(text, encoding="utf-8")
    host_config.apply(planned(tmp_path))
    for kept in (HOMES[-1] / "backups").iterdir():
        kept.unlink()
    path.with_name(".mcp.json.arsenale-backup").write_text(text, encoding="utf-8")
    host_config.apply(planned(tmp_path, undo=True))
    assert files(tmp_path) == {".mcp.json": text.encode()}


CARE: dict[str, str] = {
    "comments": '// mine\n{\n  // a\n  "servers": {\n    "a": {}, // why\n    "b": {} /* z */\n  }'
    "\n}\n",
    "trailing commas": '{\n\t"servers": {\n\t\t"a": {},\n\t\t"b": {},\n\t},\n}\n',
    "comment and comma": '{"servers": {"a": {}, /* x */}, // y\n}',
    "BOM": '\ufeff{\n  "servers": {\n    "a": {}\n  }\n}\n',
    "CRLF": '{\r\n  "servers": {\r\n    "a": {}\r\n  }\r\n}\r\n',
    "BOM and CRLF": '\ufeff{\r\n    "inputs": [],\r\n    "servers": {}\r\n}',
    "doubled keys": '{\n  "x": 1,\n  "x": 2,\n  "servers": {"a": {}}\n}\n',
    "doubled servers": '{"servers": {"a": {}}, "servers": {"b": {}}}',
    "only a comment": "{\n  // nothing yet\n}\n",
    "a comment in an empty table": '{\n  "servers": {\n    // nothing yet\n  }\n}\n',
    "no servers": '// top\n{\n  "inputs": [1, 2,],\n}\n// end\n',
    "slashes in texts": '{\n  // x\n  "servers": {"a": {"url": "http://x//y", "b": "/* no */, }"}}'
    "\n}\n",
    "one line": '{"servers":{"a":{}},/* c */"inputs":[]}',
}


@pytest.mark.parametrize("kind", CARE)
def test_comments_marks_and_line_ends_of_json_survive_both_ways(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ".vscode" / "mcp.json"
    path.parent.mkdir()
    text = CARE[kind]
    path.write_bytes(text.encode())
    host_config.apply(planned(tmp_path, "vscode"))
    assert planned(tmp_path, "vscode") == []
    after = path.read_bytes().decode()
    document = json.loads(jsonc.plain(after))
    assert document["servers"]["arsenale-telemetry"]["type"] == "stdio"
    before = json.loads(jsonc.plain(text))
    assert {**before.get("servers", {})}.items() <= document["servers"].items()
    for word in ("// mine", "// a", "// why", "/* z */", "// nothing yet", "// top", '"x": 1'):
        assert (word in text) == (word in after)
    assert after.startswith("\ufeff") == text.startswith("\ufeff")
    if "\r\n" in text:
        assert "\n" not in after.replace("\r\n", "")
    host_config.apply(planned(tmp_path, "vscode", undo=True))
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize("kind", CARE)
def test_what_a_user_changes_beside_our_entries_stays_with_its_comments(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / ".vscode" / "mcp.json"
    path.parent.mkdir()
    path.write_bytes(CARE[kind].encode())
    host_config.apply(planned(tmp_path, "vscode"))
    now = path.read_bytes().decode()
    at = now.index("{") + 1
    path.write_bytes(f'{now[:at]} "later": 1, // new\n{now[at:]}'.encode())
    host_config.apply(planned(tmp_path, "vscode", undo=True))
    after = path.read_bytes().decode()
    document = json.loads(jsonc.plain(after))
    assert (document["later"], "// new" in after, "arsenale" in after) == (1, True, False)
