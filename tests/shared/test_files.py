"""Files that somebody else may have placed are read without harm."""

import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest

from arsenale_core.errors import InvalidError
from arsenale_core.files import make_private, read_regular

LIMIT = 1_000


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, LIMIT):
        path.write_bytes(b"x" * size)
        assert read_regular(path, LIMIT) == b"x" * size


def test_a_larger_file_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it whole would take all memory
    with pytest.raises(InvalidError, match="is larger than 1,000 bytes"):
        read_regular(path, LIMIT)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/ptmx", "/dev/tty", "/proc/self/mem"])
def test_a_link_to_a_device_is_refused_whether_links_count_or_not(
    tmp_path: Path, target: str
) -> None:
    path = tmp_path / "link"
    path.symlink_to(target)
    with pytest.raises(InvalidError, match="is a symbolic link"):
        read_regular(path, LIMIT)
    if target != "/proc/self/mem":  # a regular file, by its mode
        with pytest.raises(InvalidError, match="is not a regular file"):
            read_regular(path, LIMIT, follow_links=True)


def test_a_file_of_the_system_without_an_end_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to("/proc/self/mem")
    with pytest.raises((InvalidError, OSError)):
        read_regular(path, LIMIT, follow_links=True)


def test_a_pipe_and_a_socket_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidError, match="is not a regular file"):
        read_regular(tmp_path / "pipe", LIMIT)
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{short}/s")
        with pytest.raises(InvalidError, match="is not a regular file"):
            read_regular(Path(short, "s"), LIMIT)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="is not a regular file"):
        read_regular(tmp_path, LIMIT)


def test_a_link_to_a_file_counts_only_where_links_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", LIMIT, follow_links=True) == b"content"
    with pytest.raises(InvalidError, match="is a symbolic link"):
        read_regular(tmp_path / "link", LIMIT)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent", LIMIT)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "dangling", LIMIT, follow_links=True)


def test_a_file_that_becomes_a_pipe_between_two_looks_blocks_nobody(tmp_path: Path) -> None:
    path, stop = tmp_path / "file", threading.Event()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "plain").write_bytes(b"plain")

    def swap() -> None:
        while not stop.is_set():
            for source in ("pipe", "plain"):
                os.link(tmp_path / source, tmp_path / "next")
                os.replace(tmp_path / "next", path)
                (tmp_path / "next").unlink(missing_ok=True)

    path.write_bytes(b"plain")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2_000):
            try:
                assert read_regular(path, LIMIT) == b"plain"
            except (InvalidError, FileNotFoundError):
                continue
    finally:
        stop.set()
        thread.join()


def test_private_folders_are_private_up_to_the_first_that_was_there(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/c"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
