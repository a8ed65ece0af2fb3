"""What somebody should look at: in a line each, with what to do."""

from arsenale_core.store import Connection, Sql
from arsenale_mesh import reading
from arsenale_mesh.gateway import Gateway
from arsenale_mesh.house import House

WAITS_S = 60.0
"""A task that waits longer for a node is worth a word."""

RECENT_S = 86_400.0

_RECENT = Sql(
    "SELECT kind, count(*) FROM audit WHERE at_us > :since AND kind IN"
    " ('node.banned', 'receipt.forged', 'result.wrong', 'result.withdrawn', 'task.undecided')"
    " GROUP BY kind ORDER BY kind"
)
_WORDS = {
    "node.banned": "nodes were banned",
    "receipt.forged": "receipts were forged",
    "result.wrong": "results were wrong",
    "result.withdrawn": "provisional results were withdrawn",
    "task.undecided": "tasks could not be decided",
}


def alerts(db: Connection, gateway: Gateway, house: House | None, now_s: float) -> list[str]:
    """Return what is wrong now, or was within a day."""
    found: list[str] = []
    if house is not None and house.fault:
        found.append(house.fault)
    count, oldest_us = reading.waiting(db)
    if oldest_us is not None and now_s - oldest_us / 1e6 > WAITS_S:
        waited = int(now_s - oldest_us / 1e6)
        found.append(f"{count} tasks wait for a node, the oldest for {waited} s: `arsenale doctor`")
    other = [one.node.name for one in gateway.sessions.values() if not one.engine_fits]
    if other:
        found.append(f"other engines, given no work: {', '.join(sorted(other)[:5])}")
    since = int((now_s - RECENT_S) * 1e6)
    for kind, number in _RECENT.all(db, since=since):
        found.append(f"within a day {number} {_WORDS[kind]}: view=audit says which")
    return found
