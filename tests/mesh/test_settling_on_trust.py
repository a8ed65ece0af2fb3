"""What is delivered on trust, ends that prove nothing, and products, on both databases."""

import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from tests.mesh.village import FUEL, Draw, Village, truth

from arsenale_mesh import changes, guests, reputation, rows, settling
from arsenale_mesh.record import NewTask, Task
from arsenale_mesh.sandbox.jobs import limits
from arsenale_mesh.verification import freivalds

REWARD = reputation.reward(FUEL)
NINE = tuple(f"n{number}" for number in range(1, 10))


def trusted(village: Village, *names: str) -> None:
    """Let nodes have been right often enough to be believed."""
    for name in names:
        standing = village.node(name).standing
        for _ in range(reputation.TRUSTED_AFTER):
            standing = reputation.after(standing, "right")
        number = village.numbers[name]
        village.do(lambda c, n=number, s=standing: rows.set_standing(c, n, s))


def drawn(village: Village, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Let a task be delivered on trust, and the draw say that the house is to check it."""
    monkeypatch.setattr(settling, "RANDOM", Draw(0.0))
    village.settle_in("ada", house="home")
    trusted(village, "ada")
    task = village.task(assurance="provisional")
    village.say(task, "ada")
    return task


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "RANDOM", Draw(0.999))


# On trust.


def test_a_trusted_nodes_word_is_delivered_with_its_risk(village: Village, unchecked: None) -> None:
    del unchecked
    village.settle_in("ada", house="home")
    trusted(village, "ada")
    task = village.task(assurance="provisional")
    village.say(task, "ada")
    now = village.now(task)
    assert (now.state, now.how, now.wants, now.reward) == ("done", "provisional", 0, 0)
    assert now.risk is not None
    assert 0 < now.risk < 0.05
    assert village.paid(task) == {}
    assert village.node("ada").standing.unchecked == 1
    village.check()


def test_what_was_done_on_trust_is_paid_when_a_check_finds_the_node_right(
    village: Village, unchecked: None
) -> None:
    del unchecked
    village.settle_in("ada", house="home")
    trusted(village, "ada")
    many = [village.task(assurance="provisional") for _ in range(settling.SETTLED_AT_ONCE + 5)]
    for task in many:
        village.say(task, "ada")
    for _ in range(2):
        checked = village.task()
        village.say(checked, "ada")
        village.say(checked, "home")
    assert village.node("ada").credits == (len(many) + 2) * REWARD
    assert {village.now(task).reward for task in many} == {REWARD}
    village.check()


def test_who_is_found_to_lie_has_all_it_did_on_trust_run_again(
    village: Village, unchecked: None
) -> None:
    del unchecked
    village.settle_in("eve", house="home")
    trusted(village, "eve")
    lied, told = village.task(assurance="provisional"), village.task(assurance="provisional")
    village.say(lied, "eve", b"a lie")
    village.say(told, "eve")
    found = village.task()
    village.say(found, "eve", b"another lie")
    village.say(found, "home")
    for task in (lied, told):
        now = village.now(task)
        assert (now.state, now.asks, now.wants) == ("done", "house", 1)
        village.say(task, "home")
    assert "withdrawn" in village.now(lied).detail
    assert village.now(lied).output == sha256(truth(lied)).hexdigest()
    assert village.now(lied).risk is None
    assert village.notes().count("result.withdrawn") == 1
    assert village.paid(told)["eve"] == REWARD
    assert village.node("eve").standing.wrong == 2
    village.check()


def test_a_draw_that_says_so_has_the_house_check_what_is_delivered_meanwhile(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = drawn(village, monkeypatch)
    now = village.now(task)
    assert (now.state, now.how, now.wants, now.asks) == ("done", "provisional", 1, "house")
    village.say(task, "home")
    assert (village.now(task).how, village.paid(task)) == ("house", {"ada": REWARD})
    village.check()


def test_a_forged_check_is_no_check(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "RANDOM", Draw(0.0))
    village.settle_in(*NINE)
    trusted(village, "n1")
    task = village.task(assurance="provisional")
    village.say(task, "n1", b"a lie")
    assert village.now(task).wants == 3
    village.say(task, "n2", nonce="0" * 32)
    assert village.now(task).wants == 3, "another has to check it"
    for name in ("n3", "n4", "n5"):
        village.say(task, name)
    assert village.now(task).wants == 1
    village.say(task, "n6")
    assert village.now(task).output == sha256(truth(task)).hexdigest()
    village.check()


# Ends that prove nothing.


def test_a_timeout_is_nobodys_fault_and_the_house_has_the_last_word(village: Village) -> None:
    village.settle_in("ada", house="home")
    task = village.task()
    village.say(task, "ada", b"", status="timeout")
    assert village.node("ada").standing.wrong == 0
    assert village.now(task).asks == "house"
    village.say(task, "home", b"", status="timeout")
    done = village.now(task)
    assert (done.state, done.status, done.how) == ("done", "timeout", "house")
    assert village.paid(task) == {}
    village.check()


def test_the_last_word_of_the_house_stays_though_others_speak_later(village: Village) -> None:
    village.settle_in("n1", "n2", "n3")
    task = village.task()
    village.say(task, "n1")
    late = village.lease(task, "n2")
    village.settle_in(house="home")
    village.do(lambda c: rows.set_task(c, replace(village.now(task), wants=1, asks="house")))
    settled = village.say(task, "home", b"", status="timeout")
    assert [one.id for one in settled.drop] == [late]
    village.settle("n2", village.result(task, "n2", late))
    assert village.now(task).status == "timeout"
    assert village.paid(task) == {}
    village.check()


def test_a_guest_under_which_workers_die_is_given_up_by_the_house_at_last(
    village: Village,
) -> None:
    village.settle_in(house="home")
    task = village.task()
    deaths = 0
    while village.now(task).state != "done":
        village.say(task, "home", b"", status="worker_died")
        deaths += 1
        assert deaths < 9
    assert (deaths, village.now(task).status) == (3, "worker_died")


def test_a_task_that_comes_to_nothing_five_times_is_given_up(village: Village) -> None:
    village.settle_in(*NINE)
    task = village.task()
    for name in NINE[: changes.MOST_FAILURES]:
        assert village.now(task).wants == 1
        village.say(task, name, b"", status="timeout")
    assert (village.now(task).state, village.now(task).wants) == ("failed", 0)
    assert {village.node(name).standing.wrong for name in NINE} == {0}


def test_without_a_house_what_is_too_much_for_every_node_is_given_up_at_once(
    village: Village,
) -> None:
    village.settle_in("ada", "bob")
    task = village.task()
    village.say(task, "ada", b"", status="timeout")
    assert village.now(task).state == "queued"
    village.say(task, "bob", b"", status="worker_died")
    assert village.now(task).state == "queued"
    village.say(task, "bob", b"", status="too_large")
    assert (village.now(task).state, village.now(task).detail) == (
        "failed", "on every node: too_large"
    )  # fmt: skip


def test_the_only_node_may_try_again_what_was_too_much(village: Village) -> None:
    village.settle_in("ada")
    task = village.task()
    village.say(task, "ada", b"", status="too_large")
    assert village.now(task).state == "queued"
    village.say(task, "ada", b"", status="too_large")
    assert village.now(task).state == "failed"


def test_nobody_is_wrong_about_how_deep_a_stack_is(village: Village) -> None:
    village.settle_in("ada", house="home")
    task = village.task()
    village.say(task, "ada", b"", status="stack_overflow")
    village.say(task, "home")
    assert village.now(task).status == "ok"
    assert village.node("ada").standing.wrong == 0
    village.check()


# Products of matrices need no second run.


def _product(village: Village) -> tuple[Task, bytes]:
    """Enqueue a product of two matrices (1 x 1); return it and what is right."""
    input = struct.pack("<4I", 8, 1, 1, 1) + struct.pack("<2q", 6, 7)
    new = NewTask(
        module=guests.sha_of("matmul"), function="run", input=sha256(input).hexdigest(),
        limits=limits(fuel=10**9),
    )  # fmt: skip
    blobs = (guests.module("matmul"), input)
    return village.do(lambda c: changes.enqueue(c, new, blobs)), struct.pack("<q", 42)


def test_a_product_that_holds_is_accepted_without_a_second_run(village: Village) -> None:
    village.settle_in("ada", house="home")
    task, right = _product(village)
    village.say(task, "ada", right, fuel=500)
    done = village.now(task)
    assert (done.state, done.how) == ("done", "check")
    assert sum(village.paid(task).values()) == reputation.reward(500)


def test_a_product_that_does_not_hold_is_not(village: Village) -> None:
    village.settle_in("eve", house="home")
    task, right = _product(village)
    village.say(task, "eve", struct.pack("<q", 43), fuel=500)
    assert village.now(task).asks == "house"
    village.say(task, "home", right, fuel=500)
    assert village.node("eve").standing.wrong == 1
    other, right = _product(village)
    input = village.see(lambda db: rows.blob(db, other.input))
    village.say(other, "eve", right, fuel=freivalds.fuel_at_most(input) + 1)
    assert village.now(other).state == "checking", "more fuel than it can have burnt is no proof"
    village.check()


def test_a_check_that_says_nothing_leaves_what_was_delivered_on_trust(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = drawn(village, monkeypatch)
    delivered = village.now(task)
    assert (delivered.how, delivered.wants) == ("provisional", 1)
    village.say(task, "home", status="timeout")
    now = village.now(task)
    assert (now.how, now.wants, now.status, now.output) == (
        "provisional", 0, "ok", delivered.output,
    )  # fmt: skip
    village.check()
