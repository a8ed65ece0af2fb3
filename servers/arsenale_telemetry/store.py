"""Events, calls and their sums in one database; a batch of events is one transaction."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import tzinfo
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import orjson
import sqlalchemy as sa

from arsenale_core.events import HookEvent, Payload
from arsenale_core.store import Store
from arsenale_telemetry import tables as t
from arsenale_telemetry.pairing import Call, merge
from arsenale_telemetry.rollup import Days, Rollup

NO_PROJECT = "(unknown)"
"""The project of events that name no directory."""

_CHUNK = 500
"""Values in one `IN (...)`: SQLite takes 32,766 variables, PostgreSQL plans long lists slowly."""

T = TypeVar("T")


class TelemetryStore(Store):
    """Every write of telemetry; `reading.py` has the queries.

    `add` is exactly-once: an event whose key is known already changes nothing, so a batch may be
    delivered again after a crash.
    """

    NAME: ClassVar[str] = "telemetry"
    MIGRATIONS: ClassVar = t.MIGRATIONS

    def __init__(self, where: Path | str, zone: tzinfo | None = None) -> None:
        super().__init__(where)
        self._days = Days(zone)
        self._ids: dict[tuple[str, str], int] = {}
        self._insert_events = self._hot(sa.insert(t.event), _EVENT_COLUMNS)
        self._upsert_calls = self._hot(self._calls_statement(), _CALL_COLUMNS)

    def add(self, events: Sequence[HookEvent], counts: dict[str, int] | None = None) -> int:
        """Store EVENTS and add COUNTS to the counters, in one transaction.

        Returns:
            How many of EVENTS were new.
        """
        with self.writing() as db:
            if self.dialect == "postgresql":  # SQLite has one writer anyway
                db.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('arsenale_telemetry'))")
            fresh = self._unknown(db, events)
            tally = dict(counts or {})
            if len(fresh) < len(events):
                tally["duplicates"] = tally.get("duplicates", 0) + len(events) - len(fresh)
            try:
                self._add_fresh(db, fresh)
            except BaseException:
                self._ids.clear()  # ids given in a transaction that is undone
                raise
            self._upsert(db, t.counter, ["name"], [{"name": k, "n": n} for k, n in tally.items()])
        return len(fresh)

    def count(self, name: str, n: int = 1) -> None:
        """Add N to the counter NAME."""
        with self.writing() as db:
            self._upsert(db, t.counter, ["name"], [{"name": name, "n": n}])

    def forget_before(self, at_us: int, *, limit: int = 5_000) -> int:
        """Delete at most LIMIT events and LIMIT calls older than AT_US; their sums stay.

        Returns:
            How many rows went; call again while it is not 0.
        """
        gone = 0
        with self.writing() as db:
            for table, column in ((t.event, t.event.c.at_us), (t.call, t.call.c.ended_us)):
                old = sa.select(table.c.id).where(column < at_us).limit(limit)
                gone += db.execute(sa.delete(table).where(table.c.id.in_(old))).rowcount
            lost = t.call.c.ended_us.is_(None) & (t.call.c.started_us < at_us)
            gone += db.execute(sa.delete(t.call).where(lost)).rowcount
        return gone

    def _unknown(self, db: sa.Connection, events: Sequence[HookEvent]) -> list[HookEvent]:
        by_key = {event.key: event for event in reversed(events)}
        for keys in _chunks(list(by_key)):
            for (key,) in db.execute(sa.select(t.event.c.key).where(t.event.c.key.in_(keys))):
                del by_key[bytes(key)]
        return sorted(by_key.values(), key=lambda event: event.at_us)

    def _add_fresh(self, db: sa.Connection, events: list[HookEvent]) -> None:
        if not events:
            return
        tools = self._tools(db, events)
        sessions, projects = self._sessions(db, events)
        rows = [_event_row(e, sessions[e.session], tools.get(e.tool or "")) for e in events]
        self._insert_events.run(db, rows)
        rollup = Rollup(self._days)
        calls = self._open_calls(db, events)
        for event in events:
            if event.phase == "point" or event.tool is None:
                continue
            call = calls.for_event(
                event, sessions[event.session], tools[event.tool], projects[event.session]
            )
            rollup.add(call, merge(call, event))
        self._upsert_calls.run(db, [_call_row(call) for call in calls.touched()])
        self._add_sums(db, rollup, events)

    def _tools(self, db: sa.Connection, events: Iterable[HookEvent]) -> dict[str, int]:
        wanted = {e.tool: {"name": e.tool, "server": e.server} for e in events if e.tool}
        return self._intern(db, t.tool, "name", wanted)

    def _sessions(
        self, db: sa.Connection, events: list[HookEvent]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Make and update the sessions of EVENTS; give their ids and their projects' by name."""
        paths = {e.session: e.cwd or NO_PROJECT for e in reversed(events)}
        project_ids = self._intern(
            db, t.project, "path", {path: {"path": path} for path in paths.values()}
        )
        wanted = {
            e.session: {
                "name": e.session,
                "host": e.host,
                "project_id": project_ids[paths[e.session]],
                "first_us": e.at_us,
                "last_us": e.at_us,
            }
            for e in reversed(events)
        }
        ids = self._intern(db, t.session, "name", wanted)
        projects: dict[str, int] = {}
        unknown = self._intern(db, t.project, "path", {NO_PROJECT: {"path": NO_PROJECT}})
        for names in _chunks(list(ids)):
            query = sa.select(t.session.c.name, t.session.c.project_id)
            for name, project in db.execute(query.where(t.session.c.name.in_(names))):
                projects[name] = project
                # The first event may have had no directory; a later one may.
                if project == unknown[NO_PROJECT] and paths[name] != NO_PROJECT:
                    projects[name] = project_ids[paths[name]]
        self._touch_sessions(db, events, ids, projects)
        return ids, projects

    def _touch_sessions(
        self,
        db: sa.Connection,
        events: list[HookEvent],
        ids: dict[str, int],
        projects: dict[str, int],
    ) -> None:
        seen: dict[str, dict[str, Any]] = {}
        for e in events:
            row = seen.setdefault(
                e.session,
                {"b_id": ids[e.session], "b_project": projects[e.session], "b_first": e.at_us,
                 "b_last": e.at_us, "b_ended": None, "b_calls": 0, "b_errors": 0, "b_prompts": 0},
            )  # fmt: skip
            row["b_last"] = max(row["b_last"], e.at_us)
            row["b_first"] = min(row["b_first"], e.at_us)
            row["b_calls"] += e.phase == "end"
            row["b_errors"] += e.status == "error"
            row["b_prompts"] += e.kind == "UserPromptSubmit"
            if e.kind == "SessionEnd":
                row["b_ended"] = e.at_us
        c, b = t.session.c, sa.bindparam
        db.execute(
            sa.update(t.session)
            .where(c.id == b("b_id"))
            .values(
                project_id=b("b_project"),
                first_us=sa.case(
                    (c.first_us < b("b_first"), c.first_us), else_=b("b_first", type_=sa.BigInteger)
                ),
                last_us=sa.case(
                    (c.last_us > b("b_last"), c.last_us), else_=b("b_last", type_=sa.BigInteger)
                ),
                ended_us=sa.func.coalesce(b("b_ended", type_=sa.BigInteger), c.ended_us),
                calls=c.calls + b("b_calls"),
                errors=c.errors + b("b_errors"),
                prompts=c.prompts + b("b_prompts"),
            ),
            list(seen.values()),
        )

    def _intern(
        self, db: sa.Connection, table: sa.Table, column: str, wanted: dict[str, dict[str, Any]]
    ) -> dict[str, int]:
        """Give the ids of the rows named by WANTED's keys, making those that are not there."""
        missing = [name for name in wanted if (table.name, name) not in self._ids]
        if missing:
            rows = [wanted[name] for name in missing]
            db.execute(self._insert(table).on_conflict_do_nothing(), rows)
            for names in _chunks(missing):
                key = table.c[column]
                for id, name in db.execute(sa.select(table.c.id, key).where(key.in_(names))):
                    self._ids[table.name, name] = id
        return {name: self._ids[table.name, name] for name in wanted}

    def _open_calls(self, db: sa.Connection, events: list[HookEvent]) -> "_Calls":
        calls = _Calls()
        keyed = [call_key(e) for e in events if e.phase != "point" and e.tool_use_id]
        for keys in _chunks(keyed):
            calls.load(db.execute(sa.select(t.call).where(t.call.c.key.in_(keys))))
        matches = [e.match_key for e in events if e.phase == "end" and not e.tool_use_id]
        for keys in _chunks(matches):
            running = t.call.c.match_key.in_(keys) & t.call.c.status.is_(None)
            calls.load(db.execute(sa.select(t.call).where(running).order_by(t.call.c.started_us)))
        return calls

    def _calls_statement(self) -> sa.Insert:
        insert = self._insert(t.call)
        changing = {
            name: insert.excluded[name]
            for name in _CALL_COLUMNS
            if name not in ("key", "session_id")
        }
        return insert.on_conflict_do_update(index_elements=["key"], set_=changing)

    def _add_sums(self, db: sa.Connection, rollup: Rollup, events: list[HookEvent]) -> None:
        cell = ["grain", "period", "tool_id", "project_id"]
        usage = [
            {**dict(zip(cell, key, strict=True)), **asdict(sums)}
            for key, sums in rollup.usage.items()
        ]
        self._upsert(db, t.usage, cell, usage)
        latency = [
            {**dict(zip(cell, key, strict=True)), "bucket": bucket, "n": n}
            for (key, bucket), n in rollup.latency.items()
        ]
        self._upsert(db, t.latency, [*cell, "bucket"], latency)
        kinds = Counter((self._days(e.at_us), e.kind, e.host) for e in events)
        self._upsert(
            db,
            t.kinds,
            ["day", "kind", "host"],
            [{"day": d, "kind": k, "host": h, "n": n} for (d, k, h), n in kinds.items()],
        )

    def _upsert(
        self, db: sa.Connection, table: sa.Table, key: list[str], rows: list[dict[str, Any]]
    ) -> None:
        """Insert ROWS, or add their numbers to the rows with their KEY (`max_us`: the larger)."""
        if not rows:
            return
        insert = self._insert(table)
        new = insert.excluded
        adding: dict[str, Any] = {c: table.c[c] + new[c] for c in rows[0] if c not in key}
        if "max_us" in adding:
            larger = table.c.max_us > new.max_us
            adding["max_us"] = sa.case((larger, table.c.max_us), else_=new.max_us)
        db.execute(insert.on_conflict_do_update(index_elements=key, set_=adding), rows)


