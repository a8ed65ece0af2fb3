"""Statements on nodes, modules, tasks and attempts, and what rows mean; none decides anything."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from arsenale_core.store import Connection, Sql
from arsenale_mesh.ledger import Entry
from arsenale_mesh.receipts import Limits
from arsenale_mesh.record import Attempt, Module, NewTask, Node, Role, Task
from arsenale_mesh.reputation import Standing

_NODE = (
    "id, did, name, kind, house, state, joined_us, seen_us, slots, memory_bytes, engine, credits,"
    " reason, score, streak, correct, wrong, unchecked, no_word"
)
TASK_COLUMNS = (
    "id, module, function, input, memory_bytes, max_fuel, wall_ms, output_bytes, seed, clock_us,"
    " slice_fuel, nonce, assurance, carbon, house_only, priority, label, project, state, wants,"
    " asks, failures, created_us, started_us, ended_us, status, output, detail, fuel, how, risk,"
    " receipt, reward"
)
_ATTEMPT = "id, task_id, node_id, role, state, leased_us, ended_us, outcome, status, receipt"
_MODULE = "sha, name, description, functions, size, added_us, uses, ready_made"


def _names(columns: str) -> tuple[str, ...]:
    return tuple(columns.replace(" ", "").split(","))


_NODE_NAMES, _TASK_NAMES = _names(_NODE)[:-6], _names(TASK_COLUMNS)
_MODULE_NAMES = _names(_MODULE)
_LIMITS = slice(4, 8)
_PLAIN_NAMES = _TASK_NAMES[:4] + _TASK_NAMES[8:]


@dataclass(slots=True)
class Change:
    """A transaction that writes, and when it does; `last_entry` of the ledger, once known."""

    db: Connection
    now_us: int
    last_entry: Entry | None = None


# Blobs.

_PUT_BLOB = Sql(
    "INSERT INTO blob (sha, size, data, at_us) VALUES (:sha, :size, :data, :at_us)"
    " ON CONFLICT (sha) DO NOTHING"
)
_BLOB = Sql("SELECT data FROM blob WHERE sha = :sha")
_BLOB_SIZE = Sql("SELECT size FROM blob WHERE sha = :sha")


def put_blob(c: Change, sha: str, data: bytes) -> None:
    """Keep DATA, whose SHA-256 is SHA; what is there stays."""
    _PUT_BLOB.run(c.db, sha=sha, size=len(data), data=data, at_us=c.now_us)


def blob(db: Connection, sha: str) -> bytes | None:
    """Return the bytes with that SHA-256."""
    found = _BLOB.value(db, sha=sha)
    return None if found is None else bytes(found)


def blob_size(db: Connection, sha: str) -> int | None:
    """Return how many bytes it has; `None` where there are none."""
    return _BLOB_SIZE.value(db, sha=sha)


# Modules.

_PUT_MODULE = Sql(
    "INSERT INTO module (sha, name, description, functions, size, added_us, uses, ready_made)"
    " VALUES (:sha, :name, :description, :functions, :size, :added_us, 0, :ready_made)"
    " ON CONFLICT (sha) DO UPDATE SET name = :name, description = :description,"
    " functions = :functions, ready_made = :ready_made"
)
_MODULE_BY_NAME = Sql(f"SELECT {_MODULE} FROM module WHERE name = :name")
_MODULE_BY_SHA = Sql(f"SELECT {_MODULE} FROM module WHERE sha LIKE :like ORDER BY sha LIMIT 2")
_MODULES = Sql(
    f"SELECT {_MODULE} FROM module WHERE name LIKE :like ESCAPE '!'"
    " OR description LIKE :like ESCAPE '!'"
    " ORDER BY uses DESC, ready_made DESC, name LIMIT :limit OFFSET :offset"
)
_USED = Sql("UPDATE module SET uses = uses + 1 WHERE sha = :sha")


def _module(row: tuple[Any, ...]) -> Module:
    values: dict[str, Any] = dict(zip(_MODULE_NAMES, row, strict=True))
    values["functions"] = tuple(orjson.loads(values["functions"]))
    values["ready_made"] = bool(values["ready_made"])
    return Module(**values)


def put_module(c: Change, module: Module) -> None:
    """Name the module with that SHA-256."""
    _PUT_MODULE.run(
        c.db, sha=module.sha, name=module.name, description=module.description,
        functions=orjson.dumps(module.functions).decode(), size=module.size, added_us=c.now_us,
        ready_made=int(module.ready_made),
    )  # fmt: skip


def module_named(db: Connection, name: str) -> Module | None:
    """Return the module of that name."""
    row = _MODULE_BY_NAME.first(db, name=name)
    return _module(row) if row else None


def modules_beginning(db: Connection, sha: str) -> list[Module]:
    """Return up to two modules whose SHA-256 begins so."""
    return [_module(row) for row in _MODULE_BY_SHA.all(db, like=f"{sha}%")]


def modules(db: Connection, text: str, limit: int, offset: int) -> list[Module]:
    """Return modules that hold TEXT in name or description, most used first."""
    like = f"%{text.replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"
    return [_module(row) for row in _MODULES.all(db, like=like, limit=limit, offset=offset)]


# Nodes.

_NODE_BY_DID = Sql(f"SELECT {_NODE} FROM node WHERE did = :did")
_NODE_BY_ID = Sql(f"SELECT {_NODE} FROM node WHERE id = :id")
_NODE_BY_NAME = Sql(f"SELECT {_NODE} FROM node WHERE name = :name")
_NODES = Sql(
    f"SELECT {_NODE} FROM node ORDER BY CASE state WHEN 'online' THEN 0 WHEN 'offline' THEN 1"
    " WHEN 'left' THEN 2 ELSE 3 END, score DESC, id LIMIT :limit OFFSET :offset"
)
_ADD_NODE = Sql(
    "INSERT INTO node (did, name, kind, house, state, joined_us, seen_us, slots, memory_bytes,"
    " engine, score, streak, correct, wrong, unchecked, no_word, credits, reason) VALUES"
    " (:did, :name, :kind, :house, 'online', :at_us, :at_us, :slots, :memory_bytes, :engine,"
    " :score, 0, 0, 0, 0, 0, 0, '')"
    f" RETURNING {_NODE}"
)
_SET_NODE = Sql(
    "UPDATE node SET kind = :kind, state = 'online', seen_us = :at_us, slots = :slots,"
    f" memory_bytes = :memory_bytes, engine = :engine WHERE id = :id RETURNING {_NODE}"
)
_NODE_STATE = Sql(
    "UPDATE node SET state = :state, reason = :reason, seen_us = :at_us WHERE id = :id"
)
_SEEN = Sql("UPDATE node SET seen_us = :at_us WHERE id = :id")
_STANDING = Sql(
    "UPDATE node SET score = :score, streak = :streak, correct = :right, wrong = :wrong,"
    " unchecked = :unchecked, no_word = :nothing, credits = :credits WHERE id = :id"
)
_ALL_OFFLINE = Sql("UPDATE node SET state = 'offline' WHERE state = 'online'")
_BANNED = Sql("SELECT id FROM node WHERE state = 'banned'")
_NODE_COUNTS = Sql("SELECT state, count(*) FROM node GROUP BY state")
_ADMITTED = Sql("SELECT count(*) FROM node WHERE house = 0 AND state IN ('online', 'offline')")


def _node(row: tuple[Any, ...]) -> Node:
    score, streak, right, wrong, unchecked, nothing = row[-6:]
    values: dict[str, Any] = dict(zip(_NODE_NAMES, row[:-6], strict=True))
    values["house"] = bool(values["house"])
    standing = Standing(
        score=score, streak=streak, right=right, wrong=wrong, unchecked=unchecked, nothing=nothing
    )
    return Node(**values, standing=standing)


def node(db: Connection, id: int) -> Node:
    """Return the node with that number, which exists."""
    row = _NODE_BY_ID.first(db, id=id)
    assert row is not None
    return _node(row)


def node_with(db: Connection, did: str) -> Node | None:
    """Return the node with that did:key."""
    row = _NODE_BY_DID.first(db, did=did)
    return _node(row) if row else None


def node_named(db: Connection, name: str) -> Node | None:
    """Return the node of that name."""
    row = _NODE_BY_NAME.first(db, name=name)
    return _node(row) if row else None


def nodes(db: Connection, limit: int, offset: int) -> list[Node]:
    """Return nodes, those that are there first."""
    return [_node(row) for row in _NODES.all(db, limit=limit, offset=offset)]


def add_node(c: Change, values: dict[str, Any]) -> Node:
    """Admit a node."""
    row = _ADD_NODE.first(c.db, at_us=c.now_us, score=Standing().score, **values)
    assert row is not None
    return _node(row)


def set_node(c: Change, id: int, values: dict[str, Any]) -> Node:
    """Note what a node that came back says of itself."""
    row = _SET_NODE.first(c.db, id=id, at_us=c.now_us, **values)
    assert row is not None
    return _node(row)


def set_node_state(c: Change, id: int, state: str, reason: str = "") -> None:
    """Note that a node went, or may not come back."""
    _NODE_STATE.run(c.db, id=id, state=state, reason=reason, at_us=c.now_us)


def seen(c: Change, ids: Iterable[int]) -> None:
    """Note that nodes are there."""
    _SEEN.many(c.db, [{"id": id, "at_us": c.now_us} for id in ids])


def set_standing(c: Change, id: int, standing: Standing) -> None:
    """Write a node's reputation, and leave its credits."""
    set_standings(c, [replace(node(c.db, id), standing=standing)])


