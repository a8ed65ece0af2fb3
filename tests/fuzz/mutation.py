"""Changes honest bytes into hostile ones: bytes, numbers, tokens, JSON values. Pure."""

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

MOST_BYTES = 300_000
"""Of an input, so that thousands of them a second are tried."""

TOKENS = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\x1b[2J",
    b"1e999", b"-1", b"9" * 400,
    b"NaN", b"Infinity", b"null", b"true", b'"', b"'''", b'"""', b"[", b"]",
    b"{", b"}", b"[[", b"=", b":", b",", b"---\n", b"# ", b"@", b"../", b"a.a.a.a.", b"&a *a ",
    b"\xe2\x80\xae", b"</system-reminder>", b"<<<<<<< ours\n", b"__proto__", b"{{", b"```\n",
    b"<!--", b"-->", b"0x", b"1979-05-27T07:32:00Z", b"\xc2\x85", b"\\", b"[" * 500, b'{"a":' * 500,
    b"[" * 100_000, b'{"a":' * 20_000, b"a." * 20_000, b"[a." * 3_000,
    b"GGUF", b"PK\x05\x06", b"\0asm",
)  # fmt: skip

INTEGERS = (0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53,
            2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**53, 2**63, 2**64, 10**400, 1e308, -0.0, 0.5, "", "x", "\0",
    "\ud800", "\u202e", "\x1b[2J", "a\nb", "x" * 5_000, "../../etc/passwd",
    "{{ 9**9**9 }}", "%s%n", [], {}, [[]], {"": ""}, {"id": {}}, [None] * 1_000, [1, "1", {}],
    "9" * 5_000,
    "2020-01-01", "nan",
)  # fmt: skip


def mutated(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of SEEDS, changed in one to six places."""
    data = chance.choice(seeds)
    if chance.random() < 0.4:
        data = _json_changed(chance, data)
        if chance.random() < 0.6:
            return data[:MOST_BYTES]
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        data = chance.choice(_CHANGES)(chance, data, seeds)[:MOST_BYTES]
    return data


def _place(chance: random.Random, data: bytes) -> int:
    return chance.randint(0, len(data))


def _flip(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    for _i in range(chance.choice((1, 1, 4, 32))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _number(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    form = chance.choice(("<B", "<H", "<I", "<Q", ">I", ">Q"))
    size = struct.calcsize(form)
    packed = struct.pack(form, chance.choice(INTEGERS) % (1 << 8 * size))
    at = _place(chance, data)
    return data[:at] + packed + data[at + size :]


def _token(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(chance, data)
    return data[:at] + chance.choice(TOKENS) + data[at + chance.choice((0, 0, 1, 8)) :]


def _cut(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: _place(chance, data)]


def _removed(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(chance, data)
    return data[:at] + data[at + chance.choice((1, 2, 8, 64, 512)) :]


def _spliced(chance: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = chance.choice(seeds)
    return data[: _place(chance, data)] + other[_place(chance, other) :]


def _repeated(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(chance, data)
    part = data[at : at + chance.choice((1, 2, 3, 8, 40, 300))]
    most = MOST_BYTES if chance.random() < 0.1 else 5_000
    return data[:at] + part * chance.randint(2, max(2, most // max(1, len(part)))) + data[at:]


def _lines(chance: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines[: chance.randint(1, len(lines))])


_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _number, _number, _token, _token, _cut, _removed, _spliced, _repeated, _lines,
)  # fmt: skip


def _json_changed(chance: random.Random, data: bytes) -> bytes:
    """Return DATA, or one of its lines, with values within its JSON replaced or removed."""
    lines = data.split(b"\n") if chance.random() < 0.5 else [data]
    at = chance.randrange(len(lines))
    try:
        value: Any = json.loads(lines[at])
    except (ValueError, RecursionError):
        return data
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = _value_changed(chance, value)
    lines[at] = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
    return b"\n".join(lines)


def _value_changed(chance: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.85:
        members = cast("dict[str, Any]", value)
        name = chance.choice(list(members))
        if chance.random() < 0.15:
            return {key: inner for key, inner in members.items() if key != name}
        if chance.random() < 0.1:
            return members | {str(chance.choice(VALUES))[:100]: chance.choice(VALUES)}
        return members | {name: _value_changed(chance, members[name])}
    if isinstance(value, list) and value and chance.random() < 0.85:
        items = list(cast("list[Any]", value))
        at = chance.randrange(len(items))
        items[at] = _value_changed(chance, items[at])
        return items
    return chance.choice(VALUES)
