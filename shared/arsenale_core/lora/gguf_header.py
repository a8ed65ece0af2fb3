"""The head of a GGUF file, read with every length checked against the file.

Why not `gguf.GGUFReader`: on a file that ends within an array it goes on collecting empty values
until memory ends, and it maps the file, so a file that is cut while we read kills the process. What
users bring is not to be trusted that far. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import gguf

from arsenale_core.errors import InvalidError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Version 1 had 32-bit lengths and was gone within weeks."""

KEYS_MAX = 10_000
"""A model has some dozens of keys."""

TENSORS_MAX = 100_000
"""The largest models have some thousands; an adapter has two for each."""

STRING_MAX_BYTES = 16 * 2**20
"""The longest string; chat templates reach 100 kB."""

ARRAY_MAX_ITEMS = 4 * 2**20
"""The longest array; the largest vocabularies have 300,000 tokens."""

ALIGNMENT_MAX = 2**16

FETCH = "the file is damaged or was not fetched whole; fetch or export it again"

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | tuple[Scalar, ...]

_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Type of a value in the file -> its form in `struct`."""

_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Where a tensor lies.

    Args:
        shape: As numpy has it, outermost first: `(out, in)` for a matrix.
        kind: How its numbers are packed.
        offset: Of its first byte, from the beginning of the file.
        size_bytes: Of its packed form.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Keys with their values, and tensors with their places."""

    fields: Mapping[str, Value]
    tensors: Mapping[str, TensorPlace]

    def text(self, key: str) -> str:
        """Return the string at KEY, or an empty one."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        """Return the number at KEY, or None."""
        value = self.fields.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_header(file: BinaryIO, path: Path) -> Header:
    """Read the head of FILE, which stands at its beginning; PATH is for messages.

    Raises:
        InvalidError: It is no GGUF file, is cut, or says what cannot be.
    """
    file.seek(0, 2)
    cursor = _Cursor(file, file.tell(), path)
    file.seek(0)
    if cursor.take(4) != MAGIC:
        file.seek(0)
        raise InvalidError(f"{path} is no GGUF file", hint=_instead(file.read(9)))
    version = cursor.integer("I")
    if version not in VERSIONS:
        raise InvalidError(
            f"{path}: GGUF version {version} cannot be read",
            hint="give version 2 or 3, little-endian",
        )
    tensors = cursor.count(TENSORS_MAX, "tensors")
    keys = cursor.count(KEYS_MAX, "keys")
    fields = dict(_field(cursor) for _ in range(keys))
    infos = [_tensor_info(cursor) for _ in range(tensors)]
    start = _aligned(cursor.position, _alignment(fields, path))
    places = dict(_placed(info, start, cursor) for info in infos)
    if len(places) != tensors or len(fields) != keys:
        raise cursor.broken("holds a key or a tensor twice")
    return Header(fields=fields, tensors=places)


class _Cursor:
    """Takes bytes of a file in order, and never more than there are."""

    def __init__(self, file: BinaryIO, size_bytes: int, path: Path) -> None:
        self._file = file
        self.size_bytes = size_bytes
        self.path = path
        self.position = 0

    def broken(self, why: str) -> InvalidError:
        return InvalidError(f"{self.path}: {why}", hint=FETCH)

    def take(self, count: int) -> bytes:
        taken = self._file.read(count) if count <= self.size_bytes - self.position else b""
        if len(taken) != count:
            raise self.broken(f"ends at byte {self.size_bytes}, within its head")
        self.position += count
        return taken

    def unpack(self, form: str) -> tuple[Scalar, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def integer(self, form: str) -> int:
        return int(self.unpack(form)[0])

    def count(self, limit: int, what: str) -> int:
        found = self.integer("Q")
        if found > limit:
            raise self.broken(f"claims {found} {what}, {limit} is the most")
        return found

    def string(self) -> str:
        raw = self.take(self.count(STRING_MAX_BYTES, "bytes in a string"))
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(self.integer("I"))
        return self.unpack(self._form(kind))[0]

    def _array(self, kind: int) -> tuple[Scalar, ...]:
        length = self.count(ARRAY_MAX_ITEMS, "items in an array")
        if kind == _STRING:
            return tuple(self.string() for _ in range(length))
        return self.unpack(f"{length}{self._form(kind)}")

    def _form(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self.broken(f"holds a value of unknown type {kind}")
        return _SCALARS[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def _field(cursor: _Cursor) -> tuple[str, Value]:
    name = cursor.string()
    return name, cursor.value(cursor.integer("I"))


def _tensor_info(cursor: _Cursor) -> _Info:
    name = cursor.string()
    dims = cursor.integer("I")
    if not 1 <= dims <= 4:
        raise cursor.broken(f"tensor {name!r} has {dims} dimensions")
    inner_first = [int(size) for size in cursor.unpack(f"{dims}Q")]
    if 0 in inner_first:
        raise cursor.broken(f"tensor {name!r} is empty")
    return _Info(
        name=name,
        shape=tuple(reversed(inner_first)),
        kind=cursor.integer("I"),
        offset=cursor.integer("Q"),
    )


def _alignment(fields: Mapping[str, Value], path: Path) -> int:
    given = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(given, int) or not 0 < given <= ALIGNMENT_MAX:
        raise InvalidError(f"{path}: alignment {given!r} cannot be", hint=FETCH)
    return given


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _placed(info: _Info, start: int, cursor: _Cursor) -> tuple[str, TensorPlace]:
    try:
        kind = gguf.GGMLQuantizationType(info.kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise cursor.broken(f"tensor {info.name!r} has unknown type {info.kind}") from None
    if info.shape[-1] % block:
        raise cursor.broken(f"tensor {info.name!r}: rows of {info.shape[-1]} are no whole blocks")
    size_bytes = math.prod(info.shape) // block * block_bytes
    offset = start + info.offset
    if offset + size_bytes > cursor.size_bytes:
        raise cursor.broken(f"tensor {info.name!r} lies past the end of the file")
    place = TensorPlace(shape=info.shape, kind=kind, offset=offset, size_bytes=size_bytes)
    return info.name, place


def _instead(start: bytes) -> str:
    """Return what to do about a file that begins with START, nine bytes of it."""
    if start[8:9] == b"{":  # safetensors: the length of a JSON object, and that
        return "it is safetensors: give an adapter's folder as PEFT saved it, or convert a model"
    if start.startswith(b"version "):
        return "it is a pointer of Git LFS: fetch the file itself with `git lfs pull`"
    if start.lstrip().startswith(b"<"):
        return "it is a web page: log in where it came from, then fetch it again"
    return "give a file that begins with GGUF"