def set_standings(c: Change, nodes: Iterable[Node]) -> None:
    """Write the reputation and the credits of nodes."""
    _STANDING.many(c.db, [{**asdict(n.standing), "id": n.id, "credits": n.credits} for n in nodes])


def all_offline(c: Change) -> None:
    """Note that nobody is connected: a gateway has just begun."""
    _ALL_OFFLINE.run(c.db)


def node_counts(db: Connection) -> dict[str, int]:
    """Return how many nodes there are, by state."""
    return {state: int(count) for state, count in _NODE_COUNTS.all(db)}


def banned(db: Connection) -> frozenset[int]:
    """Return the nodes that are given nothing any more."""
    return frozenset(int(id) for (id,) in _BANNED.all(db))


def admitted(db: Connection) -> int:
    """Return how many nodes that are not ours may be given work, connected or not."""
    return int(_ADMITTED.value(db))


# Tasks.

_ADD_TASK = Sql(
    "INSERT INTO task (module, function, input, memory_bytes, max_fuel, wall_ms, output_bytes,"
    " seed, clock_us, slice_fuel, nonce, assurance, carbon, house_only, priority, label, project,"
    " state, wants, asks, failures, created_us, detail, fuel, how, reward, key)"
    " VALUES (:module, :function, :input, :memory_bytes, :max_fuel, :wall_ms, :output_bytes,"
    " :seed, :clock_us, :slice_fuel, :nonce, :assurance, :carbon, :house_only, :priority, :label,"
    " :project, 'queued', 1, :asks, 0, :created_us, '', 0, '', 0, :key)"
    f" ON CONFLICT (key) DO NOTHING RETURNING {TASK_COLUMNS}"
)
_TASK_BY_KEY = Sql(f"SELECT {TASK_COLUMNS} FROM task WHERE key = :key")
_TASK_BY_ID = Sql(f"SELECT {TASK_COLUMNS} FROM task WHERE id = :id")
_WAITING = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE wants > 0 ORDER BY priority DESC, id LIMIT :limit"
)
_WAITING_FOR = Sql(
    f"SELECT {TASK_COLUMNS} FROM task WHERE wants > 0 AND memory_bytes <= :most"
    " AND (asks <> 'house' OR :house = 1) ORDER BY priority DESC, id LIMIT :limit OFFSET :offset"
)
_LEASED = Sql(
    "UPDATE task SET wants = wants - 1,"
    " state = CASE WHEN state = 'done' THEN state WHEN asks = 'house' AND house_only = 0"
    " THEN 'checking' ELSE 'running' END,"
    " started_us = coalesce(started_us, :at_us) WHERE id = :id AND wants > 0"
    " RETURNING asks, house_only"
)
_SET_TASK = Sql(
    "UPDATE task SET state = :state, wants = :wants, asks = :asks, failures = :failures,"
    " ended_us = :ended_us, status = :status, output = :output, detail = :detail, fuel = :fuel,"
    " how = :how, risk = :risk, receipt = :receipt, reward = :reward WHERE id = :id"
)
_ON_TRUST = Sql(
    f"SELECT {', '.join('task.' + one for one in _names(TASK_COLUMNS))} FROM attempt"
    " JOIN task ON task.id = attempt.task_id WHERE attempt.node_id = :node"
    " AND attempt.state = 'said' AND task.how = 'provisional' AND task.wants = 0"
    " AND task.reward = 0 ORDER BY task.id LIMIT :limit"
)
_TASK_COUNTS = Sql("SELECT state, count(*) FROM task GROUP BY state")
_OLDEST = Sql("SELECT min(created_us) FROM task WHERE wants > 0")


