"""The words of the genome server, as values: layers, genomes, where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Trait: TypeAlias = Literal[
    "general_reasoning",
    "tone_and_voice",
    "ethical_reasoning",
    "domain_expertise",
    "cultural_knowledge",
    "memory_integration",
]
"""What a layer teaches."""

Permission: TypeAlias = Literal["private", "team", "public"]
"""With whom a layer may be shared; a private one is exported only when that is asked for."""

Kind: TypeAlias = Literal["genome", "layer"]

LAYERS_MAX = 16
"""Layers of one genome: the most that the sidecar stacks."""

PROMPTS_MIN, PROMPTS_MAX = 10, 50
"""Rehearsal prompts of a layer: fewer do not keep it, more cost who trains on top too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """A layer that was on while another was trained.

    Attributes:
        sha256: Of its file; `None` when it was never seen here.
    """

    name: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What is known of a layer from its file alone; it never changes.

    Attributes:
        architecture: Of the base it fits, as `llama`.
        source: What it was imported from.
    """

    sha256: str
    size_bytes: int
    rank: int
    alpha: float
    tensors: int
    architecture: str
    source: Literal["gguf", "peft"] = "gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A LoRA layer; moments are Unix microseconds, UTC.

    Attributes:
        number: Of this revision, 1 for the first.
        base: Name of the base model it was trained on.
        creator: Who made it.
        metrics: What its training measured, by name.
        rehearsal: Prompts that who trains on top of it rehearses, so that it is not forgotten.
        trained_on: The layers that were on below it while it was trained, lowest first.
    """

    id: str
    number: int
    name: str
    trait: Trait
    base: str
    file: File
    description: str = ""
    tags: tuple[str, ...] = ()
    creator: str = ""
    licence: str = ""
    permission: Permission = "private"
    metrics: Mapping[str, float] = field(default_factory=lambda: dict[str, float]())
    rehearsal: tuple[str, ...] = ()
    trained_on: tuple[Below, ...] = ()
    created_us: int = 0
    updated_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A layer's place in a genome.

    Attributes:
        layer: Its name when this was written.
        weight: 0..1; what its matrices are multiplied by.
    """

    layer: str
    sha256: str
    trait: Trait
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A genome that another was made from, as it was then.

    Attributes:
        id: Its id; empty when it lives elsewhere.
        sha256: Of its content.
    """

    name: str
    generation: int
    sha256: str
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What breeding decided about one layer.

    Attributes:
        taken_from: Names of the parents it was taken from; empty when it was left out.
        weights: What each parent that has it gave it.
    """

    layer: str
    taken_from: tuple[str, ...]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """A persona's stack of layers on a base model; moments are Unix microseconds, UTC.

    Attributes:
        number: Of this revision, 1 for the first.
        base_sha256: Of the base's file, where it is known.
        persona: Name of the persona it speaks for.
        instructions: Its system prompt.
        layers: In the order in which they are put on.
        generation: 0 without parents, else one more than the highest of them.
    """

    id: str
    number: int
    name: str
    base: str
    base_sha256: str | None = None
    persona: str = ""
    instructions: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    layers: tuple[Placed, ...] = ()
    parents: tuple[Parent, ...] = ()
    choices: tuple[Choice, ...] = ()
    generation: int = 0
    created_us: int = 0
    updated_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBase:
    """A base model by the name the inference sidecar has for it.

    Attributes:
        path: Of its GGUF file when it was last seen.
        mtime_ns: Of that file, so that it is hashed once.
    """

    name: str
    architecture: str
    sha256: str
    path: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A state that a genome or a layer had.

    Attributes:
        why: What was done to make it, for people.
        sha256: Of `body`, so that a change by other hands is seen.
        body: The state as canonical JSON.
    """

    number: int
    at_us: int
    why: str
    sha256: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a listing or a search is narrowed to; empty fields narrow nothing."""

    trait: str | None = None
    tags: tuple[str, ...] = ()
    base: str | None = None
    licence: str | None = None
