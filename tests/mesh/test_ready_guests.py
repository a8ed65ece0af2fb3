"""The guests that come with the mesh: what they do, and that their source makes their bytes."""

import csv
import hashlib
import json
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arsenale_mesh
from arsenale_mesh.sandbox.jobs import Job, limits
from arsenale_mesh.sandbox.pool import Pool

FOLDER = Path(arsenale_mesh.__file__).parent / "guests"
NAMES = ("search", "sha256", "csv", "json", "script", "matmul")


async def ran(pool: Pool, name: str, text: str | bytes, fuel: int = 500_000_000) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    module = (FOLDER / f"{name}.wasm").read_bytes()
    job = Job(module=module, function="run", input=data, limits=limits(fuel=fuel))
    ended = await pool.run(job)
    assert ended.status == "ok", (ended.status, ended.detail)
    return ended.output.decode()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 1000, 200_000])
async def test_sha256_is_sha256(pool: Pool, size: int) -> None:
    data = bytes(i * 7 % 256 for i in range(size))
    assert await ran(pool, "sha256", data) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("beta", [2, 4]), ("^b", [2]), ("a$", [1, 2, 4]), ("^$", [3]), ("g.*a", [4]),
     ("x*", [1, 2, 3, 4, 5]), (r"\.", [5]), ("nothing", [])],
)  # fmt: skip
async def test_search_finds_lines(pool: Pool, pattern: str, found: list[int]) -> None:
    lines = ["alpha", "beta", "", "gamma beta", "the end."]
    said = await ran(pool, "search", f"{pattern}\n" + "\n".join(lines))
    assert said.splitlines() == [f"{n}:{lines[n - 1]}" for n in found]


async def test_csv_says_what_is_in_the_columns(pool: Pool) -> None:
    rows = 'name,"a ""b""",c\r\nx,1,2.5\n"y, z",-3,\nw,1e3,text\n'
    table = list(csv.DictReader((await ran(pool, "csv", rows)).splitlines()))
    assert [row["column"] for row in table] == ["name", 'a "b"', "c"]
    assert [row["filled"] for row in table] == ["3", "3", "2"]
    assert [row["numbers"] for row in table] == ["0", "3", "1"]
    numbers = [1, -3, 1000]
    assert float(table[1]["mean"]) == pytest.approx(statistics.mean(numbers), abs=1e-6)
    assert float(table[1]["stdev"]) == pytest.approx(statistics.stdev(numbers), abs=1e-6)
    assert (table[1]["min"], table[1]["max"], table[2]["mean"]) == ("-3", "1000", "2.5")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(value=JSON)
async def test_json_comes_out_indented_and_the_same(pool: Pool, value: object) -> None:
    assert await ran(pool, "json", ".\n" + json.dumps(value)) == json.dumps(value, indent=2) + "\n"


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        (".a.b[1]", '{"x": 1, "a": {"b": [1, {"c": 2}]}}', '{\n  "c": 2\n}\n'),
        (".a", "[1]", '{"error": "the path does not fit", "at": 0}\n'),
        (".", "[1,]", '{"error": "a value was expected", "at": 3}\n'),
        (".", "[1] 2", '{"error": "more than one value", "at": 4}\n'),
        (".", "", '{"error": "a value was expected", "at": 0}\n'),
        (".", "[" * 500, '{"error": "nested too deep", "at": 201}\n'),
    ],
)
async def test_json_follows_a_path_and_says_what_is_wrong(
    pool: Pool, path: str, text: str, said: str
) -> None:
    assert await ran(pool, "json", f"{path}\n{text}") == said


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("print 1 + 2 * 3, (1 + 2) * 3, -7 / 2, 7 % 4", "7 9 -3 3\n"),
        ("x = 1 # one\nwhile x < 100 { x = x * 2 } print x", "128\n"),
        ('if 2 > 1 and not 0 { print "yes" } else { print "no" }', "yes\n"),
        ("fn fib(n) { if n < 2 { return n } return fib(n-1) + fib(n-2) } print fib(15)", "610\n"),
        ("s = 0 i = 0 while i < 3 { s = s + input(i) i = i + 1 } print s\n---\n1 -2 30", "29\n"),
        ("print 1 / 0", "\nerror: division by zero\n"),
        ("fn f(n) { return f(n + 1) } print f(0)", "\nerror: nested too deep\n"),
        ("print (1", "\nerror: something is missing\n"),
        ("x = = 2", "error: a name was expected\n"),
        ("while 1 { x = 1 ", "error: a block does not end\n"),
    ],
)
async def test_a_script_is_run(pool: Pool, script: str, said: str) -> None:
    assert await ran(pool, "script", script) == said


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.sampled_from(NAMES),
    st.text(alphabet='abx"{}[](),.:*^$\\=+-0123456789 \nwhileprntfu', max_size=60),
)
async def test_no_input_ends_a_guest_but_by_its_limits(pool: Pool, name: str, text: str) -> None:
    module = (FOLDER / f"{name}.wasm").read_bytes()
    bounded = limits(fuel=5_000_000)
    job = Job(module=module, function="run", input=text.encode(), limits=bounded)
    ended = await pool.run(job)
    assert ended.status in ("ok", "out_of_fuel", "output_too_large"), (ended.status, text)


def test_the_source_makes_these_bytes(tmp_path: Path) -> None:
    clang = shutil.which("clang-14") or shutil.which("clang")
    version = subprocess.run([clang or "false", "--version"], capture_output=True, check=False)
    if not clang or not shutil.which("make") or b"14.0.6" not in version.stdout:
        pytest.skip("the guests are checked with make and Debian's clang 14.0.6 with lld")
    command = ["make", "-s", "-C", str(FOLDER), f"CLANG={clang}", f"OUT={tmp_path}"]
    subprocess.run(command, check=True)
    for name in NAMES:
        assert (tmp_path / f"{name}.wasm").read_bytes() == (FOLDER / f"{name}.wasm").read_bytes()
