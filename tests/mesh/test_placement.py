"""Placement: the best by the formula, never one that may not; equals share; it adapts."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arsenale_mesh import placement
from arsenale_mesh.health import Health, Telemetry, health
from arsenale_mesh.placement import ANY, Entry, Fleet, Wanted


def scored(
    bandwidth: float | None,
    latency_s: float | None,
    joules: float | None,
    reputation: float,
    is_ours: bool,
) -> Health:
    seen = Telemetry(bandwidth=bandwidth, latency_s=latency_s, joules_per_gfuel=joules)
    return health(seen, reputation, is_ours=is_ours)


SCORES = st.builds(
    scored,
    st.none() | st.sampled_from([1e5, 1e7]),
    st.none() | st.sampled_from([0.01, 0.1]),
    st.none() | st.sampled_from([1.0, 100.0]),
    st.sampled_from([0.2, 0.9]),
    st.booleans(),
)

ENTRIES = st.builds(
    Entry,
    health=SCORES,
    joules_per_gfuel=st.none() | st.floats() | st.sampled_from([1.0, 20.0]),
    carbon=st.none() | st.floats() | st.sampled_from([30.0, 700.0]),
    slots=st.integers(-1, 3),
    queue=st.integers(-1, 2),
    memory_bytes=st.sampled_from([0, 1 << 20, 1 << 29]),
    engine=st.sampled_from(["native", "pulley"]),
    kind=st.sampled_from(["pc", "phone", "gateway"]),
    labels=st.frozensets(st.sampled_from(["gpu", "fast"])),
    is_open=st.sampled_from([True, True, True, False]),
    is_ours=st.booleans(),
    is_vouched=st.booleans(),
)

WANTED = st.builds(
    Wanted,
    memory_bytes=st.sampled_from([0, 1, 1 << 29]),
    excluded=st.frozensets(st.integers(0, 12), max_size=4),
    engines=st.frozensets(st.sampled_from(["native", "pulley", "none"]), max_size=2),
    kinds=st.frozensets(st.sampled_from(["pc", "phone"]), max_size=2),
    labels=st.frozensets(st.sampled_from(["gpu", "fast"]), max_size=1),
    where=st.sampled_from(["any", "any", "ours", "others"]),
    prefers_green=st.booleans(),
    most_carbon=st.none() | st.sampled_from([0.0, 100.0, 1000.0]),
)


def number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def may(node: int, entry: Entry, flight: int, wanted: Wanted) -> bool:
    """Say what the documentation of `Wanted` and `Entry` says, one node at a time."""
    carbon = number(entry.carbon) if entry.is_ours or entry.is_vouched else None
    return (
        entry.is_open
        and entry.slots > 0
        and flight < entry.slots + max(entry.queue, 0)
        and entry.memory_bytes >= wanted.memory_bytes
        and node not in wanted.excluded
        and (not wanted.engines or entry.engine in wanted.engines)
        and (not wanted.kinds or entry.kind in wanted.kinds)
        and wanted.labels <= entry.labels
        and (wanted.where == "any" or entry.is_ours == (wanted.where == "ours"))
        and (wanted.most_carbon is None or (carbon is not None and carbon <= wanted.most_carbon))
    )


def score(entry: Entry, flight: int, wanted: Wanted) -> float:
    """Compute the formula in the head of the module, in plain Python."""
    [term] = [term for term in entry.health.terms if term.name == "efficiency"]
    found = entry.health.score - 0.25 * flight / entry.slots
    if wanted.prefers_green:
        joules, carbon = number(entry.joules_per_gfuel), number(entry.carbon)
        joules = 10.0 if joules is None or not 1e-3 <= joules <= 1e7 else joules
        grams = joules / 3.6e6 * (475.0 if carbon is None else carbon)
        half = 10 / 3.6e6 * 475
        green = half / (half + grams)
        if not (entry.is_ours or entry.is_vouched):
            green = min(green, 0.5)
        found += term.weight * (green - term.value)
    return found


class Placing(RuleBasedStateMachine):
    """Nodes come, change, fill and go; every choice is compared with plain Python."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.entries: dict[int, Entry] = {}
        self.flight: Counter[int] = Counter()

    @rule(node=st.integers(0, 12), entry=ENTRIES)
    def put(self, node: int, entry: Entry) -> None:
        self.fleet.put(node, entry)
        self.entries[node] = entry

    @rule(node=st.integers(0, 12))
    def remove(self, node: int) -> None:
        self.fleet.remove(node)
        self.entries.pop(node, None)
        del self.flight[node]

    @rule(node=st.integers(0, 12), change=st.integers(-2, 3))
    def load(self, node: int, change: int) -> None:
        self.fleet.load(node, change)
        if node in self.entries:
            self.flight[node] = max(self.flight[node] + change, 0)

    @precondition(lambda self: self.entries)
    @rule(wanted=WANTED)
    def choose(self, wanted: Wanted) -> None:
        ranked = [each.node for each in self.fleet.ranked(wanted, 100)]
        self.judge(wanted, choice := self.fleet.choose(wanted))
        assert ([] if choice is None else [choice.node]) == ranked[:1]
        assert sorted(ranked) == sorted(self.able(wanted))
        if choice is None:
            assert sum(self.fleet.lacking(wanted).values()) >= len(self.entries)

    @rule(wanted=st.lists(WANTED, max_size=5))
    def choose_many(self, wanted: list[Wanted]) -> None:
        before = self.flight.copy()
        for each, choice in zip(wanted, self.fleet.choose_many(wanted), strict=True):
            self.judge(each, choice)
            if choice is not None:
                self.flight[choice.node] += 1
        self.flight = before

    def able(self, wanted: Wanted) -> list[int]:
        return [n for n, entry in self.entries.items() if may(n, entry, self.flight[n], wanted)]

    def judge(self, wanted: Wanted, choice: placement.Choice | None) -> None:
        able = self.able(wanted)
        assert (choice is None) == (not able)
        if choice is not None:
            assert choice.node in able
            best = max(score(self.entries[n], self.flight[n], wanted) for n in able)
            own = score(self.entries[choice.node], self.flight[choice.node], wanted)
            assert own == pytest.approx(best, abs=1e-12)
            assert choice.score == pytest.approx(own, abs=1e-12)
            said = sum(term.weight * term.value for term in choice.terms)
            assert choice.score == pytest.approx(said, abs=1e-12)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.fleet) == len(self.entries)
        assert all(self.fleet.in_flight(n) == self.flight[n] for n in range(13))


