"""What a result leads to: kept, judged, paid; within a transaction (`rows.Change`).

Who is believed is `reputation`'s to say; here its verdicts become rows.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from arsenale_core.errors import InvalidError
from arsenale_mesh import books, changes, guests, merkle, receipts, reputation, rows
from arsenale_mesh.receipts import Expected, Problem, Receipt
from arsenale_mesh.record import ENDED, Attempt, Node, Result, Task
from arsenale_mesh.reputation import (
    Accepted,
    AskHouse,
    AskMore,
    Case,
    Event,
    Provisional,
    Undecided,
)
from arsenale_mesh.rows import Change, KeptReceipt
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.verification import freivalds

SETTLED_AT_ONCE = 100
"""Provisional results of a node that are paid, or run again, when it was found right or wrong."""

_DEATHS = 2
"""A guest under which so many workers died at our own node is said to kill them."""

_random = random.SystemRandom()


@dataclass(slots=True)
class Settled:
    """What became of a result.

    Attributes:
        task: As it stands now; `None` where the lease was nobody's any more.
        nodes: Those whose standing changed.
        drop: Attempts that are of no use any more.
    """

    lease: int
    task: Task | None = None
    nodes: list[Node] = field(default_factory=list[Node])
    drop: list[Attempt] = field(default_factory=list[Attempt])


@dataclass(slots=True)
class _Scene:
    """A transaction, and what is known in it."""

    c: Change
    has_house: bool
    settled: Settled


def settle_all(
    c: Change, *, node_id: int, results: Sequence[Result], has_house: bool
) -> list[Settled]:
    """Settle what a node sent. Nothing it can send raises an error.

    Args:
        c: The transaction.
        node_id: Over whose connection it came.
        results: What came.
        has_house: Whether our own node can be asked to run something.
    """
    return [settle(c, node_id, one, has_house=has_house) for one in results]


def settle(c: Change, node_id: int, result: Result, *, has_house: bool) -> Settled:
    """Settle one result; one for a lease that is not the node's any more changes nothing."""
    scene = _Scene(c, has_house, Settled(result.lease))
    attempt = rows.attempt(c.db, result.lease)
    if attempt is None or attempt.node_id != node_id or attempt.state != "leased":
        return scene.settled
    task, node = changes.must(c, attempt.task_id), rows.node(c.db, node_id)
    if task.state in ENDED and task.how != "provisional":
        rows.end_attempt(c, attempt.id, "late")
        return scene.settled
    try:
        receipt = receipts.parse(result.receipt)
    except InvalidError as exc:
        _forged(scene, task, node, attempt, str(exc))
        return scene.settled
    found, along = problems(receipt, task, node), faults(receipt, result)
    if reputation.is_forgery(found) or along:
        _forged(scene, task, node, attempt, f"wrong: {', '.join([*found, *along])}")
    elif found:
        _void(scene, task, node, attempt, receipt, result)
    else:
        _said(scene, task, node, attempt, receipt, result)
    return scene.settled


def problems(receipt: Receipt, task: Task, node: Node) -> list[Problem]:
    """Return all that is wrong with a receipt as that of TASK by NODE."""
    expected = Expected(
        task=task.name, nonce=task.nonce, module=task.module, function=task.function,
        input=task.input, limits=task.limits, engine=engine_id("cranelift"), node=node.did,
    )  # fmt: skip
    found = receipts.problems(receipt, expected)
    body = receipt.body
    if (body.seed, body.clock_us, body.slice_fuel) != (task.seed, task.clock_us, task.slice_fuel):
        found.append("limits")
    return found


def faults(receipt: Receipt, result: Result) -> list[str]:
    """Return what came along with a receipt and is not what it speaks of."""
    found: list[str] = []
    if sha256(result.output).hexdigest() != receipt.body.output:
        found.append("output")
    if len(result.output) > receipt.body.limits.output_bytes:
        found.append("size of the output")
    if merkle.root([bytes.fromhex(leaf) for leaf in result.leaves]).hex() != receipt.body.trace:
        found.append("trace")
    return found


def judge(scene: _Scene, task: Task) -> None:
    """Do what follows from all that was said of TASK."""
    c, said, by_did = scene.c, dict[str, str](), dict[str, Node]()
    tried = rows.attempts(c.db, task.id)
    for attempt in tried:
        if attempt.outcome is not None:
            node = rows.node(c.db, attempt.node_id)
            said.setdefault(node.did, attempt.outcome)
            by_did[node.did] = node
    verdict = reputation.verdict(_case(scene, task, said, by_did, tried))
    match verdict:
        case Accepted():
            _accept(scene, task, verdict, tried, by_did)
        case Provisional():
            _deliver(scene, task, verdict, tried, by_did, wants=0)
        case AskHouse(meanwhile=None):
            _ask(scene, replace(task, asks="house", wants=1, state="checking"))
        case AskMore(more=more, meanwhile=None):
            going = sum(attempt.state == "leased" for attempt in tried)
            _ask(scene, replace(task, wants=max(more - going, 0)))
        case AskHouse(meanwhile=delivered) | AskMore(meanwhile=delivered):
            assert delivered
            asked = replace(task, asks="house") if isinstance(verdict, AskHouse) else task
            wants = verdict.more if isinstance(verdict, AskMore) else 1
            _deliver(scene, asked, delivered, tried, by_did, wants=wants)
        case Undecided(reason=reason):
            scene.settled.task = changes.failed(c, task, reason)
            books.note(c, "task.undecided", task.name, reason)


