"""Parsers of foreign bytes under attack: the part `TEXT`. By hand: `make fuzz MINUTES=120`."""

from pathlib import Path

import pytest
from tests.fuzz import gate, running
from tests.fuzz.jobs import JOBS, Job


@pytest.mark.slow
@pytest.mark.parametrize("job", gate.TEXT)
def test_no_input_breaks_the_parser(job: str, tmp_path: Path) -> None:
    gate.hold(job, tmp_path)


def test_every_job_runs_in_one_part_of_the_gate() -> None:
    assert sorted((*gate.TEXT, *gate.IMPORTED, *gate.BINARY)) == sorted(JOBS)


def test_a_job_finds_an_error_that_is_not_ours_and_keeps_the_input(tmp_path: Path) -> None:
    def broken(_: Path) -> Job:
        def attack(data: bytes) -> None:
            if data != b"honest":
                raise KeyError(data)

        return Job((b"honest",), attack)

    JOBS["broken"] = broken
    try:
        report = running.run("broken", 5, 1, tmp_path)
    finally:
        del JOBS["broken"]
    assert len(report.failures) == 1 and "KeyError" in report.failures[0]
    [kept] = tmp_path.glob("broken-1-*.bin")
    assert kept.read_bytes() != b"honest"
