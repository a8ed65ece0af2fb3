"""What a result leads to: kept, judged, paid; within a transaction (`rows.Change`).

Who is believed is `reputation`'s to say; here its verdicts become rows.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from arsenale_mesh import books, changes, guests, receipts, reputation, rows
from arsenale_mesh.inspecting import Read, problems, read
from arsenale_mesh.ledger import Kind
from arsenale_mesh.receipts import Receipt
from arsenale_mesh.record import ENDED, Attempt, AttemptState, Node, Result, Task
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
from arsenale_mesh.verification import freivalds

SETTLED_AT_ONCE = 100
"""Provisional results of a node that are paid, or run again, when it was found right or wrong."""

_DEATHS = 2
"""A guest under which so many workers died at our own node is said to kill them."""

_TOO_MUCH = frozenset({"timeout", "too_large"})
"""How a task ends at a node that is too slow or too small for it."""

RANDOM = random.SystemRandom()


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


class _Nodes:
    """The nodes of a transaction: each is read once, and written once at the end."""

    def __init__(self, c: Change) -> None:
        self._c = c
        self._known: dict[int, Node] = {}
        self._changed: set[int] = set()

    def __getitem__(self, id: int) -> Node:
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = rows.node(self._c.db, id)
        return found

    def put(self, node: Node) -> None:
        """Let NODE be as it is now."""
        self._known[node.id] = node
        self._changed.add(node.id)

    def write(self) -> None:
        """Write what changed."""
        rows.set_standings(self._c, [self._known[id] for id in sorted(self._changed)])
        self._changed.clear()


@dataclass(slots=True)
class _Scene:
    """A result in its transaction, and what is known there.

    Attributes:
        read: The result.
        tried: All attempts at its task; that of the result is `attempt`.
        state: What becomes of that one.
    """

    c: Change
    has_house: bool
    settled: Settled
    nodes: _Nodes
    read: Read
    attempt: Attempt
    tried: list[Attempt]
    state: AttemptState = "said"


def settle_all(
    c: Change, *, node_id: int, results: Sequence[Read], has_house: bool
) -> list[Settled]:
    """Settle what a node sent. Nothing it can send raises an error.

    Args:
        c: The transaction.
        node_id: Over whose connection it came.
        results: What came.
        has_house: Whether our own node can be asked to run something.
    """
    nodes = _Nodes(c)
    settled = [_settle(c, nodes, node_id, one, has_house=has_house) for one in results]
    nodes.write()
    return settled


def settle(c: Change, node_id: int, result: Result, *, has_house: bool) -> Settled:
    """Settle one result; one for a lease that is not the node's any more changes nothing."""
    [one] = settle_all(c, node_id=node_id, results=[read(result)], has_house=has_house)
    return one


def _settle(c: Change, nodes: _Nodes, node_id: int, read: Read, *, has_house: bool) -> Settled:
    settled = Settled(read.result.lease)
    tried = rows.attempts_beside(c.db, settled.lease)
    attempt = next((one for one in tried if one.id == settled.lease), None)
    if attempt is None or attempt.node_id != node_id or attempt.state != "leased":
        return settled
    task, node = changes.must(c, attempt.task_id), nodes[node_id]
    if task.state in ENDED and task.how != "provisional":
        rows.end_attempt(c, attempt.id, "late")
        return settled
    scene = _Scene(c, has_house, settled, nodes, read, attempt, tried)
    if read.receipt is None:
        _forged(scene, task, node, ", ".join(read.faults))
        return settled
    found = problems(read.receipt, task, node, is_signed=read.is_signed)
    if reputation.is_forgery(found) or read.faults:
        _forged(scene, task, node, f"wrong: {', '.join([*found, *read.faults])}")
    elif found:
        _void(scene, task, node, read.receipt)
    else:
        _said(scene, task, node, read.receipt)
    return settled


