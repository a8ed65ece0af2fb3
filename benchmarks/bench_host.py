"""The real Claude Code with and without Arsenale: how much later its first request to the model is.

Limits: at most 0.3 s later where no daemon runs, and all servers connected at the first turn. Needs
ARSENALE_TEST_CLAUDE=/path/to/claude and no network: see tests/host/README.md. Rounds of the three
kinds are interleaved.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import machine, verdict

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.host.claude import BINARY, Person, Session  # noqa: E402
from tests.host.messages_api import messages_api  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", "10"))
ARSENALE = Path(sys.executable).with_name("arsenale")
TRUST = '{"enableAllProjectMcpServers":true}'
"""Stands for the person who approves the servers of the project."""


def person(folder: Path, name: str) -> Person:
    """Return somebody with a home, a repository, and an ARSENALE_HOME of their own."""
    home, project, arsenale = (folder / name / part for part in ("home", "project", "arsenale"))
    for each in (home, project, arsenale):
        each.mkdir(parents=True)
    (arsenale / "config.toml").write_text("http_port = 0\n", encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    return Person(home=home, project=project, variables={"ARSENALE_HOME": str(arsenale)})


def arsenale(who: Person, *words: str) -> None:
    """Run a command as WHO."""
    environment = {**os.environ, **who.variables, "HOME": str(who.home)}
    subprocess.run([ARSENALE, *words], env=environment, cwd=who.project, check=False,
                   stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # fmt: skip


def main() -> None:
    """Measure and print."""
    if not BINARY:
        sys.exit("set ARSENALE_TEST_CLAUDE to the executable of Claude Code")
    print(machine())
    sessions: dict[str, list[Session]] = {"without": [], "warm": [], "cold": []}
    with tempfile.TemporaryDirectory(prefix="arsenale-host-") as name, messages_api() as api:
        plain, ours = person(Path(name), "plain"), person(Path(name), "ours")
        arsenale(ours, "init", "--yes")
        arsenale(ours, "memory", "add", "The inventory service uses PostgreSQL.")
        for who in (plain, ours):
            who.session(api, "hi", "--settings", TRUST)  # the first one writes its own files
        for _ in range(ROUNDS):
            sessions["without"].append(plain.session(api, "hi"))
            arsenale(ours, "up")
            sessions["warm"].append(ours.session(api, "hi", "--settings", TRUST))
            arsenale(ours, "down")
            sessions["cold"].append(ours.session(api, "hi", "--settings", TRUST))
        arsenale(ours, "down")
    print(f"  {ROUNDS} sessions each    first request: median, max s    whole session: median s"
          "    all servers connected")  # fmt: skip
    medians: dict[str, float] = {}
    for kind, found in sessions.items():
        firsts = [one.first_request_s for one in found]
        medians[kind] = statistics.median(firsts)
        whole = statistics.median(one.seconds for one in found)
        connected = sum(set(one.servers.values()) == {"connected"} for one in found)
        print(f"  {kind:8} {medians[kind]:24.2f} {max(firsts):6.2f} {whole:24.2f}"
              f" {connected:18} of {len(found)}")  # fmt: skip
    verdict("later, daemon up", medians["warm"] - medians["without"], 0.3, " s")
    verdict("later, nothing running", medians["cold"] - medians["without"], 0.3, " s")


if __name__ == "__main__":
    main()
