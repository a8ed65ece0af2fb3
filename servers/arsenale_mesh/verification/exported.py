"""A receipt as a file that whoever has it can check: RECEIPT.md says what stands in it."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from arsenale_core.errors import InvalidError
from arsenale_mesh.receipts import Receipt, parse

FORMAT: Final = "arsenale-receipt"
VERSION: Final = 1

MOST_LEAVES: Final = 10_001
"""A run has 10,000 slices at most, and its end."""

MOST_BYTES: Final = 256 << 20
"""Of a file: an input of 64 MiB and a module of 4 MiB, in base 64, fit."""

_LEAF = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A receipt and what it is checked with; `None` is left out."""

    receipt: Receipt
    leaves: tuple[bytes, ...] | None = None
    module: bytes | None = None
    input: bytes | None = None


def pack(exported: Exported) -> bytes:
    """Return the file, JSON."""
    plain: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "receipt": exported.receipt.plain(),
    }  # fmt: skip
    if exported.leaves is not None:
        plain["leaves"] = [leaf.hex() for leaf in exported.leaves]
    for name, data in (("module", exported.module), ("input", exported.input)):
        if data is not None:
            plain[name] = b64encode(data).decode()
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def unpack(data: bytes) -> Exported:
    """Return what a file holds; a bare receipt is read too.

    Raises:
        InvalidError: It holds no receipt; what is wrong.
    """
    plain = _object(data)
    if "format" not in plain:
        return Exported(receipt=parse(plain))
    if plain["format"] != FORMAT or plain.get("version") != VERSION:
        said = f"{plain['format']!r}, version {plain.get('version')!r}"[:80]
        raise InvalidError(f"the format is {said}", hint=f"{FORMAT!r}, version {VERSION}, is read")
    odd = sorted(set(plain) - {"format", "version", "receipt", "leaves", "module", "input"})
    if odd:
        raise InvalidError(f"unknown fields: {', '.join(odd)[:80]}", hint="export it again")
    return Exported(
        receipt=parse(plain.get("receipt")),
        leaves=read_leaves(plain["leaves"]) if "leaves" in plain else None,
        module=_bytes(plain, "module"),
        input=_bytes(plain, "input"),
    )


def read_leaves(value: object) -> tuple[bytes, ...]:
    """Return the leaves that a JSON value is: a list of SHA-256 in hex.

    Raises:
        InvalidError: It is none.
    """
    hint = f"at most {MOST_LEAVES:,} SHA-256 in hex"
    if not isinstance(value, list) or len(cast("list[object]", value)) > MOST_LEAVES:
        raise InvalidError("the leaves are no list that a run can have", hint=hint)
    leaves = cast("Sequence[object]", value)
    if not all(isinstance(leaf, str) and _LEAF.fullmatch(leaf) for leaf in leaves):
        raise InvalidError("a leaf is no hash", hint=hint)
    return tuple(bytes.fromhex(cast("str", leaf)) for leaf in leaves)


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise InvalidError(f"{len(data):,} bytes are no receipt", hint=f"{MOST_BYTES:,} at most")
    try:
        plain = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise InvalidError(f"the file is no JSON ({exc})", hint="export the receipt again") from exc
    if not isinstance(plain, dict):
        raise InvalidError("the file is no JSON object", hint="export the receipt again")
    return cast("dict[str, Any]", plain)


def _bytes(plain: dict[str, Any], name: str) -> bytes | None:
    value = plain.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidError(f"{name} is no base 64", hint="export the receipt again")
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidError(f"{name} is no base 64", hint="export the receipt again") from exc
