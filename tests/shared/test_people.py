"""What commands show to people: commands for tools, local times, tables that wrap."""

import io
import re
from collections.abc import Iterable
from importlib import import_module

import pytest
import typer
from rich.console import Console

from arsenale_core import people
from arsenale_core.lean import Lean


class Line(Lean):
    """A row."""

    task: str
    at: str = ""
    note: str = ""


class Report(Lean):
    """Rows."""

    rows: list[Line] = []  # noqa: RUF012  # as pydantic takes it


@pytest.mark.parametrize(
    ("moment", "zone", "shown"),
    [
        ("2026-11-30T23:30:00Z", "Europe/Vienna", "2026-12-01 00:30"),
        ("2026-11-30T17:00:00.250Z", "America/New_York", "2026-11-30 12:00"),
        ("2026-07-01T12:00:00+00:00", "Asia/Kolkata", "2026-07-01 17:30"),
        ("2026-11-30T17:00:00Z", "UTC", "2026-11-30 17:00"),
        ("at 2026-11-30T17:00:00Z", "Asia/Tokyo", "at 2026-11-30T17:00:00Z"),
        ("2026-11-30", "Asia/Tokyo", "2026-11-30"),
        ("", "Asia/Tokyo", ""),
    ],
)
def test_moments_are_shown_in_the_zone_of_the_settings(moment: str, zone: str, shown: str) -> None:
    assert people.localised({"at": moment, "rows": [{"at": moment}], "n": 3}, zone) == {
        "at": shown, "rows": [{"at": shown}], "n": 3,
    }  # fmt: skip
    report = Report(rows=[Line(task="t1", at=moment, note=f"see {moment}")])
    local = people.localised(report, zone)
    assert (local.rows[0].at, local.rows[0].note) == (shown, f"see {moment}")
    assert report.rows[0].at == moment


def test_a_table_of_80_columns_truncates_nothing() -> None:
    table = people.table("task", "state", "label", "module", "receipt", "at")
    long = "a-label-without-any-blank-that-is-much-longer-than-its-column"
    table.add_row("m1", "done", long, long, "f" * 64, "2026-11-30 17:00")
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    text = getattr(console.file, "getvalue")()  # noqa: B009
    assert "…" not in text
    assert "2026-11-30 17:00" in text


def test_json_has_its_lists_even_where_they_are_empty() -> None:
    assert people.whole(Report(), "rows") == {"rows": []}
    assert people.whole({"summary": "x"}, "tasks") == {"summary": "x", "tasks": []}
    rows = [{"task": "t1"}]
    assert people.whole(Report(rows=[Line(task="t1")]), "rows") == {"rows": rows}


CLIS = {
    "workforce": ("arsenale_coordinator.cli", "arsenale_coordinator.cli"),
    "genome": ("arsenale_genome.cli", "arsenale_genome.cli"),
    "memory": ("arsenale_memory.cli", "arsenale_memory.cli"),
    "mesh": ("arsenale_mesh.calling", "arsenale_mesh.cli"),
}


def names(app: typer.Typer) -> Iterable[str]:
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        yield command.name or getattr(function, "__name__", "").replace("_", "-")


@pytest.mark.parametrize("group", CLIS)
def test_every_command_that_a_hint_names_exists(group: str) -> None:
    commands, app = (import_module(name) for name in CLIS[group])
    known = set(names(app.app))
    texts = commands.COMMANDS.values()
    named = [found for text in texts for found in re.findall(rf"arsenale {group} ([\w-]+)", text)]
    assert named
    assert set(named) <= known


@pytest.mark.parametrize(
    ("group", "hint", "shown"),
    [
        ("memory", "No memories yet: keep some with `remember`, or import some with `maintain`.",
         "No memories yet: keep some with `arsenale memory add`, or import some with"
         " `arsenale memory import`."),
        ("genome", "Nothing here yet: `add_layer` takes a GGUF or PEFT layer",
         "Nothing here yet: `arsenale genome add-layer` takes a GGUF or PEFT layer"),
        ("mesh", "no task 'm9': `check_task` without a task lists them",
         "no task 'm9': `arsenale mesh tasks` lists them"),
        ("workforce", "an agent begins it with `check_in`; it needs no approval",
         "an agent begins it when it checks in; it needs no approval"),
        ("workforce", "no task 't9': `check_workforce` with view=tasks lists them",
         "no task 't9': `arsenale workforce tasks` lists them"),
    ],
)  # fmt: skip
def test_a_hint_for_a_person_names_a_command(group: str, hint: str, shown: str) -> None:
    commands = import_module(CLIS[group][0]).COMMANDS
    assert people.with_commands(hint, commands) == shown