def as_task(row: tuple[Any, ...]) -> Task:
    """Return the task that a row of `TASK_COLUMNS` is."""
    memory_bytes, fuel, wall_ms, output_bytes = row[_LIMITS]
    values: dict[str, Any] = dict(zip(_PLAIN_NAMES, row[:4] + row[8:], strict=True))
    values["house_only"] = bool(values["house_only"])
    return Task(
        **values,
        limits=Limits(
            memory_bytes=memory_bytes, fuel=fuel, wall_ms=wall_ms, output_bytes=output_bytes
        ),
    )


def add_task(c: Change, new: NewTask, nonce: str) -> tuple[Task, bool]:
    """Add a task; return it, and whether it is new: its key may be known."""
    limits = new.limits
    row = _ADD_TASK.first(
        c.db, module=new.module, function=new.function, input=new.input,
        memory_bytes=limits.memory_bytes, max_fuel=limits.fuel, wall_ms=limits.wall_ms,
        output_bytes=limits.output_bytes, seed=new.seed, clock_us=new.clock_us,
        slice_fuel=new.slice_fuel, nonce=nonce, assurance=new.assurance, carbon=new.carbon,
        house_only=int(new.house_only), priority=new.priority, label=new.label,
        project=new.project, asks="house" if new.house_only else "any", created_us=c.now_us,
        key=new.key,
    )  # fmt: skip
    if row is not None:
        _USED.run(c.db, sha=new.module)
        return as_task(row), True
    known = _TASK_BY_KEY.first(c.db, key=new.key)
    assert known is not None
    return as_task(known), False