def _case(
    scene: _Scene,
    task: Task,
    said: dict[str, str],
    by_did: dict[str, Node],
    tried: Sequence[Attempt],
) -> Case:
    house = frozenset(did for did, node in by_did.items() if node.house)
    standings = {did: node.standing for did, node in by_did.items() if not node.house}
    checked = any(reputation.is_checked(one, _random.random()) for one in standings.values())
    return Case(
        said=said, house=house, standings=standings,
        admitted=0 if house else rows.admitted(scene.c.db), has_house=scene.has_house,
        assurance=task.assurance, checked=checked,
        proved=frozenset() if house else _proved(scene.c, task, tried),
    )  # fmt: skip


def _proved(c: Change, task: Task, tried: Sequence[Attempt]) -> frozenset[str]:
    """Return the outcomes that are shown to be right without a run: products of matrices."""
    if task.module != guests.sha_of("matmul"):
        return frozenset()
    input = rows.blob(c.db, task.input) or b""
    found: set[str] = set()
    for attempt in tried:
        kept = rows.receipt(c.db, attempt.receipt) if attempt.receipt else None
        if kept and attempt.outcome and attempt.status == "ok":
            output = rows.blob(c.db, str(kept.plain["output"])) or b""
            cheap = int(kept.plain["fuel"]) <= freivalds.fuel_at_most(input)
            if cheap and freivalds.check(input, output):
                found.add(attempt.outcome)
    return frozenset(found)


def _said(
    scene: _Scene, task: Task, node: Node, attempt: Attempt, receipt: Receipt, result: Result
) -> None:
    outcome = reputation.word(receipt)
    _keep(scene, attempt, receipt, result)
    status = receipt.body.status
    if outcome is not None:
        rows.end_attempt(
            scene.c, attempt.id, "said", outcome=outcome, status=status, receipt=receipt.id
        )
        judge(scene, task)
    elif node.house and (status != "worker_died" or task.failures >= _DEATHS):
        rows.end_attempt(scene.c, attempt.id, "right", status=status, receipt=receipt.id)
        _finish(scene, task, receipt, _printable(result.detail), how="house", risk=None, wants=0)
        _call_off(scene, rows.attempts(scene.c.db, task.id))
    else:
        _void(scene, task, node, attempt, receipt, result)


def _void(
    scene: _Scene, task: Task, node: Node, attempt: Attempt, receipt: Receipt, result: Result
) -> None:
    """Note an end that says nothing of the result; another may try."""
    del result
    rows.end_attempt(scene.c, attempt.id, "void", status=receipt.body.status)
    _stand(scene, node, "nothing")
    if scene.has_house and not node.house:
        task = replace(task, asks="house")
    scene.settled.task = changes.wanted_again(scene.c, task, is_failure=True)


def _forged(scene: _Scene, task: Task, node: Node, attempt: Attempt, what: str) -> None:
    """Punish a receipt that cannot be a mistake; another runs the task."""
    rows.end_attempt(scene.c, attempt.id, "forged")
    books.note(scene.c, "receipt.forged", node.did, f"{task.name}: {_printable(what)}")
    _stand(scene, node, "forgery")
    _fine(scene, node, task, reputation.reward(0), "")
    scene.settled.task = changes.wanted_again(scene.c, task, is_failure=False)


def _accept(
    scene: _Scene, task: Task, verdict: Accepted, tried: Sequence[Attempt], by_did: dict[str, Node]
) -> None:
    c = scene.c
    first = next(a for a in tried if a.outcome == verdict.outcome and a.receipt)
    kept = rows.receipt(c.db, first.receipt or "")
    assert kept is not None
    receipt = receipts.parse(kept.plain)
    was_provisional = task.how == "provisional"
    withdrawn = was_provisional and task.receipt not in {
        a.receipt for a in tried if a.outcome == verdict.outcome
    }
    detail = kept.detail
    if withdrawn:
        detail = f"an earlier result was false and is withdrawn. {detail}".strip()
        books.note(c, "result.withdrawn", task.name, f"{task.output} was not {receipt.body.output}")
    _finish(scene, task, receipt, detail, how=verdict.how, risk=None, wants=0)
    _pay(scene, task, verdict, receipt, by_did)
    right = {by_did[did].id for did in verdict.right} | {n.id for n in by_did.values() if n.house}
    wrong = {by_did[did].id for did in verdict.wrong}
    rows.set_attempts(c, [a.id for a in tried if a.outcome and a.node_id in right], "right")
    rows.set_attempts(c, [a.id for a in tried if a.outcome and a.node_id in wrong], "wrong")
    _call_off(scene, tried)


