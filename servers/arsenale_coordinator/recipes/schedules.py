"""Recipes that run by themselves: at a time, or again and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Literal, TypeAlias

import anyio
import orjson
from anyio import to_thread

from arsenale_coordinator import moments
from arsenale_coordinator.recipes import dialects, schema, timing
from arsenale_coordinator.recipes.models import ScheduleLine
from arsenale_coordinator.recipes.runs import Recipes, Start
from arsenale_coordinator.recipes.timing import Missed
from arsenale_coordinator.rows import Change
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core import logs
from arsenale_core.errors import (
    ArsenaleError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from arsenale_core.store import Connection, Sql

State: TypeAlias = Literal["active", "paused", "done", "cancelled"]

LATE_US = 60_000_000
"""What is due for longer than a minute was missed."""

AGAIN_US = 30_000_000
"""After so long it is tried again where a server does not answer."""

LOOK_S = 30.0
"""How often it is looked for schedules that other processes made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recipe and when it runs; `cron` is empty for a single moment."""

    name: str
    body: Mapping[str, Any]
    cron: str
    zone: str
    missed: Missed
    state: State
    project: str
    next_us: int | None
    last_us: int | None
    last_run: str
    runs: int


_COLUMNS = "name, body, cron, zone, missed, state, project, next_us, last_us, last_run, runs"
_PUT = Sql(
    "INSERT INTO schedule (name, what, body, cron, zone, missed, state, project, made_us, next_us,"
    " last_run, runs) VALUES (:name, 'recipe', :body, :cron, :zone, :missed, 'active', :project,"
    " :now, :next, '', 0) ON CONFLICT (name) DO UPDATE SET body = excluded.body,"
    " cron = excluded.cron, zone = excluded.zone, missed = excluded.missed, state = 'active',"
    " project = excluded.project, next_us = excluded.next_us"
)
_ALL = Sql(f"SELECT {_COLUMNS} FROM schedule WHERE state <> 'cancelled' ORDER BY name")
_ONE = Sql(f"SELECT {_COLUMNS} FROM schedule WHERE name = :name AND state <> 'cancelled'")
_DUE = Sql(f"SELECT {_COLUMNS} FROM schedule WHERE state = 'active' AND next_us <= :now")
_NEXT = Sql("SELECT min(next_us) FROM schedule WHERE state = 'active'")
_STATE = Sql("UPDATE schedule SET state = :state, next_us = :next WHERE name = :name")
_RAN = Sql(
    "UPDATE schedule SET state = :state, next_us = :next, last_us = :last, last_run = :run,"
    " runs = runs + :more WHERE name = :name"
)


class Schedules:
    """Begins what is due. A due moment is begun once, whoever is killed: the run has its key.

    Args:
        store: Where schedules are.
        recipes: Begins the runs.
        zone: Of schedules that name none; `None` is the system's.
    """

    def __init__(self, store: CoordinatorStore, recipes: Recipes, zone: tzinfo | None) -> None:
        self._store = store
        self._recipes = recipes
        self._zone = zone
        self._nudged = anyio.Event()
        self.are_active = False
        self._log = logs.get("arsenale.schedules")

    async def run(self) -> None:
        """Begin what is due, for ever."""
        while True:
            self._nudged = anyio.Event()
            wait_s = LOOK_S
            try:
                for schedule in await to_thread.run_sync(self._due):
                    await self._begin(schedule)
                wait_s = await to_thread.run_sync(self._until_next_s)
            except ArsenaleError as exc:
                self._log.warning("schedules pause", reason=str(exc))
            with anyio.move_on_after(wait_s):
                await self._nudged.wait()

    async def put(self, start: Start, when: str) -> ScheduleLine:
        """Let a recipe run at WHEN: a cron expression, or a moment. Replaces one of its name.

        A time zone may follow, as in `0 9 * * 1-5 Europe/Vienna`.

        Raises:
            InvalidError: WHEN cannot be understood, or the recipe or an input is wrong.
        """
        await self._recipes.plan(start)
        recipe = await self._recipes.recipe(start)
        line = await to_thread.run_sync(self._put, start, when, recipe.missed)
        self._nudged.set()
        return line

    async def change(self, name: str, wanted: Literal["pause", "resume", "cancel"]) -> ScheduleLine:
        """Pause, resume or cancel a schedule. Resumed, it goes on with the next moment to come.

        Raises:
            NotFoundError: There is none.
            ConflictError: It ran already, for good.
        """
        line = await to_thread.run_sync(self._changed, name, wanted)
        self._nudged.set()
        return line

    async def lines(self) -> list[ScheduleLine]:
        """Return all schedules."""

        def read() -> list[ScheduleLine]:
            with self._store.reading() as db:
                return [_line(_schedule(row)) for row in _ALL.all(db)]

        return await to_thread.run_sync(read)

    def _put(self, start: Start, said: str, missed: Missed) -> ScheduleLine:
        now_us = self._store.clock.now_us()
        when, zone = timing.with_zone(said)
        place = timing.zone_of(zone, self._zone)
        expression = timing.cron(when)
        if expression:
            next_us = timing.following(expression, now_us, place)
        else:
            next_us = _moment(when, now_us, place)
            if next_us <= now_us:
                raise InvalidError(f"{when!r} is in the past", hint="name a time in the future")
        name = start.recipe or str((start.definition or {}).get("name", ""))
        body = {"recipe": start.recipe, "definition": start.definition, "inputs": start.inputs}
        text = schema.as_json(body, "the inputs").decode()
        with self._store.changing() as c:
            _PUT.run(
                c.db, name=name, body=text, cron=expression or "",
                zone=zone, missed=missed, project=start.project, now=c.now_us, next=next_us,
            )  # fmt: skip
            c.event("schedule.made", body={"name": name})
            return _line(_must(c.db, name))

    def _changed(self, name: str, wanted: str) -> ScheduleLine:
        with self._store.changing() as c:
            found = _must(c.db, name)
            if found.state == "done":
                raise ConflictError(f"{name} ran already", hint="schedule it again with `when`")
            next_us = found.next_us
            if wanted == "resume" and found.cron:
                place = timing.zone_of(found.zone, self._zone)
                next_us = timing.following(found.cron, c.now_us, place)
            state = {"pause": "paused", "resume": "active", "cancel": "cancelled"}[wanted]
            _STATE.run(c.db, name=name, state=state, next=next_us)
            c.event(f"schedule.{state}", body={"name": name})
            if state == "cancelled":
                return ScheduleLine(
                    name=name, recipe=name, when=found.cron or "once", state="cancelled"
                )
            return _line(_must(c.db, name))

    def _due(self) -> list[Schedule]:
        with self._store.reading() as db:
            rows = _DUE.all(db, now=self._store.clock.now_us())
        return [_schedule(row) for row in rows]

    def _until_next_s(self) -> float:
        with self._store.reading() as db:
            next_us = _NEXT.value(db)
        self.are_active = next_us is not None
        if next_us is None:
            return 3_600.0
        left_s = (int(next_us) - self._store.clock.now_us()) / 1e6
        return min(max(left_s, 0.05), LOOK_S)

    async def _begin(self, schedule: Schedule) -> None:
        """Begin what has come of SCHEDULE. One that cannot run rests, and keeps no other."""
        assert schedule.next_us is not None
        now_us = self._store.clock.now_us()
        state, next_us, came = "done", None, [schedule.next_us]
        run, last_us, runs = schedule.last_run, schedule.last_us, 0
        try:
            if schedule.cron:
                place = timing.zone_of(schedule.zone, self._zone)
                came, next_us = timing.due(schedule.cron, schedule.next_us, now_us, place)
                state = "active"
            for moment in timing.to_run(came, now_us, schedule.missed, LATE_US):
                run = (await self._recipes.run(_start(schedule, moment), 0, _nobody)).run
                last_us, runs = moment, runs + 1
        except UnavailableError as exc:  # what was begun has its key: it is not begun twice
            self._log.warning("a schedule waits", schedule=schedule.name, reason=str(exc))
            state, next_us = "active", now_us + AGAIN_US
            run = f"waits: {exc}"[:400]
        except ArsenaleError as exc:
            self._log.error("a schedule cannot run", schedule=schedule.name, reason=str(exc))
            state = state if next_us else "paused"
            run = f"failed: {exc}"[:400]
        note = {
            "name": schedule.name, "state": state, "next": next_us, "last": last_us, "run": run,
            "more": runs,
        }  # fmt: skip

        def write(c: Change) -> None:
            _RAN.run(c.db, **note)

        await to_thread.run_sync(self._write, write)

    def _write(self, write: Any) -> None:
        with self._store.changing() as c:
            write(c)


async def _nobody(done: int, total: int, text: str) -> None:
    del done, total, text


def _start(schedule: Schedule, moment: int) -> Start:
    body = schedule.body
    return Start(
        recipe=body["recipe"], definition=body["definition"], inputs=body["inputs"],
        project=schedule.project, by=f"schedule {schedule.name}",
        key=f"schedule:{schedule.name}:{moment}",
    )  # fmt: skip


def _must(db: Connection, name: str) -> Schedule:
    row = _ONE.first(db, name=name)
    if row is None:
        raise NotFoundError("schedule", name, hint="action=list shows all")
    return _schedule(row)


def _schedule(row: tuple[Any, ...]) -> Schedule:
    values: dict[str, Any] = dict(zip(_COLUMNS.replace(" ", "").split(","), row, strict=True))
    values["body"] = orjson.loads(values["body"])
    return Schedule(**values)


def _line(one: Schedule) -> ScheduleLine:
    when = f"{one.cron} {one.zone}".strip() if one.cron else "once"
    return ScheduleLine(
        name=one.name, recipe=str(one.body["recipe"] or one.name), when=when, state=one.state,
        next=moments.told(one.next_us) if one.next_us and one.state == "active" else "",
        last=moments.told(one.last_us) if one.last_us else "", runs=one.runs or None,
        missed=one.missed if one.missed != "once" else "",
    )  # fmt: skip


def _moment(text: str, now_us: int, place: tzinfo) -> int:
    try:
        return moments.asked(text, now_us, place)
    except InvalidError as exc:
        hint = (
            f"give a cron expression of {dialects.FIELDS} (`{dialects.EXAMPLE}`), a date and time"
            " (2026-11-30T17:00), or a span (90m, 2h, 3d)"
        )
        raise InvalidError(f"{text!r} is not a schedule", hint=hint) from exc
