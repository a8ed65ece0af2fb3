"""Who is believed, how often a node is checked, and what it earns; pure.

The mesh has a *house*: nodes that the gateway runs itself, with a key of its own. What the house
says of a job decides. All other nodes are strangers, and a third of them may lie in one voice.

**Theorem.** Let at most a third of the admitted nodes (without the house) ever say anything but the
true outcome, let the house say nothing else, and let honest nodes be deterministic. Then `verdict`
accepts no wrong outcome, and counts no honest node as wrong. This is certain but for a result that
only a check vouches for: its output is wrong with at most the check's error (Freivalds: 2^-40), and
its fuel is not vouched for.

    `Accepted` comes of three cases alone. (1) The house said this outcome. (2) More than a third of
    the admitted agree on it: more than can lie, so one of them is honest, and what an honest node
    says is true. No two outcomes can have that; where they do, the assumption is broken, and nobody
    is believed. (3) A check holds. Nodes are wrong in (1) and (2) only, where they contradict a
    true outcome, which no honest node does.

So a quorum of two is not enough: two of a ninth of all pairs are liars that agree. `verified`, the
default, therefore costs a run by the house or of more than a third of the mesh; there is no cheaper
way without a proof. `provisional` is cheap: a trusted node's word alone, delivered with a bound on
the `risk`, checked at random (adaptive replication: Anderson, "BOINC", 2020, §3.4), and withdrawn
when it is found to be false.

A standing changes so:

    right:    score <- score + GAIN (1 - score)     streak <- streak + 1
    wrong:    score <- score (1 - LOSS)             streak <- 0
    forgery:  as wrong
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from arsenale_mesh.canonical import canonical, digest
from arsenale_mesh.receipts import Problem, Receipt

Assurance: TypeAlias = Literal["verified", "provisional"]
How: TypeAlias = Literal["house", "quorum", "check"]
Event: TypeAlias = Literal["right", "wrong", "forgery", "unchecked", "nothing"]
"""What a result turned out to be: `unchecked` was delivered on trust, `nothing` is no word."""

START: Final = 0.2
"""Of a node that nobody knows: enough to be tried, too little to be believed alone."""

GAIN: Final = 0.05
LOSS: Final = 1 / 3
"""As iExec's PoCo takes for a bad result."""

TRUSTED_AFTER: Final = 10
"""Right results in a row, as BOINC has it."""

LEAST_CHECKED: Final = 0.02
"""Even the most trusted is checked so often: who may lie once in a while would wait for it."""

BANNED_BELOW: Final = 0.05
"""A node with less is given nothing: four wrong results from the start."""

FAULTS: Final = 3
FAULT_RATE: Final = 0.01
"""So many wrong results, if they are more than this share of all that was verified, end it too. A
machine whose memory errs once in 10,000 runs has three in its first 300 with 5 in a million; who
lies now and then, and earns its score back between, is caught by nothing else."""

MOST_ASKED: Final = 201
"""No task is given to more nodes than this: of 300, all liars and more than a third besides."""

LIARS: Final = 1 / 3
"""The share of nodes that may lie."""

UNLIKELY: Final = 0.05
"""How likely a streak may be by luck, of a node that was wrong before."""

FUEL_PER_CREDIT: Final = 1_000_000

NO_WORD: Final = frozenset({"timeout", "worker_died", "too_large"})
"""Ends that depend on the machine: the task is given to another, and nobody is right or wrong."""

OVERFLOWED: Final = digest(canonical({"status": "stack_overflow"}))
"""The outcome of a stack overflow. How deep the stack is differs by processor: nobody is wrong who
says this where others do not, or the other way round."""

