"""Recommends how hard to think: a start from the prompt, then what the session's calls show."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

import anyio
import orjson
from anyio import to_thread

from arsenale_coordinator.projects import project_of
from arsenale_coordinator.store import CoordinatorStore
from arsenale_coordinator.thinking import evidence, prior, rows
from arsenale_coordinator.thinking.evidence import Advice, Event, History
from arsenale_coordinator.thinking.levels import Level
from arsenale_coordinator.thinking.models import ThinkingReport
from arsenale_coordinator.thinking.prior import Predicted
from arsenale_coordinator.thinking.start import Start, Term, keyword_level, start_level
from arsenale_coordinator.thinking.tiers import Budget, Compiled, Effort, Nothing, compile_level

Calls: TypeAlias = Callable[[str], Awaitable[Sequence[Event] | None]]
"""Gives the calls of a session in order of time; `None` when it cannot tell."""

HISTORY_US = 6 * 3_600 * 1_000_000
"""What was advised to a session so long ago is forgotten: it does something else now."""

MOST_CHARS = 20_000
"""So much of a prompt is looked at; a bound in the schema would cost every session tokens."""

HOOK_S = 0.2
"""How long a prompt may wait for its line."""

DEFAULT = "default"
"""The level that is answered where nothing is known: the effort that the host has set anyway."""

SAID = {
    Level.SIMPLE: "answer directly",
    Level.MODERATE: "think before you act",
    Level.COMPLEX: "think it through: causes, alternatives, how to test them",
    Level.CRITICAL: "think as deeply as you can, and question what was assumed so far",
}
"""What a prompt is told: a hook cannot set an effort."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store knows of a session and of prompts like this one."""

    history: History | None
    predicted: Predicted


@dataclass(frozen=True, slots=True)
class Optimiser:
    """The use cases of the thinking levels.

    Attributes:
        store: Keeps what was advised, and what thinking took.
        calls: Tells what a session did.
        injects: Whether prompts are told unasked.
    """

    store: CoordinatorStore
    calls: Calls
    injects: bool = False

    async def recommend(
        self, prompt: str, model: str, session: str, project: str
    ) -> ThinkingReport:
        """Return the level for PROMPT in a session, and how MODEL is told of it."""
        prompt, session = prompt[:MOST_CHARS], session[:200]
        known = await to_thread.run_sync(self._known, prompt, session, project)
        events = await self.calls(session) if session else None
        advice, start = self._advised(prompt, known, events)
        if session and advice.history != known.history:
            await to_thread.run_sync(self._keep, session, advice.history)
        if _is_unknown(advice, start):
            return _no_evidence(advice, known.predicted, events, session)
        compiled = compile_level(advice.level, model)
        return _report(advice, start, compiled, known.predicted, events, session)

    async def told(self, event: Mapping[str, object]) -> str | None:
        """Return the line that the prompt of a UserPromptSubmit event is told; often none."""
        name = str(event.get("hook_event_name") or event.get("hookEventName") or "").lower()
        prompt = str(event.get("prompt") or "").strip()
        if not self.injects or name != "userpromptsubmit" or prompt[:1] in ("", "/", "!", "#"):
            return None
        session = str(event.get("session_id") or event.get("sessionId") or "")
        project = await to_thread.run_sync(project_of, str(event.get("cwd") or ""))
        with anyio.move_on_after(HOOK_S):
            report = await self.recommend(prompt, "", session, project)
            silent = (DEFAULT, Level.SIMPLE.name.lower())
            if report.level in silent and not report.changed:
                return None
            said = SAID[Level[report.level.upper()]]
            return f"Thinking level {report.level} ({'; '.join(report.why)}): {said}."
        return None

    async def observe(self, project: str, kind: str, tokens: int) -> None:
        """Learn that a turn of PROJECT and KIND thought for so many TOKENS.

        Nothing calls this yet: telemetry does not record tokens of thinking (T3).
        """

        def learn() -> None:
            with self.store.changing() as c:
                known = rows.seen(c.db, project, kind)
                for one in prior.observe(known, project, kind, tokens, c.now_us / 1e6).values():
                    rows.set_seen(c, one)

        await to_thread.run_sync(learn)

    def _known(self, prompt: str, session: str, project: str) -> _Known:
        kind = kind_of(prompt)
        from_us = self.store.clock.now_us() - HISTORY_US
        with self.store.reading() as db:
            seen = rows.seen(db, project, kind)
            history = rows.history(db, session, from_us) if session else None
        return _Known(history, prior.predict(seen, project, kind, self.store.clock.now()))

    def _advised(
        self, prompt: str, known: _Known, events: Sequence[Event] | None
    ) -> tuple[Advice, Start]:
        start = start_level(prompt, known.predicted)
        history = known.history
        if history is not None and start.wished:
            history = replace(history, level=start.level)
        found = evidence.gather(events or (), history.since if history else 0.0)
        return evidence.advise(start, found, history, self.store.clock.now()), start

    def _keep(self, session: str, history: History) -> None:
        with self.store.changing() as c:
            rows.keep(c, session, history, c.now_us - HISTORY_US)


