"""What the tools of memory take and answer. Moments are ISO 8601 in UTC; scores are 0..1."""

from typing import Annotated, Literal, TypeAlias, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from arsenale_core.lean import Lean
from arsenale_memory.record import Kind


def kind_of(name: str) -> Kind:
    """Return NAME when it is a kind of memory, else `note`."""
    return cast("Kind", name) if name in get_args(Kind) else "note"


Detail: TypeAlias = Literal["concise", "full"]


class NewMemory(BaseModel):
    """One thing to keep. Only `content` is needed; the rest is found by rules when left out."""

    model_config = ConfigDict(extra="forbid")

    content: str = Field(description="What to keep: whole sentences, with names instead of 'it'.")
    kind: Kind = "note"
    subject: str | None = Field(
        default=None, max_length=200, description="Whom or what it is about."
    )
    tags: list[str] = Field(default_factory=list)
    importance: float | None = Field(default=None, ge=0, le=1)
    at: str | None = Field(default=None, description="When it happened, ISO 8601; default now.")
    session: str | None = Field(
        default=None, max_length=200, description="Conversation that orders memories; default none."
    )
    supersedes: list[str] = Field(
        default_factory=list, description="Ids of memories that are no longer right."
    )


class Related(Lean):
    """Another memory that one has to do with."""

    id: str
    kind: str
    content: str


class KeptMemory(Lean):
    """What became of one item."""

    index: int
    status: Literal["stored", "duplicate", "echo", "failed"]
    id: str | None = None
    reason: str | None = None
    related: list[Related] = Field(default_factory=lambda: list[Related]())


class RememberReport(Lean):
    """What became of each item, in order; of more than 30 only the failed ones are listed."""

    stored: int
    duplicates: int
    failed: int
    items: list[KeptMemory]
    hint: str | None = None


class FoundMemory(Lean):
    """A memory that answers, best first."""

    id: str
    content: str
    subject: str | None = None
    at: str
    kind: str = "note"
    tags: list[str] = Field(default_factory=list)
    relevance: float = Field(description="0..1, comparable across questions")
    namespace: str | None = None
    importance: float | None = None
    valid_to: str | None = None
    why: dict[str, float] | None = Field(
        default=None, description="The features behind the score (detail=full)."
    )


class RecallReport(Lean):
    """Memories, best first, within the token budget."""

    memories: list[FoundMemory]
    more: int = Field(default=0, description="Further hits that the limit or budget left out.")
    hint: str | None = None


class MemoryVersion(Lean):
    """One version of a memory."""

    version: int
    content: str
    written: str
    ended: str | None = None
    why_ended: str | None = None


class WholeMemory(Lean):
    """A memory with all that is known of it."""

    id: str
    content: str
    namespace: str
    owner: str
    kind: str
    subject: str | None
    session: str | None
    importance: float
    tags: list[str]
    domains: list[str]
    entities: list[str]
    at: str
    created: str
    valid_to: str | None = None
    source: dict[str, str]
    state: str = Field(description="current, or why it is not")
    history: list[MemoryVersion] = Field(default_factory=lambda: list[MemoryVersion]())
    before: list[FoundMemory] = Field(default_factory=lambda: list[FoundMemory]())
    after: list[FoundMemory] = Field(default_factory=lambda: list[FoundMemory]())
    related: list[Related] = Field(default_factory=lambda: list[Related]())
    cut: int = Field(default=0, description="Characters of content left out here; use `start`.")


class ReadReport(Lean):
    """The memories asked for, or a page of those that fit the filters."""

    memories: list[WholeMemory] = Field(default_factory=lambda: list[WholeMemory]())
    listed: list[FoundMemory] = Field(default_factory=lambda: list[FoundMemory]())
    total: int = 0
    next_offset: int | None = None
    hint: str | None = None


class RevisedMemory(Lean):
    """What a change did and how to undo it."""

    id: str
    action: Literal["revised", "forgotten", "restored"]
    version: int | None = None
    undo_until: str | None = None
    hint: str | None = None


class NamespaceRow(Lean):
    """One namespace."""

    name: str
    memories: int
    newest: str | None


class Stats(Lean):
    """How much memory holds and in what state its index is."""

    memories: int
    versions: int
    forgotten: int
    parts: int
    links: int
    namespaces: list[NamespaceRow]
    tags: list[str]
    embedder: str
    vectors: int
    pending: int = Field(description="Parts that wait to be embedded; found by their words.")
    replies: int = Field(description="Turns that are embedded together with what they reply to.")
    replies_pending: int = Field(description="Turns that wait for that; ranked by themselves.")
    other_embedders: dict[str, int]
    index: str
    database: str
    hint: str | None = None


class MaintainReport(Lean):
    """What maintenance did or found."""

    action: str
    done: int = 0
    stats: Stats | None = None
    tracks: list["TrackRow"] = Field(default_factory=lambda: list[TrackRow]())
    moved: "Moved | None" = None
    hint: str | None = None


class Reflection(Lean):
    """What one agent thinks."""

    agent: str
    reflection: str
    position: float = Field(description="-1 (no) to 1 (yes).")
    confidence: float = Field(description="0..1, computed: self-consistency and grounding.")
    timestamp: str


class ReflectReport(Lean):
    """What several agents think of a question, and how far they agree."""

    question: str
    reflections: list[Reflection]
    missing: list[str] = Field(description="Agents that did not answer, or not so that it counts.")
    coherence: float | None = Field(
        None, description="0..1: how alike the reflections are; absent for a single one."
    )
    fracture: float | None = Field(None, description="0: agreement, 1: complete disagreement.")
    synthesis: str
    memories: int = Field(description="How many memories they were given.")
    model: str


class TrackRow(Lean):
    """A research feature: whether it runs, by whose consent, and what it measures."""

    feature: str
    on: bool
    consent: str = Field(description="Who consented when, or what is missing.")
    hypothesis: str
    text: str = Field(description="What one consents to.")
    metrics: dict[str, float] = Field(default_factory=dict)


class ValueRow(Lean):
    """One value of an identity and the level it comes from."""

    key: str
    value: str
    level: str


class IdentityReport(Lean):
    """Who a persona is."""

    persona: str
    namespace: str
    values: list[ValueRow]
    text: str = ""
    warnings: list[str] = Field(default_factory=list)
    checkpoints: list[str] = Field(default_factory=list)
    hint: str | None = None


class CheckpointReport(Lean):
    """A snapshot that was taken, or the last one when nothing has changed since."""

    id: str
    at: str
    persona: str
    new: bool
    files: int
    memories: int
    briefing: str
    hint: str | None = None


class Change(Lean):
    """What differs between two moments."""

    what: str
    kind: Literal["file", "memory"]
    name: str
    diff: str = ""


class RestoreReport(Lean):
    """How a persona stood, what differs, and what was put back."""

    persona: str
    at: str
    applied: bool
    values: list[ValueRow] = Field(default_factory=lambda: list[ValueRow]())
    changes: list[Change] = Field(default_factory=lambda: list[Change]())
    more: int = 0
    verified: str | None = None
    undo: str | None = None
    hint: str | None = None


class Moved(Lean):
    """What an import or export did."""

    action: Literal["import", "export"]
    format: str
    path: str
    memories: int
    duplicates: int = 0
    failed: list[str] = Field(default_factory=list)
    hint: str | None = None


Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]

MaintainReport.model_rebuild()
