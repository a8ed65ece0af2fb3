"""What is written of many log lines: a few of each kind, how many were left out, and no more."""

import json
import re
import subprocess
import sys
from pathlib import Path

from arsenale_core.throttling import MOST_EQUAL, MOST_KEYS, MOST_SIMILAR, WINDOW_S, Line, Throttle

SOURCE = ("arsenale.test", 30)


def line(text: str, event: str = "refused") -> Line:
    return Line(source=SOURCE, event=event, text=text)


def test_a_few_equal_lines_are_written_and_the_rest_is_counted() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert sum(throttle.admits(line("a")) for _ in range(1_000)) == MOST_EQUAL
    assert throttle.over() == []
    assert throttle.due_s() == WINDOW_S
    now[0] = WINDOW_S
    [report] = throttle.over()
    assert (report.source, report.event, report.count) == (SOURCE, "refused", 1_000 - MOST_EQUAL)
    assert throttle.due_s() is None
    assert throttle.admits(line("a"))


def test_a_detail_that_varies_evades_nothing() -> None:
    throttle = Throttle(lambda: 0.0)
    assert sum(throttle.admits(line(f"{n}")) for n in range(10_000)) == MOST_SIMILAR
    assert sum(one.count for one in throttle.over(at_once=True)) == 10_000 - MOST_SIMILAR


def test_other_events_sources_and_levels_are_written_meanwhile() -> None:
    throttle = Throttle(lambda: 0.0)
    for _ in range(100):
        throttle.admits(line("a"))
    assert throttle.admits(line("b", event="another"))
    assert throttle.admits(Line(source=("else", 30), event="refused", text="a"))
    assert throttle.admits(Line(source=("arsenale.test", 40), event="refused", text="a"))


def test_events_without_number_take_bounded_memory_and_lose_no_count() -> None:
    throttle = Throttle(lambda: 0.0)
    written = sum(
        throttle.admits(line(f"{n % 5_000} a", event=f"{n % 5_000}")) for n in range(50_000)
    )
    assert len(throttle._equal) <= MOST_KEYS  # pyright: ignore[reportPrivateUsage]
    assert len(throttle._similar) <= MOST_KEYS  # pyright: ignore[reportPrivateUsage]
    counted = sum(one.count for one in throttle.over(at_once=True))
    assert written + counted == 50_000


PROCESS = """
import logging, os, sys
from pathlib import Path
from arsenale_core import logs
logs.configure("INFO", file=Path(sys.argv[1]) / "test.log", max_bytes=50_000, backups=2)
log = logs.get("arsenale.test")
{}
"""


def run(folder: Path, code: str) -> str:
    """Run CODE in a process that logs to FOLDER and whose stderr is a file there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "test.err").open("ab") as err:
        subprocess.run(
            [sys.executable, "-c", PROCESS.format(code), str(folder)],
            stderr=err, check=True, timeout=50,
        )  # fmt: skip
    return (folder / "test.log").read_text(encoding="utf-8")


def test_a_flood_of_tracebacks_leaves_little_and_its_number(tmp_path: Path) -> None:
    code = """
def broken(n):
    try:
        raise OSError(24, "Too many open files")
    except OSError:
        logging.getLogger("asyncio").exception("socket.accept() out of system resource")
        log.exception("accept failed")
for n in range(5_000):
    broken(n)
log.info("done")
"""
    text = run(tmp_path / "logs", code)
    events = [json.loads(one)["event"] for one in text.splitlines()]
    assert events.count("accept failed") == MOST_EQUAL
    assert "done" in events
    left_out = [re.match(r"([\d,]+) more lines .* were left out: (.*)", one) for one in events]
    counts = {m[2]: int(m[1].replace(",", "")) for m in left_out if m}
    expected = 5_000 - MOST_EQUAL
    assert counts == {
        "accept failed": expected, "socket.accept() out of system resource": expected
    }  # fmt: skip
    assert sum(file.stat().st_size for file in (tmp_path / "logs").iterdir()) < 60_000


def test_the_number_left_out_is_logged_though_nothing_is_logged_later(tmp_path: Path) -> None:
    code = """
import time
from arsenale_core import throttling
throttling.WINDOW_S = 0.3
for n in range(100):
    log.warning("again")
deadline = time.monotonic() + 20
while "left out" not in (Path(sys.argv[1]) / "test.log").read_text():
    assert time.monotonic() < deadline
    time.sleep(0.02)
os._exit(0)
"""
    assert "95 more lines" in run(tmp_path / "logs", code)


def test_stderr_of_a_running_process_is_bounded_whoever_writes_there(tmp_path: Path) -> None:
    code = """
sizes = []
for n in range(400):
    os.write(2, b"x" * 10_000)
    if n % 10 == 0:
        logs.bound_stderr()
        sizes.append((Path(sys.argv[1]) / "test.err").stat().st_size)
os.write(2, b"the last words")
print(max(sizes))
assert max(sizes) < 1_200_000, max(sizes)
"""
    run(tmp_path / "logs", code)
    files = {one.name: one for one in (tmp_path / "logs").iterdir()}
    assert files["test.err.1"].stat().st_size <= 1_000_000
    assert files["test.err.1"].stat().st_mode & 0o777 == 0o600
    assert files["test.err"].read_bytes().endswith(b"the last words")


def test_a_file_of_somebody_else_on_stderr_is_never_cut(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    theirs = tmp_path / "build.err"
    code = "os.write(2, b'x' * 3_000_000); logs.bound_stderr()"
    with theirs.open("ab") as err:
        command = [sys.executable, "-c", PROCESS.format(code), str(folder)]
        subprocess.run(command, stderr=err, check=True, timeout=50)
    assert theirs.stat().st_size == 3_000_000


def test_a_line_with_bad_arguments_ends_nothing(tmp_path: Path) -> None:
    code = """
logging.getLogger("lib").warning("%d of %d", "x")
log.info("goes on")
"""
    assert "goes on" in run(tmp_path / "logs", code)
