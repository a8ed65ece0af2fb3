"""What can be asked for: base models, layers and genomes by name; kept in one small file.

`model` of a request names a base (`llama`), a genome (`anna`), or a base with layers and weights
(`llama+facts:0.7+tone`); a weight that is not said is 1.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from arsenale_core.errors import ConflictError, InvalidError, NotFoundError
from arsenale_core.files import make_private
from arsenale_inference.messages import Stack

NAME = r"^[A-Za-z0-9][A-Za-z0-9._/@ -]{0,127}$"
"""No `+` and no `:`, which part a stack."""

TINY = Path(__file__).with_name("tiny")
"""The tiny model is always there: `tiny`, with the layers `tiny-facts` and `tiny-tone`."""

MOST_LAYERS = 16
"""Layers in one stack."""

Group = Literal["bases", "layers", "genomes"]
"""The sorts of what is registered."""

Name = Annotated[str, Field(pattern=NAME)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseEntry(_Frozen):
    """A base model: the path of its GGUF, or the URL of an engine that has it.

    Attributes:
        url: Of an OpenAI-compatible engine, up to `/v1`.
        model: What it is called there.
        layers_by: How layers are named there, see `upstream`.
    """

    path: Path | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    model: str = ""
    layers_by: Literal["stack", "adapter"] = "stack"

    @model_validator(mode="after")
    def _one(self) -> "BaseEntry":
        if (self.path is None) == (self.url is None):
            raise ValueError("give a path or a URL")
        return self


class LayerEntry(_Frozen):
    """A LoRA layer: the path of its GGUF, and its SHA-256 when it was said."""

    path: Path
    sha256: str | None = None


class GenomeEntry(_Frozen):
    """A persona: a base and layers with weights, in order."""

    base: Name
    layers: tuple[tuple[Name, Annotated[float, Field(ge=0, le=1)]], ...] = Field(
        default=(), max_length=MOST_LAYERS
    )


class Names(_Frozen):
    """All that is registered."""

    bases: Mapping[Name, BaseEntry] = {}
    layers: Mapping[Name, LayerEntry] = {}
    genomes: Mapping[Name, GenomeEntry] = {}


BUILT_IN = Names(
    bases={"tiny": BaseEntry(path=TINY / "base-q8_0.gguf")},
    layers={
        "tiny-facts": LayerEntry(path=TINY / "facts.gguf"),
        "tiny-tone": LayerEntry(path=TINY / "tone.gguf"),
    },
)


class Catalogue:
    """The names of one file; each change is on disk before it holds."""

    def __init__(self, path: Path) -> None:
        """Read the file at PATH; there need not be one.

        Raises:
            InvalidError: It cannot be understood.
        """
        self._path = path
        self._passing = Names()
        self._own = _read(path)
        self._all = self._together()

    @property
    def names(self) -> Names:
        """Return all that can be asked for, the built-in ones too."""
        return self._all

    def put(
        self,
        *,
        bases: Mapping[str, BaseEntry] | None = None,
        layers: Mapping[str, LayerEntry] | None = None,
        genomes: Mapping[str, GenomeEntry] | None = None,
    ) -> None:
        """Add or replace entries.

        Raises:
            InvalidError: A name or a path cannot be used.
            ConflictError: A genome would have the name of a base.
        """
        with self._alone():
            self._must_be_free(bases or {}, genomes or {})
            own = self._own
            self._write(
                _checked(
                    bases={**own.bases, **(bases or {})},
                    layers={**own.layers, **(layers or {})},
                    genomes={**own.genomes, **(genomes or {})},
                )
            )
            self._passing = _without(self._passing, layers or {}, genomes or {})
            self._all = self._together()

    def lend(self, layers: Mapping[str, LayerEntry], genomes: Mapping[str, GenomeEntry]) -> None:
        """Add or replace entries until this process ends: who lends them has them on its own disk.

        Raises:
            InvalidError, ConflictError: As `put`.
        """
        with self._alone():
            self._must_be_free({}, genomes)
            made = _checked(
                layers={**self._passing.layers, **layers},
                genomes={**self._passing.genomes, **genomes},
            )
            self._write(_without(self._own, layers, genomes))
            self._passing = made
            self._all = self._together()

    def _must_be_free(
        self, bases: Mapping[str, BaseEntry], genomes: Mapping[str, GenomeEntry]
    ) -> None:
        names = self.names
        taken = {*names.bases} & {*genomes} | {*names.genomes} & {*bases}
        if taken:
            raise ConflictError(
                f"{', '.join(taken)} is the name of another model", hint="choose another name"
            )

    def remove(self, name: str, group: Group | None = None) -> None:
        """Forget the base, layer or genome NAME, or the one of GROUP; its file stays.

        Raises:
            NotFoundError: There is none that was added.
            ConflictError: A genome uses it.
        """
        with self._alone():
            groups: tuple[Group, ...] = ("bases", "layers", "genomes")
            wanted = [
                kind for kind in groups
                if group in (None, kind)
                and (name in getattr(self._own, kind) or name in getattr(self._passing, kind))
            ]  # fmt: skip
            if not wanted:
                raise NotFoundError(
                    "model", name, hint="`arsenale models list` shows what was added"
                )
            users = [
                genome
                for genome, entry in self.names.genomes.items()
                if name in (entry.base, *(layer for layer, _ in entry.layers))
            ]
            if users and wanted != ["genomes"]:
                raise ConflictError(f"{', '.join(users)} uses {name}", hint="remove that one first")
            layers, genomes = ({name} if kind in wanted else () for kind in groups[1:])
            bases = {k: v for k, v in self._own.bases.items() if k != name or "bases" not in wanted}
            self._write(_without(self._own, layers, genomes).model_copy(update={"bases": bases}))
            self._passing = _without(self._passing, layers, genomes)
            self._all = self._together()

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the file against other processes, with what they wrote taken in."""
        make_private(self._path.parent)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._own = _read(self._path)
            self._all = self._together()
            yield

    def _together(self) -> Names:
        """Return the built-in names, those of the file, and those that are lent."""
        return Names(
            bases={**BUILT_IN.bases, **self._own.bases},
            layers={**BUILT_IN.layers, **self._own.layers, **self._passing.layers},
            genomes={**self._own.genomes, **self._passing.genomes},
        )

    def _write(self, made: Names) -> None:
        if made == self._own:
            return
        make_private(self._path.parent)
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(made.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self._own = made
        self._all = self._together()

    def resolve(self, model: str) -> tuple[str, Stack]:
        """Return the base's name and the stack that MODEL asks for.

        Raises:
            NotFoundError: A part of it is not known.
            InvalidError: A weight is no number from 0 to 1.
        """
        names = self.names
        head, *rest = model.split("+")
        if head in names.genomes:
            genome = names.genomes[head]
            base, stack = genome.base, list(genome.layers)
        else:
            base, stack = head, []
        if base not in names.bases:
            raise NotFoundError("model", head, hint=f"there are {_listed(names)}")
        stack += [_weighed(part) for part in rest]
        elsewhere = names.bases[base].url is not None
        for layer, _ in stack:
            if not elsewhere and layer not in names.layers:
                known = ", ".join(names.layers) or "none yet"
                raise NotFoundError("layer", layer, hint=f"layers: {known}")
        if len(stack) > MOST_LAYERS:
            raise InvalidError(f"a stack of {len(stack)} layers", hint=f"{MOST_LAYERS} at most")
        once(layer for layer, _ in stack)
        return base, tuple(stack)


def _checked(**groups: Mapping[str, BaseModel]) -> Names:
    try:
        return Names.model_validate(
            {k: {n: e.model_dump() for n, e in group.items()} for k, group in groups.items()}
        )
    except ValidationError as exc:
        raise InvalidError(
            f"it cannot be registered ({exc.errors()[0]['msg']})",
            hint="names have letters, digits, . _ - / @ and spaces",
        ) from exc


def _without(names: Names, layers: Collection[str], genomes: Collection[str]) -> Names:
    """Return NAMES without these LAYERS and GENOMES."""
    return names.model_copy(
        update={
            "layers": {k: v for k, v in names.layers.items() if k not in layers},
            "genomes": {k: v for k, v in names.genomes.items() if k not in genomes},
        }
    )


def once(layers: Iterable[str]) -> None:
    """Refuse a stack that has one of LAYERS twice: its weight would pass 1, or nobody meant it.

    Raises:
        InvalidError: One is there twice.
    """
    twice = [name for name, count in Counter(layers).items() if count > 1]
    if twice:
        raise InvalidError(
            f"layer {twice[0]} is twice in the stack", hint="name it once, with one weight"
        )


def _weighed(part: str) -> tuple[str, float]:
    name, colon, said = part.partition(":")
    try:
        weight = float(said) if colon else 1.0
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise InvalidError(f"the weight {said!r} of {name}", hint="weights are numbers from 0 to 1")
    return name, weight


def _listed(names: Names) -> str:
    return ", ".join([*names.bases, *names.genomes][:20])


def _read(path: Path) -> Names:
    try:
        return Names.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Names()
    except (OSError, ValidationError) as exc:
        raise InvalidError(f"{path} cannot be read", hint="mend it, or move it away") from exc