def judge(scene: _Scene, task: Task) -> None:
    """Do what follows from all that was said of TASK."""
    c, tried, said, by_did = scene.c, scene.tried, dict[str, str](), dict[str, Node]()
    for attempt in tried:
        if attempt.outcome is not None:
            node = scene.nodes[attempt.node_id]
            said.setdefault(node.did, attempt.outcome)
            by_did[node.did] = node
    verdict = reputation.verdict(_case(scene, task, said, by_did, tried))
    match verdict:
        case Accepted():
            _accept(scene, task, verdict, tried, by_did)
        case Provisional():
            _deliver(scene, task, verdict, by_did, wants=0)
        case AskHouse(meanwhile=None):
            _ask(scene, replace(task, asks="house", wants=1, state="checking"))
        case AskMore(more=more, meanwhile=None):
            going = sum(attempt.state == "leased" for attempt in tried)
            _ask(scene, replace(task, wants=max(more - going, 0)))
        case AskHouse(meanwhile=delivered) | AskMore(meanwhile=delivered):
            assert delivered
            asked = replace(task, asks="house") if isinstance(verdict, AskHouse) else task
            wants = verdict.more if isinstance(verdict, AskMore) else 1
            _deliver(scene, asked, delivered, by_did, wants=wants)
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
    checked = any(reputation.is_checked(one, RANDOM.random()) for one in standings.values())
    return Case(
        said=said, house=house, standings=standings,
        admitted=0 if house else rows.admitted(scene.c.db), has_house=scene.has_house,
        assurance=task.assurance, checked=checked,
        proved=frozenset() if house else _proved(scene, task, tried),
    )  # fmt: skip


def _proved(scene: _Scene, task: Task, tried: Sequence[Attempt]) -> frozenset[str]:
    """Return the outcomes that are shown to be right without a run: products of matrices."""
    if task.module != guests.sha_of("matmul"):
        return frozenset()
    input = rows.blob(scene.c.db, task.input) or b""
    found: set[str] = set()
    for attempt in tried:
        if attempt.receipt and attempt.outcome and attempt.status == "ok":
            body = _kept(scene, attempt)[0].body
            output = rows.blob(scene.c.db, body.output) or b""
            cheap = body.fuel <= freivalds.fuel_at_most(input)
            if cheap and freivalds.check(input, output):
                found.add(attempt.outcome)
    return frozenset(found)


def _said(scene: _Scene, task: Task, node: Node, receipt: Receipt) -> None:
    outcome = reputation.word(receipt)
    _keep(scene, receipt)
    status = receipt.body.status
    if outcome is not None:
        own = replace(
            scene.attempt, state="said", outcome=outcome, status=status, receipt=receipt.id
        )
        scene.tried = [own if one.id == own.id else one for one in scene.tried]
        judge(scene, task)
        _end(scene, outcome=outcome, receipt=receipt)
    elif node.house and task.how == "provisional":  # nothing is known that was not before
        scene.state = "void"
        _ask(scene, replace(task, wants=0))
        _end(scene, outcome=None, receipt=receipt)
    elif node.house and (status != "worker_died" or _deaths(scene) >= _DEATHS):
        scene.state = "right"
        detail = _printable(scene.read.result.detail)
        _finish(scene, task, receipt, detail, how="house", risk=None, wants=0)
        _end(scene, outcome=None, receipt=receipt)
        _call_off(scene)
    else:
        _void(scene, task, node, receipt)


def _deaths(scene: _Scene) -> int:
    """Return how often a worker of our own node died before; nodes that were lost are none."""
    return sum(
        one.status == "worker_died" and scene.nodes[one.node_id].house for one in scene.tried
    )


def _end(scene: _Scene, *, outcome: str | None, receipt: Receipt) -> None:
    rows.end_attempt(
        scene.c, scene.attempt.id, scene.state, outcome=outcome, status=receipt.body.status,
        receipt=receipt.id,
    )  # fmt: skip


def _void(scene: _Scene, task: Task, node: Node, receipt: Receipt) -> None:
    """Note an end that says nothing of the result; another may try."""
    rows.end_attempt(scene.c, scene.attempt.id, "void", status=receipt.body.status)
    _stand(scene, node, "nothing")
    if scene.has_house and not node.house:
        task = replace(task, asks="house")
    status = receipt.body.status
    if _is_hopeless(scene, status):
        scene.settled.task = changes.failed(scene.c, task, f"on every node: {status}")
        return
    scene.settled.task = changes.wanted_again(scene.c, task, is_failure=True)


def _is_hopeless(scene: _Scene, status: str) -> bool:
    """Whether every node was too slow or too small for it, and at least two attempts were."""
    if scene.has_house or status not in _TOO_MUCH:
        return False
    ends = [one.node_id for one in scene.tried if one.state == "void" and one.status in _TOO_MUCH]
    nodes = {*ends, scene.attempt.node_id}
    return bool(ends) and len(nodes) >= rows.admitted(scene.c.db)


def _forged(scene: _Scene, task: Task, node: Node, what: str) -> None:
    """Punish a receipt that cannot be a mistake; another runs the task."""
    rows.end_attempt(scene.c, scene.attempt.id, "forged")
    books.note(scene.c, "receipt.forged", node.did, f"{task.name}: {_printable(what)}")
    _stand(scene, node, "forgery")
    _fine(scene, node, task, reputation.reward(0), "")
    scene.settled.task = changes.wanted_again(scene.c, task, is_failure=False)


