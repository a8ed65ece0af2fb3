"""Random histories of tasks: however things come, what is promised holds after each step."""

import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.mesh.village import Draw, Hand, Village, emptied, truth

from arsenale_mesh import books, changes, reputation, rows, settling
from arsenale_mesh.record import ENDED, Attempt, Result, Task
from arsenale_mesh.reputation import NO_WORD, Standing
from arsenale_mesh.store import MeshStore

TRUSTED = Standing(score=0.5, streak=12, right=12)
LIES = ("truth", "together", "together", "alone", "forged", "replayed", "nothing", "garbage")


class Histories(RuleBasedStateMachine):
    """A village in which at most a third lie, and a model of nothing but who lies."""

    where: Path | str

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.TemporaryDirectory()
        place = Path(self.folder.name) if isinstance(self.where, Path) else emptied(self.where)
        self.store = MeshStore(place, Hand())
        self.village = Village(self.store)
        self.liars: set[str] = set()
        self.tasks = list[Task]()
        self.ended = list[tuple[str, Result]]()

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()
        self.patch.undo()

    @initialize(
        strangers=st.integers(1, 7), house=st.booleans(), known=st.booleans(), lie=st.booleans()
    )
    def begin(self, strangers: int, house: bool, known: bool, lie: bool) -> None:
        names = [f"n{number}" for number in range(strangers)]
        self.village.settle_in(*names, house="home" if house else "")
        self.liars = set(names[: strangers // 3 * lie])
        if known:
            for name in names:
                number = self.village.numbers[name]
                self.village.do(lambda c, n=number: rows.set_standing(c, n, TRUSTED))

    # What happens.

    @rule(assurance=st.sampled_from(["verified", "provisional"]), house=st.booleans())
    def enqueue(self, assurance: str, house: bool) -> None:
        only = house and self.village.has_house and len(self.tasks) % 4 == 0
        self.tasks.append(self.village.task(assurance=assurance, house_only=only))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        found = [(t, n) for t in self.now() if t.wants for n in self.who_may(t)]
        if found:
            task, name = data.draw(st.sampled_from(found))
            self.village.lease(task, name)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), way=st.sampled_from(LIES), draw=st.floats(0, 0.999))
    def settle(self, data: st.DataObject, way: str, draw: float) -> None:
        found = self.leased()
        if not found:
            return
        task, attempt, name = data.draw(st.sampled_from(found))
        self.patch.setattr(settling, "RANDOM", Draw(draw))
        honest = name not in self.liars
        result = self.result(task, name, attempt, way if not honest else _honest(way))
        self.village.settle(name, result)
        self.ended.append((name, result))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), state=st.sampled_from(["lost", "returned", "late"]), fails=st.booleans())
    def let_go(self, data: st.DataObject, state: str, fails: bool) -> None:
        if found := self.leased():
            task, attempt, name = data.draw(st.sampled_from(found))
            self.ended.append((name, self.result(task, name, attempt, "truth")))
            self.village.do(lambda c: changes.let_go(c, [attempt.id], state, is_failure=fails))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if found := [one for one in self.now() if one.state not in ENDED]:
            task = data.draw(st.sampled_from(found))
            self.village.do(lambda c: changes.cancel(c, task.id))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def come_again(self, data: st.DataObject) -> None:
        name, result = data.draw(st.sampled_from(self.ended))
        with self.store.reading() as db:
            before = books.totals(db), rows.node_with(db, self.village.keys[name].did)
        settled = self.village.settle(name, result)
        with self.store.reading() as db:
            assert (books.totals(db), rows.node_with(db, self.village.keys[name].did)) == before
        assert settled.task is None

    # What holds.

    @invariant()
    def no_lie_is_accepted(self) -> None:
        for task in self.now():
            if task.state == "done" and task.how != "provisional":
                assert task.status == "ok" or (task.how, task.status in NO_WORD) == ("house", True)
            if task.state == "done" and task.how != "provisional" and task.status == "ok":
                assert task.output == sha256(truth(task)).hexdigest(), task

    @invariant()
    def no_honest_node_is_wrong(self) -> None:
        for name in self.village.numbers.keys() - self.liars:
            assert self.village.node(name).standing.wrong == 0, name

    @invariant()
    def no_task_is_stuck(self) -> None:
        for task in self.now():
            going = [one for one in self.village.attempts(task) if one.state == "leased"]
            assert task.state in ENDED or task.wants or going, task
            if task.state in ("failed", "cancelled"):
                assert not task.wants

    @invariant()
    def the_books_are_right(self) -> None:
        self.village.check()
        for task in self.now():
            paid = sum(self.village.paid(task).values())
            assert paid <= task.reward or paid == 0, (task, paid)
            assert not paid or task.state == "done"

    # Who and what.

    def now(self) -> list[Task]:
        return [self.village.now(task) for task in self.tasks]

    def leased(self) -> list[tuple[Task, Attempt, str]]:
        names = {number: name for name, number in self.village.numbers.items()}
        return [
            (task, one, names[one.node_id])
            for task in self.now()
            for one in self.village.attempts(task)
            if one.state == "leased"
        ]

    def who_may(self, task: Task) -> list[str]:
        """Return whom the gateway could give TASK."""
        tried = {
            one.node_id
            for one in self.village.attempts(task)
            if one.state not in ("lost", "returned", "late")
            and not (one.state == "void" and one.role == "check")
        }
        return [
            name
            for name, number in self.village.numbers.items()
            if number not in tried
            and (task.asks == "any" or name == "home")
            and self.village.node(name).state != "banned"
        ]

    def result(self, task: Task, name: str, attempt: Attempt, way: str) -> Result:
        made = self.village.result
        said: dict[str, Any] = {
            "truth": {}, "nothing": {"status": "timeout"}, "forged": {"nonce": "0" * 32},
            "replayed": {"task": "m1", "input": self.tasks[0].input},
        }.get(way, {})  # fmt: skip
        output = {"together": b"lie on " + task.name.encode(), "alone": name.encode()}.get(way)
        result = made(task, name, attempt.id, output, **said)
        if way == "garbage":
            return Result(lease=attempt.id, receipt={"\0": []}, leaves=(), output=b"", detail="\0")
        return result


def _honest(way: str) -> str:
    return "nothing" if way == "nothing" else "truth"


NO_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def run(where: Path | str, examples: int, steps: int) -> None:
    machine = type("Here", (Histories,), {"where": where})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None,
            suppress_health_check=NO_CHECKS,
        ),
    )  # fmt: skip


def test_random_histories_keep_every_promise(tmp_path: Path) -> None:
    run(tmp_path, 15, 30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_random_histories_keep_every_promise(tmp_path: Path) -> None:
    run(tmp_path, 120, 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_histories_on_postgresql_keep_every_promise(postgres_url: str) -> None:
    run(postgres_url, 15, 40)


def test_the_model_knows_who_is_trusted() -> None:
    assert TRUSTED.is_trusted
    assert reputation.check_probability(TRUSTED) < 1
