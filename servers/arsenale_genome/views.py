"""Genomes and layers as answers. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from arsenale_genome import advice, codec
from arsenale_genome.models import (
    ChoiceLine,
    FoundItem,
    GenomeReport,
    LayerLine,
    LayerReport,
    RevisionLine,
)
from arsenale_genome.record import Genome, Layer, Revision

HISTORY_SHOWN = 20
"""So many revisions are told, the newest."""

DESCRIPTION_SHOWN = 300
"""So much of a description is told in a list, characters."""


def iso(at_us: int) -> str:
    """Return a moment, Unix microseconds, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def genome(it: Genome, layers: Mapping[str, Layer]) -> GenomeReport:
    """Return the genome IT in short; LAYERS are those of it that are here, by SHA-256."""
    return GenomeReport(
        name=it.name,
        base=it.base,
        generation=it.generation,
        revision=it.number,
        layers=[_line(placed.layer, placed.trait, placed.weight, layers.get(placed.sha256))
                for placed in it.layers],
        persona=it.persona,
        instructions=it.instructions,
        description=it.description,
        tags=list(it.tags),
        parents=[parent.name for parent in it.parents],
        advice=advice.on_stack(it, layers),
        updated=iso(it.updated_us),
    )  # fmt: skip


def genome_in_full(
    it: Genome,
    layers: Mapping[str, Layer],
    history: Sequence[Revision],
    lineage: Sequence[str],
    children: Sequence[str],
) -> GenomeReport:
    """Return all that is known of the genome IT."""
    said = genome(it, layers)
    said.sha256, said.base_sha256 = codec.genome_sha(it), it.base_sha256
    said.choices = [
        ChoiceLine(layer=c.layer, taken_from=list(c.taken_from), weights=dict(c.weights))
        for c in it.choices
    ]
    said.lineage = list(lineage) if it.parents else []
    said.children = list(children)
    said.history = _history(history)
    return said


def layer(it: Layer, used_by: Sequence[str], *, fit_checked: bool) -> LayerReport:
    """Return the layer IT in short."""
    return LayerReport(
        name=it.name,
        trait=it.trait,
        base=it.base,
        rank=it.file.rank,
        size_bytes=it.file.size_bytes,
        revision=it.number,
        permission=it.permission,
        description=it.description,
        tags=list(it.tags),
        licence=it.licence,
        creator=it.creator,
        trained_on=[below.name for below in it.trained_on],
        metrics=dict(it.metrics),
        rehearsal_prompts=len(it.rehearsal),
        used_by=list(used_by),
        advice=advice.on_layer(it, fit_checked=fit_checked),
        updated=iso(it.updated_us),
    )


def layer_in_full(
    it: Layer, used_by: Sequence[str], history: Sequence[Revision], path: str
) -> LayerReport:
    """Return all that is known of the layer IT."""
    said = layer(it, used_by, fit_checked=True)
    said.sha256, said.source = it.file.sha256, it.file.source
    said.architecture, said.path = it.file.architecture, path
    said.rehearsal = list(it.rehearsal)
    said.history = _history(history)
    return said


def found(it: Genome | Layer, score: float | None) -> FoundItem:
    """Return IT as a line of a list."""
    said = FoundItem(
        name=it.name,
        base=it.base,
        score=None if score is None else round(score, 3),
        description=it.description[:DESCRIPTION_SHOWN],
        tags=list(it.tags),
    )
    if isinstance(it, Layer):
        said.trait, said.licence, said.permission = it.trait, it.licence, it.permission
        said.rank = it.file.rank
    else:
        said.layers = [placed.layer for placed in it.layers]
        said.generation = it.generation
    return said


def _line(name: str, trait: str, weight: float, there: Layer | None) -> LayerLine:
    if there is None:
        return LayerLine(layer=name, trait=trait, weight=weight, missing=True)
    return LayerLine(
        layer=there.name, trait=there.trait, weight=weight, size_bytes=there.file.size_bytes
    )


def _history(revisions: Sequence[Revision]) -> list[RevisionLine]:
    return [
        RevisionLine(revision=r.number, at=iso(r.at_us), why=r.why)
        for r in revisions[:HISTORY_SHOWN]
    ]
