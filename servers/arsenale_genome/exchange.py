"""Genomes as files that another user can import: written whole, verified before they are kept."""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from anyio import to_thread

from arsenale_core.errors import ConflictError, InvalidError, NotFoundError, UnavailableError
from arsenale_core.files import make_private
from arsenale_core.ids import uuid7
from arsenale_core.store import Connection
from arsenale_genome import adding, advice, bundle, codec, names, reading
from arsenale_genome.artifacts import copied
from arsenale_genome.models import ExchangeReport, OnConflict
from arsenale_genome.record import File, Genome, Layer, Parent, Placed
from arsenale_genome.service import Genomes

if TYPE_CHECKING:
    from io import BytesIO

SUFFIX = ".genome"


@dataclass(slots=True, eq=False)
class Exchange:
    """Exports and imports; HOME is where exports go when no path is named."""

    genomes: Genomes
    home: Path

    async def move(
        self,
        action: Literal["export", "import"],
        name: str | None,
        path: Path | None,
        *,
        include_private: bool,
        on_conflict: OnConflict,
        roots: Sequence[Path] | None,
    ) -> ExchangeReport:
        """Export the genome NAME, or import the file PATH.

        Raises:
            InvalidError: What is needed for ACTION is missing.
        """
        if action == "import":
            if path is None:
                raise InvalidError("an import needs a `path`", hint="of an exported file")
            return await self.bring(path, on_conflict=on_conflict, roots=roots)
        if name is None:
            raise InvalidError("an export needs a `genome`", hint="`inspect` shows their names")
        return await self.export(name, path, include_private=include_private, roots=roots)

    async def export(
        self, name: str, path: Path | None, *, include_private: bool, roots: Sequence[Path] | None
    ) -> ExchangeReport:
        """Write the genome NAME with its layers to the file PATH.

        Raises:
            NotFoundError: There is no such genome.
            InvalidError: A layer is private, or PATH lies outside of ROOTS.
            ConflictError: PATH is there already, or a layer's file is missing or damaged.
            UnavailableError: It cannot be written.
        """
        return await to_thread.run_sync(self._export, name, path, include_private, roots)

    async def bring(
        self, path: Path, *, on_conflict: OnConflict, roots: Sequence[Path] | None
    ) -> ExchangeReport:
        """Import the file PATH; all of it is verified before any of it is kept.

        A layer whose bytes are here already is used as it is here. A genome that is here already
        is not made again. A name that is taken gets a number, unless ON_CONFLICT is `refuse`.

        Raises:
            InvalidError: It is no genome file, is damaged, or lies outside of ROOTS.
            NotFoundError: There is no such file.
            ConflictError: A name is taken, and ON_CONFLICT is `refuse`.
        """
        found = adding.inside(path, roots)
        try:
            return await to_thread.run_sync(self._import, found, on_conflict)
        except FileNotFoundError as exc:
            raise NotFoundError("file", str(path), hint="check the path") from exc
        except OSError as exc:
            raise InvalidError(f"{path} cannot be read ({exc.strerror})", hint="check it") from exc

    def _export(
        self, name: str, path: Path | None, include_private: bool, roots: Sequence[Path] | None
    ) -> ExchangeReport:
        with self.genomes.store.reading() as db:
            genome = self.genomes.store.genome(db, name)
            layers = reading.layers_of(db, [placed.sha256 for placed in genome.layers])
        self._check_shareable(genome, layers, include_private)
        place = path or self.home / "exports" / f"{name}{SUFFIX}"
        if path is None:
            make_private(place.parent)
        place = adding.inside(place, roots)
        if place.is_dir():
            place = place / f"{name}{SUFFIX}"
        said = bundle.manifest(genome, list(layers.values()))
        sha, size = self._written(said, place)
        return ExchangeReport(
            action="export",
            path=str(place),
            genome=name,
            layers=[layers[placed.sha256].name for placed in genome.layers],
            size_bytes=size,
            sha256=sha,
        )

    def _check_shareable(
        self, genome: Genome, layers: dict[str, Layer], include_private: bool
    ) -> None:
        for placed in genome.layers:
            layer = layers.get(placed.sha256)
            fault = self.genomes.artifacts.fault(placed.sha256)
            if layer is None or fault:
                raise ConflictError(
                    f"layer {placed.layer!r}: {fault or 'is gone'}",
                    hint="delete it and add it again, or take it out of the genome",
                )
            if layer.permission == "private" and not include_private:
                raise InvalidError(
                    f"layer {layer.name!r} is private",
                    hint="its owner says permission='team' or 'public' by `revise`, or asks for "
                    "include_private=true",
                )

    def _written(self, said: bundle.Manifest, place: Path) -> tuple[str, int]:
        """Write the archive beside PLACE and link it there; return its SHA-256 and size."""
        try:
            with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".writing-") as file:
                written = cast("BinaryIO", file.file)
                bundle.write(written, said, self.genomes.artifacts.path)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                sha = file_digest(cast("BytesIO", file.file), "sha256").hexdigest()
                size = file.seek(0, os.SEEK_END)
                os.link(file.name, place)  # unlike rename, never replaces what is there
        except FileExistsError as exc:
            raise ConflictError(f"{place} is there", hint="name another path") from exc
        except OSError as exc:
            raise UnavailableError(
                f"{place}: {exc.strerror}", hint="make room, or name a folder that can be written"
            ) from exc
        return sha, size

    def _import(self, path: Path, on_conflict: OnConflict) -> ExchangeReport:
        archive, said = bundle.opened(path)
        with closing(archive), self.genomes.artifacts.staging() as folder:
            staged = self._staged(archive, said, folder, path)
            return self._kept(said, staged, path, on_conflict)

    def _staged(
        self, archive: zipfile.ZipFile, said: bundle.Manifest, folder: Path, path: Path
    ) -> dict[str, tuple[Path, File]]:
        """Copy every layer out of the archive and read it; return files by SHA-256."""
        found: dict[str, tuple[Path, File]] = {}
        for layer in said.layers:
            target = folder / f"{layer.sha256}.gguf"
            label = f"{path}: {layer.name}"
            try:
                with archive.open(bundle.member(layer.sha256)) as source:
                    sha, size = copied(source, target, layer.size_bytes, label)  # type: ignore[arg-type]
            except bundle.DAMAGED as exc:
                raise InvalidError(f"{label} is damaged ({exc})", hint=bundle.AGAIN) from exc
            if sha != layer.sha256:
                raise InvalidError(f"{label} is damaged: SHA-256 {sha}", hint=bundle.AGAIN)
            read = adding.files().verified(target, sha, size, None, label)
            found[sha] = (target, read.file)
        return found

    def _kept(
        self,
        said: bundle.Manifest,
        staged: dict[str, tuple[Path, File]],
        path: Path,
        on_conflict: OnConflict,
    ) -> ExchangeReport:
        """Put the files in place, then all rows in one transaction."""
        store, artifacts = self.genomes.store, self.genomes.artifacts
        files = {sha: file for sha, (_, file) in staged.items()}
        layers = bundle.layers_in(said, files, self.genomes.now_us)
        genome = bundle.genome_in(said, self.genomes.now_us)
        with store.reading() as db:
            here = reading.layers_of(db, files)
            again = reading.genome_by_content(db, codec.genome_sha(genome))
            taken = {kind: reading.names(db, kind) for kind in ("genome", "layer")}
            genome = replace(genome, parents=_met(db, genome))
        mended = self._mended(here, staged)
        if again is not None:
            report = _report(path, again, here, hint=f"It is here already, as {again.name!r}.")
            report.mended = mended
            return report
        if on_conflict == "refuse":
            _refuse_taken(genome, [x for x in layers if x.file.sha256 not in here], taken)
        fresh, renamed = self._named(layers, set(here), taken["layer"])
        genome, other = self._named_genome(genome, [*fresh, *here.values()], taken["genome"])
        for layer in fresh:
            artifacts.keep(staged[layer.file.sha256][0], layer.file.sha256)
        try:
            store.add(fresh, [genome], why=f"imported from {path.name}", is_here=artifacts.is_here)
        except ConflictError:
            for layer in fresh:
                sha = layer.file.sha256
                store.if_unused(sha, lambda sha=sha: artifacts.drop(sha))
            raise
        known = {**here, **{layer.file.sha256: layer for layer in fresh}}
        report = _report(path, genome, known)
        report.renamed = {**renamed, **other}
        report.mended = mended
        report.reused = sorted(layer.name for layer in here.values())
        return report

    def _mended(self, here: dict[str, Layer], staged: dict[str, tuple[Path, File]]) -> list[str]:
        """Put files in the place of damaged or missing ones of layers that are HERE."""
        artifacts = self.genomes.artifacts
        damaged = {sha: layer for sha, layer in here.items() if artifacts.fault(sha)}
        for sha in damaged:
            artifacts.keep(staged[sha][0], sha)
        return sorted(layer.name for layer in damaged.values())

    def _named(
        self, layers: Sequence[Layer], here: set[str], taken: Sequence[str]
    ) -> tuple[list[Layer], dict[str, str]]:
        """Return those of LAYERS that are new, under free names, and what was renamed."""
        used, fresh, renamed = set(taken), list[Layer](), dict[str, str]()
        for layer in layers:
            if layer.file.sha256 in here:
                continue
            name = names.free(layer.name, used)
            used.add(name)
            if name != layer.name:
                renamed[layer.name] = name
            fresh.append(replace(layer, id=uuid7(self.genomes.now()), name=name))
        return fresh, renamed

    def _named_genome(
        self, genome: Genome, layers: Sequence[Layer], taken: Sequence[str]
    ) -> tuple[Genome, dict[str, str]]:
        """Return GENOME under a free name, with its layers as they are called here."""
        called = {layer.file.sha256: layer.name for layer in layers}
        name = names.free(genome.name, taken)
        placed: tuple[Placed, ...] = tuple(
            replace(each, layer=called[each.sha256]) for each in genome.layers
        )
        fresh = replace(genome, id=uuid7(self.genomes.now()), name=name, layers=placed)
        return fresh, {} if name == genome.name else {genome.name: name}


def _met(db: Connection, genome: Genome) -> tuple[Parent, ...]:
    """Return the parents of GENOME; those that are here too get their ids."""
    found: list[Parent] = []
    for parent in genome.parents:
        here = reading.genome_by_content(db, parent.sha256)
        found.append(replace(parent, id=here.id) if here else parent)
    return tuple(found)


def _refuse_taken(genome: Genome, layers: Sequence[Layer], taken: dict[str, list[str]]) -> None:
    clashes = [layer.name for layer in layers if layer.name in taken["layer"]]
    if genome.name in taken["genome"]:
        clashes.insert(0, genome.name)
    if clashes:
        raise ConflictError(
            f"{', '.join(clashes)} {'is' if len(clashes) == 1 else 'are'} here already",
            hint="import with on_conflict='rename', or rename yours by `revise`",
        )


def _report(
    path: Path, genome: Genome, layers: dict[str, Layer], hint: str | None = None
) -> ExchangeReport:
    return ExchangeReport(
        action="import",
        path=str(path),
        genome=genome.name,
        layers=[layers[p.sha256].name for p in genome.layers if p.sha256 in layers],
        advice=advice.on_stack(genome, layers),
        hint=hint,
    )
