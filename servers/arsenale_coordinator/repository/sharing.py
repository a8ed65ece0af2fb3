"""Agents in one repository hold paths while they edit, and write to one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from anyio import to_thread

from arsenale_coordinator import moments
from arsenale_coordinator import rows as workforce
from arsenale_coordinator.repository import places, rows
from arsenale_coordinator.repository.models import (
    Held,
    LetterLine,
    MailReport,
    ReservationReport,
)
from arsenale_coordinator.repository.places import Pattern, Place
from arsenale_coordinator.repository.rows import Letter, Reservation, Wanted
from arsenale_coordinator.store import CoordinatorStore
from arsenale_core.errors import InvalidError, NotFoundError

FileAction: TypeAlias = Literal["reserve", "release", "check", "list"]
MailAction: TypeAlias = Literal["send", "inbox", "thread", "acknowledge"]

SHOWN = 100
"""Reservations that are shown at once."""

PREVIEW_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What an agent asks of the reservations of its repository."""

    action: FileAction
    agent: str
    paths: Sequence[str]
    minutes: float
    shared: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What an agent asks of its mailbox."""

    action: MailAction
    agent: str
    to: Sequence[str]
    subject: str
    body: str
    message: int | None
    needs_ack: bool
    key: str | None
    limit: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who wants to edit: the sessions that a hook's event names, or an agent by its own word."""

    sessions: frozenset[str] = frozenset()
    agent: str = ""

    def made(self, one: Reservation) -> bool:
        """Say whether a reservation is theirs. One without a session is its agent's only."""
        mine = bool(one.session) and one.session in self.sessions
        return mine or (bool(self.agent) and one.agent == self.agent)


