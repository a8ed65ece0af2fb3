"""Approvals of a project's files: of one path with one content."""

import json
import threading
from pathlib import Path

import pytest

from arsenale_core.trust import FILE, PROJECT_FILES, Trust

CONTENT = b'name = "Ada"\n'


def test_only_the_approved_content_at_the_approved_path_holds(tmp_path: Path) -> None:
    trust, path = Trust(tmp_path / "home"), tmp_path / "a" / PROJECT_FILES[0]
    assert not trust.holds(path, CONTENT)
    trust.approve(path, CONTENT)
    assert trust.holds(path, CONTENT)
    assert not trust.holds(path, CONTENT + b" ")
    assert not trust.holds(tmp_path / "b" / PROJECT_FILES[0], CONTENT)
    assert not trust.holds(tmp_path / "a" / PROJECT_FILES[1], CONTENT)
    assert Trust(tmp_path / "home").holds(path, CONTENT)


def test_a_revoked_approval_does_not_hold(tmp_path: Path) -> None:
    trust, path = Trust(tmp_path), tmp_path / "identity.toml"
    trust.approve(path, CONTENT)
    assert trust.revoke(path)
    assert not trust.holds(path, CONTENT)
    assert not trust.revoke(path)


def test_a_link_to_a_project_has_the_projects_approvals(tmp_path: Path) -> None:
    (tmp_path / "project" / ".arsenale").mkdir(parents=True)
    (tmp_path / "link").symlink_to("project")
    trust = Trust(tmp_path / "home")
    trust.approve(tmp_path / "project" / PROJECT_FILES[0], CONTENT)
    assert trust.holds(tmp_path / "link" / PROJECT_FILES[0], CONTENT)


@pytest.mark.parametrize(
    "kept",
    [b"", b"{", b"[]", b"null", b'{"files": []}', b'{"files": {"a": {}}}', b"\xff", b"[" * 99_999,
     b'{"files": null}'],
)  # fmt: skip
def test_a_damaged_file_of_approvals_approves_nothing_and_can_be_added_to(
    tmp_path: Path, kept: bytes
) -> None:
    (tmp_path / FILE).write_bytes(kept)
    trust, path = Trust(tmp_path), tmp_path / "identity.toml"
    assert not trust.holds(path, CONTENT)
    trust.approve(path, CONTENT)
    assert trust.holds(path, CONTENT)


def test_approvals_are_the_users_alone(tmp_path: Path) -> None:
    Trust(tmp_path / "home").approve(tmp_path / "identity.toml", CONTENT)
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home" / FILE).stat().st_mode & 0o777 == 0o600


def test_approvals_of_several_at_once_are_all_kept(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(40)]

    def approve(path: Path) -> None:
        Trust(tmp_path / "home").approve(path, CONTENT)

    threads = [threading.Thread(target=approve, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(Trust(tmp_path / "home").holds(path, CONTENT) for path in paths)
    assert len(json.loads((tmp_path / "home" / FILE).read_bytes())["files"]) == 40
