"""The command `python -m tests.fuzz`: fuzz for seconds, minutes or hours."""

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz import running
from tests.fuzz.jobs import JOBS


def main() -> None:
    """Run the jobs, print their rates and failures; exit with 1 after a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all jobs together")
    parser.add_argument("--job", choices=sorted(JOBS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="default: new")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), metavar="FOLDER")
    parser.add_argument("--failures", type=int, default=5, help="of a job, before it ends")
    given = parser.parse_args()
    names = given.job or sorted(JOBS)
    running.bound_memory()
    failed = False
    for name in names:
        seconds = given.minutes * 60 / len(names)
        report = running.run(name, seconds, given.seed, given.keep, given.failures)
        sys.stdout.write(f"{report}, seed {given.seed}\n")
        for failure in report.failures:
            sys.stdout.write(f"  {name}: {failure}\n")
        sys.stdout.flush()
        failed |= bool(report.failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
