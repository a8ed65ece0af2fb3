"""A genome with its layers as one file: a zip whose manifest names every member by SHA-256.

The same genome makes the same bytes, anywhere. What comes in is not trusted: members are stored
and not packed, so nothing grows; no name in the archive becomes a path; sizes and hashes are
compared before anything is kept.
"""

import stat
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from arsenale_core.errors import InvalidError
from arsenale_genome.artifacts import BLOCK
from arsenale_genome.record import (
    LAYERS_MAX,
    PROMPTS_MAX,
    Below,
    Choice,
    File,
    Genome,
    Layer,
    Parent,
    Permission,
    Placed,
    Trait,
)

SCHEMA = 1
"""Of the manifest; one that is not known is refused."""

MANIFEST = "manifest.json"
MANIFEST_MAX_BYTES = 4 * 2**20
"""Of the manifest: 16 layers with 50 prompts of 2,000 characters are half of it."""

LAYER_MAX_BYTES = 2 * 2**30
"""Of one layer: as `gguf_files.ADAPTER_MAX_BYTES`, which needs gguf."""

TOTAL_MAX_BYTES = 16 * 2**30
"""Of the whole file."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The moment of every member: the earliest that a zip can tell."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,59}$")]
Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, StringConstraints(max_length=200)]
Text = Annotated[str, StringConstraints(max_length=8_000)]
Prompt = Annotated[str, StringConstraints(max_length=2_000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1)]
Tags = Annotated[tuple[Annotated[str, StringConstraints(max_length=60)], ...], Field(max_length=30)]

AGAIN = "ask its maker to export it again"

DAMAGED = (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error)
"""What the standard library raises of an archive that is damaged, or made to look so."""

_ODD_FLAGS = 0x1 | 0x20 | 0x40
"""Encrypted, patched, strongly encrypted (APPNOTE.TXT 4.4.4)."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BelowSaid(_Strict):
    """A layer that was below another while that was trained."""

    name: Line
    sha256: Sha | None = None


class LayerSaid(_Strict):
    """A layer, as the manifest has it."""

    name: Name
    trait: Trait
    base: Line
    sha256: Sha
    size_bytes: int = Field(gt=0, le=LAYER_MAX_BYTES)
    description: Text = ""
    tags: Tags = ()
    creator: Line = ""
    licence: Line = ""
    permission: Permission = "private"
    metrics: dict[Line, Number] = Field(default_factory=dict[str, float], max_length=100)
    rehearsal: tuple[Prompt, ...] = Field(default=(), max_length=PROMPTS_MAX)
    trained_on: tuple[BelowSaid, ...] = Field(default=(), max_length=LAYERS_MAX)


class PlacedSaid(_Strict):
    """A layer's place in the genome, by its name in this file."""

    layer: Name
    weight: Weight


class ParentSaid(_Strict):
    """A genome that it was made from, which is not in this file."""

    name: Name
    generation: int = Field(ge=0, le=1_000_000)
    sha256: Sha


class ChoiceSaid(_Strict):
    """What breeding decided about a layer."""

    layer: Name
    taken_from: tuple[Name, ...] = Field(max_length=2)
    weights: dict[Name, Weight] = Field(max_length=2)


class GenomeSaid(_Strict):
    """The genome, as the manifest has it."""

    name: Name
    base: Line
    base_sha256: Sha | None = None
    persona: Line = ""
    instructions: Text = ""
    description: Text = ""
    tags: Tags = ()
    layers: tuple[PlacedSaid, ...] = Field(max_length=LAYERS_MAX)
    parents: tuple[ParentSaid, ...] = Field(default=(), max_length=2)
    choices: tuple[ChoiceSaid, ...] = Field(default=(), max_length=2 * LAYERS_MAX)
    generation: int = Field(ge=0, le=1_000_000)


