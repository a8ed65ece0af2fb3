"""Rows as people and models read them; pure but for what it is given to read."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime

from arsenale_core.store import Connection
from arsenale_mesh import reading, rows
from arsenale_mesh.audit import Note
from arsenale_mesh.health import Health
from arsenale_mesh.ledger import Entry
from arsenale_mesh.models import (
    AuditLine,
    Detail,
    Encoding,
    EntryLine,
    ModuleLine,
    NodeLine,
    TaskLine,
    TaskReport,
    TermLine,
    TryLine,
)
from arsenale_mesh.record import ENDED, Module, Node, Task
from arsenale_mesh.sessions import Session

OUTPUT_CHARS = {"concise": 4_000, "full": 40_000}
"""Of an output that are shown at a time."""

RECEIPT_CHARS = 16
"""Of a receipt's id that are shown; it is found by them."""

HOW = {
    "house": "run here, by our own node",
    "checked": "run again here, by our own node, with the same result",
    "quorum": "more than a third of all nodes agree",
    "check": "shown to be right without a run (Freivalds)",
    "provisional": "not checked: on the word of a trusted node",
}


def moment(at_us: int) -> str:
    """Return a moment as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")[:-6] + "Z"


def task_line(db: Connection, task: Task) -> TaskLine:
    """Return a task for a list."""
    module = reading.module_of(db, task.module)
    return TaskLine(
        task=task.name, label=task.label, state=task.state, status=task.status or "",
        module=module.name if module else task.module[:12], fuel=task.fuel or None,
        at=moment(task.ended_us or task.created_us),
    )  # fmt: skip


def task_report(
    db: Connection, task: Task, detail: Detail, offset: int, fuel: int, waits: str
) -> TaskReport:
    """Return all that is asked of a task.

    Args:
        db: To read from.
        task: The task.
        detail: `full` shows more of the output, all attempts and standard error.
        offset: Bytes of the output that are left out.
        fuel: What has been burnt so far, while it runs.
        waits: Why it waits, where that is known.
    """
    module = reading.module_of(db, task.module)
    tries = reading.tries(db, task.id)
    kept = rows.receipt(db, task.receipt) if task.receipt else None
    said = [one for one in tries if one.state in ("said", "right")]
    text, encoding, size, following = _output(db, task, offset, OUTPUT_CHARS[detail])
    full = detail == "full"
    stderr = kept.stderr.decode(errors="replace") if kept else ""
    ended = task.ended_us if task.state in ENDED else None
    return TaskReport(
        task=task.name, label=task.label, state=task.state, status=task.status or "",
        module=module.name if module else task.module[:12], function=task.function if full else "",
        node=said[0].node if said else "", output=text, encoding=encoding, output_bytes=size,
        next_offset=following, detail=task.detail,
        stderr=stderr if full else stderr[-400:], fuel=task.fuel or fuel or None,
        seconds=round((ended - task.created_us) / 1e6, 3) if ended else None,
        checked=_how(task, [one.role for one in tries if one.state == "right"]),
        risk=task.risk, receipt=(task.receipt or "")[: 64 if full else RECEIPT_CHARS],
        credits=task.reward or None if full else None,
        attempts=[_try(one) for one in tries] if full else [],
        hint=_hint(task, waits),
    )  # fmt: skip


def _how(task: Task, right: list[str]) -> str:
    if not task.how:
        return ""
    how = "checked" if task.how == "house" and right == ["run", "check"] else task.how
    return HOW.get(how, how)


def _try(one: reading.Try) -> TryLine:
    return TryLine(node=one.node, role=one.role, state=one.state, status=one.status or "")


def _output(
    db: Connection, task: Task, offset: int, most: int
) -> tuple[str, Encoding, int | None, int | None]:
    data = rows.blob(db, task.output) if task.output else None
    if data is None:
        return "", "", None, None
    part = data[offset : offset + most]
    following = offset + len(part) if offset + len(part) < len(data) else None
    try:
        return part.decode(), "", len(data), following
    except UnicodeDecodeError as exc:
        cut = following is not None and exc.start >= len(part) - 3
        if cut and exc.start:  # a character was cut in two
            return part[: exc.start].decode(), "", len(data), offset + exc.start
    size = 3 * most // 4
    part = data[offset : offset + size]
    following = offset + len(part) if offset + len(part) < len(data) else None
    return base64.b64encode(part).decode(), "base64", len(data), following


def _hint(task: Task, waits: str) -> str:
    if task.state == "queued":
        return waits or "it waits for a node; `check_task` looks again"
    if task.state in ("running", "checking"):
        return "`check_task` with wait_s waits for it"
    return ""


def module_line(module: Module) -> ModuleLine:
    """Return a module for a list."""
    return ModuleLine(
        name=module.name, description=module.description, functions=list(module.functions),
        sha256=module.sha, bytes=module.size, runs=module.uses or None,
        ready_made=module.ready_made or None,
    )  # fmt: skip


def node_line(node: Node, session: Session | None, detail: Detail) -> NodeLine:
    """Return a node; with its did and the terms of its health in full."""
    standing, full = node.standing, detail == "full"
    line = NodeLine(
        name=node.name, state=node.state, kind=node.kind, ours=node.house or None,
        reputation=round(standing.worth, 3), trusted=standing.is_trusted or None,
        right=standing.right, wrong=standing.wrong or None, credits=node.credits,
        reason=node.reason, did=node.did if full else "",
    )  # fmt: skip
    if session is None:
        return line
    seen, health = session.telemetry, session.health
    return line.model_copy(
        update={
            "health": round(health.score, 3),
            "tasks": len(session.leases),
            "latency_ms": _rounded(seen.latency_s, 1e3, 2),
            "mbit_per_s": _rounded(seen.bandwidth, 8e-6, 1),
            "cpu": _rounded(seen.cpu, 1, 2),
            "memory_free_mb": None if seen.memory_free is None else int(seen.memory_free / 2**20),
            "watts": _rounded(seen.watts, 1, 1),
            "power": session.said.get("energy", "") if seen.watts is not None else "",
            "celsius": _rounded(seen.celsius, 1, 1),
            "carbon_g_per_kwh": _rounded(seen.carbon, 1, 1),
            "joules_per_gfuel": _rounded(seen.joules_per_gfuel, 1, 3),
            "terms": terms(health) if full else [],
        }
    )


def terms(health: Health) -> list[TermLine]:
    """Return the parts of a score."""
    return [
        TermLine(
            name=one.name, value=round(one.value, 3), weight=round(one.weight, 3), basis=one.basis
        )
        for one in health.terms
    ]


def entry_line(entry: Entry, names: dict[str, str]) -> EntryLine:
    """Return an entry of the ledger, with the node's name."""
    return EntryLine(
        number=entry.number, at=moment(entry.at_us), what=entry.kind,
        node=names.get(entry.node, entry.node), credits=entry.credits, task=entry.task,
        receipt=entry.receipt[:RECEIPT_CHARS],
    )  # fmt: skip


def audit_lines(notes: Iterable[Note], names: dict[str, str]) -> list[AuditLine]:
    """Return notes of the audit trail, with names."""
    return [
        AuditLine(
            at=moment(one.at_us), what=one.kind, subject=names.get(one.subject, one.subject),
            detail=one.body,
        )
        for one in notes
    ]  # fmt: skip


def _rounded(value: float | None, factor: float, digits: int) -> float | None:
    return None if value is None else round(value * factor, digits)
