"""Runs fuzz jobs for a time: in a process with bounded memory, each input with bounded time."""

import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.jobs import JOBS, Job
from tests.fuzz.mutation import mutated

from arsenale_core.errors import ArsenaleError

SLOWEST_S = 2.0
"""Processor time that an input may cost."""

MEMORY_BYTES = 3 << 30
"""Address space that the job's process may add to what its imports took."""


class TooSlowError(BaseException):
    """An input took more than `SLOWEST_S`; no parser catches this."""


@dataclass(slots=True)
class Report:
    """What a job did.

    Attributes:
        tried, refused: Inputs, and how many of them were refused with an error of ours.
        slowest_s: Processor time of the slowest input.
        failures: Reasons, with the file of the input.
    """

    name: str
    seconds: float = 0.0
    tried: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as a line."""
        rate = self.tried / self.seconds if self.seconds else 0.0
        return (
            f"{self.name:<14} {self.tried:>9,} inputs, {rate:>8,.0f}/s, "
            f"{self.refused:>9,} refused, slowest {self.slowest_s * 1000:>6,.0f} ms"
        )


def bound_memory() -> None:
    """Limit the address space of this process to what it has and `MEMORY_BYTES`."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def run(name: str, seconds: float, seed: int, kept: Path, most_failures: int = 1) -> Report:
    """Attack the parser of the job NAME for SECONDS; failing inputs are kept in the folder KEPT.

    The input that is being tried lies in KEPT as `NAME.current`: what kills this process is there.
    """
    kept.mkdir(parents=True, exist_ok=True)
    chance, report = random.Random(f"{name} {seed}"), Report(name)
    current = kept / f"{name}.current"
    file = os.open(current, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, _alarm():
        job = JOBS[name](Path(folder))
        while (now := time.monotonic() - begun) < seconds and len(report.failures) < most_failures:
            data = mutated(chance, job.seeds) if report.tried else job.seeds[0]
            os.ftruncate(file, os.pwrite(file, data, 0))
            if problem := _attacked(job, data, report):
                place = kept / f"{name}-{seed}-{report.tried}.bin"
                place.write_bytes(data)
                report.failures += (f"{problem}; input {report.tried} of seed {seed}: {place}",)
            report.seconds = now
    os.close(file)
    current.unlink()
    return report


def _attacked(job: Job, data: bytes, report: Report) -> str:
    report.tried += 1
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SLOWEST_S)
    try:
        job.attack(data)
    except ArsenaleError:
        report.refused += 1
    except TooSlowError:
        return f"more than {SLOWEST_S} s of processor time"
    except Exception as exc:  # noqa: BLE001  # each is a finding
        return f"{type(exc).__name__}: {str(exc)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        report.slowest_s = max(report.slowest_s, time.process_time() - begun)
    return ""


@contextmanager
def _alarm() -> Generator[None]:
    def ring(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)
