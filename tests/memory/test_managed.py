"""Managed blocks: ours is ours, and the rest of the file is the user's, byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.errors import ConflictError, InvalidError
from arsenale_memory.managed import Block, get, put, remove

NAMES = st.sampled_from(["identity", "briefing", "a.b_c-d"])
FILES = st.text(alphabet="ab \n\r\t\u00e9\U0001f600`#@<!->", max_size=60) | st.text(max_size=40)
BODIES = st.text(alphabet="ab \n\r\u00e9#@<!->", max_size=40)


def unified(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(text=FILES, name=NAMES, body=BODIES)
def test_put_then_remove_gives_the_file_back_exactly(text: str, name: str, body: str) -> None:
    assert remove(put(text, name, body), name) == text


@given(text=FILES, bodies=st.lists(BODIES, min_size=2, max_size=2), first=st.booleans())
def test_two_blocks_come_out_in_any_order_and_leave_the_file_as_it_was(
    text: str, bodies: list[str], first: bool
) -> None:
    both = put(put(text, "one", bodies[0]), "two", bodies[1])
    order = ("one", "two") if first else ("two", "one")
    assert remove(remove(both, order[0]), order[1]) == text


@given(text=FILES, name=NAMES, body=BODIES)
def test_what_is_put_is_got_and_nobody_has_edited_it(text: str, name: str, body: str) -> None:
    found = get(put(text, name, body), name)
    assert found == Block(name=name, body=unified(body), edited=False)


@given(before=FILES, after=FILES, old=BODIES, new=BODIES)
def test_a_new_body_replaces_the_old_one_and_touches_nothing_else(
    before: str, after: str, old: str, new: str
) -> None:
    text = put(before, "identity", old)
    text = text if text.endswith(("\n", "\r")) else text + "\n"
    changed = put(text + after, "identity", new)
    assert put(changed, "identity", new) == changed
    assert changed.startswith(before)
    assert changed.endswith(after)
    assert put(changed, "identity", old) == text + after


@given(text=FILES, old=BODIES, edit=BODIES)
def test_a_body_that_is_not_ours_any_more_is_known_as_edited(
    text: str, old: str, edit: str
) -> None:
    ours, theirs = "=" + old + "=", "=" + edit + "-"
    file = put(text, "identity", ours)
    edited = file.replace(ours.replace("\r\n", "\n"), theirs, 1)
    found = get(edited, "identity")
    assert found is not None
    assert found.edited == (edited != file and unified(ours) != found.body)


def test_a_block_is_added_at_the_end_and_reads_as_documented() -> None:
    assert put("# Mine\n", "identity", "I am Ada.") == (
        "# Mine\n"
        "<!-- arsenale:begin identity"
        " sha256=7bb1551a5155b51aeed37c068a9f3d43cc53d94aae17223861925e207c56acb0 -->\n"
        "I am Ada.\n"
        "<!-- arsenale:end identity -->\n"
    )


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_block_takes_the_line_ends_of_its_file(newline: str) -> None:
    text = put(f"one{newline}two", "identity", "a\nb\r\nc")
    assert text.split(newline)[3:6] == ["a", "b", "c"]
    assert text.count(newline) == text.count("\n") + text.count("\r") - text.count("\r\n")


def test_other_line_ends_are_no_edit() -> None:
    text = put("mine\n", "identity", "a\nb\n").replace("\n", "\r\n")
    assert get(text, "identity") == Block(name="identity", body="a\nb\n", edited=False)
    assert remove(text, "identity") == "mine\r\n"


def test_no_block_is_got_where_there_is_none_and_removing_it_changes_nothing() -> None:
    assert get("text", "identity") is None
    assert remove("text\r\nmore", "identity") == "text\r\nmore"


def test_a_block_edited_by_hand_stays_until_it_is_forced() -> None:
    edited = put("mine\n", "identity", "ours").replace("ours", "theirs")
    found = get(edited, "identity")
    assert found == Block(name="identity", body="theirs", edited=True)
    with pytest.raises(ConflictError, match="edited by hand: move what you want to keep"):
        put(edited, "identity", "new")
    with pytest.raises(ConflictError, match="force it to remove"):
        remove(edited, "identity")
    assert get(put(edited, "identity", "new", force=True), "identity") == Block(
        name="identity", body="new", edited=False
    )
    assert remove(edited, "identity", force=True) == "mine\n"


def test_a_hand_edit_that_says_what_we_would_write_is_taken_over() -> None:
    edited = put("", "identity", "ours").replace("ours", "theirs")
    assert put(edited, "identity", "theirs") == put("", "identity", "theirs")


def test_a_body_deleted_by_hand_with_its_line_is_an_edit() -> None:
    found = get(put("", "identity", "ours").replace("ours\n", ""), "identity")
    assert found == Block(name="identity", body="", edited=True)


BEGIN = f"<!-- arsenale:begin identity sha256={'0' * 64} -->\n"
END = "<!-- arsenale:end identity -->\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a\n{BEGIN}b\n", "line 2: no 'arsenale:end identity' after this begin"),
        (f"a\n{END}", "line 2: an end of 'identity' without its begin"),
        (f"{BEGIN}{BEGIN}{END}{END}", "line 2: a second begin before 'arsenale:end identity'"),
        (f"{BEGIN}a\n{END}{BEGIN}b\n{END}", "line 4: a second block 'identity'"),
        (f"{BEGIN}{END.replace('identity', 'other')}", "line 2: an end of 'other' without"),
        (f"{BEGIN.replace(' sha256', '')}{END}", "line 1: a marker that cannot be read"),
        ("\r\r\n<!--arsenale:end identity-->", "line 3: a marker that cannot be read"),
    ],
)
def test_damaged_markers_are_refused_with_the_line_to_mend(text: str, said: str) -> None:
    for act in (
        lambda: put(text, "identity", "new", force=True),
        lambda: put(text, "another", "new"),
        lambda: get(text, "identity"),
        lambda: remove(text, "identity", force=True),
    ):
        with pytest.raises(InvalidError, match="mend or delete") as refused:
            act()
        assert refused.value.what.startswith(said)


def test_prose_about_markers_in_the_middle_of_a_line_is_no_marker() -> None:
    text = "Do not touch `<!-- arsenale:begin x` lines.\n"
    assert remove(put(text, "identity", "ours"), "identity") == text


@pytest.mark.parametrize("body", [END, "see <!-- arsenale:begin x -->", "<!--\tARSENALE:end x"])
def test_a_body_with_a_marker_in_it_is_refused(body: str) -> None:
    with pytest.raises(InvalidError, match="contains a marker"):
        put("", "identity", body)


@pytest.mark.parametrize("name", ["", "a b", "-->", "x" * 65, "\u00e9", ".a", "a\n"])
def test_a_name_that_could_break_a_marker_is_refused(name: str) -> None:
    with pytest.raises(InvalidError, match="ASCII letters"):
        put("", name, "body")
