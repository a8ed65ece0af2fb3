"""A mesh without sandboxes: nodes with made keys that sign what they are told to say."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from arsenale_mesh import books, changes, identity, merkle, rows, settling
from arsenale_mesh.changes import Newcomer
from arsenale_mesh.identity import Identity
from arsenale_mesh.ledger import balances
from arsenale_mesh.receipts import Body, sign
from arsenale_mesh.record import Attempt, NewTask, Node, Result, Task
from arsenale_mesh.sandbox.jobs import limits
from arsenale_mesh.sandbox.kinds import engine_id
from arsenale_mesh.settling import Settled
from arsenale_mesh.store import MeshStore

MODULE = b"\0asm, as far as anybody here asks"
FUEL = 2_500_000
LEAF = merkle.leaf(b"state")


@dataclass
class Hand:
    """A clock that is moved by hand."""

    s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.s


@dataclass
class Draw:
    """A draw that comes out as told."""

    value: float = 0.999

    def random(self) -> float:
        return self.value


def emptied(url: str) -> str:
    """Return URL, in which no mesh is left."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        db.exec_driver_sql("DROP SCHEMA IF EXISTS arsenale_mesh CASCADE")
    engine.dispose()
    return url


@dataclass
class Village:
    """Nodes and tasks of a store. `has_house`: whether the gateway can ask our own node."""

    store: MeshStore
    has_house: bool = False
    keys: dict[str, Identity] = field(default_factory=dict[str, Identity])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    tasks: int = 0

    def do(self, work: Callable[[rows.Change], Any]) -> Any:
        with self.store.changing() as c:
            return work(c)

    def see(self, read: Callable[[Any], Any]) -> Any:
        with self.store.reading() as db:
            return read(db)

    def settle_in(self, *names: str, house: str = "") -> None:
        """Admit nodes."""
        for name in (*names, *([house] if house else [])):
            key = self.keys[name] = identity.make()
            new = Newcomer(
                did=key.did, name=name, kind="pc", house=name == house, local=True, slots=1,
                memory_bytes=1 << 29, engine=engine_id("cranelift"),
            )  # fmt: skip
            self.numbers[name] = self.do(lambda c, new=new: changes.admit(c, new)).id
        self.has_house = self.has_house or bool(house)

    def task(self, **more: Any) -> Task:
        """Enqueue a task with an input of its own."""
        self.tasks += 1
        data = b"input %d" % self.tasks
        new = NewTask(
            module=sha256(MODULE).hexdigest(), function="run", input=sha256(data).hexdigest(),
            limits=limits(fuel=10**9), **more,
        )  # fmt: skip
        return self.do(lambda c: changes.enqueue(c, new, (MODULE, data)))

    def now(self, task: Task) -> Task:
        """Return TASK as it stands."""
        return self.see(lambda db: rows.task(db, task.id))

    def node(self, name: str) -> Node:
        return self.see(lambda db: rows.node(db, self.numbers[name]))

    def attempts(self, task: Task) -> list[Attempt]:
        return self.see(lambda db: rows.attempts(db, task.id))

    def lease(self, task: Task, name: str) -> int:
        """Give TASK to a node; return the lease."""
        [made] = self.do(lambda c: changes.lease(c, [(task.id, self.numbers[name])]))
        return made.id

    def result(
        self, task: Task, name: str, lease: int, said: bytes | None = None, /, **changed: Any
    ) -> Result:
        """Return what a node says: the truth, or SAID; fields of the receipt as CHANGED."""
        said = truth(task) if said is None else said
        body = Body(
            task=task.name, nonce=task.nonce, module=task.module, function=task.function,
            input=task.input, output=sha256(said).hexdigest(), seed=task.seed,
            clock_us=task.clock_us, limits=task.limits, status="ok", fuel=FUEL,
            slice_fuel=task.slice_fuel, slices=0, trace=merkle.root([LEAF]).hex(),
            engine=engine_id("cranelift"), node=self.keys[name].did, started_us=1, ended_us=2,
        )  # fmt: skip
        receipt = sign(replace(body, **changed), self.keys[name]).plain()
        return Result(lease=lease, receipt=receipt, leaves=(LEAF.hex(),), output=said)

    def settle(self, name: str, result: Result) -> Settled:
        return self.do(
            lambda c: settling.settle(c, self.numbers[name], result, has_house=self.has_house)
        )

    def say(self, task: Task, name: str, said: bytes | None = None, /, **changed: Any) -> Settled:
        """Lease TASK to a node and let it say the truth, or SAID."""
        lease = self.lease(task, name)
        return self.settle(name, self.result(task, name, lease, said, **changed))

    def notes(self) -> list[str]:
        """Return the kinds of all notes of the audit trail, oldest first."""
        return [one.kind for one in reversed(self.see(lambda db: books.notes(db, 10_000)))]

    def paid(self, task: Task) -> dict[str, int]:
        """Return who was rewarded for a task."""
        found = self.see(lambda db: books.entries(db, None, task.name, 1_000, 0))
        by_did = {key.did: name for name, key in self.keys.items()}
        return {
            by_did[did]: credits
            for did, credits in balances(e for e, _ in found if e.kind == "reward").items()
        }

    def check(self) -> None:
        """Check what always holds: whole chains, credits of the ledger, nobody paid twice."""
        with self.store.reading() as db:
            assert books.ledger_fault(db) is None
            assert books.audit_fault(db) is None
            entries = [entry for entry, _ in books.entries(db, None, None, 100_000, 0)]
            nodes = rows.nodes(db, 10_000, 0)
        owed = balances(entries)
        assert {n.did: n.credits for n in nodes if n.credits} == {
            k: v for k, v in owed.items() if v
        }
        assert all(n.credits >= 0 for n in nodes)
        rewards = [(one.node, one.task) for one in entries if one.kind == "reward"]
        assert len(rewards) == len(set(rewards))


def truth(task: Task) -> bytes:
    """Return the right output of a task."""
    return b"the truth of " + task.input.encode()