TestPlacing = Placing.TestCase
TestPlacing.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def entry(joules: float | None = None, latency_s: float = 0.05, slots: int = 4) -> Entry:
    seen = Telemetry(joules_per_gfuel=joules, latency_s=latency_s)
    return Entry(health=health(seen, 0.5, is_ours=True), slots=slots, is_ours=True)


def place(fleet: Fleet, tasks: int, wanted: Wanted = ANY) -> Counter[int]:
    """Choose for TASKS that do not end."""
    given: Counter[int] = Counter()
    for _ in range(tasks):
        choice = fleet.choose(wanted)
        if choice is not None:
            fleet.load(choice.node, 1)
            given[choice.node] += 1
    return given


@given(st.integers(1, 90), st.integers(1, 200), st.booleans())
@settings(max_examples=40, deadline=None)
def test_equal_nodes_share_evenly_whether_their_tasks_last_or_not(
    nodes: int, tasks: int, they_last: bool
) -> None:
    fleet = Fleet()
    for node in range(nodes):
        fleet.put(node, entry(slots=300))
    given: Counter[int] = Counter(dict.fromkeys(range(nodes), 0))
    for _ in range(tasks):
        choice = fleet.choose()
        assert choice is not None
        given[choice.node] += 1
        fleet.load(choice.node, int(they_last))
    assert max(given.values()) - min(given.values()) <= 1


@given(
    st.lists(st.floats(0.001, 1), min_size=2, max_size=8), st.integers(0, 30), st.data()
)  # fmt: skip
def test_a_node_whose_health_falls_gets_no_more_than_before(
    latencies: list[float], tasks: int, data: st.DataObject
) -> None:
    one = data.draw(st.integers(0, len(latencies) - 1))
    before, after = Fleet(), Fleet()
    for node, latency in enumerate(latencies):
        before.put(node, entry(latency_s=latency))
        after.put(node, entry(latency_s=latency))
    after.put(one, entry(latency_s=latencies[one] + data.draw(st.floats(0.01, 5))))
    assert place(after, tasks)[one] <= place(before, tasks)[one]


def test_tasks_move_away_as_telemetry_worsens_and_back_as_it_mends() -> None:
    fleet = Fleet()
    for node in range(3):
        fleet.put(node, entry())
    assert place(fleet, 3) == {0: 1, 1: 1, 2: 1}
    fleet.put(1, entry(latency_s=2.0))
    assert place(fleet, 6) == {0: 3, 2: 3}
    fleet.put(1, entry())
    assert place(fleet, 3) == {1: 3}  # they have four, it has one


