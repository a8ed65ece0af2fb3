"""What results lead to: every branch, on both databases, without a sandbox."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from tests.mesh.village import FUEL, Village, truth

from arsenale_core.errors import ConflictError
from arsenale_mesh import changes, merkle, reputation, rows
from arsenale_mesh.record import Task
from arsenale_mesh.sandbox.jobs import limits

REWARD = reputation.reward(FUEL)
NINE = tuple(f"n{number}" for number in range(1, 10))


# The house decides.


def test_a_strangers_word_is_checked_by_the_house_and_paid_when_it_agrees(village: Village) -> None:
    village.settle_in("ada", house="home")
    task = village.task()
    village.say(task, "ada")
    asked = village.now(task)
    assert (asked.state, asked.asks, asked.wants, asked.output) == ("checking", "house", 1, None)
    assert village.node("ada").credits == 0
    village.say(asked, "home")
    done = village.now(task)
    assert (done.state, done.how, done.wants, done.risk) == ("done", "house", 0, None)
    assert (done.status, done.fuel, done.reward) == ("ok", FUEL, REWARD)
    assert done.output == sha256(truth(task)).hexdigest()
    assert village.paid(task) == {"ada": REWARD}
    assert village.node("ada").standing.right == 1
    assert [one.state for one in village.attempts(task)] == ["right", "right"]
    village.check()


def test_a_lie_is_found_out_by_the_house_and_earns_nothing(village: Village) -> None:
    village.settle_in("eve", house="home")
    task = village.task()
    village.say(task, "eve", b"a lie")
    village.say(task, "home")
    assert village.now(task).output == sha256(truth(task)).hexdigest()
    assert village.paid(task) == {"home": REWARD}
    assert village.node("eve").standing.wrong == 1
    assert [one.state for one in village.attempts(task)] == ["wrong", "right"]
    assert "result.wrong" in village.notes()
    village.check()


def test_a_liar_pays_a_third_of_what_it_has_and_is_banned_with_nothing(village: Village) -> None:
    village.settle_in("eve", house="home")
    for _ in range(3):
        task = village.task()
        village.say(task, "eve")
        village.say(task, "home")
    earned = village.node("eve").credits
    assert earned == 3 * REWARD
    owned = [earned]
    for _ in range(8):
        task = village.task()
        village.say(task, "eve", b"lie about " + task.name.encode())
        settled = village.say(task, "home")
        owned.append(village.node("eve").credits)
        if village.node("eve").state == "banned":
            assert [one.state for one in settled.nodes if one.name == "eve"] == ["banned"]
            break
    assert owned[1] == earned - max(REWARD, -(-earned // 3))
    assert owned[-1] == 0
    assert village.node("eve").state == "banned"
    assert village.notes().count("node.banned") == 1
    with pytest.raises(ConflictError, match="banned"):
        _come_back(village, "eve")
    village.check()


def _come_back(village: Village, name: str) -> None:
    new = changes.Newcomer(
        did=village.keys[name].did, name=name, kind="pc", house=False, local=True, slots=1,
        memory_bytes=1, engine="any",
    )  # fmt: skip
    village.do(lambda c: changes.admit(c, new))


def test_two_that_differ_are_decided_between_by_the_house(village: Village) -> None:
    village.settle_in("ada", "eve", house="home")
    task = village.task()
    village.do(lambda c: rows.set_task(c, replace(task, wants=2)))
    leases = {name: village.lease(task, name) for name in ("ada", "eve")}
    village.settle("ada", village.result(task, "ada", leases["ada"]))
    village.settle("eve", village.result(task, "eve", leases["eve"], b"a lie"))
    assert village.now(task).asks == "house"
    village.say(task, "home")
    assert village.paid(task) == {"ada": REWARD}
    assert village.node("eve").standing.wrong == 1
    assert village.node("ada").standing.wrong == 0
    village.check()


# Leases.


def test_a_result_counts_once_however_often_it_comes(village: Village) -> None:
    village.settle_in("ada", house="home")
    task = village.task()
    lease = village.lease(task, "ada")
    result = village.result(task, "ada", lease)
    first = village.settle("ada", result)
    village.say(task, "home")
    before = village.node("ada")
    for again in (village.settle("ada", result), village.settle("ada", result)):
        assert (again.task, again.nodes, again.drop) == (None, [], [])
    assert first.task is not None
    assert village.node("ada") == before
    village.check()


@pytest.mark.parametrize("how", ["foreign", "unknown", "lost", "cancelled", "given_up"])
def test_a_result_for_a_lease_that_is_not_the_nodes_changes_nothing(
    village: Village, how: str
) -> None:
    village.settle_in("ada", "bob", house="home")
    task = village.task()
    lease = village.lease(task, "ada")
    result = village.result(task, "ada", lease)
    who = "ada"
    if how == "foreign":
        who = "bob"
    elif how == "unknown":
        result = replace(result, lease=2**62)
    elif how == "lost":
        village.do(lambda c: changes.let_go(c, [lease], "lost", is_failure=True))
    elif how == "cancelled":
        village.do(lambda c: changes.cancel(c, task.id))
    else:
        village.do(lambda c: changes.failed(c, task, "nobody wants it"))
    before = village.now(task), village.node("ada"), village.node("bob")
    assert village.settle(who, result).task is None
    assert (village.now(task), village.node("ada"), village.node("bob")) == before
    assert village.paid(task) == {}
    village.check()


# Forgery.

FORGED: dict[str, dict[str, Any]] = {
    "nonce": {"nonce": "0" * 32},
    "task": {"task": "m999"},
    "module": {"module": "ab" * 32},
    "function": {"function": "other"},
    "input": {"input": "cd" * 32},
    "seed": {"seed": 7},
    "clock": {"clock_us": 7},
    "slice": {"slice_fuel": 7},
    "limits": {"limits": limits(fuel=10**9, wall_ms=1)},
    "too much fuel": {"fuel": 2 * 10**9},
    "trace": {"trace": "ef" * 32},
    "output": {"output": "ef" * 32},
}


@pytest.mark.parametrize("what", FORGED)
def test_a_receipt_of_something_else_is_a_forgery_and_another_runs_the_task(
    village: Village, what: str
) -> None:
    village.settle_in("ada", "eve", house="home")
    task = village.task()
    village.say(task, "eve", **FORGED[what])
    _forged(village, task)


def _forged(village: Village, task: Task) -> None:
    assert village.node("eve").standing.wrong == 1
    assert [one.state for one in village.attempts(task)] == ["forged"]
    assert "receipt.forged" in village.notes()
    again = village.now(task)
    assert (again.state, again.wants, again.output) == ("queued", 1, None)
    village.say(task, "ada")
    village.say(task, "home")
    assert village.now(task).state == "done"
    assert village.paid(task) == {"ada": REWARD}
    village.check()


@pytest.mark.parametrize("way", ["signature", "stolen", "replayed", "no receipt", "odd fields"])
def test_a_receipt_that_the_node_never_signed_for_this_task_is_a_forgery(
    village: Village, way: str
) -> None:
    village.settle_in("ada", "eve", house="home")
    earlier = village.task()
    lease = village.lease(earlier, "eve")
    old = village.result(earlier, "eve", lease)
    village.settle("eve", old)
    village.say(earlier, "home")
    village.do(lambda c: rows.set_standing(c, village.numbers["eve"], reputation.Standing()))
    task = village.task()
    lease = village.lease(task, "eve")
    good = village.result(task, "eve", lease)
    receipt = {
        "signature": {**good.receipt, "signature": "00" * 64},
        "stolen": village.result(task, "ada", lease).receipt,
        "replayed": old.receipt,
        "no receipt": {},
        "odd fields": {**good.receipt, "\0 half \u2028 of a field": 1},
    }[way]
    village.settle("eve", replace(good, receipt=receipt))
    assert village.node("ada").standing == reputation.Standing(), "who is named is not to blame"
    _forged(village, task)


@pytest.mark.parametrize("what", ["output", "leaves", "size"])
def test_what_comes_along_has_to_be_what_the_receipt_speaks_of(village: Village, what: str) -> None:
    village.settle_in("ada", "eve", house="home")
    task = village.task()
    lease = village.lease(task, "eve")
    good = village.result(task, "eve", lease)
    other = merkle.leaf(b"another state").hex()
    village.settle(
        "eve",
        {
            "output": replace(good, output=b"something else"),
            "leaves": replace(good, leaves=(other,)),
            "size": village.result(task, "eve", lease, bytes((1 << 20) + 1)),
        }[what],
    )
    _forged(village, task)


def test_words_for_people_may_hold_whatever_bytes(village: Village) -> None:
    village.settle_in("ada", house="home")
    task = village.task()
    lease = village.lease(task, "ada")
    result = village.result(task, "ada", lease)
    village.settle("ada", replace(result, detail="a\0b\u2028", stderr=b"\0\xff"))
    village.say(task, "home")
    assert village.now(task).state == "done"
    assert village.paid(task) == {"ada": REWARD}


@pytest.mark.parametrize("changed", [{"engine": "wasmtime 1"}, {"started_us": 9, "ended_us": 3}])
def test_another_engine_and_a_clock_set_back_are_no_lie(
    village: Village, changed: dict[str, Any]
) -> None:
    village.settle_in("ada", "bob", house="home")
    task = village.task()
    village.say(task, "ada", **changed)
    assert village.node("ada").standing.wrong == 0
    assert village.node("ada").standing.nothing == 1
    again = village.now(task)
    assert (again.state, again.wants, again.asks, again.failures) == ("queued", 1, "house", 1)
    village.say(task, "home")
    assert village.now(task).how == "house"
    village.check()


# Without a house: more than a third.


def test_without_a_house_more_than_a_third_have_to_agree(village: Village) -> None:
    village.settle_in(*NINE)
    task = village.task()
    for count, name in enumerate(("n1", "n2", "n3")):
        village.say(task, name)
        now = village.now(task)
        assert (now.state, now.wants, now.output) == ("running", 3 - count, None)
    village.say(task, "n4")
    done = village.now(task)
    assert (done.state, done.how, done.wants) == ("done", "quorum", 0)
    assert sum(village.paid(task).values()) == REWARD
    assert {village.node(name).standing.right for name in ("n1", "n2", "n3", "n4")} == {1}
    village.check()


def test_liars_that_are_a_third_and_speak_first_do_not_get_through(village: Village) -> None:
    village.settle_in(*NINE)
    task = village.task()
    for name in ("n1", "n2", "n3"):
        village.say(task, name, b"one lie of all")
    for name in ("n4", "n5", "n6", "n7"):
        assert village.now(task).state == "running"
        village.say(task, name)
    done = village.now(task)
    assert done.output == sha256(truth(task)).hexdigest()
    assert [village.node(name).standing.wrong for name in NINE] == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    village.check()


def test_those_that_still_run_it_are_called_off_and_not_asked_for_twice(village: Village) -> None:
    village.settle_in(*NINE)
    task = village.task()
    village.say(task, "n1")
    leases = {name: village.lease(task, name) for name in ("n2", "n3", "n4")}
    assert village.now(task).wants == 0
    village.settle("n2", village.result(task, "n2", leases["n2"], b"a lie"))
    assert village.now(task).wants == 1, "two run it, three have to agree with the first"
    village.say(task, "n5")
    village.settle("n3", village.result(task, "n3", leases["n3"]))
    last = village.lease(task, "n6") if village.now(task).wants else None
    settled = village.settle("n4", village.result(task, "n4", leases["n4"]))
    assert village.now(task).state == "done"
    assert [one.id for one in settled.drop] == ([last] if last else [])
    village.check()


def test_where_not_enough_nodes_are_left_to_ask_nobody_is_believed(village: Village) -> None:
    village.settle_in("ada", "eve")
    task = village.task()
    village.say(task, "ada")
    village.say(task, "eve", b"a lie")
    undecided = village.now(task)
    assert (undecided.state, undecided.wants) == ("failed", 0)
    assert "would decide" in undecided.detail
    assert village.paid(task) == {}
    assert village.node("ada").standing.wrong == village.node("eve").standing.wrong == 0
    assert village.notes()[-1] == "task.undecided"
