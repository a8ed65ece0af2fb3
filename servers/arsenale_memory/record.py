"""The words of memory, as values: what comes in, what is stored, what a search asks for."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from arsenale_core.embedding.vectors import Vectors

Kind: TypeAlias = Literal["note", "fact", "decision", "preference", "turn", "reflection", "summary"]
Mode: TypeAlias = Literal["hybrid", "keyword", "semantic"]
"""Which indexes a search asks."""

LinkKind: TypeAlias = Literal["near", "supersedes", "contradicts"]
Ended: TypeAlias = Literal["revised", "superseded", "forgotten"]
"""Why a version is no longer the current one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a memory comes from: its provenance.

    Attributes:
        via: `tool`, `cli`, `hook`, `import:<format>` or `restore`.
        host: The assistant's name, when it said so.
        session: The host's session.
        reference: What the source calls it: a file, a line, an id.
    """

    via: str
    host: str | None = None
    session: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a memory is filed under, each sorted and without repetition."""

    tags: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a memory, as it is stored; moments are Unix microseconds, UTC.

    Attributes:
        uid: The memory's id (UUIDv7), the same for all its versions.
        number: 1 for the first version.
        subject: Whom or what it is about.
        session: The conversation it belongs to, in which it has neighbours.
        recalled: It only repeats what was recalled, and is left out of searches.
        created_us: When the memory came.
        written_us: When this version came.
        valid_from_us: Since when what it says holds; also when it happened.
        valid_to_us: Until when what it says holds; `None` while it does.
        ended_us: When this version stopped being the current one.
    """

    uid: str
    number: int
    namespace: str
    owner: str
    kind: Kind
    content: str
    subject: str | None
    session: str | None
    importance: float
    labels: Labels
    source: Source
    recalled: bool = False
    created_us: int
    written_us: int
    valid_from_us: int
    valid_to_us: int | None = None
    ended_us: int | None = None
    ended: Ended | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of a memory's text that is indexed by itself: `content[start:]` begins with it."""

    start: int
    body: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A version with what the index needs of it.

    Attributes:
        vectors: Shape `(len(parts), dim)`, or fewer rows when the later parts wait to be embedded.
    """

    version: Version
    parts: tuple[Part, ...]
    embedder: str | None = None
    vectors: "Vectors | None" = None
    supersedes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a search is limited to; `None` or empty means everything."""

    namespaces: tuple[str, ...] = ()
    owner: str | None = None
    tags: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    session: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    min_importance: float = 0.0
    as_of_us: int | None = None
    include_recalled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A relation between two memories."""

    source: str
    target: str
    kind: LinkKind
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why one item of a batch was not kept."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of one item of a batch.

    Attributes:
        status: `stored`; `duplicate`: the same words are there already; `echo`: it only repeats
            what was recalled.
        uid: The memory that holds it.
    """

    index: int
    status: Literal["stored", "duplicate", "echo"]
    uid: str
    links: tuple[Link, ...] = field(default=())
