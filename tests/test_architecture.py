"""The promises a newcomer may rely on. A new folder under servers/ falls under them by itself."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SERVERS = sorted(p.name for p in (ROOT / "servers").iterdir() if (p / "__init__.py").is_file())
SHARED = sorted(p.name for p in (ROOT / "shared").iterdir() if (p / "__init__.py").is_file())
LAYERS = (set(SERVERS), "arsenale_daemon", "arsenale_core", "arsenale_relay")
MCP_SERVERS = [name for name in SERVERS if (ROOT / "servers" / name / "server.py").is_file()]
HEAVY = {"torch", "transformers", "peft", "vllm", "llama_cpp"}

SEAM = {"arsenale_core.surface", "arsenale_core.wire", "arsenale_core.peers",
        "arsenale_daemon.web", "arsenale_daemon.handshakes",
        "arsenale_daemon.hosting"}  # fmt: skip
"""Who may know the MCP SDK besides the servers' `server.py`: seam, transports, a client."""

CLOCKS = {"arsenale_core.surface", "arsenale_core.logs",
          "arsenale_core.boot", "arsenale_core.sidecar",
          "arsenale_daemon", "arsenale_relay", "arsenale_inference.running",
          "arsenale_inference.worker.__main__",
          "arsenale_mesh.sandbox.worker.__main__"}  # fmt: skip
"""Who reads the clock besides `server.py`: the runtime that passes it on, and processes."""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*SERVERS, *SHARED, include_external_packages=True, cache_dir=None)


def importers(external: str) -> set[str]:
    known = external in graph().modules
    return graph().find_modules_that_directly_import(external) if known else set()


def test_servers_never_import_one_another_and_shared_imports_no_server() -> None:
    assert {"arsenale_daemon", "arsenale_core", "arsenale_relay"} == set(SHARED)
    chains = graph().find_illegal_dependencies_for_layers(layers=LAYERS)
    assert not chains, chains


def test_the_relay_and_the_hooks_import_the_standard_library_only() -> None:
    files = [*(ROOT / "shared" / "arsenale_relay").glob("*.py"), *(ROOT / "hooks").glob("*.py")]
    foreign = {name for file in files for name in imported(file)}
    assert foreign - set(sys.stdlib_module_names) <= {"arsenale_relay"}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            names.add(node.module.split(".")[0])
    return names


def test_mcp_is_known_to_the_server_modules_and_the_seam_only() -> None:
    assert importers("mcp") <= {f"{name}.server" for name in SERVERS} | SEAM


def test_only_a_server_module_and_the_processes_read_the_clock() -> None:
    processes = ("server", "cli", "running", "worker.__main__")
    ends = {f"{name}.{end}" for name in SERVERS for end in processes}
    others = importers("time") - ends
    assert {m for m in others if m not in CLOCKS and m.split(".")[0] not in CLOCKS} == set()


def test_only_a_store_knows_the_database() -> None:
    allowed = {"store", "tables", "reading", "counting", "dumping", "trials", "rows"}
    users = {m.rsplit(".", 1)[-1] for m in importers("sqlalchemy")}
    assert users <= allowed
    assert importers("sqlite3") <= {"arsenale_daemon.doctor"}  # its version, for the user


def test_only_the_sidecar_loads_a_model() -> None:
    users = {m.split(".")[0] for package in HEAVY for m in importers(package)}
    assert users <= {"arsenale_inference"}


@pytest.mark.parametrize("package", SERVERS + SHARED)
def test_no_two_modules_of_a_package_import_each_other_in_a_loop(package: str) -> None:
    modules = graph().find_descendants(package)
    loops = {
        (a, b)
        for a in modules
        for b in graph().find_modules_directly_imported_by(a)
        if b in modules and graph().chain_exists(importer=b, imported=a)
    }
    assert not loops, loops


@pytest.mark.parametrize("package", SERVERS)
def test_a_server_stands_in_layers(package: str) -> None:
    layers = [f"{package}.{name}" for name in ("__main__", "server", "service", "store", "models")]
    present = [layer for layer in layers if layer in graph().modules]
    chains = graph().find_illegal_dependencies_for_layers(layers=present)
    assert not chains, chains


@pytest.mark.parametrize("package", MCP_SERVERS)
def test_a_tool_is_one_call(package: str) -> None:
    source = (ROOT / "servers" / package / "server.py").read_text(encoding="utf-8")
    module = ast.parse(source)
    named = {
        n.id
        for c in ast.walk(module)
        if is_add_tool(c)
        for n in ast.walk(c)
        if isinstance(n, ast.Name)
    }
    tools = [f for f in module.body if isinstance(f, ast.AsyncFunctionDef) and f.name in named]
    assert 0 < len(tools) <= 8
    assert [
        f.name for f in tools if len(f.body) != 2 or not isinstance(f.body[1], ast.Return)
    ] == []


def is_add_tool(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_tool"
    )


def test_a_module_fits_in_500_lines() -> None:
    folders = ("servers", "shared", "hooks", "examples", "tests", "benchmarks")
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for p in (ROOT / folder).rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > 500} == {}


def test_private_folders_are_made_by_one_function() -> None:
    """`mkdir(parents=True, mode=0o700)` leaves the folders above open to others."""
    wrong = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for name in ("servers", "shared")
        for file in (ROOT / name).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "mkdir"
        and {"parents", "mode"} <= {word.arg for word in node.keywords}
    }
    assert not wrong


def calls_of(folders: tuple[str, ...], names: set[str]) -> dict[str, set[str]]:
    """Return where in FOLDERS something of NAMES is called with arguments, by name."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (node.args or node.keywords):
                    name = ast.unparse(node.func)
                    for known in names & {name, name.rpartition(".")[2]}:
                        found[known].add(str(file.relative_to(ROOT)))
    return found


def test_text_for_models_is_made_by_one_module() -> None:
    """Hooks, guards and briefings demand a `ModelText`, which pyright checks."""
    found = calls_of(("servers", "shared"), {"ModelText"})
    assert found["ModelText"] == {"shared/arsenale_core/model_text.py"}
    surface = (ROOT / "shared/arsenale_core/surface.py").read_text(encoding="utf-8")
    assert surface.count("Awaitable[ModelText | None]]") == 2  # answer and guard


def test_text_for_terminals_leaves_through_one_module() -> None:
    ways = {"print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "Console",
            "sys.stdout.buffer.write"}  # fmt: skip
    found = calls_of(("servers", "shared"), ways)
    found["print"] = {
        file for file in found["print"] if re.search(
            r"(?<![.\w'\"])print\(", (ROOT / file).read_text(encoding="utf-8"))
    }  # fmt: skip
    relay = {
        f"shared/arsenale_relay/{name}.py" for name in ("__main__", "relay")
    }  # imports nothing
    allowed = {"shared/arsenale_core/terminal.py", "shared/arsenale_core/terminal_text.py"} | relay
    assert {way: files - allowed for way, files in found.items() if files - allowed} == {}