class Manifest(_Strict):
    """What a file holds: `members` has the SHA-256 of every other member, by its name."""

    arsenale_genome: int
    genome: GenomeSaid
    layers: tuple[LayerSaid, ...] = Field(max_length=LAYERS_MAX)
    members: dict[str, Sha] = Field(max_length=LAYERS_MAX)

    def encoded(self) -> bytes:
        """Return it as canonical JSON."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)


def member(sha: str) -> str:
    """Return what the file of a layer is called in the archive."""
    return f"layers/{sha}.gguf"


def manifest(genome: Genome, layers: Sequence[Layer]) -> Manifest:
    """Return the manifest of GENOME; LAYERS are all of its layers."""
    by_sha = {layer.file.sha256: layer for layer in layers}
    said: dict[str, Any] = asdict(genome)
    for name in ("id", "number", "created_us", "updated_us"):
        said.pop(name)
    said["layers"] = [
        {"layer": by_sha[placed.sha256].name, "weight": placed.weight} for placed in genome.layers
    ]
    said["parents"] = [
        {"name": p.name, "generation": p.generation, "sha256": p.sha256} for p in genome.parents
    ]
    try:
        return Manifest(
            arsenale_genome=SCHEMA,
            genome=GenomeSaid.model_validate(said),
            layers=tuple(_layer_said(each) for each in sorted(layers, key=lambda it: it.name)),
            members={member(sha): sha for sha in by_sha},
        )
    except ValidationError as exc:
        raise InvalidError(
            f"{genome.name!r} cannot be exported ({_wrong(exc)})", hint="change that by `revise`"
        ) from None


def write(file: BinaryIO, said: Manifest, path_of: Callable[[str], Path]) -> None:
    """Write the archive that SAID describes; PATH_OF gives a layer's file by its SHA-256.

    Two runs write the same bytes: members are sorted and carry no moment.

    Raises:
        OSError: A file cannot be read or written.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_info(MANIFEST), said.encoded())
        for name, sha in sorted(said.members.items()):
            source = path_of(sha)
            info = _info(name)
            info.file_size = source.stat().st_size
            with source.open("rb") as layer, archive.open(info, "w") as target:
                while block := layer.read(BLOCK):
                    target.write(block)


def opened(path: Path) -> tuple[zipfile.ZipFile, Manifest]:
    """Open the archive PATH and check all that can be told without reading the layers.

    Raises:
        InvalidError: It is no archive of ours, is too large, or its members are not those that its
            manifest names.
        OSError: It cannot be read.
    """
    there = path.stat()
    size = there.st_size
    if not stat.S_ISREG(there.st_mode):
        raise InvalidError(f"{path} is no plain file", hint="name the file that was exported")
    if size > TOTAL_MAX_BYTES:
        raise InvalidError(
            f"{path} has {size:,} bytes, {TOTAL_MAX_BYTES:,} is the most",
            hint="ask for a genome with fewer or smaller layers",
        )
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as exc:
        raise InvalidError(
            f"{path} is no genome file ({exc})", hint="give what `exchange_genome` has exported"
        ) from exc
    try:
        infos = _checked_members(archive, size, path)
        said = _manifest(archive, path)
        _check_names(said, infos, path)
    except BaseException:
        archive.close()
        raise
    return archive, said


def layers_in(said: Manifest, files: dict[str, File], moment_us: int) -> list[Layer]:
    """Return the layers that a manifest describes; FILES has what was read of each, by SHA-256.

    Their ids are empty: who keeps them gives them some.
    """
    return [
        Layer(
            id="",
            number=1,
            name=each.name,
            trait=each.trait,
            base=each.base,
            file=files[each.sha256],
            description=each.description,
            tags=each.tags,
            creator=each.creator,
            licence=each.licence,
            permission=each.permission,
            metrics=each.metrics,
            rehearsal=each.rehearsal,
            trained_on=tuple(Below(name=b.name, sha256=b.sha256) for b in each.trained_on),
            created_us=moment_us,
            updated_us=moment_us,
        )
        for each in said.layers
    ]


def genome_in(said: Manifest, moment_us: int) -> Genome:
    """Return the genome that a manifest describes; its id is empty."""
    it = said.genome
    by_name = {layer.name: layer for layer in said.layers}
    return Genome(
        id="",
        number=1,
        name=it.name,
        base=it.base,
        base_sha256=it.base_sha256,
        persona=it.persona,
        instructions=it.instructions,
        description=it.description,
        tags=it.tags,
        layers=tuple(
            Placed(
                layer=placed.layer,
                sha256=by_name[placed.layer].sha256,
                trait=by_name[placed.layer].trait,
                weight=placed.weight,
            )
            for placed in it.layers
        ),
        parents=tuple(Parent(**parent.model_dump()) for parent in it.parents),
        choices=tuple(Choice(**choice.model_dump()) for choice in it.choices),
        generation=it.generation,
        created_us=moment_us,
        updated_us=moment_us,
    )