def task(db: Connection, id: int) -> Task | None:
    """Return the task with that number."""
    row = _TASK_BY_ID.first(db, id=id)
    return as_task(row) if row else None


def waiting(db: Connection, limit: int) -> list[Task]:
    """Return tasks of which an attempt has to begin, most urgent first."""
    return [as_task(row) for row in _WAITING.all(db, limit=limit)]


def waiting_for(db: Connection, most: int, has_house: bool, limit: int, offset: int) -> list[Task]:
    """Return those of them that ask for MOST bytes of memory at most, and for a house there is."""
    found = _WAITING_FOR.all(db, most=most, house=int(has_house), limit=limit, offset=offset)
    return [as_task(row) for row in found]


def lease_task(c: Change, id: int) -> Role | None:
    """Note that an attempt begins, and say as what; `None` where none is wanted any more."""
    row = _LEASED.first(c.db, id=id, at_us=c.now_us)
    if row is None:
        return None
    return "check" if row[0] == "house" and not row[1] else "run"


def set_task(c: Change, task: Task) -> None:
    """Write how a task stands."""
    _SET_TASK.run(
        c.db, id=task.id, state=task.state, wants=task.wants, asks=task.asks,
        failures=task.failures, ended_us=task.ended_us, status=task.status, output=task.output,
        detail=task.detail, fuel=task.fuel, how=task.how, risk=task.risk, receipt=task.receipt,
        reward=task.reward,
    )  # fmt: skip


def on_trust(db: Connection, node: int, limit: int) -> list[Task]:
    """Return tasks whose result was delivered on the word of a node, and is not paid."""
    return [as_task(row) for row in _ON_TRUST.all(db, node=node, limit=limit)]


def task_counts(db: Connection) -> dict[str, int]:
    """Return how many tasks there are, by state."""
    return {state: int(count) for state, count in _TASK_COUNTS.all(db)}


def oldest_waiting_us(db: Connection) -> int | None:
    """Return since when the oldest task waits for a node."""
    return _OLDEST.value(db)


# Attempts and receipts.

