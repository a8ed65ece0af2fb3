"""The command line: CPU of commands that need no server, against starting Python.

Limit: `--version`, `--help` and `status` take at most 0.15 s of CPU each. Interleaved rounds.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import children_cpu_s, machine, verdict

ROUNDS = 15
ARSENALE = str(Path(sys.executable).with_name("arsenale"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "arsenale --version": [ARSENALE, "--version"],
    "arsenale --help": [ARSENALE, "--help"],
    "arsenale status": [ARSENALE, "status"],
}


def main() -> None:
    """Measure and print."""
    print(machine())
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "ARSENALE_HOME": home}
        for _ in range(ROUNDS):
            for name, command in COMMANDS.items():
                before = children_cpu_s()
                subprocess.run(command, env=environment, capture_output=True, check=False)
                taken[name].append(children_cpu_s() - before)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    floor = medians.pop("python -c pass")
    print(f"  starting Python: {floor:.3f} s of CPU")
    for name, seconds in medians.items():
        verdict(f"{name} ({seconds / floor:.1f} x starting Python)", seconds, 0.15, " s of CPU")


if __name__ == "__main__":
    main()
