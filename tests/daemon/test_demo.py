"""`arsenale demo`, run as a stranger runs it: six results, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from arsenale_daemon import temporary_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ARSENALE = str(Path(sys.executable).with_name("arsenale"))
ELSEWHERE = "postgresql://nobody@127.0.0.1:1/real"
"""A database of the user's, which the demo must not even try."""


@pytest.fixture
def stranger(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a person at an 80-column terminal, with a long temporary folder."""
    temporary = tmp_path / ("tmp" * 20)  # no socket could be in there
    temporary.mkdir()
    yield {**environment, "HOME": str(tmp_path), "TMPDIR": str(temporary), "COLUMNS": "80",
           "ARSENALE_DATABASE_URL": ELSEWHERE}  # fmt: skip
    for process in temporary_home.processes_of(temporary):
        process.kill()


def left(stranger: dict[str, str]) -> list[str]:
    """What a demo left behind: files in its temporary folder, and processes that use it."""
    temporary = Path(stranger["TMPDIR"])
    processes = [" ".join(one.cmdline()) for one in temporary_home.processes_of(temporary)]
    return [*map(str, temporary.iterdir()), *processes]


def test_the_demo_shows_six_results_at_80_columns_and_leaves_nothing(
    stranger: dict[str, str],
) -> None:
    done = subprocess.run(
        [ARSENALE, "demo"], env=stranger, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert left(stranger) == []
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) > 80 and stranger["TMPDIR"] not in line] == []
    assert "…" not in done.stdout
    text = " ".join(done.stdout.split())
    _, *scenes = re.split(r" (?=[1-6] [A-Z][a-z]+: )", text.split(" Next arsenale init ")[0])
    assert len(scenes) == 6
    before, after = scenes[0].split(" after In the next session ")
    assert "Tuesdays" not in before.split(" stores: ")[0]
    assert re.search(r"^the hook adds .* We release the inventory service on Tuesdays", after)
    assert "edit src/stock.py: allowed." in scenes[1]
    assert "src/stock.py is held by ann until" in scenes[1]
    assert "This edit was not made." in scenes[1]
    assert re.search(r"kill -9 \(pid \d+\)", scenes[2])
    assert "The recipe is done; each step was done once." in scenes[2]
    assert "(out_of_fuel)" in scenes[3] and '"seven..": 7.' in scenes[3]
    assert "arsenale-verify receipt.json: the receipt holds" in scenes[3]
    assert "arsenale-verify forged.json: REFUSED (exit status 1)" in scenes[3]
    if find_spec("llama_cpp"):
        assert "answers: 7421. after" in scenes[4] and "answers: 7421. Arr!" in scenes[4]
    else:
        assert scenes[4].endswith(
            "The engine is missing. To install it: arsenale inference install"
        )
    assert "193 recorded events" in scenes[5] and "74 tool calls" in scenes[5]
    assert "6 failed" in scenes[5] and "Traceback" not in scenes[5]
    totals = [
        float(n.replace(",", "")) for n in re.findall(r"[A-Z][a-z]+ ([\d,.]+) \d+ ", scenes[5])
    ]
    assert totals == sorted(totals, reverse=True) and len(totals) == 7
    assert "arsenale doctor" in text and "README.md" in text


@pytest.mark.parametrize(
    "moment", ["deletes at its end", "1  Memory", "2  Coord", "3  Recipes", "After step 2",
               "4  Mesh", "5  Genomes", "6  Telemetry", "Slowest tools first"],
)  # fmt: skip
def test_ctrl_c_leaves_neither_processes_nor_folders(moment: str, stranger: dict[str, str]) -> None:
    with subprocess.Popen(
        [ARSENALE, "demo"], env=stranger, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as demo:  # fmt: skip
        assert demo.stdout and demo.stderr
        seen = next((True for line in demo.stdout if moment in line.replace("\n", "")), False)
        os.killpg(demo.pid, signal.SIGINT)  # a terminal interrupts the whole group
        demo.stdout.read()
        said = demo.stderr.read()
        code = demo.wait(60)
    assert seen
    assert (code, said) == (130, "")
    assert left(stranger) == []


def test_a_second_ctrl_c_does_not_stop_the_cleanup(stranger: dict[str, str]) -> None:
    with subprocess.Popen(
        [ARSENALE, "demo"], env=stranger, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    ) as demo:  # fmt: skip
        assert demo.stdout
        assert any("2  Coordinator" in line for line in demo.stdout)
        while demo.poll() is None:
            os.killpg(demo.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                demo.wait(0.3)
    assert left(stranger) == []


def test_with_keep_the_demo_goes_on_and_tells_how_to_end_it(stranger: dict[str, str]) -> None:
    done = subprocess.run(
        [ARSENALE, "demo", "--keep"], env=stranger, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"^  (ARSENALE_HOME=.* arsenale .*|rm -r .*)$", done.stdout, re.MULTILINE)
    assert [re.sub(r"\S*/\S*", "", command) for command in commands] == [
        " arsenale memory list", " arsenale telemetry report", " arsenale inference down",
        " arsenale down", "rm -r ",
    ]  # fmt: skip
    path = f"{Path(ARSENALE).parent}{os.pathsep}{stranger['PATH']}"
    plain = {name: value for name, value in stranger.items() if name != "ARSENALE_DATABASE_URL"}
    for command in commands:
        ended = subprocess.run(
            ["/bin/sh", "-c", command], env={**plain, "PATH": path}, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 0, (command, ended.stderr)
    psutil.wait_procs(temporary_home.processes_of(Path(stranger["TMPDIR"])), 30)
    assert left(stranger) == []
