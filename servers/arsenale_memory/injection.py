"""What an assistant is told without asking: who it is, and what it knows about a prompt (H3)."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from arsenale_core import logs
from arsenale_core.model_text import ModelText, join, quote
from arsenale_memory import answers, briefing, moments
from arsenale_memory.personas import Personas
from arsenale_memory.record import Filter
from arsenale_memory.service import Memory

if TYPE_CHECKING:
    from arsenale_memory.record import Version
    from arsenale_memory.search import Hit

SESSIONS_KEPT = 200
"""So many sessions are remembered, to tell none the same twice."""

SHORTEST_PROMPT = 12
"""Shorter prompts ("yes", "go on") ask nothing that a memory could answer."""

LOOKED_AT = 12
LINE_CHARS = 400

_COMMAND = re.compile(r"^\s*[/!#]")
"""Prompts that are commands of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What is injected when; each can be switched off."""

    identity: bool
    memories: bool
    checkpoints: bool
    persona: str
    max_tokens: int
    min_relevance: float


@dataclass(slots=True, eq=False)
class Injector:
    """Answers hook events; every injection is recorded with what it cost."""

    memory: Memory
    personas: Personas
    switches: Switches
    tasks: TaskGroup
    _told: OrderedDict[str, set[str]] = field(default_factory=lambda: OrderedDict[str, set[str]]())

    async def answer(self, event: Mapping[str, object]) -> ModelText | None:
        """Return what the assistant gets at EVENT, or nothing."""
        name = str(event.get("hook_event_name") or event.get("hookEventName") or "").lower()
        session = str(event.get("session_id") or event.get("sessionId") or "")
        project = Path(cwd) if isinstance(cwd := event.get("cwd"), str) and cwd else None
        match name:
            case "sessionstart" if self.switches.identity:
                return await self._identity(event, session, project)
            case "userpromptsubmit" if self.switches.memories:
                return await self._memories(str(event.get("prompt") or ""), session, project)
            case "precompact" | "sessionend" if self.switches.checkpoints:
                self.tasks.start_soon(self._checkpoint, name, project)
                return None
            case _:
                return None

    async def _identity(
        self, event: Mapping[str, object], session: str, project: Path | None
    ) -> ModelText | None:
        """Return the card after a compaction; card and briefing when a session begins.

        A preview is kept for sessions to come and counts as no injection.
        """
        begun = anyio.current_time()
        persona = self.switches.persona
        unused = await self._unused(persona, project)
        if await self._knows_nothing(persona, project):
            return unused or None
        text = join(unused, await self.personas.card(persona, project))
        if event.get("source") == "compact":
            self._told.pop(session, None)  # what was told is gone with the context
        else:
            text = join(text, await self.personas.briefing(persona, project))
        if not event.get("preview"):
            await self._record("SessionStart", session, (), text, begun)
        return text

    async def _memories(self, prompt: str, session: str, project: Path | None) -> ModelText | None:
        """Return the memories that a prompt asks for, above the threshold and within the budget."""
        if len(prompt.strip()) < SHORTEST_PROMPT or _COMMAND.match(prompt):
            return None
        begun = anyio.current_time()
        wanted = Filter(namespaces=(await self._namespace(project),))
        hits, _ = await self.memory.knowledge().find(prompt[:2_000], wanted, limit=LOOKED_AT)
        told = self._told_to(session)
        lines: list[str] = []
        uids: list[str] = []
        left = self.switches.max_tokens
        for hit, version in hits:
            if hit.relevance < self.switches.min_relevance or version.uid in told:
                continue
            line = _line(hit, version)
            left -= answers.tokens(line)
            if left < 0:
                break
            lines.append(line)
            uids.append(version.uid)
        if not lines:
            return None
        told.update(uids)
        self.memory.knowledge().mark_recalled(uids)
        body = "\n".join(["What you remember that may help:", *lines])
        text = quote(body, tag="recalled-memories", origin=briefing.ORIGIN)
        await self._record("UserPromptSubmit", session, uids, text, begun, prompt)
        return text

    async def _checkpoint(self, reason: str, project: Path | None) -> None:
        persona = self.switches.persona
        try:
            if not await self._knows_nothing(persona, project):
                await self.personas.checkpoint(persona, project, reason=reason)
        except Exception as exc:  # noqa: BLE001  # the edge of a task: a hook takes no server down
            logs.get("arsenale.memory").warning("no checkpoint", reason=str(exc))

    async def _unused(self, persona: str, project: Path | None) -> ModelText:
        """Return the line that says which files of the project are not used, if there are any."""
        identity = await to_thread.run_sync(self.personas.identity, persona, project)
        names = ", ".join(identity.unused)
        return quote(briefing.UNUSED.format(names)) if names else ModelText()

    async def _knows_nothing(self, persona: str, project: Path | None) -> bool:
        """Say whether there is nothing to tell: a fresh install must not talk."""
        identity = await to_thread.run_sync(self.personas.identity, persona, project)
        wanted = Filter(namespaces=(self.personas.namespace(identity, persona),))
        return not identity.values and not await to_thread.run_sync(self.memory.count, wanted)

    async def _namespace(self, project: Path | None) -> str:
        persona = self.switches.persona
        identity = await to_thread.run_sync(self.personas.identity, persona, project)
        return self.personas.namespace(identity, persona)

    def _told_to(self, session: str) -> set[str]:
        told = self._told.setdefault(session, set())
        self._told.move_to_end(session)
        while len(self._told) > SESSIONS_KEPT:
            self._told.popitem(last=False)
        return told

    async def _record(
        self, event: str, session: str, uids: "list[str] | tuple[str, ...]", text: str,
        begun: float, prompt: str | None = None,
    ) -> None:  # fmt: skip
        self.memory.used("inject")
        row = {
            "at_us": self.memory.now_us,
            "session": session[:200] or None,
            "event": event,
            "namespace": self.memory.namespace,
            "query_sha": sha256(prompt.encode()).digest() if prompt else None,
            "uids": " ".join(uids),
            "tokens": answers.tokens(text),
            "ms": round((anyio.current_time() - begun) * 1e3, 2),
        }
        await to_thread.run_sync(self.memory.store.add_injection, row)


def _line(hit: "Hit", version: "Version") -> str:
    text = version.content if len(version.content) <= LINE_CHARS else hit.body
    text = " ".join(text.split())
    if len(text) > LINE_CHARS:
        text = text[: LINE_CHARS - 1] + "…"
    when = moments.day(version.valid_from_us, None)
    return f"- [{answers.handle(version.uid)}, {when}] {text}"
