"""Memories from files and into files: whole folders, bad files told by name, nothing lost."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from anyio import to_thread

from arsenale_core.errors import InvalidError, UnavailableError
from arsenale_core.files import make_private
from arsenale_memory import answers, claude_files, formats, reading
from arsenale_memory.formats import Format, Item
from arsenale_memory.models import MaintainReport, Moved, NewMemory, kind_of
from arsenale_memory.record import Filter, Source, Version
from arsenale_memory.service import Memory, Query

if TYPE_CHECKING:
    from arsenale_memory.knowledge import Progress

MAX_FILE_BYTES = 512 * 2**20
MAX_FILES = 50_000
BATCH = 500
PAGE = 500
MOST_FAILURES = 100
"""So many failures are told one by one."""

SUFFIXES = {"jsonl": (".jsonl",), "graph": (".jsonl", ".json"), "markdown": (".md", ".markdown"),
            "claude": (".md", ".jsonl")}  # fmt: skip


Upkeep: TypeAlias = Literal["stats", "reindex", "purge", "research", "import", "export"]
"""What `maintain` can do."""


@dataclass(slots=True, eq=False)
class Exchange:
    """Imports and exports of one memory.

    Attributes:
        home: Where exports go when no path is named.
    """

    memory: Memory
    home: Path

    async def upkeep(
        self, action: Upkeep, form: Format, path: str | None, query: Query,
        *, roots: Sequence[Path] | None, progress: "Progress | None" = None,
    ) -> MaintainReport:  # fmt: skip
        """Do ACTION: move memories to or from PATH, or maintain the store.

        Raises:
            InvalidError: An import names no path, or one outside of ROOTS.
        """
        if action == "import" or action == "export":
            moved = await self.move(action, form, path, query, roots=roots, progress=progress)
            return MaintainReport(action=action, done=moved.memories, moved=moved)
        return await self.memory.maintain(action, progress)

    async def move(
        self, action: Literal["import", "export"], form: Format, path: str | None, query: Query,
        *, roots: Sequence[Path] | None, progress: "Progress | None" = None,
    ) -> Moved:  # fmt: skip
        """Import from PATH, or export to it what fits QUERY.

        Raises:
            InvalidError: An import names no path, or one outside of ROOTS.
        """
        place = None if path is None else _expanded(path)
        if action == "export":
            written = None if roots is None else [r for r in roots if r.name != ".claude"]
            return await self.take(form, place, query, written)
        if place is None:
            raise InvalidError("an import needs a path", hint="of a file or a folder")
        return await self.bring(
            form, place, namespace=query.namespace, roots=roots, progress=progress
        )

    async def bring(
        self,
        form: Format,
        path: Path,
        *,
        namespace: str | None,
        roots: Sequence[Path] | None,
        progress: "Progress | None" = None,
    ) -> Moved:
        """Import the file or folder PATH; what is there already is a duplicate.

        It goes into NAMESPACE; by default what we exported goes where it was, and all else into the
        usual one. With ROOTS, only what lies within them is read. Every 500 items are committed by
        themselves: an import that is cut off can be repeated.

        Raises:
            InvalidError: NAMESPACE is none, or several.
        """
        if namespace is not None:
            namespace = answers.namespace_name(namespace)
        self.memory.used("import")
        report = Moved(action="import", format=form, path=str(path), memories=0)
        items = self._items(form, path, roots, report.failed)
        while batch := await to_thread.run_sync(lambda: list(islice(items, BATCH))):
            await self._keep(form, batch, namespace, report)
            if progress:
                await progress(report.memories + report.duplicates, 0)
        if len(report.failed) > MOST_FAILURES:
            more = len(report.failed) - MOST_FAILURES
            report.failed = [*report.failed[:MOST_FAILURES], f"and {more} more"]
        if not report.memories and not report.duplicates:
            report.hint = f"Nothing of the form {form} was found there."
        return report

    async def take(
        self, form: Format, path: Path | None, query: Query, roots: Sequence[Path] | None
    ) -> Moved:
        """Export what fits QUERY, with all versions; Markdown into a folder, else into a file.

        A file comes whole or not at all.
        """
        self.memory.used("export")
        if form == "claude":
            raise InvalidError("claude is for imports", hint="export as markdown or jsonl")
        if path is None:
            stamp = str(self.memory.now_us // 1_000_000)
            path = (
                self.home / "exports" / (stamp if form == "markdown" else f"{stamp}-{form}.jsonl")
            )
        elif roots is not None:
            path = _within(path, roots)
            if any(part.startswith(".") for part in path.relative_to(_root(path, roots)).parts):
                raise InvalidError(
                    f"{path} is hidden: hosts and git read such files as their settings",
                    hint="export to a name without a dot at its start",
                )
        wanted = self.memory.filter(query)
        write = _write_notes if form == "markdown" else _write_lines
        try:
            count = await to_thread.run_sync(write, form, path, self._histories(wanted))
        except OSError as exc:
            raise UnavailableError(f"{path}: {exc.strerror}", hint="name another place") from exc
        hint = None if count else "No memory fits: nothing was written but an empty export."
        return Moved(action="export", format=form, path=str(path), memories=count, hint=hint)

    # Import.

    def _items(
        self, form: Format, path: Path, roots: Sequence[Path] | None, failed: list[str]
    ) -> Iterator[Item]:
        for file in _files(path, SUFFIXES[form], roots, failed):
            try:
                found = _read(form, file, path.resolve())
                for item in found:
                    if isinstance(item, str):
                        failed.append(f"{file.name}: {item}")
                    else:
                        yield from formats.observations(item)
            except InvalidError as exc:
                failed.append(str(exc))
            except (OSError, UnicodeDecodeError) as exc:
                failed.append(f"{file.name}: {exc}")

    async def _keep(
        self, form: Format, batch: Sequence[Item], namespace: str | None, report: Moved
    ) -> None:
        """Keep BATCH in its order: our own versions as they are, others as new memories."""
        for own, group in groupby(batch, key=lambda item: bool(item.versions)):
            items = list(group)
            if own:
                versions = [version for item in items for version in item.versions]
                if namespace is not None:
                    versions = [replace(each, namespace=namespace) for each in versions]
                kept = await self.memory.knowledge().keep_versions(versions)
                report.memories += sum(k.status == "stored" for k in kept)
                report.duplicates += sum(k.status != "stored" for k in kept)
            else:
                await self._keep_others(form, items, namespace, report)

    async def _keep_others(
        self, form: Format, items: Sequence[Item], namespace: str | None, report: Moved
    ) -> None:
        news = [
            NewMemory(
                content=item.content, kind=kind_of(item.kind),
                subject=(item.subject or "")[:200] or None, tags=list(item.tags), at=item.at,
                session=item.session,
            )
            for item in items
        ]  # fmt: skip
        source = Source(via=f"import:{form}", reference=report.path)
        done = await self.memory.remember(news, namespace=namespace, source=source)
        report.memories += done.stored
        report.duplicates += done.duplicates
        report.failed += [
            f"{items[row.index].reference}: {row.reason}"
            for row in done.items
            if row.status == "failed"
        ]

    # Export.

    def _histories(self, wanted: Filter) -> Iterator[Sequence[Version]]:
        """Give the versions of each memory that fits, the oldest memory first."""
        with self.memory.store.reading() as db:
            ids = reading.matching_ids(db, wanted)
            for start in range(0, len(ids), PAGE):
                current = reading.versions_by_id(db, ids[start : start + PAGE])
                uids = [current[id].uid for id in ids[start : start + PAGE]]
                every: dict[str, list[Version]] = {}
                for version in reading.versions(db, uids=uids):
                    every.setdefault(version.uid, []).append(version)
                for uid in dict.fromkeys(uids):
                    yield sorted(every[uid], key=lambda version: version.number)


def _files(
    path: Path, suffixes: Sequence[str], roots: Sequence[Path] | None, failed: list[str]
) -> Iterator[Path]:
    """Give the regular files of PATH with one of SUFFIXES; links are followed within ROOTS only."""
    if not path.exists():
        raise InvalidError(f"{path} is not there", hint="give the path of a file or a folder")
    top = _within(path, roots) if roots is not None else path.resolve()
    every = [top] if not top.is_dir() else sorted(_walk(top))
    found = [file for file in every if file.suffix.lower() in suffixes or file == top]
    if len(found) > MAX_FILES:
        raise InvalidError(f"{path} has more than {MAX_FILES} files", hint="import its folders")
    for file in found:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            failed.append(f"{file.name}: it is no regular file")
        elif status.st_size > MAX_FILE_BYTES:
            failed.append(f"{file.name}: it has more than {MAX_FILE_BYTES // 2**20} MiB")
        else:
            yield file


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            Path(folder) / name
            for name in names
            if not name.startswith(".") and not (Path(folder) / name).is_symlink()
        )


def _expanded(path: str) -> Path:
    return Path(path).expanduser()


def _within(path: Path, roots: Sequence[Path]) -> Path:
    """Return PATH with its links followed.

    Raises:
        InvalidError: It lies outside of ROOTS.
    """
    real = path.expanduser().resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(map(str, roots)) or "none"
        raise InvalidError(
            f"{path} may not be used from here", hint=f"within {allowed}; or `arsenale memory` does"
        )
    return real


def _root(path: Path, roots: Sequence[Path]) -> Path:
    """Return the nearest of ROOTS that holds PATH."""
    return max((root.resolve() for root in roots if path.is_relative_to(root.resolve())),
               key=lambda root: len(root.parts))  # fmt: skip


def _read(form: Format, file: Path, top: Path) -> Iterable[Item | str]:
    if form in ("jsonl", "graph"):
        return _lines(file)
    name = str(file.relative_to(top)) if top.is_dir() else file.name
    if form == "markdown":
        text = file.read_bytes().decode("utf-8")
        return [formats.markdown_in(name, text)]
    if file.suffix == ".jsonl":
        return _transcript(file)
    return claude_files.memory_file(name, file.read_text(encoding="utf-8"))


def _lines(file: Path) -> Iterator[Item | str]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        yield from formats.jsonl_in(lines)


def _transcript(file: Path) -> Iterator[Item | str]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        yield from claude_files.transcript(lines)


def _write_lines(form: Format, path: Path, histories: Iterator[Sequence[Version]]) -> int:
    if path.exists():
        raise _taken(path)
    make_private(path.parent)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    count = 0

    def counted() -> Iterator[Sequence[Version]]:
        nonlocal count
        for history in histories:
            count += 1
            yield history

    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            if form == "jsonl":
                file.writelines(formats.jsonl_out(counted()))
            else:
                file.writelines(formats.graph_out(history[-1] for history in counted()))
        os.link(fresh, path)  # unlike a rename, it replaces nothing
    except FileExistsError as exc:
        raise _taken(path) from exc
    finally:
        fresh.unlink(missing_ok=True)
    return count


def _taken(path: Path) -> InvalidError:
    return InvalidError(f"{path} is there already", hint="export to a new file, or remove that one")


def _write_notes(form: Format, path: Path, histories: Iterator[Sequence[Version]]) -> int:
    del form
    if path.exists() and any(path.iterdir()):
        raise InvalidError(f"{path} is not empty", hint="export into a new folder")
    count = 0
    for history in histories:
        name, text = formats.markdown_out(history)
        note = path / name
        make_private(note.parent)
        descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
        count += 1
    make_private(path)
    return count
