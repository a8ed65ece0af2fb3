"""What may happen to nodes, modules and tasks; each within a transaction (`rows.Change`).

The verdict on results is in `settling`.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from arsenale_core.errors import ConflictError, InvalidError, NotFoundError
from arsenale_core.store import Sql
from arsenale_mesh import books, reputation, rows
from arsenale_mesh.record import ENDED, Attempt, Module, NewTask, Node, NodeKind, Task
from arsenale_mesh.rows import Change

MOST_FAILURES = 5
"""Attempts that may end without a word on the result; then the task is given up."""

HOUSE_AFTER = 2
"""Attempts that so ended, after which our own node is asked: no stranger can wear a task out."""

INVITED_S = 24 * 3_600
"""How long an invitation holds."""

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}")
_FREE_NAMES = 1_000


# Blobs and modules.


def keep(c: Change, data: bytes) -> str:
    """Keep DATA; return its SHA-256, hex."""
    sha = sha256(data).hexdigest()
    rows.put_blob(c, sha, data)
    return sha


def submit(c: Change, module: Module, data: bytes) -> Module:
    """Name a module; the same bytes submitted again may be given another name.

    Raises:
        ConflictError: The name is of another module.
        InvalidError: It is no name.
    """
    if not NAME.fullmatch(module.name):
        raise InvalidError(
            f"{module.name[:60]!r} is no name of a module", hint="a-z, 0-9, _ . - and 60 at most"
        )
    known = rows.module_named(c.db, module.name)
    if known and known.sha != module.sha:
        raise ConflictError(
            f"{module.name} is another module ({known.sha[:12]})", hint="give another name"
        )
    if known and known == replace(module, added_us=known.added_us, uses=known.uses):
        return known
    rows.put_blob(c, module.sha, data)
    rows.put_module(c, module)
    if not module.ready_made:
        books.note(c, "module.submitted", module.sha, module.name)
    [made] = rows.modules_beginning(c.db, module.sha)
    return made


# Tasks.


def enqueue(c: Change, new: NewTask, blobs: Sequence[bytes] = ()) -> Task:
    """Make a task, once for its key. BLOBS are kept along with it.

    Raises:
        ConflictError: The key is of a task with another module or input.
    """
    for data in blobs:
        keep(c, data)
    made, fresh = rows.add_task(c, new, secrets.token_hex(16))
    if not fresh and (made.module, made.input) != (new.module, new.input):
        raise ConflictError(
            f"the key {new.key!r} is of {made.name}, which runs something else",
            hint="give another key",
        )
    return made


def lease(c: Change, pairs: Sequence[tuple[int, int]]) -> list[Attempt]:
    """Give tasks to nodes (task, node), as far as they still want one."""
    made: list[Attempt] = []
    for task_id, node_id in pairs:
        if role := rows.lease_task(c, task_id):
            made.append(rows.add_attempt(c, task_id, node_id, role))
    return made


def let_go(
    c: Change, leases: Sequence[int], state: str, *, is_failure: bool, has_house: bool = False
) -> list[Task]:
    """End attempts that came to nothing, and let others have the tasks; return these."""
    changed: list[Task] = []
    for id in leases:
        attempt = rows.attempt(c.db, id)
        if attempt is None or attempt.state != "leased":
            continue
        rows.end_attempt(c, id, state)
        if is_failure:
            standing = reputation.after(rows.node(c.db, attempt.node_id).standing, "nothing")
            rows.set_standing(c, attempt.node_id, standing)
        task = rows.task(c.db, attempt.task_id)
        if task is not None and (task.state not in ENDED or task.how == "provisional"):
            if has_house and is_failure and task.failures + 1 >= HOUSE_AFTER:
                task = replace(task, asks="house")
            changed.append(wanted_again(c, task, is_failure=is_failure))
    return changed


def wanted_again(c: Change, task: Task, *, is_failure: bool) -> Task:
    """Let one more attempt at TASK begin; or give it up."""
    failures = task.failures + is_failure
    if failures >= MOST_FAILURES and task.state != "done":
        return failed(c, task, f"{failures} nodes were lost with it or gave it back")
    state = "queued" if task.state == "running" else task.state
    changed = replace(task, failures=failures, wants=task.wants + 1, state=state)
    rows.set_task(c, changed)
    return changed


def failed(c: Change, task: Task, reason: str) -> Task:
    """Give a task up."""
    changed = replace(task, state="failed", wants=0, ended_us=c.now_us, detail=reason)
    rows.set_task(c, changed)
    return changed


def cancel(c: Change, id: int) -> tuple[Task, list[Attempt]]:
    """Give a task up because nobody wants it; return it and the attempts that go on.

    Raises:
        NotFoundError: There is no such task.
        ConflictError: It is over.
    """
    task = must(c, id)
    if task.state in ENDED:
        raise ConflictError(f"{task.name} is {task.state}", hint="only what goes on is cancelled")
    going = [one for one in rows.attempts(c.db, id) if one.state == "leased"]
    for attempt in going:
        rows.end_attempt(c, attempt.id, "lost")
    changed = replace(task, state="cancelled", wants=0, ended_us=c.now_us)
    rows.set_task(c, changed)
    return changed, going


def must(c: Change, id: int) -> Task:
    """Return the task with that number.

    Raises:
        NotFoundError: There is none.
    """
    found = rows.task(c.db, id)
    if found is None:
        raise NotFoundError("task", f"m{id}", hint="`check_task` without a task lists them")
    return found


# Nodes.

_INVITE = Sql(
    "INSERT INTO invitation (hash, note, made_us, until_us) VALUES (:hash, :note, :at_us, :until)"
)
_USE = Sql(
    "UPDATE invitation SET used_by = :did WHERE hash = :hash AND used_by IS NULL"
    " AND until_us > :at_us"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """What a node says of itself; `local`: it came over our own socket."""

    did: str
    name: str
    kind: NodeKind
    house: bool
    local: bool
    slots: int
    memory_bytes: int
    engine: str
    invitation: str = ""


def invite(c: Change, note: str) -> str:
    """Return a secret that admits one node within a day; only its hash is kept."""
    secret = secrets.token_urlsafe(24)
    until = c.now_us + INVITED_S * 1_000_000
    _INVITE.run(c.db, hash=_hash(secret), note=note[:200], at_us=c.now_us, until=until)
    books.note(c, "invitation.made", _hash(secret)[:16], note)
    return secret


def admit(c: Change, new: Newcomer) -> Node:
    """Let a node in: one that is known, one of ours, or one that was invited.

    Raises:
        ConflictError: It is banned, or not invited.
    """
    values = {
        "kind": new.kind, "slots": new.slots, "memory_bytes": new.memory_bytes,
        "engine": new.engine,
    }  # fmt: skip
    known = rows.node_with(c.db, new.did)
    if known is not None:
        if known.state == "banned":
            raise ConflictError(f"{known.name} is banned: {known.reason}", hint="ask who runs it")
        return rows.set_node(c, known.id, values)
    if not new.local and not _USE.count(
        c.db, did=new.did, hash=_hash(new.invitation), at_us=c.now_us
    ):
        raise ConflictError(
            "the invitation is unknown, used or older than a day",
            hint="`arsenale mesh invite` makes one, where the gateway runs",
        )
    name = _free_name(c, new.name)
    made = rows.add_node(c, {**values, "did": new.did, "name": name, "house": int(new.house)})
    books.note(c, "node.admitted", new.did, f"{name}, a {new.kind}")
    return made


def ban(c: Change, node: Node, reason: str) -> None:
    """Give a node nothing any more, and let it not come back."""
    rows.set_node_state(c, node.id, "banned", reason[:300])
    books.note(c, "node.banned", node.did, reason)


def _free_name(c: Change, wanted: str) -> str:
    clean = re.sub(r"[^a-z0-9_.-]+", "-", wanted.lower()).strip("-.")[:40] or "node"
    for number in range(1, _FREE_NAMES):
        name = clean if number == 1 else f"{clean}-{number}"
        if rows.node_named(c.db, name) is None:
            return name
    return f"{clean}-{secrets.token_hex(6)}"


def _hash(secret: str) -> str:
    return hashlib.sha256(f"arsenale-mesh-invitation\0{secret}".encode()).hexdigest()
