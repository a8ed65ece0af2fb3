"""What the documents promise: commands that exist, links that lead to a file, measured costs."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from arsenale_daemon import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("servers/*/README.md"),
    *(ROOT / folder / "README.md" for folder in ("examples", "hooks", "identity_templates")),
]  # fmt: skip
OURS = [path for path in DOCUMENTS if path.name not in ("CHANGELOG.md", "CLAUDE.md")]
EXTERNAL = ("http://", "https://", "#")


def named(text: str) -> set[str]:
    """The commands in TEXT's code, alternatives apart: `arsenale x a|b` is two."""
    blocks = re.findall(r"```(?:sh)?\n(.*?)```", text, re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code = [*blocks, *re.findall(r"`([^`\n]+)`", text)]
    found: set[str] = set()
    for line in "\n".join(code).splitlines():
        for words in re.findall(r"(?:^|[\s=/])arsenale ((?:[\w\\|-]+ ?)+)", line.split(" #")[0]):
            first, *rest = words.replace("\\", "").split()
            options = [word for word in rest if word.startswith("--")]
            second = [word for word in rest[:1] if re.fullmatch(r"[a-z][a-z|-]+", word)]
            for one in second[0].split("|") if second else [""]:
                found |= {
                    " ".join(filter(None, [first, one, option])) for option in options or [""]
                }
    return found


@cache
def command(words: tuple[str, ...]) -> Any:
    """The command WORDS; `None` where there is none."""
    group = typer.main.get_command(cli.app)
    for word in words:
        commands = getattr(group, "get_command", None)
        group = commands(None, word) if commands else group
        if group is None:
            return None
    return group


def fault(text: str) -> str:
    """What is wrong with the command TEXT, as `memory add --tag`."""
    *words, last = text.split()
    option = last if last.startswith("--") else ""
    found = command(tuple(words if option else [*words, last]))
    if found is None:
        return f"no command: arsenale {text}"
    known = {name for one in found.params for name in (*one.opts, *one.secondary_opts)}
    return "" if not option or option in {*known, "--help"} else f"no option: arsenale {text}"


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [wrong for one in sorted(named(text)) if (wrong := fault(one))] == []


SOURCES = [path for top in ("servers", "shared", "hooks", "examples")
           for path in sorted((ROOT / top).rglob("*.py"))]  # fmt: skip


def test_every_command_and_option_that_a_hint_or_a_help_text_names_exists() -> None:
    wrong: dict[str, list[str]] = {}
    for path in SOURCES:
        # A text that is continued on the next line of source is one text.
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        faults = [found for one in sorted(named(text)) if (found := fault(one))]
        if faults:
            wrong[str(path.relative_to(ROOT))] = faults
    assert wrong == {}


def test_commands_in_documents_are_found() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = {
        "init --servers",
        "guard on --git",
        "memory forget",
        "telemetry events",
        "recipe schedule",
    }
    assert wanted <= named(text)
    wrong = named("`arsenale telemetry reports`, `arsenale usage` and `arsenale init --forever`")
    assert sorted(map(bool, map(fault, wrong))) == [True] * 3


def test_every_command_group_is_in_the_readme() -> None:
    listed = {text.split()[0] for text in named((ROOT / "README.md").read_text(encoding="utf-8"))}
    hidden = {"stdio"}  # `arsenale-stdio`, for assistants
    assert set(typer.main.get_command(cli.app).list_commands(None)) - hidden <= listed  # type: ignore[attr-defined,arg-type]


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    files = [link.split("#")[0] for link in links if not link.startswith(EXTERNAL)]
    assert [file for file in files if not (path.parent / file).exists()] == []


def test_the_costs_in_context_are_those_of_the_tools() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (\w+) \| (\d+) \| ([\d,]+) \|", text, re.MULTILINE)
    rows = {name: (int(tools), int(tokens.replace(",", ""))) for name, tools, tokens in found}
    all_tools, all_tokens = 0, 0.0
    for file in (ROOT / "shared" / "arsenale_relay" / "handshakes").glob("*.json"):
        tools = json.loads(file.read_bytes())["legacy"]["tools/list"]["tools"]
        shown = [{"name": one["name"], "description": one["description"],
                  "input_schema": one["inputSchema"]} for one in tools]  # fmt: skip
        tokens = len(json.dumps(shown, separators=(",", ":"), ensure_ascii=False)) / 4
        count, claimed = rows.pop(file.stem)
        assert (count, claimed) == (len(tools), pytest.approx(tokens, rel=0.1)), file.stem
        all_tools, all_tokens = all_tools + count, all_tokens + tokens
    assert rows == {"all": (all_tools, pytest.approx(all_tokens, rel=0.1))}


def test_the_readme_is_short_and_has_no_feature_codes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    assert re.findall(r"\b[HTMICGV]\d{1,2}\b", text) == []


def test_every_promise_of_the_threat_model_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named_tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    rows = [line for line in text.split("with the test that attacks it")[1].splitlines()
            if line.startswith("| ") and not line.startswith(("| promise", "| ---"))]  # fmt: skip
    assert len(named_tests) >= len(rows) > 10
    missing = [
        f"{file}::{name}" for file, name in named_tests
        if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]  # fmt: skip
    assert not missing