_FORGED: Final[frozenset[Problem]] = frozenset({
    "signature", "signer", "task", "nonce", "module", "function", "input", "limits",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A node's reputation.

    Attributes:
        score: 0..1.
        streak: Results that were found to be right since the last that was not.
        right, wrong: Results that were verified; forgeries are wrong too.
        unchecked: Results that were delivered on trust.
        nothing: Tasks that ended in no word.
    """

    score: float = START
    streak: int = 0
    right: int = 0
    wrong: int = 0
    unchecked: int = 0
    nothing: int = 0

    @property
    def is_trusted(self) -> bool:
        """Whether its word alone may be delivered, as provisional."""
        return self.streak >= TRUSTED_AFTER and not self.is_banned

    @property
    def is_banned(self) -> bool:
        """Whether it is given nothing any more."""
        often = self.wrong > FAULT_RATE * (self.right + self.wrong)
        return self.score < BANNED_BELOW or (self.wrong >= FAULTS and often)

    @property
    def reliability(self) -> float:
        """How often it says anything: (said + 1) / (given + 1)."""
        said = self.right + self.wrong + self.unchecked
        return (said + 1) / (said + self.nothing + 1)

    @property
    def worth(self) -> float:
        """What health counts as its reputation, 0..1: score times reliability."""
        return 0.0 if self.is_banned else self.score * self.reliability


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of a task's result.

    Attributes:
        said: Outcome by node (`word`); each node counts once, later words replace no earlier one.
        house: Who of them is the house's.
        standings: Of the others; who has none is new.
        admitted: How many nodes are admitted now and not banned, present or not, without the house.
        has_house: Whether a house node can run it.
        assurance: What the task asks.
        checked: Whether the draw says that a trusted node's word is checked (`is_checked`).
        proved: Outcomes whose output was shown to be right without a run.
    """

    said: Mapping[str, str]
    house: frozenset[str] = frozenset()
    standings: Mapping[str, Standing] = field(default_factory=dict[str, Standing])
    admitted: int
    has_house: bool
    assurance: Assurance = "verified"
    checked: bool = True
    proved: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The outcome that counts; who of the strangers said it, and who said something else."""

    outcome: str
    how: How
    right: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisional:
    """An outcome on trust, and a bound on the chance that it is wrong: `risk`, with its limits."""

    outcome: str
    risk: float
    right: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A provisional outcome was false; INSTEAD is true. Nobody is paid for it."""

    outcome: str
    instead: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskHouse:
    """The house has to run it. MEANWHILE may be delivered until it has."""

    reason: str
    meanwhile: Provisional | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskMore:
    """So many more nodes have to run it. MEANWHILE may be delivered until they have."""

    more: int
    reason: str
    meanwhile: Provisional | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """Nobody is believed, nobody paid and nobody punished."""

    reason: str


Verdict: TypeAlias = Accepted | Provisional | AskHouse | AskMore | Undecided


def after(standing: Standing, event: Event) -> Standing:
    """Return the standing after a result. A forgery needs nobody else's word."""
    match event:
        case "right":
            return replace(
                standing, score=standing.score + GAIN * (1 - standing.score),
                streak=standing.streak + 1, right=standing.right + 1,
            )  # fmt: skip
        case "wrong" | "forgery":
            score = standing.score * (1 - LOSS)
            return replace(standing, score=score, streak=0, wrong=standing.wrong + 1)
        case "unchecked":
            return replace(standing, unchecked=standing.unchecked + 1)
        case "nothing":
            return replace(standing, nothing=standing.nothing + 1)


def check_probability(standing: Standing) -> float:
    """Return how likely a result of the node is checked: 1, and once trusted max(1/streak, 2 %)."""
    if not standing.is_trusted:
        return 1.0
    return max(1.0 / standing.streak, LEAST_CHECKED)


def is_checked(standing: Standing, draw: float) -> bool:
    """Say whether this result is checked. DRAW is uniform in 0..1 and unknown to the node."""
    return draw < check_probability(standing)


def risk(standing: Standing) -> float:
    """Return a bound on the chance that an unchecked result of a node is wrong.

    It is one of a node that is wrong at one constant rate s, whenever it is. Such a node has its
    streak k with (1 - s)^k, so with a share f of liars among nodes, after Bayes

        P(wrong) = f s (1 - s)^k / (f (1 - s)^k + 1 - f) <= f / (1 - f) * s (1 - s)^k
                <= f / (1 - f) * k^k / (k + 1)^(k + 1),    as s = 1 / (k + 1) is the worst.

    (Sarmenta, "Sabotage-tolerance mechanisms for volunteer computing systems", Future Generation
    Computer Systems 18(4), 2002, has f / (1 - f) / (k e) for it.) A node that was wrong before is
    no unknown one. Of that, the largest rate that k right results leave possible with 5 %:
    1 - 0.05^(1/k), about 3/k (the rule of three: Hanley, Lippman-Hand, JAMA 249, 1983).

    It says nothing of a sleeper, which is right until it is trusted and then lies: its lie is found
    with `check_probability` only, so `lies_unseen` are what it may get through.
    """
    k = standing.streak
    if standing.wrong:
        return 1 - UNLIKELY ** (1 / k) if k else 1.0
    worst = (k / (k + 1)) ** k / (k + 1)  # 0^0 = 1: of who did nothing yet
    return LIARS / (1 - LIARS) * worst


def lies_unseen(standing: Standing) -> float:
    """Return how many results a sleeper gets through on average before one is checked: 1/p - 1."""
    return 1 / check_probability(standing) - 1


def word(receipt: Receipt) -> str | None:
    """Return the outcome that a receipt claims; `None` where it is no word at all.

    Of a `stack_overflow` neither fuel nor trace count: see `OVERFLOWED`.
    """
    status = receipt.body.status
    if status in NO_WORD:
        return None
    return OVERFLOWED if status == "stack_overflow" else receipt.outcome


def is_forgery(found: Collection[Problem]) -> bool:
    """Say whether what is wrong with a receipt (`receipts.problems`) is no mistake.

    It is held against the node over whose own connection it came, never the one that it names, and
    only if the task was that node's: a receipt that is late, for a lease it had, is none. A clock
    that was set back (`times`) and another engine are none.
    """
    return bool(_FORGED & set(found))


def quorum(admitted: int) -> int:
    """Return how many must agree: more than a third of ADMITTED, at least 2."""
    return max(admitted // 3 + 1, 2)


def verdict(case: Case) -> Verdict:
    """Return what follows from what nodes said: see the theorem above."""
    said = _counted(case)
    decided = _by_house(case, said)
    if decided:
        return decided
    outcomes = sorted(set(said.values()))
    if len(outcomes) == 1 and outcomes[0] in case.proved:
        return _accepted(said, outcomes[0], "check", wrong=False)
    if len(outcomes) > 1 and case.has_house:
        return AskHouse(reason=f"{len(outcomes)} different results")
    needed = quorum(case.admitted)
    agreed = [one for one in outcomes if len(_who(said, one)) >= needed]
    if len(agreed) > 1:
        return Undecided(reason="more than a third of the nodes lie")
    if agreed:
        return _accepted(said, agreed[0], "quorum", wrong=True)
    proved = [one for one in outcomes if one in case.proved]
    if len(proved) == 1:
        return _accepted(said, proved[0], "check", wrong=False)  # they may differ in fuel alone
    return _open(case, said, outcomes, needed)


def _open(
    case: Case, said: Mapping[str, str], outcomes: Sequence[str], needed: int
) -> Provisional | AskHouse | AskMore | Undecided:
    """Return what to do where nothing can be accepted yet."""
    trusted = _on_trust(case, said) if len(outcomes) == 1 else None
    if trusted and not case.checked:
        return trusted
    if not said:
        return AskMore(more=1, reason="nobody said anything")
    why = "it is checked" if trusted else f"{case.assurance}, of {len(said)} that said something"
    if case.has_house:
        return AskHouse(reason=why, meanwhile=trusted)
    most = max(len(_who(said, one)) for one in outcomes)
    more, left = needed - most, case.admitted - len(said)
    if more > left or len(said) + more > MOST_ASKED:
        return Undecided(
            reason=f"{needed} must agree, {left} are left to ask; a house would decide"
        )
    return AskMore(more=more, reason=why, meanwhile=trusted)


def _by_house(case: Case, said: Mapping[str, str]) -> Accepted | Undecided | None:
    words = {outcome for node, outcome in case.said.items() if node in case.house}
    if len(words) > 1:
        return Undecided(reason="the house contradicts itself")
    return _accepted(said, words.pop(), "house", wrong=True) if words else None


def _counted(case: Case) -> dict[str, str]:
    """Return what strangers said that are not banned."""
    new = Standing()
    return {
        node: outcome
        for node, outcome in case.said.items()
        if node not in case.house and not case.standings.get(node, new).is_banned
    }


def _on_trust(case: Case, said: Mapping[str, str]) -> Provisional | None:
    """Return the outcome all agree on, if one of them is trusted and that is all that is asked."""
    standings = [case.standings.get(node, Standing()) for node in said]
    trusted = [one for one in standings if one.is_trusted]
    if case.assurance == "verified" or not trusted:
        return None
    [outcome] = set(said.values())
    return Provisional(
        outcome=outcome, risk=min(risk(one) for one in trusted), right=tuple(sorted(said))
    )


def _accepted(said: Mapping[str, str], outcome: str, how: How, *, wrong: bool) -> Accepted:
    right = _who(said, outcome)
    others = {node for node, its in said.items() if OVERFLOWED not in (its, outcome)} - set(right)
    return Accepted(
        outcome=outcome, how=how, right=right, wrong=tuple(sorted(others)) if wrong else ()
    )


def _who(said: Mapping[str, str], outcome: str) -> tuple[str, ...]:
    return tuple(sorted(node for node, its in said.items() if its == outcome))


def settled(delivered: Provisional, found: Accepted) -> Accepted | Withdrawn:
    """Return what becomes of a provisional result now that the truth is known.

    Whoever was wrong may have been so before: all its provisional results that were not paid yet
    are run again by the house. They are paid when a later check of the same node finds it right.
    """
    if delivered.outcome == found.outcome:
        return found
    wrong = tuple(node for node in delivered.right if node in found.wrong)
    return Withdrawn(outcome=delivered.outcome, instead=found.outcome, wrong=wrong)


def reward(fuel: int) -> int:
    """Return the credits that a task is worth: 1 + ceil(FUEL / 10^6), whole, once a task.

    FUEL is what was verified; of an outcome that a check alone vouches for, no more than the check
    knows (`freivalds.fuel_at_most`); of a `stack_overflow` the least that is claimed.
    """
    return 1 + -(-fuel // FUEL_PER_CREDIT)


def penalty(reward: int, balance: int, *, banned: bool) -> int:
    """Return the credits that a wrong result or a forgery costs: a third, as of the score.

    At least what it would have earned; all of it where the node is now BANNED, so that lying does
    not pay. Nobody owes more than it has: a balance below 0 would be left for a new identity.
    """
    lost = balance if banned else max(reward, math.ceil(balance * LOSS))
    return max(0, min(lost, balance))


def shares(reward: int, right: Sequence[str]) -> dict[str, int]:
    """Return who is paid what: REWARD, a whole number of credits, in equal parts; none is lost."""
    if not right:
        return {}
    part, rest = divmod(reward, len(right))
    return {node: part + (place < rest) for place, node in enumerate(sorted(right))}
