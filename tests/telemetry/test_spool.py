"""The folder between hooks and store."""

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from arsenale_telemetry.spool import Spool, documents

NOW = time.time()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def put(spool: Spool, name: str, content: bytes) -> Path:
    path = spool.folder / f"{name}.json"
    path.write_bytes(content)
    return path


def test_a_complete_file_is_claimed_and_let_go(spool: Spool) -> None:
    put(spool, "1.2", b'{"a":1}\n')
    [file], busy = spool.claim(10, 10**6, NOW)
    assert (file.content, busy) == (b'{"a":1}\n', False)
    spool.let_go([file])
    assert spool.waiting() == (0, 0)


def test_a_claimed_file_that_was_not_let_go_is_claimed_again_under_the_same_name(
    spool: Spool,
) -> None:
    put(spool, "1.2", b'{"a":1}\n')
    [first], _ = spool.claim(10, 10**6, NOW)
    [again], _ = Spool(spool.folder).claim(10, 10**6, NOW)
    assert again == first


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
def test_a_file_that_a_hook_has_still_open_is_left_until_the_hook_is_done(spool: Spool) -> None:
    path = spool.folder / "7.8.json"
    code = (
        f"import sys; f = open({str(path)!r}, 'ab', 0); f.write(b'{{\"a\":'); print(flush=True); \
sys.stdin.read(); f.write(b'1}}')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as hook:
        assert hook.stdin and hook.stdout
        hook.stdout.readline()
        assert spool.claim(10, 10**6, NOW) == ([], True)
        hook.stdin.close()
        hook.wait()
    [file], busy = spool.claim(10, 10**6, NOW)
    assert (file.content, busy) == (b'{"a":1}', False)


def test_a_reused_process_id_never_touches_a_claimed_file(spool: Spool) -> None:
    put(spool, "1.2", b'{"a":1}\n')
    [first], _ = spool.claim(1, 10**6, NOW)
    put(spool, "1.2", b'{"a":2}\n')
    files, _ = spool.claim(10, 10**6, NOW)
    assert sorted(f.content for f in files) == [b'{"a":1}\n', b'{"a":2}\n']
    assert first.path in {f.path for f in files}


def test_a_claim_is_bounded_by_files_and_by_bytes(spool: Spool) -> None:
    for n in range(10):
        put(spool, f"{n}.1", b'{"a":"' + b"x" * 1000 + b'"}\n')
    assert len(spool.claim(3, 10**6, NOW)[0]) == 3
    assert len(spool.claim(10, 2_500, NOW)[0]) == 3


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        (b'{"a":1}', 1, 0),
        (b'{\n "a": 1\n}\n', 1, 0),
        (b'{"a":1}\n{"a":2}\n', 2, 0),
        (b'{"a":1}\n{"a":', 1, 1),
        (b"[1]\n", 0, 1),
        (b"\xff\xfe\n", 0, 1),
        (b"", 0, 0),
    ],
)
def test_a_file_is_split_into_documents_and_damage(content: bytes, good: int, bad: int) -> None:
    found, damaged = documents(content)
    assert (len(found), len(damaged)) == (good, bad)


def test_a_spool_past_its_bound_loses_bodies_before_events_and_keeps_the_time(
    spool: Spool,
) -> None:
    big = orjson.dumps({"tool_use_id": "a", "tool_response": "x" * 50_000})
    path = put(spool, "1.2", big)
    os.utime(path, ns=(5, 1_700_000_000_000_000_000))
    assert spool.bound(10_000) == 1
    [file], _ = spool.claim(10, 10**6, NOW)
    [event], _ = documents(file.content)
    assert event["tool_use_id"] == "a"
    assert len(file.content) < 200
    assert file.at_us == 1_700_000_000_000_000
    assert not (spool.folder / "full").exists()


def test_a_spool_that_is_full_of_events_tells_the_hooks_and_takes_it_back(spool: Spool) -> None:
    for n in range(5):
        put(spool, f"{n}.1", b'{"a":"' + b"x" * 1000 + b'"}\n')
    spool.bound(2_000)
    assert (spool.folder / "full").exists()
    files, _ = spool.claim(10, 10**6, NOW)
    spool.let_go(files)
    spool.bound(2_000)
    assert not (spool.folder / "full").exists()


def test_the_quarantine_is_bounded_and_throws_out_the_oldest(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arsenale_telemetry.spool.QUARANTINE_MAX_FILES", 3)
    for n in range(5):
        put(spool, f"{n}.1", b"damage")
        [file], _ = spool.claim(1, 10**6, NOW)
        spool.quarantine(file, file.content)
        spool.let_go([file])
    assert len(list((spool.folder / "quarantine").iterdir())) == 3


def test_only_one_process_may_drain(spool: Spool) -> None:
    first = spool.lock()
    assert first is not None
    assert Spool(spool.folder).lock() is None
    os.close(first)
    second = spool.lock()
    assert second is not None
    os.close(second)


def test_the_folder_is_private(spool: Spool) -> None:
    assert spool.folder.stat().st_mode & 0o777 == 0o700
