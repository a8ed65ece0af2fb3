"""What can be changed of genomes and layers, and what comes out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arsenale_genome import codec, names
from arsenale_genome.models import Weighted
from arsenale_genome.record import Below, Genome, Layer, Permission, Placed, Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to change of a genome or layer; `None` leaves it as it is."""

    new_name: str | None = None
    description: str | None = None
    tags: Sequence[str] | None = None
    layers: Sequence[Weighted] | None = None
    persona: str | None = None
    instructions: str | None = None
    licence: str | None = None
    permission: Permission | None = None
    rehearsal: Sequence[str] | None = None
    trained_on: Sequence[str] | None = None

    def named(self) -> list[str]:
        """Return the names of what is to be changed."""
        return [name for name in self.__slots__ if getattr(self, name) is not None]


OF_BOTH = frozenset({"new_name", "description", "tags"})
OF_GENOMES = OF_BOTH | {"layers", "persona", "instructions"}
OF_LAYERS = OF_BOTH | {"licence", "permission", "rehearsal", "trained_on"}


def changed_genome(before: Genome, changes: Changes, placed: tuple[Placed, ...] | None) -> Genome:
    """Return BEFORE with CHANGES; PLACED are its new layers, if any."""
    return replace(
        before,
        name=changes.new_name or before.name,
        description=_or(changes.description, before.description),
        tags=before.tags if changes.tags is None else names.tags(changes.tags),
        persona=_or(changes.persona, before.persona),
        instructions=_or(changes.instructions, before.instructions),
        layers=before.layers if placed is None else placed,
    )


def changed_layer(before: Layer, changes: Changes, below: tuple[Below, ...] | None) -> Layer:
    """Return BEFORE with CHANGES; BELOW is what it was trained on, if that changes."""
    return replace(
        before,
        name=changes.new_name or before.name,
        description=_or(changes.description, before.description),
        tags=before.tags if changes.tags is None else names.tags(changes.tags),
        licence=_or(changes.licence, before.licence),
        permission=changes.permission or before.permission,
        rehearsal=before.rehearsal if changes.rehearsal is None else tuple(changes.rehearsal),
        trained_on=before.trained_on if below is None else below,
    )


def _or(asked: str | None, before: str) -> str:
    return before if asked is None else asked


def genome_again(old: Revision, now: Genome) -> Genome:
    """Return the state OLD of the genome that is NOW."""
    here = {"id": now.id, "number": now.number, "created_us": now.created_us}
    return codec.genome_in(old.body, **here, updated_us=now.updated_us)


def layer_again(old: Revision, now: Layer) -> Layer:
    """Return the state OLD of the layer that is NOW."""
    here = {"id": now.id, "number": now.number, "created_us": now.created_us}
    return codec.layer_in(old.body, **here, updated_us=now.updated_us)