class _Calls:
    """The calls that a batch touches: those in the store, and those it begins."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Call] = {}
        self._running: dict[bytes, list[Call]] = {}
        self._touched: dict[bytes, Call] = {}

    def load(self, rows: sa.CursorResult[Any]) -> None:
        for row in rows.mappings():
            self._keep(Call(**{name: row[name] for name in _CALL_COLUMNS}))

    def for_event(self, event: HookEvent, session: int, tool: int, project: int) -> Call:
        """Find the call that EVENT belongs to; an event that fits none begins one."""
        call = self._find(event)
        if call is None:
            call = Call(
                key=call_key(event),
                session_id=session,
                tool_id=tool,
                project_id=project,
                tool_use_id=event.tool_use_id,
                match_key=event.match_key,
            )
            self._keep(call)
        self._touched[call.key] = call
        return call

    def touched(self) -> list[Call]:
        return list(self._touched.values())

    def _find(self, event: HookEvent) -> Call | None:
        if event.tool_use_id:
            return self._by_key.get(call_key(event))
        if event.phase == "start" or event.match_key is None:
            return None
        waiting = self._running.get(event.match_key)
        return waiting.pop(0) if waiting else None

    def _keep(self, call: Call) -> None:
        if call.key in self._by_key:
            return
        self._by_key[call.key] = call
        if call.match_key is not None and call.tool_use_id is None and call.status is None:
            self._running.setdefault(call.match_key, []).append(call)


_CALL_COLUMNS = tuple(field.name for field in fields(Call))
_call_row = attrgetter(*_CALL_COLUMNS)

_EVENT_COLUMNS = (
    "key", "at_us", "kind", "host", "session_id", "tool_id", "tool_use_id", "prompt_id",
    "agent_id", "status", "duration_us", "subject", "error", "body",
)  # fmt: skip


def call_key(event: HookEvent) -> bytes:
    """Return the key of the call EVENT belongs to, or begins where the host names no call."""
    return _digest(event.session, event.tool_use_id) if event.tool_use_id else event.key


@lru_cache(maxsize=4096)
def _digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(errors="replace"), digest_size=16).digest()


def _event_row(event: HookEvent, session: int, tool: int | None) -> tuple[Any, ...]:
    """Return EVENT as a row of `_EVENT_COLUMNS`."""
    body = {
        "arguments": event.arguments,
        "detail": event.detail,
        "server": event.server,
        "agent_type": event.agent_type,
        "input": _payload(event.input),
        "output": _payload(event.output),
    }
    kept = {name: value for name, value in body.items() if value}
    return (
        event.key, event.at_us, event.kind, event.host, session, tool, event.tool_use_id,
        event.prompt_id, event.agent_id, event.status, event.duration_us, event.subject,
        event.error, orjson.dumps(kept).decode() if kept else None,
    )  # fmt: skip


def _payload(payload: Payload | None) -> dict[str, Any] | None:
    if payload is None:
        return None
    body: dict[str, Any] = {"bytes": payload.size_bytes, "sha256": payload.sha256.hex()}
    return body if payload.text is None else {**body, "text": payload.text}


def _chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    return (values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK))
