"""Joins the data segments of a module that has very many, before it is compiled; pure.

The compiler writes all segments into one function, whose cost grows with the square of their
number: 27,000, which Go's linker makes of a program that prints a line, cost 10 s. Memory begins
with zeros, so segments that follow one another are one with zeros between them. What a guest sees
is the same, and the module keeps its hash: only the compiler gets the joined one.
"""

from typing import Final

from arsenale_mesh.sandbox.binary import MAGIC, Cursor, RefusedError

JOINED_FROM: Final = 10_000
"""Segments from which they are joined: with fewer a module compiles in the time it has."""

MOST_BYTES: Final = 16 << 20
"""Of joined data. A module has 4 MiB, and the rest are zeros that it left out."""

_DATA, _DATA_COUNT, _MEMORY = 11, 12, 5
_PAGE_BYTES = 65_536


def joined(module: bytes) -> bytes:
    """Return MODULE with its data segments joined, or as it is where that is not the same.

    It stays as it is with few segments, with segments that are copied at run time, that overlap or
    do not fit the memory it begins with.
    """
    try:
        return _joined(module)
    except RefusedError:
        return module


def _joined(module: bytes) -> bytes:
    cursor, pages = Cursor(module, len(MAGIC)), 0
    while not cursor.is_done:
        start = cursor.at
        number, part = cursor.byte(), cursor.part()
        if number == _DATA_COUNT:
            return module
        if number == _MEMORY:
            part.number()
            part.byte()
            pages = part.number()
        if number == _DATA:
            section = _section(part, pages * _PAGE_BYTES)
            return module if section is None else module[:start] + section + module[cursor.at :]
    return module


def _section(part: Cursor, memory_bytes: int) -> bytes | None:
    """Return the data section with one segment; nothing where it has to stay as it is."""
    count = part.number()
    if count <= JOINED_FROM:
        return None
    found: list[tuple[int, bytes]] = []
    for _ in range(count):
        if part.byte() != 0 or part.byte() != 0x41:  # active, at a constant
            return None
        at = _signed(part)
        if part.byte() != 0x0B:
            return None
        found.append((at, part.take(part.number())))
    found.sort(key=lambda one: one[0])
    first, data = found[0][0], bytearray()
    for at, piece in found:
        gap = at - first - len(data)
        if at < 0 or gap < 0 or len(data) + gap > MOST_BYTES:
            return None
        data += bytes(gap) + piece
    if first + len(data) > memory_bytes:
        return None
    body = b"\1\0\x41" + _leb(first, signed=True) + b"\x0b" + _leb(len(data)) + bytes(data)
    return bytes([_DATA]) + _leb(len(body)) + body


def _signed(part: Cursor) -> int:
    """Read a signed LEB128 number of 32 bits."""
    value = shift = 0
    while True:
        one = part.byte()
        value |= (one & 0x7F) << shift
        shift += 7
        if one < 0x80 or shift > 28:
            return value - (1 << shift) if one & 0x40 else value


def _leb(value: int, *, signed: bool = False) -> bytes:
    out = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        if value == 0 and not (signed and low & 0x40):
            return bytes([*out, low])
        out.append(low | 0x80)