def kind_of(prompt: str) -> str:
    """Return the kind of task by which thinking is compared: that of the plain keyword rule."""
    return keyword_level(prompt).name.lower()


def _is_unknown(advice: Advice, start: Start) -> bool:
    """Say whether the lowest level is only a lack of reasons, not a wish or evidence for less."""
    reasons = (*advice.terms, *start.terms)
    lowered = advice.changed < 0 or any(term.steps < 0 for term in reasons)
    return advice.level is Level.SIMPLE and not start.wished and not lowered


def _no_evidence(
    advice: Advice, predicted: Predicted, events: Sequence[Event] | None, session: str
) -> ThinkingReport:
    """Return the answer that leaves the host's own effort as it is."""
    return ThinkingReport(
        level=DEFAULT, model_takes="the host's default effort: set nothing",
        because="a lower effort needs a reason as much as a higher one",
        why=[_why(one) for one in advice.terms] or ["no evidence: keep the host's default effort"],
        evidence=_seen(events, session), expected=_expected(predicted),
    )  # fmt: skip


def _report(
    advice: Advice, start: Start, compiled: Compiled, predicted: Predicted,
    events: Sequence[Event] | None, session: str,
) -> ThinkingReport:  # fmt: skip
    level = advice.level
    terms = (*advice.terms, *start.terms) if start.wished or not advice.terms else advice.terms
    change = "raised" if advice.changed > 0 else "lowered"
    return ThinkingReport(
        level=level.name.lower(), word=level.word, tokens=level.budget_tokens,
        model_takes=_takes(compiled), because=compiled.because, set_by=_set_by(compiled),
        changed=f"{change} by {abs(advice.changed)}" if advice.changed else "",
        why=[_why(term) for term in terms] or ["nothing speaks for more"],
        evidence=_seen(events, session), expected=_expected(predicted),
        hint="" if compiled.model else "name `model` to learn what it takes",
    )  # fmt: skip


def _takes(compiled: Compiled) -> str:
    match compiled.taken:
        case Budget(tokens=tokens):
            return f"a budget of {tokens:,} tokens"
        case Effort(word=word):
            keyword = f", keyword {compiled.keyword}" if compiled.keyword else ""
            return f"effort {word}{keyword}"
        case Nothing():
            return "nothing"
        case _:
            assert_never(compiled.taken)


def _set_by(compiled: Compiled) -> list[str]:
    """Return the ways to say it: command line, environment, request."""
    ways = [" ".join(compiled.arguments)] if compiled.arguments else []
    ways += [f"{name}={value}" for name, value in compiled.env.items()]
    return [*ways, orjson.dumps(compiled.body).decode()] if compiled.body else ways


def _why(term: Term) -> str:
    return f"{term.reason} ({term.steps:+d})" if term.steps else term.reason


def _seen(events: Sequence[Event] | None, session: str) -> str:
    if not session:
        return "none: no session is named"
    if events is None:
        return "none: telemetry did not answer in time"
    return f"{len(events)} calls of this session"


def _expected(predicted: Predicted) -> str:
    if not predicted.turns:
        return ""
    span = f"{predicted.low:,.0f} to {predicted.high:,.0f}"
    return f"{predicted.p50:,.0f} tokens of thinking ({span} in 80 %): {predicted.basis}"