def _call_off(scene: _Scene, tried: Sequence[Attempt]) -> None:
    """End attempts that go on: the task needs them no more."""
    for attempt in tried:
        if attempt.state == "leased":
            rows.end_attempt(scene.c, attempt.id, "late")
            scene.settled.drop.append(attempt)


def _pay(
    scene: _Scene, task: Task, verdict: Accepted, receipt: Receipt, by_did: dict[str, Node]
) -> None:
    """Book rewards and fines, and change standings; the provisional work of who was found out."""
    fuel = receipt.body.fuel
    if verdict.how == "check":
        fuel = min(fuel, freivalds.fuel_at_most(rows.blob(scene.c.db, task.input) or b""))
    reward = reputation.reward(fuel)
    payees = verdict.right or tuple(did for did, node in by_did.items() if node.house)
    for did, credits in reputation.shares(reward, payees).items():
        if credits:
            books.book(scene.c, "reward", (by_did[did].id, did), credits, task.name, receipt.id)
    for did in payees:
        _stand(scene, by_did[did], "right")
        _believe(scene, by_did[did], task.id)
    for did in verdict.wrong:
        node = by_did[did]
        books.note(scene.c, "result.wrong", did, f"{task.name}, by {verdict.how}")
        _stand(scene, node, "wrong")
        _fine(scene, node, task, reward, receipt.id)
        _doubt(scene, node, task.id)


def _believe(scene: _Scene, node: Node, but: int) -> None:
    """Pay what a node did on trust, now that a check has found it right."""
    if node.house or not node.standing.is_trusted:
        return
    for task in rows.on_trust(scene.c.db, node.id, SETTLED_AT_ONCE):
        if task.id != but and not task.reward:
            paid = reputation.reward(task.fuel)
            rows.set_task(scene.c, replace(task, reward=paid))
            books.book(scene.c, "reward", (node.id, node.did), paid, task.name, task.receipt or "")


def _doubt(scene: _Scene, node: Node, but: int) -> None:
    """Let our own node run again what one did on trust that was found wrong."""
    if not scene.has_house:
        return
    for task in rows.on_trust(scene.c.db, node.id, SETTLED_AT_ONCE):
        if task.id != but:
            rows.set_task(scene.c, replace(task, asks="house", wants=1))


def _deliver(
    scene: _Scene,
    task: Task,
    verdict: Provisional,
    tried: Sequence[Attempt],
    by_did: dict[str, Node],
    *,
    wants: int,
) -> None:
    first = next(a for a in tried if a.outcome == verdict.outcome and a.receipt)
    kept = rows.receipt(scene.c.db, first.receipt or "")
    assert kept is not None
    for did in verdict.right:
        _stand(scene, by_did[did], "unchecked")
    receipt = receipts.parse(kept.plain)
    _finish(scene, task, receipt, kept.detail, how="provisional", risk=verdict.risk, wants=wants)


def _finish(
    scene: _Scene,
    task: Task,
    receipt: Receipt,
    detail: str,
    *,
    how: str,
    risk: float | None,
    wants: int,
) -> None:
    body = receipt.body
    done = replace(
        task, state="done", wants=wants, ended_us=task.ended_us or scene.c.now_us,
        status=body.status, output=body.output, detail=detail, fuel=body.fuel, how=how, risk=risk,
        receipt=receipt.id, reward=0 if risk is not None else reputation.reward(body.fuel),
    )  # fmt: skip
    rows.set_task(scene.c, done)
    scene.settled.task = done


def _ask(scene: _Scene, task: Task) -> None:
    rows.set_task(scene.c, task)
    scene.settled.task = task


def _keep(scene: _Scene, attempt: Attempt, receipt: Receipt, result: Result) -> None:
    rows.put_blob(scene.c, receipt.body.output, result.output)
    kept = KeptReceipt(
        plain=receipt.plain(),
        leaves=result.leaves,
        stderr=result.stderr,
        detail=_printable(result.detail),
    )
    rows.add_receipt(scene.c, receipt.id, attempt, kept)


def _stand(scene: _Scene, node: Node, event: Event) -> None:
    """Change a node's standing, and ban it where that is the end of it."""
    now = rows.node(scene.c.db, node.id)
    changed = replace(now, standing=reputation.after(now.standing, event))
    rows.set_standing(scene.c, node.id, changed.standing)
    if changed.standing.is_banned and not node.house and now.state != "banned":
        reason = f"{changed.standing.wrong} of its results were wrong or forged"
        changes.ban(scene.c, changed, reason)
        changed = replace(changed, state="banned", reason=reason)
    scene.settled.nodes = [one for one in scene.settled.nodes if one.id != node.id] + [changed]


def _fine(scene: _Scene, node: Node, task: Task, reward: int, receipt: str) -> None:
    now = rows.node(scene.c.db, node.id)
    banned = now.state == "banned"
    if credits := reputation.penalty(reward, now.credits, banned=banned):
        books.book(scene.c, "penalty", (node.id, node.did), -credits, task.name, receipt)


def _printable(text: str) -> str:
    """Return a node's words with what no database or terminal takes replaced."""
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