def _layer_said(layer: Layer) -> LayerSaid:
    return LayerSaid(
        name=layer.name,
        trait=layer.trait,
        base=layer.base,
        sha256=layer.file.sha256,
        size_bytes=layer.file.size_bytes,
        description=layer.description,
        tags=layer.tags,
        creator=layer.creator,
        licence=layer.licence,
        permission=layer.permission,
        metrics=dict(layer.metrics),
        rehearsal=layer.rehearsal,
        trained_on=tuple(BelowSaid(name=b.name, sha256=b.sha256) for b in layer.trained_on),
    )


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system, info.external_attr = 3, 0o600 << 16
    return info


def _checked_members(archive: zipfile.ZipFile, size: int, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, when each is a plain stored file and they fit in the archive."""
    infos = archive.infolist()
    if len(infos) > LAYERS_MAX + 1:
        raise InvalidError(f"{path} has {len(infos)} members, too many", hint=AGAIN)
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InvalidError(f"{path}: {info.filename!r} is packed", hint=AGAIN)
        if info.flag_bits & _ODD_FLAGS or info.filename.endswith("/"):
            raise InvalidError(f"{path}: {info.filename!r} is no plain file", hint=AGAIN)
        if not 0 <= info.header_offset < size:
            raise InvalidError(f"{path}: {info.filename!r} lies outside of it", hint=AGAIN)
        if info.filename in found:
            raise InvalidError(f"{path}: {info.filename!r} is there twice", hint=AGAIN)
        found[info.filename] = info
    if sum(info.file_size for info in infos) > size:
        raise InvalidError(f"{path}: its members overlap", hint=AGAIN)
    if MANIFEST not in found or found[MANIFEST].file_size > MANIFEST_MAX_BYTES:
        raise InvalidError(f"{path} has no {MANIFEST} that could be read", hint=AGAIN)
    return found


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    try:
        said: Any = orjson.loads(archive.read(MANIFEST))
    except DAMAGED as exc:
        raise InvalidError(f"{path}: {MANIFEST} is damaged ({exc})", hint=AGAIN) from exc
    version = cast("dict[str, Any]", said).get("arsenale_genome") if isinstance(said, dict) else 0
    if version != SCHEMA:
        raise InvalidError(
            f"{path} has schema {version!r}, this version knows {SCHEMA}",
            hint="install the newer Arsenale, or ask for an export by this one",
        )
    try:
        return Manifest.model_validate(said)
    except ValidationError as exc:
        raise InvalidError(f"{path}: {_wrong(exc)}", hint=AGAIN) from None


def _wrong(exc: ValidationError) -> str:
    """Return the first of what a model refuses, in words."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
        for e in exc.errors(include_url=False, include_input=False)[:3]
    )


def _check_names(said: Manifest, infos: dict[str, zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive whose members, layers and places do not name one another."""
    shas = {layer.sha256: layer for layer in said.layers}
    if len(shas) != len(said.layers) or len({each.name for each in said.layers}) != len(shas):
        raise InvalidError(f"{path} names a layer twice", hint=AGAIN)
    if said.members != {member(sha): sha for sha in shas}:
        raise InvalidError(f"{path}: members and layers differ", hint=AGAIN)
    if set(infos) != {MANIFEST, *said.members}:
        odd = min(set(infos) ^ {MANIFEST, *said.members})
        raise InvalidError(f"{path}: {odd[:100]!r} is missing or not meant", hint=AGAIN)
    for sha, layer in shas.items():
        if infos[member(sha)].file_size != layer.size_bytes:
            raise InvalidError(f"{path}: {layer.name} has another size than said", hint=AGAIN)
    placed = [each.layer for each in said.genome.layers]
    if sorted(placed) != sorted(layer.name for layer in said.layers):
        raise InvalidError(f"{path}: the genome and its layers differ", hint=AGAIN)
