"""A node's signed word on what it ran: which module on what, with which result, at which cost.

The body is RFC 8785 JSON after a domain tag, signed with Ed25519 by the node's did:key. It names
everything the result depends on, so that whoever has module and input can run it again and compare.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from arsenale_core.errors import InvalidError
from arsenale_mesh.canonical import canonical, digest
from arsenale_mesh.identity import Identity, is_signed

TAG: Final = b"arsenale-mesh-receipt-v1\0"
"""Before every body that is signed: a signature of something else is none of a receipt."""

VERSION: Final = 1

Status: TypeAlias = Literal[
    "ok", "trap", "out_of_fuel", "timeout", "memory_limit", "stack_overflow", "invalid_module",
    "refused_import", "too_large", "no_function", "bad_abi", "output_too_large", "worker_died",
]  # fmt: skip
"""How a guest can end: a closed set."""

Problem: TypeAlias = Literal[
    "not_a_receipt", "signature", "signer", "task", "nonce", "module", "function", "input",
    "limits", "engine", "times",
]  # fmt: skip

MOST_CHARS: Final = 400
"""Of each text in a receipt."""

_STATUSES: Final = frozenset(get_args(Status))
_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a guest may use: memory in bytes, fuel, wall time in milliseconds, output in bytes."""

    memory_bytes: int
    fuel: int
    wall_ms: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is signed.

    Attributes:
        task: The task's id.
        nonce: The requester's, so that no receipt serves two requests.
        module: SHA-256 of the module's bytes, hex; so are `input` and `output` of theirs.
        function: The export that was called.
        seed: Of the guest's random numbers.
        clock_us: What the guest's clock said throughout.
        status: How it ended.
        fuel: What it burnt, also where it trapped.
        slice_fuel: After how much fuel the state was committed to.
        slices: How often.
        trace: Merkle root over the state after each slice and at the end, hex.
        engine: Version, backend and settings that the result depends on.
        node: The signer, a did:key.
        started_us, ended_us: By the node's clock, UTC microseconds; a claim, not a proof.
        proof: Kept for a proof of knowledge; none yet.
    """

    version: int = VERSION
    task: str
    nonce: str
    module: str
    function: str
    input: str
    output: str
    seed: int
    clock_us: int
    limits: Limits
    status: Status
    fuel: int
    slice_fuel: int
    slices: int
    trace: str
    engine: str
    node: str
    started_us: int
    ended_us: int
    proof: None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        said = {name: getattr(self, name) for name in _FIELDS}
        said["limits"] = {name: getattr(self.limits, name) for name in _BOUNDS}
        return said


_FIELDS: Final = tuple(field.name for field in fields(Body))
_BOUNDS: Final = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A body and the signature of its node, hex."""

    body: Body
    signature: str

    @cached_property
    def id(self) -> str:
        """The SHA-256 of all of it: two receipts with one id are the same."""
        return digest(canonical(self.plain()))

    @property
    def outcome(self) -> str:
        """What another node has to agree to: status, output and fuel, as a hash."""
        said = {"status": self.body.status, "output": self.body.output, "fuel": self.body.fuel}
        return digest(canonical(said))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**self.body.plain(), "signature": self.signature}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a receipt must speak of; `None` leaves open."""

    task: str | None = None
    nonce: str | None = None
    module: str | None = None
    function: str | None = None
    input: str | None = None
    limits: Limits | None = None
    engine: str | None = None
    node: str | None = None


def sign(body: Body, identity: Identity) -> Receipt:
    """Return BODY, signed.

    Raises:
        InvalidError: It names another node, or a number that JSON has no one form for.
    """
    if body.node != identity.did:
        raise InvalidError(f"the receipt is of {body.node}", hint="a node signs for itself")
    signature = identity.sign(TAG + canonical(body.plain()))
    return Receipt(body=body, signature=signature.hex())


def parse(value: object) -> Receipt:
    """Return the receipt that a JSON value is; nothing may be missing, unknown or of another type.

    Raises:
        InvalidError: It is none; what is wrong.
    """
    if not isinstance(value, dict):
        raise InvalidError("a receipt is a JSON object", hint="export it again")
    given = dict(cast("dict[str, Any]", value))
    signature, limits = given.pop("signature", None), given.pop("limits", None)
    if given.keys() != _SIGNED:
        odd = ", ".join(sorted(given.keys() ^ _SIGNED))[:MOST_CHARS]
        raise InvalidError(f"the receipt's fields are wrong: {odd}", hint="export again")
    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        raise InvalidError("the receipt has no signature of 64 bytes in hex", hint="export again")
    if not isinstance(limits, dict) or cast("dict[str, Any]", limits).keys() != set(_BOUNDS):
        raise InvalidError("the receipt's limits are wrong", hint="export it again")
    bounds = cast("dict[str, int]", limits)
    _check_types(given, bounds)
    return Receipt(body=Body(**given, limits=Limits(**bounds)), signature=signature)


def problems(receipt: Receipt, expected: Expected | None = None) -> list[Problem]:
    """Return what is wrong with RECEIPT, the signature first; empty where nothing is.

    This says that the node said so; whether it is so, says only running it again.
    """
    found: list[Problem] = [] if holds(receipt) else ["signature"]
    return found + at_odds(receipt, expected or Expected())


def holds(receipt: Receipt) -> bool:
    """Say whether the signature is that of the node it names, of the body."""
    data = TAG + canonical(receipt.body.plain())
    return is_signed(receipt.body.node, bytes.fromhex(receipt.signature), data)


def at_odds(receipt: Receipt, wanted: Expected) -> list[Problem]:
    """Return in what RECEIPT is not what is WANTED, or contradicts itself."""
    body, found = receipt.body, list[Problem]()
    if body.ended_us < body.started_us:
        found.append("times")
    if body.fuel > body.limits.fuel + body.slice_fuel:
        found.append("limits")
    pairs: tuple[tuple[Problem, str], ...] = (
        ("task", "task"), ("nonce", "nonce"), ("module", "module"), ("function", "function"),
        ("input", "input"), ("limits", "limits"), ("engine", "engine"), ("signer", "node"),
    )  # fmt: skip
    for problem, name in pairs:
        said = getattr(wanted, name)
        if said is not None and said != getattr(body, name):
            found.append(problem)
    return found


_INTEGERS = (
    "version", "seed", "clock_us", "fuel", "slice_fuel", "slices", "started_us", "ended_us"
)  # fmt: skip
_SIGNED = frozenset(_FIELDS) - {"limits"}
_TEXTS = tuple(sorted(_SIGNED - set(_INTEGERS) - {"proof"}))


def _check_types(given: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
    for name in _INTEGERS:
        _check_integer(name, given[name])
    for name, value in limits.items():
        _check_integer(f"limits.{name}", value)
    for name in _TEXTS:
        _check_text(name, given[name])
    if given["status"] not in _STATUSES:
        raise InvalidError("the receipt has an unknown status", hint="update Arsenale")
    for name in ("module", "input", "output", "trace"):
        if not _HEX.fullmatch(given[name]):
            raise InvalidError(f"{name} of the receipt is no SHA-256 in hex", hint="export again")
    if given["version"] != VERSION:
        raise InvalidError(f"the receipt has version {given['version']}", hint="update Arsenale")
    if given["proof"] is not None:
        raise InvalidError("the receipt has a proof that is unknown here", hint="update Arsenale")


def _check_text(name: str, value: object) -> None:
    """Refuse what a terminal or a reader could take for something else than it is."""
    if not isinstance(value, str) or len(value) > MOST_CHARS:
        what = f"{name} of the receipt is not a text of at most {MOST_CHARS} characters"
        raise InvalidError(what, hint="export it again")
    if not value.isprintable():  # control, bidirectional, newlines, surrogates, unassigned
        what = f"{name} of the receipt has characters that cannot be printed"
        raise InvalidError(what, hint="reject it: an honest node writes none")


def _check_integer(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < 2**53:
        raise InvalidError(f"{name} of the receipt is no integer of 0 to 2**53", hint="see it")
