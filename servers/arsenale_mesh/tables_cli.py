"""The mesh's reports as tables; pure."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from arsenale_core import people

NO_NODES = "No node yet: our own starts with the first task, as `arsenale mesh run sha256 -t hi`."
WIDE = 90
"""Columns of a terminal that hold all of a table of nodes."""

NO_CREDITS = "No credits yet: a node earns them with the first task that is verified."
NO_TASKS = "No tasks yet. Run one: `arsenale mesh run sha256 --text hello`"


def shown(text: str) -> str:
    """Return TEXT, which may be a guest's or a node's, without what a terminal or rich obeys."""
    if not text.isprintable():
        text = "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
    return escape(text)


def nodes(report: dict[str, Any], width: int = 200) -> Table | str:
    """Return nodes as a table; without what is said of the machine where WIDTH is small."""
    lines = report.get("nodes", [])
    if not lines:
        return NO_NODES
    columns = ["node", "state", "health", "believed", "tasks", "credits"]
    wide = width >= WIDE
    table = Table(*columns, *(["way", "machine"] if wide else []))
    for one in lines:
        name = one["name"] + (" (ours)" if one.get("ours") else "")
        believed = f"{one['reputation']:.2f} {one['right']}/{one.get('wrong', 0)}"
        cells = [
            shown(name), _state(one["state"]), _number(one.get("health"), "{:.2f}"), believed,
            str(one.get("tasks", 0)), f"{one['credits']:,}",
        ]  # fmt: skip
        table.add_row(*cells, *([_way(one), _machine(one)] if wide else []))
    return table


def node(report: dict[str, Any]) -> Table | str:
    """Return one node: what is known of it, and the terms of its health."""
    [one] = report["nodes"]
    table = facts({k: v for k, v in one.items() if k not in ("terms", "history")})
    for term in one.get("terms", []):
        said = f"{term['weight']:.2f} x {term['value']:.3f}  {shown(term['basis'])}"
        table.add_row(f"[dim]health: {term['name']}[/]", said)
    past = [sample["health"] for sample in one.get("history", [])][::-1]
    if past:
        table.add_row("[dim]health before[/]", sparks(past))
    return table


def tasks(report: dict[str, Any]) -> Table | str:
    """Return tasks as a table."""
    lines = report.get("tasks", [])
    if not lines:
        return NO_TASKS
    table = people.table("task", "state", "ended as", "module", "label", "fuel", "at")
    for one in lines:
        cells = (one["task"], one["state"], one.get("status", ""), one["module"],
                 one.get("label", ""), f"{one.get('fuel', 0):,}", one["at"])  # fmt: skip
        table.add_row(*map(shown, cells))
    return table


def modules(report: dict[str, Any]) -> Table | str:
    """Return modules as a table."""
    lines = report.get("modules", [])
    if not lines:
        return "None fits. Keep one: `arsenale mesh submit NAME FILE.wasm`"
    table = people.table("module", "what it does", "exports", "bytes", "runs", "SHA-256")
    for one in lines:
        table.add_row(
            shown(one["name"]), shown(one.get("description", "")),
            shown(", ".join(one.get("functions", []))), f"{one['bytes']:,}",
            str(one.get("runs", 0)), one["sha256"][:12],
        )  # fmt: skip
    return table


def audit(report: dict[str, Any]) -> Table | str:
    """Return the audit trail as a table."""
    lines = report.get("audit", [])
    if not lines:
        return "Nothing has happened yet."
    table = people.table("at", "what", "whom", "detail")
    for one in lines:
        table.add_row(*map(shown, (one["at"], one["what"], one["subject"], one.get("detail", ""))))
    return table


def ledger(report: dict[str, Any]) -> list[Table | str]:
    """Return balances and entries as tables."""
    if not (report.get("balances") or report.get("entries")):
        return [NO_CREDITS]
    balances = people.table("node", "credits", "reputation", "right/wrong")
    for one in report.get("balances", []):
        balances.add_row(
            shown(one["node"]), f"{one['credits']:,}", f"{one['reputation']:.2f}",
            f"{one['right']}/{one.get('wrong', 0)}",
        )  # fmt: skip
    entries = people.table("entry", "at", "what", "node", "credits", "task", "receipt")
    for one in report.get("entries", []):
        entries.add_row(
            str(one["number"]), one["at"], one["what"], shown(one["node"]),
            f"{one['credits']:+,}", one["task"], one.get("receipt", ""),
        )  # fmt: skip
    return [balances, entries]


def facts(report: dict[str, Any]) -> Table:
    """Return names and values, one below the other."""
    table = Table(show_header=False, box=None)
    for name, value in report.items():
        if name == "attempts":
            for one in value:
                said = f"{one['node']}, {one['role']}: {one['state']} {one.get('status', '')}"
                table.add_row("[dim]attempt[/]", shown(said))
        else:
            table.add_row(f"[dim]{name}[/]", shown(str(value)))
    return table


def sparks(values: list[float]) -> str:
    """Return VALUES of 0..1 as a row of bars."""
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[min(int(max(value, 0) * len(bars)), len(bars) - 1)] for value in values)


def _state(state: str) -> str:
    colours = {"online": "green", "offline": "yellow", "banned": "red"}
    colour = colours.get(state)
    return f"[{colour}]{state}[/]" if colour else state


def _way(one: dict[str, Any]) -> str:
    """Return round trip and bandwidth."""
    parts = [_number(one.get("latency_ms"), "{:.1f} ms"), _rate(one.get("mbit_per_s"))]
    return " ".join(filter(None, parts))


def _machine(one: dict[str, Any]) -> str:
    """Return load, power (~ where it is estimated), heat and carbon."""
    watts = "~{:.0f} W" if one.get("power") == "estimated" else "{:.0f} W"
    parts = [
        _number(one.get("cpu"), "{:.0%}"), _number(one.get("watts"), watts),
        _number(one.get("celsius"), "{:.0f} °C"),
        _number(one.get("carbon_g_per_kwh"), "{:.0f} g/kWh"),
    ]  # fmt: skip
    return " ".join(filter(None, parts))


def _rate(mbit: float | None) -> str:
    if mbit is None:
        return ""
    return f"{mbit / 1000:.0f} Gbit/s" if mbit >= 10_000 else f"{mbit:.0f} Mbit/s"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