_ADD_ATTEMPT = Sql(
    "INSERT INTO attempt (task_id, node_id, role, state, leased_us) VALUES (:task, :node, :role,"
    " 'leased', :at_us) RETURNING id"
)
_ATTEMPT_BY_ID = Sql(f"SELECT {_ATTEMPT} FROM attempt WHERE id = :id")
_ATTEMPTS_OF = Sql(f"SELECT {_ATTEMPT} FROM attempt WHERE task_id = :task ORDER BY id")
_ATTEMPTS_BESIDE = Sql(
    f"SELECT {_ATTEMPT} FROM attempt WHERE task_id ="
    " (SELECT task_id FROM attempt WHERE id = :id) ORDER BY id"
)
_LEASES = Sql(f"SELECT {_ATTEMPT} FROM attempt WHERE state = 'leased' ORDER BY id")
_END_ATTEMPT = Sql(
    "UPDATE attempt SET state = :state, ended_us = :at_us, outcome = :outcome, status = :status,"
    " receipt = :receipt WHERE id = :id"
)
_SAID_BY = Sql(
    f"SELECT {_ATTEMPT} FROM attempt WHERE task_id = :task AND node_id = :node AND state = 'said'"
)
_ATTEMPT_STATE = Sql("UPDATE attempt SET state = :state WHERE id = :id")
_ADD_RECEIPT = Sql(
    "INSERT INTO receipt (id, task_id, node_id, at_us, body, leaves, stderr, detail) VALUES"
    " (:id, :task, :node, :at_us, :body, :leaves, :stderr, :detail) ON CONFLICT (id) DO NOTHING"
)
_RECEIPT = Sql("SELECT body, leaves, stderr, detail FROM receipt WHERE id = :id")
_RECEIPTS_BEGINNING = Sql("SELECT id, task_id FROM receipt WHERE id LIKE :like LIMIT 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReceipt:
    """A receipt as JSON, the leaves of its trace, and what is not signed."""

    plain: dict[str, Any]
    leaves: tuple[str, ...]
    stderr: bytes
    detail: str


def _attempt(row: tuple[Any, ...]) -> Attempt:
    id, task_id, node_id, role, state, leased_us, ended_us, outcome, status, receipt = row
    return Attempt(
        id=id, task_id=task_id, node_id=node_id, role=role, state=state, leased_us=leased_us,
        ended_us=ended_us, outcome=outcome, status=status, receipt=receipt,
    )  # fmt: skip


def add_attempt(c: Change, task: int, node: int, role: Role) -> Attempt:
    """Lease a task to a node."""
    id = _ADD_ATTEMPT.value(c.db, task=task, node=node, role=role, at_us=c.now_us)
    return Attempt(
        id=id, task_id=task, node_id=node, role=role, state="leased", leased_us=c.now_us,
        ended_us=None, outcome=None, status=None, receipt=None,
    )  # fmt: skip


def attempt(db: Connection, id: int) -> Attempt | None:
    """Return the attempt with that number."""
    row = _ATTEMPT_BY_ID.first(db, id=id)
    return _attempt(row) if row else None


def attempts(db: Connection, task: int) -> list[Attempt]:
    """Return the attempts at a task, in their order."""
    return [_attempt(row) for row in _ATTEMPTS_OF.all(db, task=task)]


def attempts_beside(db: Connection, id: int) -> list[Attempt]:
    """Return all attempts at the task of an attempt, that one too; none where there is none."""
    return [_attempt(row) for row in _ATTEMPTS_BESIDE.all(db, id=id)]


def leases(db: Connection) -> list[Attempt]:
    """Return the attempts that have not ended."""
    return [_attempt(row) for row in _LEASES.all(db)]


def end_attempt(
    c: Change,
    id: int,
    state: str,
    *,
    outcome: str | None = None,
    status: str | None = None,
    receipt: str | None = None,
) -> None:
    """Note how an attempt ended."""
    _END_ATTEMPT.run(
        c.db, id=id, state=state, at_us=c.now_us, outcome=outcome, status=status, receipt=receipt
    )


def set_attempts(c: Change, ids: Sequence[int], state: str) -> None:
    """Note what was found of attempts."""
    _ATTEMPT_STATE.many(c.db, [{"id": id, "state": state} for id in ids])


def add_receipt(c: Change, id: str, attempt: Attempt, kept: KeptReceipt) -> None:
    """Keep a receipt under its id."""
    _ADD_RECEIPT.run(
        c.db, id=id, task=attempt.task_id, node=attempt.node_id, at_us=c.now_us,
        body=orjson.dumps(kept.plain).decode(), leaves="".join(kept.leaves), stderr=kept.stderr,
        detail=kept.detail,
    )  # fmt: skip


def receipt(db: Connection, id: str) -> KeptReceipt | None:
    """Return the receipt with that id."""
    row = _RECEIPT.first(db, id=id)
    if row is None:
        return None
    body, leaves, stderr, detail = row
    parts = tuple(leaves[at : at + 64] for at in range(0, len(leaves), 64))
    return KeptReceipt(plain=orjson.loads(body), leaves=parts, stderr=bytes(stderr), detail=detail)


def receipts_beginning(db: Connection, id: str) -> list[tuple[str, int]]:
    """Return id and task of up to two receipts whose id begins so."""
    return [(found, int(task)) for found, task in _RECEIPTS_BEGINNING.all(db, like=f"{id}%")]