def _accept(
    scene: _Scene, task: Task, verdict: Accepted, tried: Sequence[Attempt], by_did: dict[str, Node]
) -> None:
    c = scene.c
    receipt, detail = _first(scene, verdict.outcome)
    was_provisional = task.how == "provisional"
    withdrawn = was_provisional and task.receipt not in {
        a.receipt for a in tried if a.outcome == verdict.outcome
    }
    if withdrawn:
        detail = f"an earlier result was false and is withdrawn. {detail}".strip()
        books.note(c, "result.withdrawn", task.name, f"{task.output} was not {receipt.body.output}")
    _finish(scene, task, receipt, detail, how=verdict.how, risk=None, wants=0)
    _pay(scene, task, verdict, receipt, by_did)
    right = {by_did[did].id for did in verdict.right} | {n.id for n in by_did.values() if n.house}
    _found(scene, right, "right")
    _found(scene, {by_did[did].id for did in verdict.wrong}, "wrong")
    _call_off(scene)


def _call_off(scene: _Scene) -> None:
    """End the other attempts that go on: the task needs them no more."""
    for one in scene.tried:
        if one.state == "leased" and one.id != scene.attempt.id:
            rows.end_attempt(scene.c, one.id, "late")
            scene.settled.drop.append(one)


def _found(scene: _Scene, nodes: set[int], state: AttemptState) -> None:
    """Note what was found of the attempts of NODES that said something."""
    if scene.attempt.node_id in nodes:
        scene.state = state
    others = [
        one.id for one in scene.tried
        if one.outcome and one.node_id in nodes and one.id != scene.attempt.id
    ]  # fmt: skip
    rows.set_attempts(scene.c, others, state)


def _first(scene: _Scene, outcome: str) -> tuple[Receipt, str]:
    """Return the first receipt that claims OUTCOME, and its detail."""
    return _kept(scene, next(a for a in scene.tried if a.outcome == outcome and a.receipt))


def _kept(scene: _Scene, attempt: Attempt) -> tuple[Receipt, str]:
    """Return the receipt of an attempt that has one, and its detail."""
    if attempt.id == scene.attempt.id and scene.read.receipt:
        return scene.read.receipt, _printable(scene.read.result.detail)
    kept = rows.receipt(scene.c.db, attempt.receipt or "")
    assert kept is not None
    return receipts.parse(kept.plain), kept.detail


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
            _book(scene, "reward", by_did[did], credits, task, receipt.id)
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
            _book(scene, "reward", node, paid, task, task.receipt or "")


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
    by_did: dict[str, Node],
    *,
    wants: int,
) -> None:
    receipt, detail = _first(scene, verdict.outcome)
    for did in verdict.right:
        _stand(scene, by_did[did], "unchecked")
    _finish(scene, task, receipt, detail, how="provisional", risk=verdict.risk, wants=wants)


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


def _keep(scene: _Scene, receipt: Receipt) -> None:
    result = scene.read.result
    rows.put_blob(scene.c, receipt.body.output, result.output)
    kept = KeptReceipt(
        plain=result.receipt, leaves=result.leaves, stderr=result.stderr,
        detail=_printable(result.detail),
    )  # fmt: skip
    rows.add_receipt(scene.c, receipt.id, scene.attempt, kept)


def _stand(scene: _Scene, node: Node, event: Event) -> None:
    """Change a node's standing, and ban it where that is the end of it."""
    now = scene.nodes[node.id]
    changed = replace(now, standing=reputation.after(now.standing, event))
    if changed.standing.is_banned and not node.house and now.state != "banned":
        reason = f"{changed.standing.wrong} of its results were wrong or forged"
        changes.ban(scene.c, changed, reason)
        changed = replace(changed, state="banned", reason=reason)
    scene.nodes.put(changed)
    scene.settled.nodes = [one for one in scene.settled.nodes if one.id != node.id] + [changed]


def _fine(scene: _Scene, node: Node, task: Task, reward: int, receipt: str) -> None:
    now = scene.nodes[node.id]
    banned = now.state == "banned"
    if credits := reputation.penalty(reward, now.credits, banned=banned):
        _book(scene, "penalty", node, -credits, task, receipt)


def _book(scene: _Scene, kind: Kind, node: Node, credits: int, task: Task, receipt: str) -> None:
    """Book CREDITS of a node, which has them only where that is new."""
    if books.book(scene.c, kind, node.did, credits, task.name, receipt):
        now = scene.nodes[node.id]
        scene.nodes.put(replace(now, credits=now.credits + credits))


def _printable(text: str) -> str:
    """Return a node's words with what no database or terminal takes replaced."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