class Repository:
    """Reservations and messages of the projects on this machine.

    A reservation is all or nothing, ends at its time and not before, and outlives a kill -9 of any
    process; it binds nobody who does not ask, unless the guards are on (`arsenale guard`).
    """

    def __init__(self, store: CoordinatorStore) -> None:
        self._store = store

    async def reserve(
        self, asked: Reserve, project: str, session: str, folder: str = ""
    ) -> ReservationReport:
        """Hold, release, check or list paths of PROJECT.

        Args:
            asked: What is asked.
            project: The project of the session.
            session: Whose edits the reservation lets pass.
            folder: The folder of the session: absolute paths and nested repositories are found by
                it.

        Raises:
            InvalidError: A path leaves the repository, or none is named.
        """

        def work() -> ReservationReport:
            patterns = [places.of_pattern(path, project, folder) for path in asked.paths]
            if not patterns and asked.action in ("reserve", "check"):
                hint = "as src/api, src/api/** or README.md"
                raise InvalidError(f"{asked.action} needs `paths`", hint=hint)
            self._must_know(asked.agent)
            return self._reserve(asked, patterns, project, session, folder)

        return await to_thread.run_sync(work)

    async def mail(self, asked: Mail, project: str) -> MailReport:
        """Send, list, show or acknowledge messages.

        Raises:
            NotFoundError: A recipient or a message is unknown.
        """
        return await to_thread.run_sync(self._mail, asked, project)

    async def held_in(self, project: str) -> ReservationReport:
        """Return who holds what in PROJECT."""
        return await to_thread.run_sync(self._listed, project)

    async def in_the_way(
        self, paths: Sequence[str], project: str, who: Who
    ) -> list[tuple[str, Reservation]]:
        """Return for PATHS, relative to the checkout, the exclusive reservations of others."""

        def found() -> list[tuple[str, Reservation]]:
            with self._store.reading() as db:
                at = workforce.ticks(db, self._store.clock)
                return rows.holding(db, project, paths, at)

        held = await to_thread.run_sync(found)
        return [(path, one) for path, one in held if one.exclusive and not who.made(one)]

    async def peek(self, agent: str, limit: int) -> MailReport:
        """Return what was written to an agent; it stays unread.

        Raises:
            NotFoundError: There is no such agent.
        """

        def found() -> MailReport:
            with self._store.reading() as db:
                workforce.known_agent(db, agent)
                letters = rows.inbox(db, agent, limit, 0, unread=False)
                lines = [_line(one, full=True) for one in letters]
                return MailReport(unread=rows.unread(db, agent), messages=lines)

        return await to_thread.run_sync(found)

    def unread(self, agent: str) -> int:
        """Return how many messages an agent has not read; blocks."""
        with self._store.reading() as db:
            return rows.unread(db, agent)

    def _must_know(self, agent: str) -> None:
        with self._store.reading() as db:
            workforce.known_agent(db, agent)

    def _reserve(
        self, asked: Reserve, patterns: Sequence[Pattern], project: str, session: str, folder: str
    ) -> ReservationReport:
        if asked.action == "list":
            return self._listed(project)
        if asked.action == "release":
            return self._released(asked, patterns, project, folder)
        wanted = [
            Wanted(
                project=place.project, agent=asked.agent, pattern=place.path,
                exclusive=not asked.shared, reason=asked.reason, session=session,
            )
            for place in _everywhere(patterns, project)
        ]  # fmt: skip
        with self._store.changing() as c:
            in_the_way = [
                (want.pattern, one)
                for want in wanted
                for one in rows.meeting(c.db, want.project, want.pattern, c.ticks)
                if one.agent != asked.agent and (one.exclusive or not asked.shared)
            ]
            if in_the_way:
                return _refused(in_the_way)
            if asked.action == "check":
                return ReservationReport(granted=True, hint="nobody holds these")
            rows.hold(c, wanted, int(asked.minutes * 60e6))
            own = list(dict.fromkeys(pattern.own for pattern in patterns))
            mine = [
                one
                for pattern in own
                for one in rows.meeting(c.db, project, pattern, c.ticks)
                if one.agent == asked.agent and one.pattern == pattern
            ]
            said = {"project": project, "agent": asked.agent, "shared": asked.shared}
            held = {one.pattern: one.until_us for one in mine}
            c.event("files.reserved", body={**said, "paths": held})
        return ReservationReport(granted=True, held=[_held(one) for one in mine])

    def _released(
        self, asked: Reserve, patterns: Sequence[Pattern], project: str, folder: str
    ) -> ReservationReport:
        """Let go of patterns, or of all, here and in the repositories around and within."""
        with self._store.changing() as c:
            own = list(dict.fromkeys(pattern.own for pattern in patterns))
            gone = rows.release(c, project, asked.agent, own)
            for pattern in [places.of_pattern(one, project, folder) for one in gone]:
                for place in pattern.others:
                    rows.release(c, place.project, asked.agent, [place.path])
            said = {"project": project, "agent": asked.agent, "paths": gone}
            c.event("files.released", body=said)
        hint = "" if gone else "you held none of these"
        return ReservationReport(granted=True, released=gone, hint=hint)

    def _listed(self, project: str) -> ReservationReport:
        with self._store.reading() as db:
            at = workforce.ticks(db, self._store.clock)
            found = rows.live(db, project, at, SHOWN + 1)
        hint = "nobody holds anything here" if not found else ""
        if len(found) > SHOWN:
            hint = f"the first {SHOWN}; check single paths with action=check"
        return ReservationReport(
            granted=True, held=[_held(one) for one in found[:SHOWN]], hint=hint
        )

    def _mail(self, asked: Mail, project: str) -> MailReport:
        self._must_know(asked.agent)
        if asked.action == "send":
            return self._sent(asked, project)
        if asked.action == "acknowledge":
            return self._acknowledged(asked)
        if asked.action == "thread":
            return self._thread(asked)
        with self._store.changing() as c:
            found = rows.inbox(c.db, asked.agent, asked.limit + 1, asked.offset, unread=False)
            waiting = rows.unacknowledged(c.db, asked.agent, 10)
            shown = found[: asked.limit]
            rows.read(c, asked.agent, [one.id for one in shown if one.read_us is None])
            left = rows.unread(c.db, asked.agent)
        return MailReport(
            unread=left, messages=[_line(one) for one in shown],
            waiting_for=[
                f"{by} has {'read' if read else 'not read'} #{id} {subject}"
                for id, subject, by, read in waiting
            ],
            next_offset=asked.offset + asked.limit if len(found) > asked.limit else None,
            hint="" if shown else "no messages",  # a long one ends in …: `thread` has it whole
        )  # fmt: skip

    def _sent(self, asked: Mail, project: str) -> MailReport:
        if not asked.body.strip():
            raise InvalidError("a message has no `body`", hint="say what it is about")
        with self._store.changing() as c:
            if asked.key and (known := rows.known_key(c.db, asked.key)):
                return MailReport(unread=rows.unread(c.db, asked.agent), sent=known)
            thread, subject, to = None, asked.subject, list(asked.to)
            if asked.message is not None:
                thread, subject, to = self._answered(c.db, asked)
            to = _everybody(c.db, asked.agent, project) if to == ["*"] else to
            to = [name for name in dict.fromkeys(to) if name != asked.agent]
            if not to:
                hint = "name agents in `to`, or '*' for all"
                raise InvalidError("a message needs a recipient", hint=hint)
            known = {name: workforce.known_agent(c.db, name).id for name in to}
            id = rows.send(
                c, project=project, thread=thread, sender=asked.agent, to=to, subject=subject,
                body=asked.body, needs_ack=asked.needs_ack, key=asked.key,
            )  # fmt: skip
            for name in to:
                c.event("message.sent", agent=known[name], body={"message": id})
            return MailReport(unread=rows.unread(c.db, asked.agent), sent=id, to=to)

    def _answered(self, db: workforce.Connection, asked: Mail) -> tuple[int, str, list[str]]:
        origin = rows.origin(db, asked.message or 0)
        if origin is None:
            raise NotFoundError("message", str(asked.message), hint="action=inbox lists yours")
        thread, _, subject = origin
        to = list(asked.to) or rows.parties(db, thread)
        return thread, asked.subject or f"Re: {subject.removeprefix('Re: ')}", to

    def _acknowledged(self, asked: Mail) -> MailReport:
        with self._store.changing() as c:
            if asked.message is None or not rows.acknowledge(c, asked.agent, asked.message):
                raise NotFoundError(
                    "message", str(asked.message), hint="action=inbox lists those sent to you"
                )
            return MailReport(unread=rows.unread(c.db, asked.agent))

    def _thread(self, asked: Mail) -> MailReport:
        with self._store.changing() as c:
            origin = rows.origin(c.db, asked.message or 0)
            thread = origin[0] if origin else 0
            found = rows.thread(c.db, asked.agent, thread, asked.limit + 1, asked.offset)
            if not found and not asked.offset:
                hint = "name one of its messages in `message`; action=inbox lists yours"
                raise NotFoundError("thread", str(asked.message), hint=hint)
            shown = found[: asked.limit]
            rows.read(c, asked.agent, [one.id for one in shown])
            left = rows.unread(c.db, asked.agent)
        more = asked.offset + asked.limit if len(found) > asked.limit else None
        lines = [_line(one, full=True) for one in shown]
        return MailReport(unread=left, messages=lines, next_offset=more)


