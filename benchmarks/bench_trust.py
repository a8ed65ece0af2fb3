"""What a third of liars gets out of the mesh: wrong results, work, credits; and the cost.

    python benchmarks/bench_trust.py [--tasks 20000] [--seed 1]

A simulation of the rules in `arsenale_mesh.reputation`, seeded: no guest is run.
"""

import argparse
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from measuring import machine, verdict

from arsenale_mesh import reputation
from arsenale_mesh.health import HALF_JOULES, Telemetry, health
from arsenale_mesh.reputation import (
    Accepted,
    AskHouse,
    AskMore,
    Assurance,
    Case,
    Event,
    Provisional,
    Standing,
    Undecided,
    Withdrawn,
)

Strategy: TypeAlias = Literal[
    "always", "sometimes", "sleepers", "colluders", "sleeping cartel", "replayers", "claimers",
    "returners",
]  # fmt: skip
STRATEGIES: Final[tuple[Strategy, ...]] = (
    "always", "sometimes", "sleepers", "colluders", "sleeping cartel", "replayers", "claimers",
    "returners",
)  # fmt: skip

LIE_RATE: Final = 0.05
"""Of those who lie sometimes."""

FUEL: Final = 50_000_000
HOUSE: Final = "house"
TRUE: Final = "true"


@dataclass(slots=True, kw_only=True)
class Node:
    """A node, and what it is up to: `None` is honest."""

    name: str
    strategy: Strategy | None
    seen: Telemetry
    standing: Standing = field(default_factory=Standing)
    credits: int = 0
    unpaid: list[str] = field(default_factory=list[str])
    health: float = 0.0

    def learn(self, event: Event) -> None:
        """Take an event into its standing and health."""
        self.standing = reputation.after(self.standing, event)
        self.health = health(self.seen, self.standing.worth).score

    def word(self, task: int, rng: random.Random) -> str | None:
        """Return what it says of a task; `None` is an old receipt."""
        match self.strategy:
            case None:
                return TRUE
            case "always" | "claimers" | "returners":
                return f"false of {self.name}"
            case "sometimes":
                return f"false of {self.name}" if rng.random() < LIE_RATE else TRUE
            case "sleepers":
                return f"false of {self.name}" if self.standing.is_trusted else TRUE
            case "colluders":
                return f"false {task}"
            case "sleeping cartel":
                return f"false {task}" if self.standing.is_trusted else TRUE
            case "replayers":
                return None


@dataclass(slots=True, kw_only=True)
class Figures:
    """What came of it.

    Attributes:
        withdrawn: Wrong results that were delivered on trust and found out.
        passed_wrong: Those that were not, to the end.
        share_first: Of the liars, in the words asked for; in the first tenth and in the last.
        risk: The mean of what was stated with results on trust.
    """

    tasks: int = 0
    accepted: int = 0
    accepted_wrong: int = 0
    provisional: int = 0
    withdrawn: int = 0
    passed_wrong: int = 0
    undecided: int = 0
    runs: int = 0
    house_runs: int = 0
    forgeries: int = 0
    invitations: int = 0
    honest_wrong: int = 0
    share_first: float = 0.0
    share_last: float = 0.0
    liar_score: float = 0.0
    honest_score: float = 0.0
    liar_credits: float = 0.0
    honest_credits: float = 0.0
    risk: float = 0.0
    took_s: float = 0.0

    @property
    def wrong_on_trust(self) -> float:
        """The share of results delivered on trust that were wrong."""
        return (self.withdrawn + self.passed_wrong) / max(1, self.provisional)


