"""`arsenale recipe …` over a real daemon."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.coordinator.test_recipe_runs import end_runner

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ARSENALE = str(Path(sys.executable).with_name("arsenale"))
Run = Callable[..., subprocess.CompletedProcess[str]]

ASKING = {
    "name": "asking", "inputs": {"n": {"type": "number", "default": 2, "required": False}},
    "steps": [{"id": "a", "value": "{{ inputs.n * 2 }}"}, {"id": "ok", "ask": "{{ a.output }}?"}],
    "output": "{{ ok.output.note }}",
}  # fmt: skip


@pytest.fixture
def arsenale(environment: dict[str, str], tmp_path: Path, home: Path) -> Iterator[Run]:
    (tmp_path / "asking.json").write_text(json.dumps(ASKING), encoding="utf-8")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ARSENALE, "recipe", *words], env={**environment, "COLUMNS": "200"}, cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    yield run
    end_runner(home)


def test_a_recipe_asks_and_is_answered(arsenale: Run) -> None:
    asked = arsenale("run", "asking.json", "-i", "n=21")
    assert "asks: ok: 42?" in asked.stdout, asked
    [line] = [line for line in asked.stdout.splitlines() if "approve|reject" in line]
    run = line.split()[-1]
    done = json.loads(arsenale("approve", run, "--note", "fine", "--json").stdout)
    assert (done["state"], done["output"]) == ("done", "fine")
    shown = arsenale("status", run)
    assert "asking: done" in shown.stdout and shown.returncode == 0
    assert run in arsenale("list").stdout


def test_what_is_wrong_is_said_and_ends_with_1(arsenale: Run, tmp_path: Path) -> None:
    assert "no recipe 'nope'" in arsenale("run", "nope").stderr
    wrong = arsenale("run", "asking.json", "-i", "m=1")
    assert wrong.returncode == 1 and "asking has no input 'm'" in wrong.stderr
    (tmp_path / "bad.json").write_text('{"name": "bad", "steps": [{"id": "A"}]}', encoding="utf-8")
    assert "steps[0]: a step has one of" in arsenale("plan", "bad.json").stderr
    assert "gone.json" in arsenale("run", "gone.json").stderr
    rejected = arsenale("run", "asking.json")
    run = rejected.stdout.split()[-1]
    no = arsenale("reject", run, "--note", "never")
    assert no.returncode == 1 and "rejected it: never" in no.stderr


def test_what_is_saved_is_run_by_its_name_planned_and_scheduled(arsenale: Run) -> None:
    assert "Saved as asking" in arsenale("save", "asking.json").stdout
    assert "ask a person" in arsenale("plan", "asking").stdout
    assert json.loads(arsenale("show", "asking").stdout) == ASKING
    made = arsenale("schedule", "asking", "0 9 * * 1-5 Europe/Vienna")
    assert "0 9 * * 1-5 Europe/Vienna" in made.stdout
    assert "paused" in arsenale("pause", "asking").stdout
    assert "cancelled" in arsenale("unschedule", "asking").stdout
    assert json.loads(arsenale("schema").stdout)["$schema"].startswith("https://json-schema.org")


def test_every_recipe_that_comes_along_runs_in_an_empty_home(arsenale: Run) -> None:
    names = [line["name"] for line in json.loads(arsenale("list", "--json").stdout)["recipes"]]
    assert "daily-digest" in names
    for name in names:
        done = json.loads(arsenale("run", name, "--json").stdout)
        assert done["state"] == "done", done


def test_ctrl_c_leaves_what_runs_running(
    arsenale: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    sleeping = {"name": "nap", "steps": [{"id": "z", "sleep_s": 3}, {"id": "a", "value": 7}]}
    (tmp_path / "nap.json").write_text(json.dumps(sleeping), encoding="utf-8")
    arsenale("list")  # the daemon is up
    with subprocess.Popen(
        [ARSENALE, "recipe", "run", "nap.json"], env=environment, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        for _ in range(100):
            runs = json.loads(arsenale("list", "--json").stdout).get("runs")
            if runs:
                break
        os.kill(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=20)
        assert running.returncode == 130 and "goes on" in said
    [run] = json.loads(arsenale("list", "--json").stdout)["runs"]
    done = json.loads(arsenale("status", "-f", run["run"], "--json").stdout)
    assert (done["state"], done["output"]) == ("done", 7)
