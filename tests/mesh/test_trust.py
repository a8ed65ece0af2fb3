"""Who is believed: no wrong result is accepted while a third of the nodes lie in one voice."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arsenale_mesh import identity, receipts, reputation
from arsenale_mesh.canonical import digest
from arsenale_mesh.reputation import (
    Accepted,
    AskHouse,
    AskMore,
    Case,
    Provisional,
    Standing,
    Undecided,
    Withdrawn,
)

sys.path += [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "benchmarks")]
from benchmarks.bench_trust import STRATEGIES, Strategy, simulate

TRUSTED = Standing(score=0.9, streak=20, right=20)
BANNED = Standing(score=0.01, wrong=9)


def case(**changes: object) -> Case:
    return replace(Case(said={}, admitted=9, has_house=True), **changes)


@dataclass(frozen=True)
class Told:
    """A mesh of N nodes of which LIARS lie, and what they say, in the order they are asked."""

    n: int
    liars: frozenset[str]
    words: list[str]
    has_house: bool
    assurance: reputation.Assurance
    draw: float
    standings: dict[str, Standing]


@st.composite
def meshes(draw: st.DrawFn) -> Told:
    n = draw(st.integers(1, 24))
    names = [f"n{i}" for i in range(n)]
    liars = frozenset(draw(st.permutations(names))[: draw(st.integers(0, n // 3))])
    standing = st.builds(
        Standing, score=st.floats(0, 1), streak=st.integers(0, 200), right=st.integers(0, 400),
        wrong=st.integers(0, 5),
    )  # fmt: skip
    return Told(
        n=n,
        liars=liars,
        words=draw(st.lists(st.sampled_from(["lie", "lie", "other lie", "true"]), min_size=n,
                            max_size=n)),
        has_house=draw(st.booleans()),
        assurance=draw(st.sampled_from(["verified", "provisional"])),
        draw=draw(st.floats(0, 1)),
        standings={name: draw(standing) for name in names},
    )  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(meshes(), st.randoms(use_true_random=False))
def test_whatever_a_third_says_in_whatever_order_no_wrong_outcome_is_accepted(
    told: Told, rng: object
) -> None:
    names = sorted(told.standings)
    order = sorted(names, key=lambda name: (digest(f"{rng}{name}".encode()), name))
    said: dict[str, str] = {}
    house: frozenset[str] = frozenset()
    for _ in range(3 * told.n + 3):
        found = reputation.verdict(
            Case(
                said=said, house=house, standings=told.standings, admitted=told.n,
                has_house=told.has_house, assurance=told.assurance, checked=told.draw < 0.5,
            )
        )  # fmt: skip
        match found:
            case AskHouse():
                assert told.has_house and not house
                said, house = {**said, "house": "true"}, frozenset({"house"})
            case AskMore():
                left = [name for name in order if name not in said][: found.more]
                if not left:
                    return
                lies = dict(zip(names, told.words, strict=True))
                said |= {name: lies[name] if name in told.liars else "true" for name in left}
            case Accepted():
                assert found.outcome == "true"
                assert set(found.wrong) <= told.liars
                return
            case Provisional():
                assert told.assurance == "provisional"
                assert any(told.standings[name].is_trusted for name in found.right)
                return
            case Undecided():
                assert not told.has_house
                return
    pytest.fail("it never ends")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("has_house", [True, False])
def test_a_third_of_liars_gets_nothing_wrong_accepted_and_ends_below_the_honest(
    strategy: Strategy, has_house: bool
) -> None:
    ways: tuple[tuple[reputation.Assurance, int], ...] = (
        ("verified", 1_000),
        ("provisional", 2_000),
    )
    for assurance, tasks in ways:
        found = simulate(9, strategy, tasks, assurance=assurance, has_house=has_house, seed=3)
        assert (found.accepted_wrong, found.honest_wrong, found.undecided) == (0, 0, 0)
        assert found.accepted + found.provisional >= tasks
        assert found.liar_score < found.honest_score
        if assurance == "verified":  # on trust, who lies now and then earns like the others
            assert found.liar_credits < found.honest_credits


def test_who_lies_always_soon_gets_no_work_and_claims_do_not_help() -> None:
    for strategy in ("always", "colluders", "claimers", "replayers"):
        found = simulate(30, strategy, 2_000, seed=5)
        assert found.share_last == 0.0 and found.liar_credits == 0.0
    honest = simulate(30, "always", 60, seed=5).share_first
    assert simulate(30, "claimers", 60, seed=5).share_first <= honest + 0.1


def test_a_new_name_takes_an_invitation_for_every_four_lies_at_most() -> None:
    found = simulate(9, "returners", 2_000)
    assert found.accepted_wrong == 0
    assert found.invitations > 20


def test_what_trust_lets_through_is_less_than_what_was_stated() -> None:
    found = simulate(30, "sometimes", 6_000, assurance="provisional")
    assert found.provisional > 4_000
    assert 0 < found.wrong_on_trust < found.risk
    assert (found.runs + found.house_runs) / found.tasks < 1.2


def test_sleepers_get_lies_through_only_until_the_next_check() -> None:
    found = simulate(9, "sleepers", 4_000, assurance="provisional")
    assert found.withdrawn > 0 and found.passed_wrong == 0


def test_a_quorum_is_more_than_a_third_and_at_least_two() -> None:
    assert [reputation.quorum(n) for n in (1, 3, 5, 6, 9, 300)] == [2, 2, 2, 3, 4, 101]
    for n in range(1, 400):
        assert 3 * reputation.quorum(n) > n


def test_two_that_agree_are_not_enough_among_nine() -> None:
    said = {"a": "x", "b": "x"}
    assert reputation.verdict(case(said=said, has_house=False)) == AskMore(
        more=2, reason="verified, of 2 that said something"
    )
    assert isinstance(reputation.verdict(case(said=said)), AskHouse)
    four = dict.fromkeys("abcd", "x")
    assert reputation.verdict(case(said=four)) == Accepted(
        outcome="x", how="quorum", right=("a", "b", "c", "d"), wrong=()
    )


def test_the_house_decides_and_is_not_paid() -> None:
    said = {**dict.fromkeys("abcd", "lie"), "e": "true", "h": "true"}
    found = reputation.verdict(case(said=said, house=frozenset("h")))
    assert found == Accepted(outcome="true", how="house", right=("e",), wrong=tuple("abcd"))
    split = reputation.verdict(case(said={"h": "x", "i": "y"}, house=frozenset("hi")))
    assert isinstance(split, Undecided)


def test_nobody_is_wrong_about_how_deep_a_stack_is() -> None:
    deep = reputation.OVERFLOWED
    found = reputation.verdict(
        case(said={"a": deep, "b": "x", "c": "y", "h": "x"}, house=frozenset("h"))
    )
    assert isinstance(found, Accepted) and (found.right, found.wrong) == (("b",), ("c",))
    other = reputation.verdict(case(said={"a": "x", "b": deep, "h": deep}, house=frozenset("h")))
    assert isinstance(other, Accepted) and (other.right, other.wrong) == (("b",), ())


def test_a_dispute_goes_to_the_house_though_a_quorum_agrees() -> None:
    said = {**dict.fromkeys("abcd", "x"), "e": "y"}
    assert isinstance(reputation.verdict(case(said=said)), AskHouse)
    alone = reputation.verdict(case(said=said, has_house=False))
    assert isinstance(alone, Accepted) and alone.wrong == ("e",)


def test_where_two_thirds_contradict_each_other_nobody_is_believed() -> None:
    said = {**dict.fromkeys("abcd", "x"), **dict.fromkeys("efgh", "y")}
    assert isinstance(reputation.verdict(case(said=said, has_house=False)), Undecided)


def test_a_mesh_too_large_for_a_quorum_needs_a_house() -> None:
    found = reputation.verdict(case(said={"a": "x"}, has_house=False, admitted=10_000))
    assert isinstance(found, Undecided) and "house" in found.reason


def test_a_trusted_word_is_provisional_unless_more_is_asked_or_it_is_checked() -> None:
    told = case(said={"a": "x"}, standings={"a": TRUSTED}, assurance="provisional", checked=False)
    found = reputation.verdict(told)
    assert found == Provisional(outcome="x", risk=reputation.risk(TRUSTED), right=("a",))
    checked = reputation.verdict(replace(told, checked=True))
    assert isinstance(checked, AskHouse) and checked.meanwhile == found
    for other in (
        replace(told, assurance="verified"),
        replace(told, standings={"a": replace(TRUSTED, streak=9)}),
        replace(told, standings={}),
        replace(told, said={"a": "x", "b": "y"}),
    ):
        answer = reputation.verdict(other)
        assert isinstance(answer, AskHouse) and answer.meanwhile is None


def test_a_provisional_result_is_withdrawn_when_the_truth_is_another() -> None:
    delivered = Provisional(outcome="x", risk=0.01, right=("a",))
    true = Accepted(outcome="x", how="house", right=("a",), wrong=())
    assert reputation.settled(delivered, true) == true
    false = replace(true, outcome="y", right=(), wrong=("a",))
    assert reputation.settled(delivered, false) == Withdrawn(outcome="x", instead="y", wrong=("a",))


def test_a_check_without_a_run_is_enough_and_punishes_nobody() -> None:
    proved = frozenset({"x"})
    found = reputation.verdict(case(said={"a": "x"}, proved=proved))
    assert found == Accepted(outcome="x", how="check", right=("a",), wrong=())
    disputed = case(said={"a": "x", "b": "y"}, proved=proved)
    assert isinstance(reputation.verdict(disputed), AskHouse)
    alone = reputation.verdict(replace(disputed, has_house=False))
    assert alone == found


def test_the_banned_are_not_heard() -> None:
    said = dict.fromkeys("abcd", "lie")
    told = case(said=said, standings=dict.fromkeys("abcd", BANNED), has_house=False)
    assert reputation.verdict(told) == AskMore(more=1, reason="nobody said anything")


def test_who_is_wrong_three_times_is_out_unless_that_is_rare() -> None:
    new = Standing()
    for _ in range(3):
        assert not new.is_banned
        new = reputation.after(new, "wrong")
    assert new.is_banned and new.worth == 0
    rare = Standing(score=0.9, streak=50, right=1_000, wrong=3)
    assert not rare.is_banned and rare.is_trusted
    assert replace(rare, right=200).is_banned


def test_right_is_slow_to_earn_and_wrong_quick_to_lose() -> None:
    standing = Standing()
    for _ in range(10):
        standing = reputation.after(standing, "right")
    assert standing.is_trusted and standing.score == pytest.approx(1 - 0.8 * 0.95**10)
    lost = reputation.after(standing, "wrong")
    assert lost.score == pytest.approx(standing.score * 2 / 3) and not lost.is_trusted
    assert reputation.after(standing, "forgery") == lost


@given(st.lists(st.sampled_from(["right", "wrong", "forgery", "unchecked", "nothing"])))
def test_a_score_lies_in_0_to_1_whatever_happens(events: list[reputation.Event]) -> None:
    standing = Standing()
    for event in events:
        standing = reputation.after(standing, event)
        assert 0 <= standing.score <= 1 and 0 <= standing.worth <= 1
        assert 0.02 <= reputation.check_probability(standing) <= 1
        assert 0 < reputation.risk(standing) <= 1


def test_who_often_says_nothing_is_worth_less_but_not_wrong() -> None:
    flaky = TRUSTED
    for _ in range(20):
        flaky = reputation.after(flaky, "nothing")
    assert flaky.worth == pytest.approx(0.9 * 21 / 41)
    assert flaky.is_trusted and flaky.wrong == 0


def test_the_more_was_right_the_less_is_checked_and_the_smaller_the_risk() -> None:
    asked = [Standing(streak=k) for k in (9, 10, 20, 50, 1_000)]
    assert [reputation.check_probability(s) for s in asked] == [1, 0.1, 0.05, 0.02, 0.02]
    risks = [reputation.risk(s) for s in asked]
    assert risks == sorted(risks, reverse=True)
    assert reputation.risk(Standing(streak=10)) == pytest.approx(0.01753, abs=1e-5)
    assert reputation.risk(Standing(streak=10, wrong=1)) == pytest.approx(0.2589, abs=1e-4)
    assert reputation.lies_unseen(asked[-1]) == pytest.approx(49)


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_stated_risk_bounds_every_constant_rate(streak: int, rate: float) -> None:
    f, unseen = 1 / 3, (1 - rate) ** streak
    wrong = f * rate * unseen / (f * unseen + 1 - f)
    assert wrong <= reputation.risk(Standing(streak=streak)) + 1e-12


ONE = identity.make()
BODY = receipts.Body(
    task="t1", nonce="n1", module=digest(b"m"), function="run", input=digest(b"i"),
    output=digest(b"o"), seed=7, clock_us=0, status="ok", fuel=5_000_000,
    limits=receipts.Limits(memory_bytes=2**29, fuel=10**10, wall_ms=30_000, output_bytes=2**20),
    slice_fuel=10**8, slices=1, trace=digest(b"t"), engine="e", node=ONE.did,
    started_us=1, ended_us=2,
)  # fmt: skip


def test_ends_that_depend_on_the_machine_are_no_word() -> None:
    def word(**changes: object) -> str | None:
        return reputation.word(receipts.sign(replace(BODY, **changes), ONE))

    for status in ("timeout", "worker_died", "too_large"):
        assert word(status=status) is None
    assert word(fuel=1) != word(fuel=2) and word(status="trap") != word(status="ok")
    assert word(status="stack_overflow", fuel=1) == word(status="stack_overflow", fuel=2)


@pytest.mark.parametrize(
    ("expected", "forged"),
    [
        (receipts.Expected(task="t2"), True), (receipts.Expected(nonce="n2"), True),
        (receipts.Expected(module="m"), True), (receipts.Expected(engine="other"), False),
        (receipts.Expected(), False),
    ],
)  # fmt: skip
def test_an_old_receipt_is_a_forgery_and_another_engine_is_none(
    expected: receipts.Expected, forged: bool
) -> None:
    found = receipts.problems(receipts.sign(BODY, ONE), expected)
    assert reputation.is_forgery(found) is forged


@given(st.integers(0, 10**6), st.sets(st.text(max_size=3), min_size=1, max_size=9))
def test_no_credit_is_lost_or_made_when_a_reward_is_shared(reward: int, right: set[str]) -> None:
    paid = reputation.shares(reward, sorted(right))
    assert sum(paid.values()) == reward and set(paid) == right
    assert max(paid.values()) - min(paid.values()) <= 1
    assert reputation.shares(reward, []) == {}


def test_a_reward_is_whole_and_a_penalty_takes_no_more_than_there_is() -> None:
    assert [reputation.reward(fuel) for fuel in (0, 1, 10**6, 10**6 + 1)] == [1, 2, 2, 3]
    balances = (-3, 0, 3, 9, 90)
    assert [reputation.penalty(5, have, banned=False) for have in balances] == [0, 0, 3, 5, 30]
    assert [reputation.penalty(5, have, banned=True) for have in balances] == [0, 0, 3, 9, 90]