class Mesh:
    """N nodes, a third of them liars, and a gateway that follows the rules."""

    def __init__(
        self, n: int, strategy: Strategy, *, assurance: Assurance, has_house: bool, seed: int
    ) -> None:
        """Everybody joins."""
        self.rng = random.Random(seed)
        self.assurance: Assurance = assurance
        self.has_house = has_house
        self.figures = Figures()
        self.nodes: dict[str, Node] = {}
        self.gone: list[Node] = []
        self._asked: list[bool] = []
        self._risks: list[float] = []
        for number in range(n):
            self._join(f"n{number}", strategy if number < n // 3 else None)

    def run(self, tasks: int) -> Figures:
        """Give them TASKS, and return what came of it."""
        for task in range(tasks):
            self._task(task)
        self.figures.tasks = tasks
        self._sum_up()
        return self.figures

    def _join(self, name: str, strategy: Strategy | None) -> None:
        rng = self.rng
        claimed = rng.uniform(5, 20)
        if strategy == "claimers":
            claimed = rng.choice([0.0, 1e-9, float("nan"), -5.0])
        measured = Telemetry(
            bandwidth=rng.uniform(1e6, 1e8), latency_s=rng.uniform(0.002, 0.1),
            joules_per_gfuel=max(claimed, HALF_JOULES), energy="estimated",
        )  # fmt: skip
        node = Node(name=name, strategy=strategy, seen=measured)
        node.health = health(node.seen, node.standing.worth).score
        self.nodes[name] = node

    def _task(self, task: int) -> None:
        said: dict[str, str] = {}
        house: dict[str, str] = {}
        asked: set[str] = set()
        draw, delivered = self.rng.random(), None
        checked = True
        while True:
            if len(said) == 1:
                [first] = said
                checked = reputation.is_checked(self.nodes[first].standing, draw)
            case = Case(
                said={**said, **house}, house=frozenset(house), has_house=self.has_house,
                standings={name: self.nodes[name].standing for name in said},
                admitted=len(self.nodes), assurance=self.assurance, checked=checked,
            )  # fmt: skip
            found = reputation.verdict(case)
            match found:
                case AskHouse():
                    delivered = delivered or found.meanwhile
                    house[HOUSE] = TRUE
                    self.figures.house_runs += 1
                case AskMore():
                    delivered = delivered or found.meanwhile
                    if not self._ask(task, found.more, asked, said):
                        self.figures.undecided += 1
                        return
                case Accepted():
                    self._accept(found, delivered)
                    return
                case Provisional():
                    self._deliver(found)
                    return
                case Undecided():
                    self.figures.undecided += 1
                    return

    def _ask(self, task: int, more: int, asked: set[str], said: dict[str, str]) -> bool:
        """Let so many more nodes run it; false when none is left."""
        for _ in range(more):
            node = self._best(asked)
            if node is None:
                return False
            asked.add(node.name)
            self.figures.runs += 1
            self._asked.append(node.strategy is not None)
            outcome = node.word(task, self.rng)
            if outcome is None and reputation.is_forgery(["task", "nonce"]):
                self.figures.forgeries += 1
                self._blame(node, "forgery")
            elif outcome is not None:
                said[node.name] = outcome
        return True

    def _best(self, asked: set[str]) -> Node | None:
        """Return the fitter of two that were not asked yet."""
        if len(asked) * 2 < len(self.nodes):
            names, found = list(self.nodes), list[str]()
            while len(found) < 2:
                name = names[int(self.rng.random() * len(names))]
                if name not in asked:
                    found.append(name)
        else:
            left = [name for name in self.nodes if name not in asked]
            found = self.rng.sample(left, min(2, len(left)))
        return max((self.nodes[name] for name in found), key=lambda n: n.health, default=None)

    def _accept(self, found: Accepted, delivered: Provisional | None) -> None:
        self.figures.accepted += 1
        if delivered:
            self.figures.provisional += 1
            self._risks.append(delivered.risk)
        self.figures.accepted_wrong += found.outcome != TRUE
        became = reputation.settled(delivered, found) if delivered else found
        self.figures.withdrawn += isinstance(became, Withdrawn)
        paid = reputation.shares(reputation.reward(FUEL), found.right)
        for name, credits in paid.items():
            node = self.nodes[name]
            node.credits += credits
            self._pay(node)
            self._learn(node, "right")
        for name in found.wrong:
            self._punish(self.nodes[name])

    def _deliver(self, found: Provisional) -> None:
        self.figures.provisional += 1
        self._risks.append(found.risk)
        for name in found.right:
            self.nodes[name].unpaid.append(found.outcome)
            self._learn(self.nodes[name], "unchecked")

    def _pay(self, node: Node) -> None:
        """Pay what it did on trust since the last check: it stands."""
        self.figures.passed_wrong += sum(outcome != TRUE for outcome in node.unpaid)
        node.credits += len(node.unpaid) * reputation.reward(FUEL)
        node.unpaid.clear()

    def _punish(self, node: Node) -> None:
        """Take what it earned, and run again all that it did on trust since the last check."""
        lies = sum(outcome != TRUE for outcome in node.unpaid)
        self.figures.withdrawn += lies
        if self.has_house:  # without one nobody can tell, and all of it is withdrawn
            self.figures.house_runs += len(node.unpaid)
            node.credits += (len(node.unpaid) - lies) * reputation.reward(FUEL)
        node.unpaid.clear()
        self._blame(node, "wrong")

    def _blame(self, node: Node, event: Event) -> None:
        self._learn(node, event)
        banned = node.standing.is_banned
        node.credits -= reputation.penalty(reputation.reward(FUEL), node.credits, banned=banned)

    def _learn(self, node: Node, event: Event) -> None:
        node.learn(event)
        if event in ("wrong", "forgery") and node.strategy is None:
            self.figures.honest_wrong += 1
        if node.standing.is_banned and node.name in self.nodes:
            self.gone.append(self.nodes.pop(node.name))
            if node.strategy == "returners":
                self.figures.invitations += 1
                self._join(f"{node.name}'", node.strategy)

    def _sum_up(self) -> None:
        figures, everybody = self.figures, [*self.nodes.values(), *self.gone]
        for node in everybody:
            figures.passed_wrong += sum(outcome != TRUE for outcome in node.unpaid)
        liars = [node for node in everybody if node.strategy]
        honest = [node for node in everybody if not node.strategy]
        tenth = max(1, len(self._asked) // 10)
        figures.share_first = mean(map(float, self._asked[:tenth]))
        figures.share_last = mean(map(float, self._asked[-tenth:]))
        figures.risk = mean(self._risks)
        figures.liar_score = mean(node.standing.worth for node in liars)
        figures.honest_score = mean(node.standing.worth for node in honest)
        figures.liar_credits = mean(float(node.credits) for node in liars)
        figures.honest_credits = mean(float(node.credits) for node in honest)


def mean(values: Iterable[float]) -> float:
    """Return the mean; 0 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def simulate(
    n: int,
    strategy: Strategy,
    tasks: int,
    *,
    assurance: Assurance = "verified",
    has_house: bool = True,
    seed: int = 1,
) -> Figures:
    """Return what a third of liars with one STRATEGY gets out of N nodes and so many TASKS."""
    start = time.perf_counter()
    mesh = Mesh(n, strategy, assurance=assurance, has_house=has_house, seed=seed)
    return replace(mesh.run(tasks), took_s=time.perf_counter() - start)


def line(strategy: Strategy, found: Figures) -> str:
    """Return the figures as a line of a table."""
    runs = (found.runs + found.house_runs) / found.tasks
    return (
        f"{strategy:16s} {found.accepted_wrong:5d} {found.withdrawn:7d} {found.passed_wrong:6d}"
        f" {found.wrong_on_trust:6.2%} {found.risk:6.2%}"
        f" {found.undecided:5d} {runs:6.2f} {found.house_runs / found.tasks:6.2f}"
        f" {found.share_first:6.1%} {found.share_last:6.1%}"
        f" {found.liar_score:5.2f} {found.honest_score:5.2f}"
        f" {found.liar_credits:9,.0f} {found.honest_credits:9,.0f}"
        f" {found.invitations:5d} {found.honest_wrong:4d}"
    )


def main() -> None:
    """Simulate, and print a table for each size and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(machine())
    wrong = honest = upside_down = total = 0
    ways: tuple[tuple[Assurance, bool], ...] = (
        ("verified", True), ("provisional", True), ("verified", False), ("provisional", False),
    )  # fmt: skip
    for n in (9, 30, 300):
        for assurance, has_house in ways:
            tasks = given.tasks if has_house or n < 300 else max(1, given.tasks // 20)
            print(f"\n{n} nodes, a third lie; {assurance}, house: {has_house}; {tasks:,} tasks")
            print(
                "liars           wrong withdr. passed  share stated undec.  runs  house first"
                "   last score  hon.   credits      hon. invit. pun."
            )
            for strategy in STRATEGIES:
                found = simulate(
                    n, strategy, tasks, assurance=assurance, has_house=has_house, seed=given.seed
                )
                print(line(strategy, found), flush=True)
                wrong += found.accepted_wrong
                honest += found.honest_wrong
                upside_down += found.liar_score >= found.honest_score
                total += tasks
    print(f"\n{total:,} tasks")
    verdict("wrong results accepted", wrong, 0)
    verdict("honest nodes punished", honest, 0)
    verdict("meshes in which liars end above honest nodes", upside_down, 0)


if __name__ == "__main__":
    main()
