"""Nodes, modules, tasks and attempts, as the store keeps them. Moments are UTC microseconds."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from arsenale_mesh.receipts import Limits, Status
from arsenale_mesh.reputation import Standing
from arsenale_mesh.sandbox.jobs import SLICE_FUEL, limits

NodeState: TypeAlias = Literal["online", "offline", "left", "banned"]
NodeKind: TypeAlias = Literal["pc", "gateway", "phone"]
TaskState: TypeAlias = Literal["queued", "running", "checking", "done", "failed", "cancelled"]
AttemptState: TypeAlias = Literal[
    "leased", "said", "right", "wrong", "forged", "void", "lost", "returned", "late"
]
"""`said` was neither found right nor wrong yet; `void` ended in a way that proves nothing."""

Role: TypeAlias = Literal["run", "check"]
Assurance: TypeAlias = Literal["verified", "provisional"]
Carbon: TypeAlias = Literal["off", "prefer"]

STATES: tuple[TaskState, ...] = get_args(TaskState)
ENDED: tuple[TaskState, ...] = ("done", "failed", "cancelled")
KINDS: tuple[NodeKind, ...] = ("pc", "gateway", "phone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that was admitted. `house`: ours, run with the key of this home."""

    id: int
    did: str
    name: str
    kind: NodeKind
    house: bool
    state: NodeState
    joined_us: int
    seen_us: int
    slots: int
    memory_bytes: int
    engine: str
    standing: Standing
    credits: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module that was submitted; its bytes are the blob `sha`."""

    sha: str
    name: str
    description: str
    functions: tuple[str, ...]
    size: int
    added_us: int
    uses: int
    ready_made: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be made.

    Attributes:
        module: SHA-256 of a blob, hex; so is `input`.
        key: Names the task to who asks: a second one with the same key is the first.
        carbon: `prefer` weighs a node's grams of CO2.
        house_only: Run by our own node, whatever others there are.
    """

    module: str
    function: str
    input: str
    limits: Limits = field(default_factory=limits)
    seed: int = 0
    clock_us: int = 0
    slice_fuel: int = SLICE_FUEL
    assurance: Assurance = "verified"
    carbon: Carbon = "off"
    house_only: bool = False
    priority: int = 5
    label: str = ""
    project: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task and how it stands.

    Attributes:
        nonce: In every receipt of it, so that none serves another.
        wants: So many more attempts have to begin before it is looked at again.
        asks: Who may: anybody, or our own node, which decides.
        failures: Attempts that ended without a word on the result.
        status: Of the result that counts, with `output` (a blob), `fuel` and `how`.
        how: Why it counts, or that it is provisional.
        risk: Chance that a provisional result is wrong, at most.
    """

    id: int
    module: str
    function: str
    input: str
    limits: Limits
    seed: int
    clock_us: int
    slice_fuel: int
    nonce: str
    assurance: Assurance
    carbon: Carbon
    house_only: bool
    priority: int
    label: str
    project: str
    state: TaskState
    wants: int
    asks: Literal["any", "house"]
    failures: int
    created_us: int
    started_us: int | None
    ended_us: int | None
    status: Status | None
    output: str | None
    detail: str
    fuel: int
    how: str
    risk: float | None
    receipt: str | None
    reward: int

    @property
    def name(self) -> str:
        """What it is called by: m12."""
        return f"m{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One node's try at a task. Its id is the token of the lease."""

    id: int
    task_id: int
    node_id: int
    role: Role
    state: AttemptState
    leased_us: int
    ended_us: int | None
    outcome: str | None
    status: Status | None
    receipt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a node sends back for a lease: a receipt as JSON, the leaves of its trace, the output.

    Attributes:
        detail: More on the end, for people.
        stderr: What the guest wrote beside its output; not signed.
    """

    lease: int
    receipt: dict[str, object]
    leaves: tuple[str, ...]
    output: bytes
    detail: str = ""
    stderr: bytes = b""