def _everywhere(patterns: Sequence[Pattern], project: str) -> list[Place]:
    """Return PATTERNS in every repository that they reach, each once, those of PROJECT first."""
    own = [Place(project, pattern.own) for pattern in patterns]
    others = [place for pattern in patterns for place in pattern.others]
    return list(dict.fromkeys([*own, *others]))


def _refused(found: Sequence[tuple[str, Reservation]]) -> ReservationReport:
    conflicts = [_held(one, wanted=pattern) for pattern, one in found[:SHOWN]]
    first = found[0][1]
    hint = (
        f"work on other files, wait until {moments.told(first.until_us)}, or ask {first.agent}"
        " with `exchange_messages`"
    )
    return ReservationReport(granted=False, conflicts=conflicts, hint=hint)


def _held(one: Reservation, wanted: str = "") -> Held:
    return Held(
        path=one.pattern, agent=one.agent, until=moments.told(one.until_us),
        shared=None if one.exclusive else True, reason=one.reason,
        wanted="" if wanted == one.pattern else wanted,
    )  # fmt: skip


def _line(one: Letter, *, full: bool = False) -> LetterLine:
    cut = one.body if full or len(one.body) <= PREVIEW_CHARS else one.body[:PREVIEW_CHARS] + " …"
    return LetterLine(
        id=one.id, thread=one.thread, sender=one.sender, at=moments.told(one.at_us),
        subject=one.subject, body=cut, unread=True if one.read_us is None else None,
        needs_ack=True if one.needs_ack and one.acked_us is None else None,
    )  # fmt: skip


def _everybody(db: workforce.Connection, but: str, project: str) -> list[str]:
    agents = workforce.agents_since(db, 0)
    return [
        one.name
        for one in agents
        if one.name != but and one.state != "left" and one.project in ("", project)
    ]
