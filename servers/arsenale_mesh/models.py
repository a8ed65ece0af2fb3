"""What the tools of the mesh answer. Moments are ISO 8601 in UTC; fuel is about instructions."""

from typing import Any, Literal, TypeAlias

from pydantic import Field

from arsenale_core.lean import Lean

Detail: TypeAlias = Literal["concise", "full"]
View: TypeAlias = Literal["nodes", "node", "modules", "audit"]
Encoding: TypeAlias = Literal["", "base64"]
Method: TypeAlias = Literal["signature", "slice", "rerun", "interpreter"]


class TryLine(Lean):
    """One node's attempt."""

    node: str
    role: str
    state: str
    status: str = ""


class TaskReport(Lean):
    """A task: how it stands, and its result.

    `output` is text, or base64 where `encoding` says so; `next_offset` where there is more of it.
    """

    task: str
    label: str = ""
    state: str
    status: str = ""
    module: str
    function: str = ""
    node: str = ""
    output: str = ""
    encoding: Encoding = ""
    output_bytes: int | None = None
    next_offset: int | None = None
    detail: str = ""
    stderr: str = ""
    exit_code: int | None = None
    fuel: int | None = None
    seconds: float | None = None
    checked: str = ""
    risk: float | None = None
    receipt: str = ""
    credits: int | None = None
    attempts: list[TryLine] = Field(default_factory=list[TryLine])
    hint: str = ""


class TaskLine(Lean):
    """A task in a list."""

    task: str
    label: str = ""
    state: str
    status: str = ""
    module: str
    fuel: int | None = None
    at: str


class TasksReport(Lean):
    """Tasks, newest first; or one (`about`)."""

    summary: str = ""
    about: TaskReport | None = None
    tasks: list[TaskLine] = Field(default_factory=list[TaskLine])
    next_offset: int | None = None
    hint: str = ""


class ModuleLine(Lean):
    """A module that can be run by its name."""

    name: str
    description: str = ""
    functions: list[str] = Field(default_factory=list[str])
    sha256: str
    bytes: int
    runs: int | None = None
    ready_made: bool | None = None


class ModuleReport(Lean):
    """A module that was submitted, and what is noteworthy of it."""

    module: ModuleLine
    notes: list[str] = Field(default_factory=list[str])


class TermLine(Lean):
    """A part of a score: `value` 0..1 times `weight`."""

    name: str
    value: float
    weight: float
    basis: str


class NodeLine(Lean):
    """A node: how it is, and how far it is believed."""

    name: str
    state: str
    kind: str
    ours: bool | None = None
    health: float | None = None
    reputation: float
    trusted: bool | None = None
    right: int
    wrong: int | None = None
    credits: int
    tasks: int | None = None
    latency_ms: float | None = None
    mbit_per_s: float | None = None
    cpu: float | None = None
    memory_free_mb: int | None = None
    watts: float | None = None
    power: str = ""
    celsius: float | None = None
    carbon_g_per_kwh: float | None = None
    joules_per_gfuel: float | None = None
    reason: str = ""
    did: str = ""
    terms: list[TermLine] = Field(default_factory=list[TermLine])
    history: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class AuditLine(Lean):
    """What happened."""

    at: str
    what: str
    subject: str
    detail: str = ""


class MeshReport(Lean):
    """The mesh in a line, what is wrong, and what was asked for."""

    summary: str
    alerts: list[str] = Field(default_factory=list[str])
    nodes: list[NodeLine] = Field(default_factory=list[NodeLine])
    modules: list[ModuleLine] = Field(default_factory=list[ModuleLine])
    audit: list[AuditLine] = Field(default_factory=list[AuditLine])
    next_offset: int | None = None
    hint: str = ""


class VerifyReport(Lean):
    """Whether a receipt holds: yes, no, or it cannot be said."""

    holds: bool | None
    says: str
    problems: list[str] = Field(default_factory=list[str])
    task: str = ""
    node: str = ""
    status: str = ""
    fuel: int | None = None
    output_sha256: str = ""
    receipt: str
    exported: dict[str, Any] | None = None


class EntryLine(Lean):
    """A change of a node's credits."""

    number: int
    at: str
    what: str
    node: str
    credits: int
    task: str
    receipt: str = ""


class Balance(Lean):
    """What a node has earned."""

    node: str
    credits: int
    reputation: float
    right: int
    wrong: int | None = None


class LedgerReport(Lean):
    """Entries, newest first, balances, and whether the chain is whole."""

    summary: str
    whole: bool
    fault: str = ""
    balances: list[Balance] = Field(default_factory=list[Balance])
    entries: list[EntryLine] = Field(default_factory=list[EntryLine])
    next_offset: int | None = None
