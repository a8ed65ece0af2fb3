"""Who the assistant is: its folder, its rendered files, its checkpoints, and the way back."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anyio import Lock, to_thread

from arsenale_core.errors import ConflictError, NotFoundError
from arsenale_core.model_text import ModelText
from arsenale_memory import (
    answers,
    briefing,
    dumping,
    imports,
    moments,
    reading,
    snapshots,
)
from arsenale_memory.levels import Identity
from arsenale_memory.models import (
    Change,
    CheckpointReport,
    IdentityReport,
    NewMemory,
    RestoreReport,
    ValueRow,
)
from arsenale_memory.persona_files import PersonaFiles
from arsenale_memory.record import Filter, Source
from arsenale_memory.snapshots import Manifest

if TYPE_CHECKING:
    pass

PROBES = 10
"""So many questions are asked before a snapshot and after a restore."""

MOST_CHANGES = 100
DAY_US = 86_400_000_000

RESTORE_TRIES = 5
"""So often a restore begins anew when memories come between snapshot and restore."""


@dataclass(slots=True, eq=False)
class Personas(PersonaFiles):
    """The personas of one home, with their checkpoints."""

    _one: Lock = field(default_factory=Lock, kw_only=True)

    async def show(self, persona: str, project: Path | None) -> IdentityReport:
        """Return who PERSONA is, with the origin of each value and the rendered text."""
        return await to_thread.run_sync(self._show, persona, project)

    async def card(self, persona: str, project: Path | None) -> ModelText:
        """Return who PERSONA is, in a few hundred tokens."""

        def made() -> ModelText:
            identity = self.identity(persona, project)
            return briefing.card(identity, self.known(identity, persona))

        return await to_thread.run_sync(made)

    async def briefing(self, persona: str, project: Path | None) -> ModelText:
        """Return the morning briefing of PERSONA."""

        def made() -> ModelText:
            identity = self.identity(persona, project)
            known = self.known(identity, persona)
            return briefing.briefing(identity, persona, known, self.memory.now_us)

        return await to_thread.run_sync(made)

    # Checkpoints.

    async def checkpoint(
        self,
        persona: str,
        project: Path | None,
        *,
        reason: str,
        decisions: Sequence[str] = (),
        conversations: Sequence[str] = (),
        relationships: Mapping[str, str] | None = None,
        source: Source | None = None,
    ) -> CheckpointReport:
        """Take a snapshot of PERSONA: files, memories, identity; with what is given kept first.

        When this returns, the snapshot is whole on disk. One that differs in nothing from the last
        is not taken again.
        """
        self.memory.used("checkpoint")
        async with self._one:
            identity = await to_thread.run_sync(self.identity, persona, project)
            namespace = self.namespace(identity, persona)
            items = [NewMemory(content=text, kind="decision", tags=["checkpoint"], importance=0.8)
                     for text in decisions]  # fmt: skip
            items += [NewMemory(content=text, kind="summary", tags=["checkpoint"])
                      for text in conversations]  # fmt: skip
            if items:
                via = source or Source(via="checkpoint")
                await self.memory.remember(items, namespace=namespace, source=via)
                await to_thread.run_sync(self.note, persona, decisions, conversations)
            if relationships:
                await to_thread.run_sync(self.relate, persona, relationships)
            await to_thread.run_sync(self.render_now, persona, False)
            probes = await self._probes(namespace, await to_thread.run_sync(self._asked, namespace))
            return await to_thread.run_sync(self._snapshot, persona, identity, reason, probes)

    async def restore(
        self,
        persona: str,
        project: Path | None,
        date: str,
        *,
        compare_with: str | None,
        apply: bool,
    ) -> RestoreReport:
        """Show PERSONA as it stood on DATE and what differs from now, or from COMPARE_WITH.

        With APPLY it becomes so: a snapshot is taken first, then files and memories are put back,
        and hashes and the answers to probe questions are compared.
        """
        self.memory.used("restore")
        sha, at_us = await to_thread.run_sync(self._as_of, persona, date)
        old = await to_thread.run_sync(self._manifest, sha)
        if not apply:
            other = await self._other(persona, project, compare_with)
            return await to_thread.run_sync(self._compared, persona, old, at_us, other)
        async with self.memory.knowledge().gate:
            for _ in range(RESTORE_TRIES):
                seen = await to_thread.run_sync(self._seen)
                before = await self.checkpoint(persona, project, reason="before restore")
                kept = await to_thread.run_sync(self._kept_at, persona, before.at)
                if await to_thread.run_sync(self._put_back, persona, old, kept, seen):
                    break
            else:
                raise ConflictError("memories keep coming", hint="restore when nobody writes")
            await to_thread.run_sync(self.memory.knowledge().release)
            report = await self._verified(persona, old, at_us)
        report.undo = f"restore_identity(date={before.at!r}) brings back what was there before."
        return report

    def history(self, persona: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the checkpoints of PERSONA (moment, reason, id), the newest first."""
        with self.memory.store.reading() as db:
            rows = dumping.checkpoints(db, persona, limit=limit)
        return [(moments.iso(row.at_us), row.reason, row.sha[:12]) for row in rows]

    # How it is done.

    def _show(self, persona: str, project: Path | None) -> IdentityReport:
        identity = self.identity(persona, project)
        file = self.place(persona) / "CLAUDE.md"
        text, warnings = "", ()
        if file.is_file():
            roots = [self.place(persona), *([project] if project else [])]
            resolved = imports.resolve(file, roots)
            text, warnings = resolved.text, resolved.warnings
        return IdentityReport(
            persona=persona,
            namespace=self.namespace(identity, persona),
            values=[
                ValueRow(key=key, value=str(_at(identity.values, key)), level=level)
                for key, level in identity.origins.items()
            ],
            text=text[: answers.READ_CHARS],
            warnings=[*(f"not used: {file}" for file in identity.unused), *warnings],
            checkpoints=[f"{at} {reason}" for at, reason, _ in self.history(persona, 10)],
            hint=None if identity.values else f"Describe {persona} in {file.parent}/identity.toml.",
        )

    def _asked(self, namespace: str) -> list[str]:
        with self.memory.store.reading() as db:
            found = reading.listed(
                db, Filter(namespaces=(namespace,)), limit=PROBES, by="importance"
            )
        return [" ".join(v.content.split()[:12]) for v in found]

    async def _probes(self, namespace: str, asked: Sequence[str]) -> list[dict[str, Any]]:
        wanted = Filter(namespaces=(namespace,))
        found: list[dict[str, Any]] = []
        for text in asked:
            hits, _ = await self.memory.knowledge().find(text, wanted, limit=10)
            found.append({"asked": text, "found": [version.uid for _, version in hits]})
        return found

    def _snapshot(
        self, persona: str, identity: Identity, reason: str, probes: list[dict[str, Any]]
    ) -> CheckpointReport:
        namespace = self.namespace(identity, persona)
        now_us = self.memory.now_us
        with self.memory.store.reading() as db:
            ids = reading.namespace_ids(db, [namespace])
            names, count = snapshots.keep_rows(
                (row for id in ids.values() for row in dumping.dumped(db, id)), self.objects
            )
            uids = sorted({v["memory"]["uid"] for v in snapshots.rows(names, self.objects)})
            links = dumping.links_within(db, uids)
            last = dumping.checkpoints(db, persona, limit=1)
        kept = Manifest(
            persona=persona,
            files=snapshots.keep_files(self.place(persona), self.objects),
            segments={namespace: names},
            links={namespace: self.objects.put(json.dumps(links, sort_keys=True).encode())},
            versions=count,
            probes=probes,
            values=self._own_values(persona),
        )
        sha = self.objects.put(kept.encoded())
        same = bool(last) and last[0].sha == sha
        at_us = last[0].at_us if same else now_us
        if not same:
            previous = last[0].sha if last else None
            self.memory.store.add_checkpoint(persona, sha, now_us, reason, previous)
        return CheckpointReport(
            id=sha[:12],
            at=_exact(at_us),
            persona=persona,
            new=not same,
            files=len(kept.files),
            memories=count,
            briefing=self.brief(identity, persona, self.known(identity, persona)),
            hint="Nothing has changed since the last checkpoint." if same else None,
        )

    def _own_values(self, persona: str) -> dict[str, Any]:
        """Return the user's own values of PERSONA: a snapshot serves every project."""
        own = self.identity(persona, None)
        return {"values": own.values, "origins": own.origins}

    def _as_of(self, persona: str, date: str) -> tuple[str, int]:
        """Return the snapshot that stood at DATE; a bare date means the end of that day."""
        until = self.moment(date)
        with self.memory.store.reading() as db:
            found = dumping.checkpoints(db, persona, until_us=until, limit=1)
            every = dumping.checkpoints(db, persona, limit=5)
        if not found:
            known = ", ".join(moments.iso(row.at_us) for row in every) or "none"
            raise NotFoundError("checkpoint", f"{persona} at {date}", hint=f"there are: {known}")
        return str(found[0].sha), int(found[0].at_us)

    def moment(self, date: str) -> int:
        """Return the moment that DATE means for a snapshot: of a bare date its end."""
        if re.fullmatch(r"\d{4}-\d\d-\d\d", date.strip()):
            begins = moments.parse(date, self.memory.now(), self.zone)
            return begins + DAY_US - 1
        if date.strip().lower() == "today":
            return self.memory.now_us
        return moments.parse(date, self.memory.now(), self.zone)

    def _manifest(self, sha: str) -> Manifest:
        return snapshots.manifest(self.objects.get(sha))

    async def _other(self, persona: str, project: Path | None, date: str | None) -> Manifest:
        if date is None:
            identity = await to_thread.run_sync(self.identity, persona, project)
            return await to_thread.run_sync(self._present, persona, identity)
        sha, _ = await to_thread.run_sync(self._as_of, persona, date)
        return await to_thread.run_sync(self._manifest, sha)

    def _present(self, persona: str, identity: Identity) -> Manifest:
        """Return what a snapshot would hold now; its objects are kept, no checkpoint is made."""
        namespace = self.namespace(identity, persona)
        with self.memory.store.reading() as db:
            ids = reading.namespace_ids(db, [namespace])
            names, count = snapshots.keep_rows(
                (row for id in ids.values() for row in dumping.dumped(db, id)), self.objects
            )
        return Manifest(
            persona=persona,
            files=snapshots.keep_files(self.place(persona), self.objects),
            segments={namespace: names},
            links={},
            versions=count,
            probes=(),
            values=self._own_values(persona),
        )

    def _compared(self, persona: str, old: Manifest, at_us: int, other: Manifest) -> RestoreReport:
        changes = [*self._file_changes(old, other), *self._memory_changes(old, other)]
        origins = dict(old.values["origins"])
        return RestoreReport(
            persona=persona,
            at=_exact(at_us),
            applied=False,
            values=[
                ValueRow(key=key, value=str(_at(old.values["values"], key)), level=level)
                for key, level in origins.items()
            ],
            changes=changes[:MOST_CHANGES],
            more=max(0, len(changes) - MOST_CHANGES),
            hint="Nothing was changed. `apply` makes it so." if changes else "Nothing differs.",
        )

    def _file_changes(self, old: Manifest, new: Manifest) -> list[Change]:
        found: list[Change] = []
        for path in sorted({*old.files, *new.files}):
            before, after = old.files.get(path), new.files.get(path)
            if before != after:
                then, now = self._text(before), self._text(after)
                lines = difflib.unified_diff(then, now, "then", "now", lineterm="", n=1)
                what = "removed" if after is None else "added" if before is None else "changed"
                found.append(
                    Change(what=what, kind="file", name=path, diff="\n".join(lines)[:2000])
                )
        return found

    def _text(self, name: str | None) -> list[str]:
        if name is None:
            return []
        return self.objects.get(name).decode("utf-8", errors="replace").splitlines()

    def _memory_changes(self, old: Manifest, new: Manifest) -> list[Change]:
        before = self._versions(old)
        after = self._versions(new)
        found: list[Change] = []
        for key in sorted({*before, *after}):
            one, two = before.get(key), after.get(key)
            if one == two:
                continue
            row = two or one
            assert row is not None
            what = "removed" if two is None else "added" if one is None else "changed"
            if two is not None and one is not None and two["ended"] != one["ended"]:
                what = str(two["ended"] or "changed")
            found.append(
                Change(what=what, kind="memory", name=answers.handle(key[0]),
                       diff=str(row["content"])[:300])
            )  # fmt: skip
        return found

    def _versions(self, manifest: Manifest) -> dict[tuple[str, int], Mapping[str, Any]]:
        found: dict[tuple[str, int], Mapping[str, Any]] = {}
        for names in manifest.segments.values():
            found |= snapshots.contents(names, self.objects)
        return {key: {k: v for k, v in row.items() if k != "id"} for key, row in found.items()}

    def _seen(self) -> int:
        """Return the newest change of the store: what comes after it is in no snapshot yet."""
        with self.memory.store.reading() as db:
            return reading.changes(db, 0)[0]

    def _kept_at(self, persona: str, at: str) -> Manifest:
        return self._manifest(self._as_of(persona, at)[0])

    def _put_back(self, persona: str, old: Manifest, kept: Manifest, seen: int) -> bool:
        """Put memories, then files back; false when memories came after the change SEEN.

        All is read first: a damaged snapshot changes nothing. Only what KEPT has is deleted.
        """
        files = snapshots.files_of(old.files, self.objects)
        for namespace, names in old.segments.items():
            links = json.loads(self.objects.get(old.links[namespace]))
            rows = list(snapshots.rows(names, self.objects))
            if self.memory.store.restore(namespace, rows, links, unchanged_since=seen) is None:
                return False
        snapshots.restore_files(self.place(persona), files, kept.files)
        return True

    async def _verified(self, persona: str, old: Manifest, at_us: int) -> RestoreReport:
        namespace = next(iter(old.segments))
        probes = await self._probes(namespace, [str(p["asked"]) for p in old.probes])
        same = sum(
            now["found"] == then["found"] for now, then in zip(probes, old.probes, strict=True)
        )

        def compared() -> tuple[bool, bool]:
            present = snapshots.hashes(self.place(persona))
            files = all(present.get(path) == sha for path, sha in old.files.items())
            with self.memory.store.reading() as db:
                ids = reading.namespace_ids(db, [namespace])
                segments, _ = snapshots.keep_rows(
                    (row for id in ids.values() for row in dumping.dumped(db, id)), self.objects
                )
            again = Manifest(
                persona=persona, files={}, segments={namespace: segments}, links={}, versions=0,
                probes=(), values={},
            )  # fmt: skip
            then, now = self._versions(old), self._versions(again)
            return files, all(now.get(key) == version for key, version in then.items())

        files, memories = await to_thread.run_sync(compared)
        if not (files and memories):
            raise ConflictError(
                "what was restored is not what was saved", hint="restore again; see the log"
            )
        return RestoreReport(
            persona=persona,
            at=_exact(at_us),
            applied=True,
            verified=f"{len(old.files)} files and {old.versions} versions have their hashes; "
            f"{same} of {len(probes)} probe questions find the same",
        )


def _exact(at_us: int) -> str:
    """Return AT_US to the microsecond: it names a snapshot."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="microseconds")


def _at(values: Mapping[str, Any], key: str) -> object:
    """Return the value at the dotted KEY of `levels.merge`."""
    found: Any = values
    for name in re.findall(r"[^.\[\]]+", key):
        found = found[int(name) if isinstance(found, list) else name]
    return cast("object", found)
