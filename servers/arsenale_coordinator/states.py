"""The life of a task: every state, every event, and what follows; pure.

A task `waits` for other tasks or is `held` for a person's yes; then it is `ready`. Assigned it is
`reserved`, which can be taken back until the agent begins; begun it is `running` under a lease.
It ends `done` (after a `review`, where one is asked for), `failed` or `cancelled`.
"""

from typing import Final, Literal, TypeAlias, get_args

from arsenale_core.errors import ConflictError

TaskState: TypeAlias = Literal[
    "waiting", "held", "ready", "reserved", "running", "review", "done", "failed", "cancelled"
]
TaskEvent: TypeAlias = Literal[
    "unblock", "hold", "approve", "reject", "reserve", "revoke", "claim", "hand_over", "lose",
    "complete", "submit", "fail", "give_up", "retry", "block", "cancel",
]  # fmt: skip

STATES: Final[tuple[TaskState, ...]] = get_args(TaskState)
EVENTS: Final[tuple[TaskEvent, ...]] = get_args(TaskEvent)

TRANSITIONS: Final[dict[tuple[TaskState, TaskEvent], TaskState]] = {
    ("waiting", "unblock"): "ready",  # the last task it needs is done
    ("waiting", "hold"): "held",  # the same, for one that a person has to allow
    ("held", "approve"): "ready",
    ("held", "reject"): "cancelled",
    ("ready", "reserve"): "reserved",
    ("reserved", "revoke"): "ready",
    ("ready", "claim"): "running",
    ("reserved", "claim"): "running",
    ("running", "hand_over"): "ready",
    ("running", "lose"): "ready",  # its agent fell silent
    ("running", "fail"): "ready",  # another attempt is left
    ("running", "give_up"): "failed",  # none is left, or its agents fell silent too often
    ("running", "complete"): "done",
    ("running", "submit"): "review",  # a person says whether it is done
    ("review", "approve"): "done",
    ("review", "reject"): "ready",
    ("failed", "retry"): "ready",
    ("cancelled", "retry"): "ready",
    ("cancelled", "hold"): "held",  # it needed a person's yes before, and does again
    ("ready", "block"): "waiting",  # it got something to wait for
    ("held", "block"): "waiting",
    ("failed", "block"): "waiting",
    ("cancelled", "block"): "waiting",
    ("waiting", "cancel"): "cancelled",
    ("held", "cancel"): "cancelled",
    ("ready", "cancel"): "cancelled",
    ("reserved", "cancel"): "cancelled",
    ("running", "cancel"): "cancelled",
    ("review", "cancel"): "cancelled",
}

ENDED: Final[frozenset[TaskState]] = frozenset({"done", "failed", "cancelled"})
"""States that only `retry` (never of a done task) leaves."""

OCCUPYING: Final[frozenset[TaskState]] = frozenset({"reserved", "running"})
"""States in which a task counts against its agent's capacity."""

_HINTS: dict[TaskState, str] = {
    "waiting": "the tasks that it needs come first",
    "held": "a person approves or rejects it first (`update_task` with action=approve)",
    "ready": "an agent begins it with `check_in`; it needs no approval",
    "reserved": "the agent that it is assigned to begins it with `check_in`",
    "running": "its agent completes, fails or hands it over",
    "review": "a person has to approve or reject it",
    "done": "create a new task for what is still to do",
    "failed": "action=retry makes it ready again",
    "cancelled": "action=retry makes it ready again",
}


_DONE: dict[TaskEvent, str] = {
    "unblock": "unblocked", "hold": "held", "approve": "approved", "reject": "rejected",
    "reserve": "assigned", "revoke": "taken back", "claim": "begun", "hand_over": "handed over",
    "lose": "lost", "complete": "completed", "submit": "submitted", "fail": "reported as failed",
    "give_up": "given up", "retry": "retried", "block": "made to wait", "cancel": "cancelled",
}  # fmt: skip
"""What an event does to a task, for errors."""


def after(state: TaskState, event: TaskEvent, *, task: str) -> TaskState:
    """Return the state that EVENT leads to.

    Raises:
        ConflictError: A task in STATE does not take EVENT; it says what can be done instead.
    """
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise ConflictError(f"{task} is {state} and cannot be {_DONE[event]}", hint=_HINTS[state])
    return following
