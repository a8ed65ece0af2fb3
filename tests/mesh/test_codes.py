"""Machine code on disk is ours or it is not loaded."""

import os
from pathlib import Path

import pytest
from tests.mesh.conftest import Wat
from tests.mesh.test_guests import ECHO

from arsenale_core.errors import UnavailableError
from arsenale_mesh.sandbox.codes import CodeFolder, load_or_make_key
from arsenale_mesh.sandbox.jobs import Job
from arsenale_mesh.sandbox.pool import Pool, Sizes

SMALL = Sizes(workers=1, spares=0, compilers=1)


def test_a_key_stays_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "mesh" / "code.key"
    assert load_or_make_key(file) == load_or_make_key(file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    with pytest.raises(UnavailableError):
        load_or_make_key(file)


@pytest.mark.parametrize("place", [0, 31, 32, 40, -1])
def test_a_flipped_byte_is_found_and_the_file_removed(tmp_path: Path, place: int) -> None:
    codes = CodeFolder(tmp_path, b"k" * 32)
    codes.put("engine", "module", b"machine code")
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert codes.get("engine", "module") == b"machine code"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert codes.get("engine", "module") is None
    assert not file.exists()


def test_what_was_not_used_for_longest_goes_where_there_is_too_much(tmp_path: Path) -> None:
    codes = CodeFolder(tmp_path, b"k" * 32, most_bytes=3_000)
    for name in ("first", "second"):
        codes.put("engine", name, b"x" * 1_000)
        for file in tmp_path.iterdir():
            before = file.stat().st_mtime_ns - 10**9
            os.utime(file, ns=(before, before))
    assert codes.get("engine", "first")
    codes.put("engine", "third", b"x" * 1_000)
    assert codes.get("engine", "second") is None
    assert codes.get("engine", "first") and codes.get("engine", "third")


def test_code_of_another_key_engine_or_module_is_not_taken(tmp_path: Path) -> None:
    codes = CodeFolder(tmp_path, b"k" * 32)
    codes.put("engine", "module", b"machine code")
    [file] = tmp_path.iterdir()
    data = file.read_bytes()
    assert CodeFolder(tmp_path, b"x" * 32).get("engine", "module") is None
    codes.put("engine", "other", b"other")
    [other] = tmp_path.iterdir()
    other.write_bytes(data)  # moved to another module's place
    assert codes.get("engine", "other") is None


async def test_a_module_is_compiled_once_in_the_life_of_a_home(tmp_path: Path, wat: Wat) -> None:
    codes = CodeFolder(tmp_path, load_or_make_key(tmp_path.parent / "code.key"))
    echo = Job(module=wat(ECHO), function="run", input=b"x")
    told: list[bool] = []
    for _ in range(2):
        async with Pool(SMALL, folder=codes) as pool:
            ended = await pool.run(echo)
            assert ended.output == b"x"
            told.append(ended.compile_ms > 0)
    assert told == [True, False]
    [file] = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    async with Pool(SMALL, folder=codes) as pool:
        ended = await pool.run(echo)
        assert (ended.output, ended.compile_ms > 0) == (b"x", True)