@given(st.floats(1, 900), st.floats(1, 900), st.none() | st.floats(0.1, 100), st.booleans())
def test_of_two_equal_nodes_the_greener_is_chosen_where_that_is_preferred(
    one: float, other: float, joules: float | None, is_ours: bool
) -> None:
    fleet = Fleet()
    for node, carbon in enumerate((one, other)):
        same = replace(entry(joules), joules_per_gfuel=joules, is_ours=is_ours, is_vouched=True)
        fleet.put(node, replace(same, carbon=carbon))
    green = fleet.choose(Wanted(prefers_green=True))
    [first, second] = fleet.ranked(ANY)
    assert first.score == second.score  # else they are equal
    assert green is not None and (abs(one - other) < 1e-3 or green.node == int(other < one))


@given(
    st.none() | st.floats(), st.none() | st.floats(), st.none() | st.floats(0, 1000)
)  # fmt: skip
def test_no_claim_makes_a_node_that_is_not_ours_greener_than_its_silence(
    joules: float | None, carbon: float | None, limit: float | None
) -> None:
    silent = replace(entry(), is_ours=False)
    claiming = replace(silent, joules_per_gfuel=joules, carbon=carbon)
    assert placement.green_term(claiming) <= placement.green_term(silent) == 0.5
    fleet = Fleet()
    fleet.put(0, claiming)
    assert (fleet.choose(Wanted(most_carbon=limit)) is None) == (limit is not None)


def test_of_two_with_the_same_score_the_less_loaded_is_chosen() -> None:
    fleet = Fleet()
    fleet.put(0, Entry(health=Health(score=0.625, terms=()), slots=2))
    fleet.put(1, Entry(health=Health(score=0.5, terms=()), slots=2))
    fleet.load(0, 1)
    for _ in range(3):
        choice = fleet.choose()
        assert choice is not None and (choice.node, choice.score) == (1, 0.5)
    assert [each.score for each in fleet.ranked()] == [0.5, 0.5]


def test_who_comes_back_has_nothing_in_flight() -> None:
    fleet = Fleet()
    fleet.put(0, entry(slots=1))
    fleet.load(0, 1)
    assert fleet.choose() is None
    fleet.put(0, entry(slots=1))
    assert fleet.choose() is None  # telemetry ends no task
    fleet.remove(0)
    fleet.put(0, entry(slots=1))
    assert fleet.choose() is not None


def test_a_choice_says_why() -> None:
    fleet = Fleet()
    seen = Telemetry(bandwidth=125e6, latency_s=0.05, joules_per_gfuel=10, energy="measured")
    fleet.put(7, Entry(health=health(seen, 1.0, is_ours=True), slots=4, carbon=30.0,
                       joules_per_gfuel=10.0, is_ours=True))  # fmt: skip
    fleet.load(7, 1)
    [plain], [green] = fleet.ranked(), fleet.ranked(Wanted(prefers_green=True))
    assert plain.why == (
        "0.688 = 0.40 x 1.000 bandwidth (1.25e+08 B/s) + 0.30 x 0.500 latency (0.05 s) "
        "+ 0.20 x 0.500 efficiency (10 J per 10^9 fuel, measured) "
        "+ 0.10 x 1.000 reputation (verified work) - 0.25 x 0.250 load (1 in flight, 4 slots)"
    )
    assert "0.20 x 0.941 carbon (0.0833 mg CO2e for 10^9 fuel, of 10 J at 30 g a kWh)" in green.why
    assert fleet.lacking(Wanted(memory_bytes=1, where="others")) == {
        "too small": 1, "not others": 1,
    }  # fmt: skip


def test_nobody_is_chosen_of_none_and_who_left_is_no_error() -> None:
    fleet = Fleet()
    assert fleet.choose() is None and fleet.ranked() == [] and fleet.choose_many([ANY]) == [None]
    fleet.remove(3)
    fleet.load(3, 1)
    assert len(fleet) == 0 and 3 not in fleet


def test_numbers_that_no_machine_has_do_no_harm() -> None:
    fleet = Fleet()
    odd = Health(score=math.nan, terms=())
    fleet.put(2**62, Entry(health=odd, slots=10**30, queue=10**30, memory_bytes=10**30))
    fleet.put(-5, Entry(health=odd, slots=-(10**30), queue=10**30, memory_bytes=-1))
    assert fleet.choose(Wanted(memory_bytes=10**25, prefers_green=True)) is None
    choice = fleet.choose(Wanted(memory_bytes=2**40, prefers_green=True))
    assert choice is not None and (choice.node, choice.score) == (2**62, 0.0)


def test_any_number_of_engines_may_be_asked_for() -> None:
    fleet = Fleet()
    fleet.put(0, replace(entry(), engine="e0"))
    for i in range(3 * placement.MASKS):
        choice = fleet.choose(Wanted(engines=frozenset({f"e{i}"})))
        assert (choice is None) == (i > 0)
    fleet.put(1, replace(entry(), engine="e9"))
    chosen = fleet.choose(Wanted(engines=frozenset({"e9"})))
    assert chosen is not None and chosen.node == 1
