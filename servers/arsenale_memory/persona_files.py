"""A persona's folder: who it is by its levels, and the files that are rendered into it."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from arsenale_core import logs
from arsenale_core.errors import ConflictError, InvalidError
from arsenale_core.files import make_private
from arsenale_core.model_text import ModelText, escaped
from arsenale_core.trust import Trust
from arsenale_memory import (
    answers,
    briefing,
    dumping,
    identity_files,
    levels,
    managed,
    moments,
    reading,
    templates,
)
from arsenale_memory.briefing import Known
from arsenale_memory.identity_files import Problem
from arsenale_memory.levels import Identity
from arsenale_memory.objects import Objects
from arsenale_memory.record import Filter
from arsenale_memory.service import Memory

if TYPE_CHECKING:
    from arsenale_memory.record import Version

_PERSONA = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,60}")

TODAY = 8
SHOWN_CHARS = 400
CORE = 8
"""So many memories of a sort are shown."""


@dataclass(slots=True, eq=False)
class PersonaFiles:
    """The folders of the personas of one home.

    Attributes:
        folder: `ARSENALE_HOME/identities`, a folder for each persona.
        templates: Where templates are looked for, the user's folder first.
        trust: Which files of projects the user has approved.
    """

    memory: Memory
    folder: Path
    objects: Objects
    templates: Sequence[Path]
    zone: tzinfo | None
    trust: Trust
    _warned: dict[Path, str] = field(default_factory=lambda: dict[Path, str](), kw_only=True)

    def place(self, persona: str) -> Path:
        """Return the folder of PERSONA.

        Raises:
            InvalidError: That is no name for one.
        """
        if not _PERSONA.fullmatch(persona):
            raise InvalidError(f"{persona!r} is no name for a persona", hint="letters and digits")
        return self.folder / persona

    def identity(self, persona: str, project: Path | None) -> Identity:
        """Return who PERSONA is in PROJECT, each value with the level that it comes from.

        A file of the project counts only with the content that the user has approved. What cannot
        be read in a file is left out, and logged once.
        """
        found: list[tuple[str, dict[str, Any]]] = []
        unused: list[str] = []
        for level, path in levels.files(self.place(persona), project).items():
            why = ""
            if level == "global":
                values, problems = identity_files.read(path)
            else:
                values, problems, why = identity_files.read_trusted(path, self.trust)
            if why:
                unused.append(f".arsenale/{path.name} ({why})")
            found.append((level, values))
            self._warn(path, problems)
        return replace(levels.merge(found), unused=unused)

    def _warn(self, path: Path, problems: Sequence[Problem]) -> None:
        text = "; ".join(str(problem) for problem in problems[:5])
        if text and self._warned.get(path) != text:
            logs.get("arsenale.memory").warning("identity file read in part", problems=text)
        self._warned[path] = text

    def namespace(self, identity: Identity, persona: str) -> str:
        """Return where PERSONA keeps its memories."""
        own = self.memory.namespace if persona == "default" else persona
        return answers.namespace_name(identity.text("namespace", own))

    async def render(self, persona: str, *, force: bool = False) -> list[str]:
        """Write the rendered identity into the persona's files; return what was written.

        Only our blocks are written: what the user wrote around them stays. The files serve every
        project, so nothing of a project's own files goes into them.
        """
        return await to_thread.run_sync(self.render_now, persona, force)

    def known(self, identity: Identity, persona: str) -> Known:
        """Return what a briefing of PERSONA draws on."""
        names = (self.namespace(identity, persona),)
        with self.memory.store.reading() as db:

            def newest(limit: int, by: str = "written", **wanted: Any) -> "list[Version]":
                return reading.listed(db, Filter(namespaces=names, **wanted), limit=limit, by=by)

            last = dumping.checkpoints(db, persona, limit=1)
            return Known(
                core=newest(CORE, by="importance", min_importance=0.6),
                decisions=newest(TODAY, kinds=("decision",)),
                recent=newest(TODAY),
                last_checkpoint_us=last[0].at_us if last else None,
            )

    def render_now(self, persona: str, force: bool) -> list[str]:
        """Do what `render` does, in this thread."""
        folder = self.place(persona)
        make_private(folder)
        identity = self.identity(persona, None)
        known = self.known(identity, persona)
        today = moments.day(self.memory.now_us, self.zone)
        context = {
            "name": identity.text("name", persona),
            "persona_class": identity.text("class", ""),
            "rules": [briefing.one_line(str(rule)) for rule in identity.items("rules")],
            "core_memories": [
                *({"text": str(text)} for text in identity.items("core_memories")),
                *(_shown(version, self.zone) for version in known.core),
            ],
            "today": {"date": today, "memories": [_shown(v, self.zone) for v in known.recent]},
            "projects": [_project(str(text)) for text in identity.items("projects")],
            "knowledge": {str(k): str(v) for k, v in identity.values.get("facts", {}).items()},
            "relationships": {
                str(k): str(v) for k, v in json_object(folder / "relationships.json").items()
            },
        }
        template = identity.text("template", "assistant")
        text = templates.render(template, escaped(context), self.templates)
        brief = self.brief(identity, persona, known)
        written = [
            _write_block(folder / "CLAUDE.md", "identity", text, force),
            _write_block(folder / "CLAUDE.local.md", "briefing", brief, force),
            _write_new(folder / "relationships.json", "{}\n"),
            _write_new(folder / "knowledge_base.json", '{"facts": []}\n'),
            _write_new(folder / ".mcp" / "servers.json", '{"mcpServers": {}}\n'),
        ]
        return [path.name for path in written if path is not None]

    def brief(self, identity: Identity, persona: str, known: Known) -> ModelText:
        """Return the briefing for a file: without what changes at every checkpoint."""
        timeless = replace(known, last_checkpoint_us=None)
        return briefing.briefing(identity, persona, timeless, self.memory.now_us)

    def note(self, persona: str, decisions: Sequence[str], conversations: Sequence[str]) -> None:
        """Write what a checkpoint was given as a page of the day, for people to read."""
        now_us = self.memory.now_us
        folder = self.place(persona) / "memories" / moments.day(now_us, self.zone)
        make_private(folder)
        lines = [f"# {moments.iso(now_us)}"]
        for title, texts in (("Decisions", decisions), ("Conversations", conversations)):
            if texts:
                lines += ["", f"## {title}", "", *(f"- {' '.join(t.split())}" for t in texts)]
        name = moments.iso(now_us)[11:19].replace(":", "")
        replace_file(folder / f"{name}-{now_us % 1_000_000:06d}.md", "\n".join(lines) + "\n")

    def relate(self, persona: str, relationships: Mapping[str, str]) -> None:
        """Merge RELATIONSHIPS (who: what) into those of PERSONA."""
        path = self.place(persona) / "relationships.json"
        make_private(path.parent)
        known = json_object(path)
        known.update(relationships)
        replace_file(path, json.dumps(known, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def _shown(version: "Version", zone: tzinfo | None) -> dict[str, Any]:
    return {
        "text": briefing.one_line(version.content, SHOWN_CHARS),
        "importance": version.importance,
        "date": moments.day(version.valid_from_us, zone),
    }


def _project(text: str) -> dict[str, str]:
    """Return a project as `name: summary` says it."""
    name, _, summary = text.partition(":")
    return {"name": name.strip(), "summary": summary.strip()}


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file PATH; an empty one when it is not there."""
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise InvalidError(f"{path} is no JSON ({exc})", hint="mend or move it") from exc
    if not isinstance(said, dict):
        raise InvalidError(f"{path} is no JSON object", hint="mend or move it")
    return said  # pyright: ignore[reportUnknownVariableType]


def _write_block(path: Path, name: str, body: str, force: bool) -> Path | None:
    try:
        before = path.read_bytes().decode("utf-8") if path.exists() else ""
    except UnicodeDecodeError as exc:
        raise InvalidError(f"{path} is not UTF-8", hint="mend or move it") from exc
    try:
        after = managed.put(before, name, body, force=force)
    except ConflictError:
        return None  # the user has changed it by hand: it is theirs
    if after == before:
        return None
    replace_file(path, after)
    return path


def _write_new(path: Path, text: str) -> Path | None:
    if path.exists():
        return None
    make_private(path.parent)
    replace_file(path, text)
    return path


def replace_file(path: Path, text: str) -> None:
    """Write TEXT into PATH: whole, or not at all; a link stays, what it points to is written."""
    path = path.resolve()
    make_private(path.parent)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(text.encode())  # line ends as they are
    with suppress(FileNotFoundError):
        fresh.chmod(path.stat().st_mode & 0o777)
    fresh.replace(path)
