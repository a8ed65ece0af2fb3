"""Imports: what a host would load is loaded, and nothing that is not allowed."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_memory.imports import MAX_LOOKUPS, MAX_WARNINGS, Resolved, Source, resolve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def write(root: Path, **texts: str) -> Path:
    """Write NAME.md with each text (`__` is a slash); return the last one."""
    path = root
    for name, text in texts.items():
        path = root / (name.replace("__", "/") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return path


def read(root: Path, text: str, **texts: str) -> Resolved:
    """Resolve TEXT as CLAUDE.md of ROOT."""
    return resolve(write(root, **texts, CLAUDE=text), [root])


def test_an_import_is_replaced_by_the_text_it_names(root: Path) -> None:
    found = read(root, "# Me\n@a.md\nend\n", a="the text\n")
    assert found.text == "# Me\nthe text\nend\n"
    assert found.warnings == ()


def test_the_sources_are_what_a_caller_watches_and_hashes(root: Path) -> None:
    found = read(root, "@sub/a.md @b.md", sub__a="@../b.md @c.md", sub__c="c\r\n", b="b")
    assert found.text == "b c b"
    texts = {
        "CLAUDE": (0, "@sub/a.md @b.md"),
        "sub/a": (1, "@../b.md @c.md"),
        "b": (1, "b"),
        "sub/c": (2, "c\r\n"),
    }
    assert found.sources == tuple(
        Source(path=root / f"{name}.md", hops=hops, sha256=hashlib.sha256(t.encode()).hexdigest())
        for name, (hops, t) in texts.items()
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see @a.md, please", "see A, please"),
        ("see @a.md.\n", "see A.\n"),
        ("(see @a.md); \t@a.md: x", "(see A); \tA: x"),
        ("@a.md)", "A)"),
        ("@dotted.", "with the dot"),
        ("@my\\ notes.md end", "N end"),
        ("- @a.md\n  1. @a.md\n> @a.md", "- A\n  1. A\n> A"),
        ("# @a.md\r\n@a.md\r\n", "# A\r\nA\r\n"),
        ("@./a.md @sub/../a.md", "A A"),
        ("**bold** `code` @a.md", "**bold** `code` A"),
        ("an \\` escaped backtick, @a.md and `code`", "an \\` escaped backtick, A and `code`"),
        ("a lone ` backtick\n\n@a.md ` here", "a lone ` backtick\n\nA ` here"),
        ("@a.md`code`", "A`code`"),
        ("lazy\n    @a.md", "lazy\n    A"),
        ("1. item\n\n    @a.md", "1. item\n\n    A"),
        ("```\ncode\n```\n@a.md", "```\ncode\n```\nA"),
        ("~~~\n```\n~~~\n@a.md", "~~~\n```\n~~~\nA"),
        ("``` not`a fence\n@a.md", "``` not`a fence\nA"),
        ("- ```\n  code\n@a.md", "- ```\n  code\nA"),
        ("> ```\n@a.md", "> ```\nA"),
        ("<!-- c --> @a.md", "<!-- c --> A"),
        ("<!-- c\n\n--> x @a.md\n@a.md", "<!-- c\n\n--> x A\nA"),
        ("text <!-- never closed @a.md", "text <!-- never closed A"),
        ("`<!--` @a.md `-->`", "`<!--` A `-->`"),
    ],
)
def test_where_there_are_imports(root: Path, text: str, expected: str) -> None:
    (root / "my notes.md").write_text("N\n")
    (root / "dotted.").write_text("with the dot")
    (root / "sub").mkdir()
    found = read(root, text, a="A\n")
    assert (found.text, found.warnings) == (expected, ())


@pytest.mark.parametrize(
    "text",
    [
        "`@a.md`",
        "` @a.md `",
        "`` ` @a.md ` ``",
        "`two\n @a.md lines`",
        "``` @a.md ```",
        "```\n@a.md\n```",
        "```sh\n\n@a.md\n``\n````\n",
        "````\n```\n@a.md\n````",
        "~~~ md\n@a.md\n```\n@a.md\n~~~",
        "   ```\n@a.md\n   ```",
        "```\n    ```\n@a.md",
        "- ```\n\n  @a.md\n  ```",
        "- a\n  - b\n\n      ```\n\n      @a.md\n",
        "> ```\n> @a.md\n> ```",
        "```\n@a.md never closed",
        "<!-- @a.md -->",
        "<!--\n\n @a.md\n\n-->",
        "<!-- never closed\n\n@a.md",
        "in a line <!-- @a.md --> yes",
        "me@a.md",
        "\\@a.md",
        "(@a.md)",
        "@someone, @team",
        "user @ a.md",
    ],
)
def test_where_there_are_none(root: Path, text: str) -> None:
    found = read(root, text, a="A\n")
    assert (found.text, found.warnings) == (text, ())


def test_an_import_in_an_indented_code_block_is_left_and_said_to_be_so(root: Path) -> None:
    found = read(root, "# Code\n\n    @a.md @decorator.x\n\n@a.md", a="A")
    assert found.text == "# Code\n\n    @a.md @decorator.x\n\nA"
    assert found.warnings == (
        "CLAUDE.md:3: @a.md stands in an indented code block: indent it less to import it",
    )


def test_only_what_looks_like_a_path_is_missed(root: Path) -> None:
    found = read(root, "@someone @gone.md\n@npm/package. @a,b")
    assert found.text == "@someone @gone.md\n@npm/package. @a,b"
    assert found.warnings == (
        "CLAUDE.md:1: @gone.md names no file",
        "CLAUDE.md:2: @npm/package. names no file",
    )


def test_home_and_absolute_paths_are_imported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = read(root, f"@~/project/a.md @{root}/a.md", a="A")
    assert (found.text, found.warnings) == ("A A", ())


def chain(root: Path, length: int) -> Path:
    texts = {f"f{n}": f"{n} @f{n + 1}.md" for n in range(1, length)}
    return write(root, **texts, **{f"f{length}": str(length)}, CLAUDE="0 @f1.md")


def test_five_hops_are_followed_and_what_the_host_would_not_load_is_said(root: Path) -> None:
    found = resolve(chain(root, 5), [root])
    assert found.text == "0 1 2 3 4 5"
    assert [source.hops for source in found.sources] == [0, 1, 2, 3, 4, 5]
    assert found.warnings == (
        "f4.md:1: @f5.md is 5 imports deep and Claude Code loads 4 at most:"
        " import it from a file nearer to the first",
    )


def test_a_sixth_hop_is_refused(root: Path) -> None:
    found = resolve(chain(root, 6), [root])
    assert found.text == "0 1 2 3 4 5 @f6.md"
    assert found.warnings[1:] == ("f5.md:1: @f6.md is more than 5 imports deep",)
    assert len(resolve(chain(root, 4), [root]).warnings) == 0


def test_the_fewest_hops_count_for_a_file_that_is_imported_twice(root: Path) -> None:
    found = read(root, "@a.md @b.md", a="@b.md", b="B")
    assert {source.path.name: source.hops for source in found.sources} == {
        "CLAUDE.md": 0,
        "a.md": 1,
        "b.md": 1,
    }


def test_a_cycle_is_refused_and_named(root: Path) -> None:
    found = read(root, "@a.md", a="A @b.md", b="B @a.md @CLAUDE.md")
    assert found.text == "A B @a.md @CLAUDE.md"
    assert found.warnings == (
        "b.md:1: @a.md imports itself: a.md -> b.md -> a.md",
        "b.md:1: @CLAUDE.md imports itself: CLAUDE.md -> a.md -> b.md -> CLAUDE.md",
    )


def test_a_cycle_through_a_link_is_a_cycle(root: Path) -> None:
    (root / "link.md").symlink_to("CLAUDE.md")
    found = read(root, "me @link.md")
    assert found.text == "me @link.md"
    assert found.warnings == ("CLAUDE.md:1: @link.md imports itself: CLAUDE.md -> CLAUDE.md",)


def test_nothing_outside_the_roots_is_imported(root: Path, tmp_path: Path) -> None:
    outside = write(tmp_path, secret="SECRET")
    (root / "link.md").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    text = f"@../secret.md @{outside} @link.md @folder/secret.md @sub/../../secret.md"
    found = read(root, text, sub__a="A")
    assert found.text == text
    assert len(found.warnings) == 5
    assert all(w.endswith("is outside the allowed folders") for w in found.warnings)
    assert [source.path.name for source in found.sources] == ["CLAUDE.md"]


def test_a_link_inside_the_roots_and_a_root_that_is_a_link_are_followed(
    root: Path, tmp_path: Path
) -> None:
    file = write(root, real="R", CLAUDE="@link.md @other/x.md")
    (root / "link.md").symlink_to("real.md")
    write(tmp_path, elsewhere__x="X")
    (root / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to(root)
    found = resolve(file, [tmp_path / "alias", tmp_path / "elsewhere"])
    assert (found.text, found.warnings) == ("R X", ())


def test_a_single_file_may_be_a_root(root: Path, tmp_path: Path) -> None:
    alone = write(tmp_path, alone="ONE", other="TWO").with_name("alone.md")
    file = write(root, CLAUDE="@../alone.md @../other.md")
    assert resolve(file, [root, alone]).text == "ONE @../other.md"


def test_only_regular_utf8_files_of_some_size_are_imported(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    (root / "latin").write_bytes(b"caf\xe9")
    (root / "large").write_bytes(b"x" * 101)
    (root / "loop").symlink_to("loop")
    (root / "marked").write_bytes(b"\xef\xbb\xbfM")
    file = write(root, CLAUDE="@fifo @folder @latin @large @loop @marked @a\0b.md")
    found = resolve(file, [root, Path("/dev")], max_file_bytes=100)
    assert found.text == "@fifo @folder @latin @large @loop M @a\0b.md"
    assert [w.partition(": @")[2] for w in found.warnings] == [
        "fifo is not a regular file",
        "folder is not a regular file",
        "latin is not UTF-8 text",
        "large is larger than 100 bytes",
        "a\0b.md names no file",
    ]
    device = resolve(write(root, CLAUDE="@/dev/null"), [root, Path("/dev")])
    assert device.warnings == ("CLAUDE.md:1: @/dev/null is not a regular file",)


def test_a_root_file_that_cannot_be_read_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="name the Markdown file"):
        resolve(root / "gone.md", [root])
    with pytest.raises(InvalidError, match="outside the allowed folders"):
        resolve(write(tmp_path, CLAUDE="x"), [root])
    with pytest.raises(InvalidError, match="is not a regular file"):
        resolve(root, [root])
    with pytest.raises(InvalidError, match="is larger than 3 bytes"):
        resolve(write(root, CLAUDE="four"), [root], max_file_bytes=3)


def test_exponential_fan_out_is_bounded(root: Path) -> None:
    texts = {f"f{n}": f"@f{n + 1}.md\n" * 1000 for n in range(1, 5)}
    file = write(root, **texts, f5="x" * 1000, CLAUDE="@f1.md\n" * 1000)
    found = resolve(file, [root], max_total_bytes=1_000_000)
    assert len(found.text) <= 1_000_000
    stop = "@f5.md and all imports after it are left out: too much text in all"
    assert found.warnings.count(stop) == 1
    assert len(found.warnings) == MAX_WARNINGS + 2


def test_too_many_imports_of_nothing_are_bounded(root: Path) -> None:
    texts = {f"f{n}": f"@f{n + 1}.md " * 1000 for n in range(1, 5)}
    found = resolve(write(root, **texts, f5="", CLAUDE="@f1.md " * 1000), [root])
    stop = f"more than {MAX_LOOKUPS} imports: the rest is left as it is"
    assert found.warnings.count(stop) == 1


def test_a_thousand_warnings_are_counted_not_listed(root: Path) -> None:
    found = read(root, "".join(f"@gone/{n}\n" for n in range(1000)))
    assert found.warnings[MAX_WARNINGS:] == (f"and {1000 - MAX_WARNINGS} more warnings",)


@pytest.mark.parametrize(
    "text",
    [
        ">" * 300_000 + " @a.md",
        "- " * 150_000 + "@a.md",
        "@" + "." * 300_000,
        "<!-- x " * 50_000 + "\n@a.md",
        "\n".join("`" * n for n in range(1, 700)) + " @a.md",
        "* " * 100_000 + "x @a.md",
        "@a.md`" * 50_000,
        ("> - " * 20 + "@a.md\n") * 3_000,
    ],
)
def test_hostile_markdown_is_read_in_bounded_time(root: Path, text: str) -> None:
    assert len(read(root, text, a="A").text) <= len(text)


MARKDOWN = st.text(alphabet="@a.md `~\n\r\t<!->#*\\1)", max_size=80)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=MARKDOWN)
def test_text_without_a_file_to_import_stays_as_it_is(root: Path, text: str) -> None:
    found = read(root, text.replace("/", ""))
    assert found.text == text.replace("/", "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=MARKDOWN)
def test_nothing_in_a_fence_is_ever_imported(root: Path, text: str) -> None:
    fenced = f"~~~~~~\n{text.replace('~', '')}\n~~~~~~\n"
    assert read(root, fenced, a="A").text == fenced
