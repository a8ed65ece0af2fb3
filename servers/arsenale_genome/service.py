"""What the genome server does with genomes and layers, apart from how it is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

from anyio import to_thread

from arsenale_core import sidecar
from arsenale_core.embedding.base import Embedder
from arsenale_core.errors import ConflictError, InvalidError, NotFoundError
from arsenale_core.ids import uuid7
from arsenale_core.store import Connection
from arsenale_genome import breeding, changing, codec, lineage, names, reading, search, views
from arsenale_genome.artifacts import Artifacts
from arsenale_genome.changing import OF_GENOMES, OF_LAYERS, Changes
from arsenale_genome.models import (
    Detail,
    FindReport,
    GenomeReport,
    InspectReport,
    LayerReport,
    ReviseReport,
    Weighted,
)
from arsenale_genome.record import (
    LAYERS_MAX,
    Below,
    Choice,
    Filter,
    Genome,
    Kind,
    Layer,
    Parent,
    Placed,
)
from arsenale_genome.store import GenomeStore

NAMES_SHOWN = 100
"""An overview names so many genomes and layers."""

EMPTY_HINT = "Nothing here yet: `add_layer` takes a GGUF or PEFT layer, `exchange_genome` imports."
NOTHING_HINT = "Nothing fits: drop filters, or call without any to see all."
WHOLE_HINT = "Everything is as it was written."


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGenome:
    """A genome as it is asked for; with parents, what is left out comes from them.

    Attributes:
        layers: In their order; `None` takes those of the parents.
        choices: For two parents: trait or layer -> a parent, `both` or `none`.
    """

    name: str
    base: str | None = None
    layers: Sequence[Weighted] | None = None
    parents: Sequence[str] = ()
    choices: Mapping[str, str] | None = None
    persona: str | None = None
    instructions: str | None = None
    description: str = ""
    tags: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class Genomes:
    """Genomes and layers: made, found, changed, checked.

    Attributes:
        now: The clock, Unix seconds.
        served: Names the base models that the sidecar serves; `None` where an engine elsewhere
            answers, whose models are not known.
    """

    store: GenomeStore
    embedder: Embedder
    artifacts: Artifacts
    now: Callable[[], float]
    served: Callable[[], Sequence[str] | None] = lambda: None

    @property
    def now_us(self) -> int:
        """Return the present moment, Unix microseconds."""
        return int(self.now() * 1e6)

    async def create(self, new: NewGenome) -> GenomeReport:
        """Make a genome: from layers, or from one or two parents.

        Raises:
            InvalidError: A name cannot be, the base is missing, the parents do not go together.
            NotFoundError: A layer or parent is not here.
            ConflictError: The name is taken.
        """
        return await to_thread.run_sync(self._create, new)

    async def find(
        self, kind: Kind, query: str, wanted: Filter, *, limit: int, offset: int
    ) -> FindReport:
        """Return a page of what fits WANTED: the nearest to QUERY first, else the newest.

        Raises:
            UnavailableError: The embedder does not answer.
        """
        wanted = replace(wanted, tags=names.tags(wanted.tags))
        items = await to_thread.run_sync(self._listed, kind, wanted)
        if query.strip():
            pairs = await search.ranked(query, items, self.store, self.embedder)
            rows = [(item, score) for item, score in pairs]
        else:
            rows = [(item, None) for item in items]
        page = [views.found(item, score) for item, score in rows[offset : offset + limit]]
        following = offset + len(page)
        hint = None
        if not items:
            hint = EMPTY_HINT if wanted == Filter() else NOTHING_HINT
        return FindReport(
            found=page,
            total=len(rows),
            next_offset=following if following < len(rows) else None,
            hint=hint,
        )

    async def newest(self, kind: Kind) -> FindReport:
        """Return the newest of KIND."""
        return await self.find(kind, "", Filter(), limit=NAMES_SHOWN, offset=0)

    async def inspect(
        self, name: str | None, kind: Kind | None, *, detail: Detail, check: bool
    ) -> InspectReport:
        """Return the genome or layer NAME, or all in short; CHECK reads files and hashes them.

        Raises:
            NotFoundError: There is no such genome or layer.
        """
        return await to_thread.run_sync(self._inspect, name, kind, detail, check)

    async def revise(
        self,
        kind: Kind,
        name: str,
        action: Literal["change", "revert", "delete"],
        changes: Changes,
        revision: int | None,
    ) -> ReviseReport:
        """Change, revert or delete the genome or layer NAME.

        Raises:
            InvalidError: Nothing is to be changed, or it is not of this kind.
            NotFoundError: There is no such genome, layer or revision.
            ConflictError: A name is taken, or a layer that is to go is used.
        """
        if action == "delete":
            return await to_thread.run_sync(self._delete, kind, name)
        if action == "revert":
            return await to_thread.run_sync(self._revert, kind, name, revision)
        return await to_thread.run_sync(self._change, kind, name, changes)

    def layer_report(self, db: Connection, layer: Layer, *, fit_checked: bool) -> LayerReport:
        """Return LAYER in short, with who uses it."""
        return views.layer(layer, reading.users(db, layer.id), fit_checked=fit_checked)

    def genome_report(self, db: Connection, genome: Genome) -> GenomeReport:
        """Return GENOME in short."""
        return views.genome(genome, reading.layers_of(db, [p.sha256 for p in genome.layers]))

    def below(self, db: Connection, given: Sequence[str]) -> tuple[Below, ...]:
        """Return the layers GIVEN by name or SHA-256, as a layer says it was trained on them."""
        found: list[Below] = []
        for name in given:
            layer = reading.layer(db, name)
            sha = layer.file.sha256 if layer else name if len(name) == 64 else None
            found.append(Below(name=name, sha256=sha))
        return tuple(found)

    def _create(self, new: NewGenome) -> GenomeReport:
        names.checked("genome", new.name)
        with self.store.reading() as db:
            _must_not_be_base(db, new.name)
            self._base_must_exist(db, new.base)
            parents = [self.store.genome(db, name) for name in dict.fromkeys(new.parents)]
            layers, choices = self._stack(db, new, parents)
            genome = self._composed(db, new, parents, layers, choices)
        if new.parents:
            why = f"made from {' and '.join(parent.name for parent in parents)}"
        else:
            why = "created"
        self.store.add([], [genome], why=why, is_here=self.artifacts.is_here)
        with self.store.reading() as db:
            return self.genome_report(db, genome)

    def bases(self, db: Connection) -> list[str]:
        """Return the base models that are known: served, or of something here."""
        return sorted({*reading.bases(db), *(self.served() or ())})

    def _base_must_exist(self, db: Connection, base: str | None) -> None:
        served = self.served()
        if base is None or served is None or base in (known := self.bases(db)):
            return
        raise InvalidError(
            f"no base model {base!r}", hint=f"there are {', '.join(known)}; {sidecar.ADD_MODEL}"
        )

    def _stack(
        self, db: Connection, new: NewGenome, parents: Sequence[Genome]
    ) -> tuple[tuple[Placed, ...], tuple[Choice, ...]]:
        if new.layers is not None and (new.choices or len(parents) > 1):
            raise InvalidError(
                "`layers` and breeding exclude each other",
                hint="breed with `choices` only, then set layers and weights by `revise`",
            )
        if new.choices and not parents:
            raise InvalidError("`choices` are for parents", hint="name `parents`, or leave it out")
        if new.layers is not None or not parents:
            return self._placed(db, new.layers or ()), ()
        shas = [placed.sha256 for parent in parents for placed in parent.layers]
        here = reading.layers_of(db, shas)
        called = [_as_called(parent, here) for parent in parents]
        bred = breeding.breed(called, new.choices or {}, here)
        return bred.layers, bred.choices

    def _composed(
        self,
        db: Connection,
        new: NewGenome,
        parents: Sequence[Genome],
        layers: tuple[Placed, ...],
        choices: tuple[Choice, ...],
    ) -> Genome:
        base = self._base(db, new, parents, layers)
        known = reading.base(db, base)
        hashes = [parent.base_sha256 for parent in parents if parent.base_sha256]
        now_us = self.now_us
        return Genome(
            id=uuid7(self.now()),
            number=1,
            name=new.name,
            base=base,
            base_sha256=known.sha256 if known else next(iter(hashes), None),
            persona=_inherited(new.persona, [parent.persona for parent in parents]),
            instructions=_inherited(new.instructions, [p.instructions for p in parents]),
            description=new.description,
            tags=names.tags(new.tags or [tag for parent in parents for tag in parent.tags]),
            layers=layers,
            parents=tuple(_as_parent(parent) for parent in parents),
            choices=choices,
            generation=1 + max((p.generation for p in parents), default=-1),
            created_us=now_us,
            updated_us=now_us,
        )

    def _base(
        self,
        db: Connection,
        new: NewGenome,
        parents: Sequence[Genome],
        layers: Sequence[Placed],
    ) -> str:
        """Return the base asked for, else the parents', else the layers'."""
        theirs = reading.layers_of(db, [placed.sha256 for placed in layers])
        bases = {parent.base for parent in parents} or {layer.base for layer in theirs.values()}
        if new.base and bases and bases != {new.base}:
            raise InvalidError(
                f"base {new.base!r} is asked for, but the layers were trained on "
                f"{', '.join(sorted(bases))}",
                hint="leave `base` out, or choose layers of this base (`find_layers`)",
            )
        if len(bases) > 1:
            raise InvalidError(
                f"the layers have different bases: {', '.join(sorted(bases))}",
                hint="choose layers of one base (`find_layers` with `base`)",
            )
        if not new.base and not bases:
            raise InvalidError("no base", hint="name `base` as the inference sidecar calls it")
        return new.base or bases.pop()

    def _placed(self, db: Connection, given: Sequence[Weighted]) -> tuple[Placed, ...]:
        if len(given) > LAYERS_MAX:
            raise InvalidError(f"{len(given)} layers", hint=f"{LAYERS_MAX} is the most")
        found: dict[str, Placed] = {}
        for each in given:
            layer = self.store.layer(db, each.layer)
            if layer.file.sha256 in found:
                raise InvalidError(f"layer {each.layer!r} is named twice", hint="name it once")
            found[layer.file.sha256] = Placed(
                layer=layer.name, sha256=layer.file.sha256, trait=layer.trait, weight=each.weight
            )
        return tuple(found.values())

    def _listed(self, kind: Kind, wanted: Filter) -> "list[Genome] | list[Layer]":
        with self.store.reading() as db:
            if kind == "layer":
                return reading.layers(db, wanted)
            return reading.genomes(db, wanted)

    def _inspect(
        self, name: str | None, kind: Kind | None, detail: Detail, check: bool
    ) -> InspectReport:
        with self.store.reading() as db:
            report, shas = self._seen(db, name, kind, detail)
            bodies = [row for row in reading.bodies(db) if name is None or row[1] == name]
            owners = reading.layers_of(db, shas)
        if check:
            report.problems = [
                f"{kind} {name}: its row was changed by other hands"
                for kind, name, sha, body in bodies
                if sha256(body.encode()).hexdigest() != sha
            ]
            for sha in shas:
                owner = owners[sha].name if sha in owners else "one that is gone"
                if fault := self.artifacts.fault(sha):
                    report.problems.append(f"layer {owner}: {fault}")
            report.checked = len(bodies) + len(shas)
            report.hint = MEND_HINT if report.problems else WHOLE_HINT
        return report

    def _seen(
        self, db: Connection, name: str | None, kind: Kind | None, detail: Detail
    ) -> tuple[InspectReport, list[str]]:
        """Return what is asked for, and the files that belong to it."""
        if name is None:
            genomes, layers = reading.names(db, "genome"), reading.layers(db, Filter())
            report = InspectReport(
                genomes=genomes[:NAMES_SHOWN],
                layers=sorted(layer.name for layer in layers)[:NAMES_SHOWN],
                bases=reading.bases(db),
                hint=_overview_hint(len(genomes), len(layers)),
            )
            return report, [layer.file.sha256 for layer in layers]
        genome = reading.genome(db, name) if kind != "layer" else None
        if genome is not None:
            return (
                InspectReport(genome=self._genome_seen(db, genome, detail)),
                [placed.sha256 for placed in genome.layers],
            )
        if kind == "genome":
            raise names.unknown("genome", name, reading.names(db, "genome"))
        layer = reading.layer(db, name)
        if layer is None:
            there = [*reading.names(db, "genome"), *reading.names(db, "layer")]
            raise names.unknown(kind or "genome or layer", name, there)
        return InspectReport(layer=self._layer_seen(db, layer, detail)), [layer.file.sha256]

    def _genome_seen(self, db: Connection, genome: Genome, detail: Detail) -> GenomeReport:
        if detail == "concise":
            return self.genome_report(db, genome)

        def known(parent: Parent) -> Genome | None:
            return reading.genome_by_id(db, parent.id) if parent.id else None

        return views.genome_in_full(
            genome,
            reading.layers_of(db, [placed.sha256 for placed in genome.layers]),
            reading.revisions(db, genome.id),
            lineage.tree(genome, known),
            reading.children(db, genome.id),
        )

    def _layer_seen(self, db: Connection, layer: Layer, detail: Detail) -> LayerReport:
        if detail == "concise":
            return self.layer_report(db, layer, fit_checked=True)
        return views.layer_in_full(
            layer,
            reading.users(db, layer.id),
            reading.revisions(db, layer.id),
            str(self.artifacts.path(layer.file.sha256)),
        )

    def _delete(self, kind: Kind, name: str) -> ReviseReport:
        if kind == "genome":
            self.store.delete_genome(name, self.now_us)
            return ReviseReport(name=name, action="deleted", hint="Its layers stay.")
        layer = self.store.delete_layer(name, self.now_us)
        sha = layer.file.sha256
        self.store.if_unused(sha, lambda: self.artifacts.drop(sha))
        return ReviseReport(name=name, action="deleted", hint="Its file is removed.")

    def _change(self, kind: Kind, name: str, changes: Changes) -> ReviseReport:
        asked = changes.named()
        fits = OF_GENOMES if kind == "genome" else OF_LAYERS
        if wrong := [field for field in asked if field not in fits]:
            raise InvalidError(
                f"a {kind} has no {wrong[0]!r}", hint=f"it has {', '.join(sorted(fits))}"
            )
        if not asked:
            raise InvalidError("nothing to change", hint=f"give one of {', '.join(sorted(fits))}")
        if changes.new_name is not None:
            names.checked(kind, changes.new_name)
        why = f"changed {', '.join(asked)}"
        with self.store.reading() as db:
            if kind == "genome" and changes.new_name is not None:
                _must_not_be_base(db, changes.new_name)
            placed = None if changes.layers is None else self._placed(db, changes.layers)
            below = None if changes.trained_on is None else self.below(db, changes.trained_on)
        if kind == "genome":
            return self._revised_genome(
                name, lambda before: changing.changed_genome(before, changes, placed), why
            )
        return self._revised_layer(
            name, lambda before: changing.changed_layer(before, changes, below), why
        )

    def _revert(self, kind: Kind, name: str, number: int | None) -> ReviseReport:
        with self.store.reading() as db:
            there = self.store.genome(db, name) if kind == "genome" else self.store.layer(db, name)
            history = reading.revisions(db, there.id)
        wanted = there.number - 1 if number is None else number
        old = next((each for each in history if each.number == wanted), None)
        if old is None:
            raise NotFoundError("revision", str(wanted), hint=f"{name!r} has 1 to {there.number}")
        why = f"reverted to revision {wanted}"
        if kind == "genome":
            report = self._revised_genome(name, lambda now: changing.genome_again(old, now), why)
        else:
            report = self._revised_layer(name, lambda now: changing.layer_again(old, now), why)
        report.action = "reverted"
        return report

    def _revised_genome(
        self, name: str, change: Callable[[Genome], Genome], why: str
    ) -> ReviseReport:
        after = self.store.revise_genome(name, change, at_us=self.now_us, why=why)
        with self.store.reading() as db:
            report = self.genome_report(db, after)
        return ReviseReport(name=after.name, action="changed", genome=report)

    def _revised_layer(self, name: str, change: Callable[[Layer], Layer], why: str) -> ReviseReport:
        after = self.store.revise_layer(name, change, at_us=self.now_us, why=why)
        with self.store.reading() as db:
            report = self.layer_report(db, after, fit_checked=True)
        return ReviseReport(name=after.name, action="changed", layer=report)


MEND_HINT = "Give the same file again by `add_layer`, or import an export: it takes the place."


def _overview_hint(genomes: int, layers: int) -> str | None:
    """Return what an overview of so many does not show."""
    if not genomes and not layers:
        return EMPTY_HINT
    if max(genomes, layers) > NAMES_SHOWN:
        return f"{genomes} genomes, {layers} layers; `find_layers` shows them page by page."
    return None


def _inherited(asked: str | None, theirs: Sequence[str]) -> str:
    """Return what was ASKED for, else what the first parent that has it has."""
    return asked if asked is not None else next((value for value in theirs if value), "")


def _as_called(genome: Genome, here: Mapping[str, Layer]) -> Genome:
    """Return GENOME with its layers as they are called now; HERE has them by SHA-256."""
    placed = tuple(
        replace(each, layer=here[each.sha256].name, trait=here[each.sha256].trait)
        if each.sha256 in here
        else each
        for each in genome.layers
    )
    return replace(genome, layers=placed)


def _must_not_be_base(db: Connection, name: str) -> None:
    """Refuse a genome that would hide a base model from who asks for it."""
    if name in reading.bases(db):
        raise ConflictError(f"{name!r} is a base model", hint=f"as {name}-mine")


def _as_parent(genome: Genome) -> Parent:
    return Parent(
        name=genome.name,
        generation=genome.generation,
        sha256=codec.genome_sha(genome),
        id=genome.id,
    )
