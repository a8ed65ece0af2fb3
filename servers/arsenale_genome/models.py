"""What the tools of the genome server take and answer. Moments are ISO 8601 in UTC."""

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from arsenale_core.lean import Lean

Detail: TypeAlias = Literal["concise", "full"]
OnConflict: TypeAlias = Literal["rename", "refuse"]


def _none() -> list[str]:
    return []


class Weighted(BaseModel):
    """A layer of a genome, by name."""

    model_config = ConfigDict(extra="forbid")

    layer: str = Field(max_length=60)
    weight: float = Field(default=1.0, ge=0, le=1)


class LayerLine(Lean):
    """A layer's place in a genome."""

    layer: str
    trait: str
    weight: float
    size_bytes: int | None = None
    missing: bool | None = None


class ChoiceLine(Lean):
    """What breeding decided about one layer."""

    layer: str
    taken_from: list[str]
    weights: dict[str, float]


class RevisionLine(Lean):
    """One state in the history."""

    revision: int
    at: str
    why: str


class GenomeReport(Lean):
    """A genome; what is doubtful about its stack stands in `advice`."""

    name: str
    base: str
    generation: int
    revision: int
    layers: list[LayerLine]
    persona: str = ""
    instructions: str = ""
    description: str = ""
    tags: list[str] = Field(default_factory=_none)
    parents: list[str] = Field(default_factory=_none)
    advice: list[str] = Field(default_factory=_none)
    updated: str = ""
    sha256: str = ""
    base_sha256: str | None = None
    choices: list[ChoiceLine] = Field(default_factory=lambda: list[ChoiceLine]())
    lineage: list[str] = Field(default_factory=_none)
    children: list[str] = Field(default_factory=_none)
    history: list[RevisionLine] = Field(default_factory=lambda: list[RevisionLine]())


class LayerReport(Lean):
    """A layer; what should be added to it stands in `advice`."""

    name: str
    trait: str
    base: str
    rank: int
    size_bytes: int
    revision: int
    permission: str
    description: str = ""
    tags: list[str] = Field(default_factory=_none)
    licence: str = ""
    creator: str = ""
    trained_on: list[str] = Field(default_factory=_none)
    metrics: dict[str, float] = Field(default_factory=lambda: dict[str, float]())
    rehearsal_prompts: int = 0
    used_by: list[str] = Field(default_factory=_none)
    advice: list[str] = Field(default_factory=_none)
    updated: str = ""
    sha256: str = ""
    source: str = ""
    architecture: str = ""
    path: str = ""
    rehearsal: list[str] = Field(default_factory=_none)
    history: list[RevisionLine] = Field(default_factory=lambda: list[RevisionLine]())


class FoundItem(Lean):
    """A genome or layer that fits; `score` is the cosine similarity to what was asked."""

    name: str
    base: str
    score: float | None = None
    trait: str = ""
    description: str = ""
    tags: list[str] = Field(default_factory=_none)
    licence: str = ""
    permission: str = ""
    rank: int | None = None
    layers: list[str] = Field(default_factory=_none)
    generation: int | None = None


class FindReport(Lean):
    """A page of what fits."""

    found: list[FoundItem]
    total: int
    next_offset: int | None = None
    hint: str | None = None


class InspectReport(Lean):
    """One genome or layer, or all in short; `problems` is what a check has found."""

    genome: GenomeReport | None = None
    layer: LayerReport | None = None
    genomes: list[str] = Field(default_factory=_none)
    layers: list[str] = Field(default_factory=_none)
    bases: list[str] = Field(default_factory=_none)
    checked: int | None = None
    problems: list[str] = Field(default_factory=_none)
    hint: str | None = None


class ReviseReport(Lean):
    """What became of a genome or layer."""

    name: str
    action: Literal["changed", "reverted", "deleted"]
    genome: GenomeReport | None = None
    layer: LayerReport | None = None
    hint: str | None = None


class Quoted(Lean):
    """A memory that the answer was given, by the number under which the answer may name it."""

    number: int
    id: str
    text: str
    at: str
    namespace: str
    named: bool = False


class AnswerReport(Lean):
    """What a genome says; tokens as the model counts them."""

    model: str
    text: str
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    sources: list[Quoted] = Field(default_factory=lambda: list[Quoted]())
    retrieved_ms: float | None = None
    hint: str | None = None
    error: str | None = None


class Similarity(BaseModel):
    """How near two answers are: the cosine of their embeddings, -1..1."""

    a: str
    b: str
    cosine: float


class CompareReport(Lean):
    """Answers side by side, in the order asked for."""

    answers: list[AnswerReport]
    similarities: list[Similarity] = Field(default_factory=lambda: list[Similarity]())
    hint: str | None = None


class ExchangeReport(Lean):
    """What went into a file or came out of it."""

    action: Literal["export", "import"]
    path: str
    genome: str
    layers: list[str]
    size_bytes: int | None = None
    sha256: str | None = None
    renamed: dict[str, str] = Field(default_factory=lambda: dict[str, str]())
    reused: list[str] = Field(default_factory=_none)
    mended: list[str] = Field(default_factory=_none)
    advice: list[str] = Field(default_factory=_none)
    hint: str | None = None
