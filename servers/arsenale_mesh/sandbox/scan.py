"""What a module is, and whether it may be compiled at all; pure, and before any compiler sees it.

Compilation is not metered by the engine, and small modules can take minutes of it or gigabytes
(2,000 locals across 4,000 blocks: 3 s for 56 kB). So what is too large is refused here; what still
takes too long is ended by the CPU budget of the process that compiles.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from arsenale_mesh.sandbox import remedies
from arsenale_mesh.sandbox.binary import MAGIC, Cursor, RefusedError, malformed, unsupported
from arsenale_mesh.sandbox.opcodes import Looking

PAGE_BYTES: Final = 65_536
"""A page of linear memory."""

TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128",
                0x70: "funcref", 0x6F: "externref"}  # fmt: skip


COMPONENT: Final = b"\0asm\x0d\0\1\0"
"""What a component begins with."""

TAGS: Final = 13
"""The section of exceptions."""

_GC: Final = "garbage collection (GC)"
_GC_TYPES: Final = frozenset({0x4D, 0x4C, 0x4E, 0x4F, 0x50, 0x5E, 0x5F})
"""What a type begins with that is a struct, an array, a subtype or a group."""

_LIMITS: Final = {
    2: "threads (shared memory)",
    4: "memory64 (64-bit memories)",
    8: "custom page sizes",
}
"""Bits of the limits of a memory or table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a module may have at most. What clang makes of a large program stays far below."""

    size_bytes: int = 4 << 20
    functions: int = 10_000
    types: int = 1_000
    parameters: int = 128
    """Of one type, results included."""
    locals: int = 1_000
    """Of one function, without its parameters: they cost the register allocator most."""
    imports: int = 100
    exports: int = 1_000
    globals: int = 10_000
    tables: int = 4
    table_elements: int = 100_000
    segments: int = 100_000
    """Of data, and of elements. Go's linker makes 27,000 for a program that prints a line."""
    memory_bytes: int = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The type of a function."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a module is, as far as running it needs.

    Attributes:
        exports: Signatures of the functions it exports.
        memory: Whether it has a memory.
        exports_memory: Whether it exports it as `memory`.
        memory_bytes: What that has at the start.
        floats: Whether a float can occur, so that bits of NaN must be made canonical.
        code_bytes: Of all functions: what compiling is billed by.
    """

    exports: dict[str, Signature]
    memory: bool
    exports_memory: bool
    memory_bytes: int
    floats: bool
    code_bytes: int


def scan(
    module: bytes, imports: Mapping[tuple[str, str], str], bounds: Bounds | None = None
) -> Shape:
    """Return what MODULE is, if it imports only IMPORTS and stays in BOUNDS.

    Args:
        module: Its bytes.
        imports: By (module, name), the types of parameters as `imports.PARAMETERS` has them.
        bounds: What it may have at most.

    Raises:
        RefusedError: It does not, or is no module. Nothing else is raised, whatever the bytes.
    """
    reader = _Reader(imports=imports, bounds=bounds or Bounds())
    if len(module) > reader.bounds.size_bytes:
        raise too_large(module, reader.bounds.size_bytes)
    if module.startswith(COMPONENT):
        raise unsupported("the component model")
    if not module.startswith(MAGIC):
        raise malformed("it is not a core module of version 1")
    cursor, last = Cursor(module, len(MAGIC)), 0
    while not cursor.is_done:
        number, part = cursor.byte(), cursor.part()
        if number == 0:
            part.name()
            continue
        if number == TAGS:
            raise unsupported("exceptions")
        place = _ORDER.get(number, 0)
        if place <= last:
            raise malformed(f"section {number} is unknown, doubled or out of order")
        last = place
        _READ[number](reader, part)
    return reader.shape()


def too_large(module: bytes, most: int) -> RefusedError:
    """Return the error of a module of more than MOST bytes; it says what of it is not run."""
    hint = remedies.of_size(len(module), _custom_bytes(module))
    return RefusedError(
        "too_large", f"the module has {len(module):,} bytes, at most {most:,}", hint=hint
    )


def _custom_bytes(module: bytes) -> int:
    """Return how many bytes of MODULE lie in custom sections, as far as it can be read."""
    cursor, found = Cursor(module, len(MAGIC)), 0
    try:
        while not cursor.is_done:
            start = cursor.at
            number, _ = cursor.byte(), cursor.part()
            found += cursor.at - start if number == 0 else 0
    except RefusedError:
        pass
    return found


@dataclass(slots=True, kw_only=True)
class _Reader:
    """What has been read so far."""

    imports: Mapping[tuple[str, str], str]
    bounds: Bounds
    types: list[Signature] = field(default_factory=list[Signature])
    functions: list[int] = field(default_factory=list[int])
    imported: int = 0
    memories: int = 0
    pages: int = 0
    exported: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    bodies: int = 0
    look: Looking = field(default_factory=Looking)
    code_bytes: int = 0

    def shape(self) -> Shape:
        """Return what all of it comes to."""
        if self.bodies != len(self.functions) - self.imported:
            raise malformed("functions and their bodies differ in number")
        exports = {
            name: self._signature(index)
            for name, (kind, index) in self.exported.items()
            if kind == 0
        }
        return Shape(
            exports=exports,
            memory=self.memories > 0,
            exports_memory=self.exported.get("memory", (0, 0))[0] == 2,
            memory_bytes=self.pages * PAGE_BYTES,
            floats=self.look.floats,
            code_bytes=self.code_bytes,
        )

    def count(self, part: Cursor, most: int, what: str) -> int:
        """Read how many there are."""
        found = part.number()
        if found > most:
            raise RefusedError("too_large", f"the module has {found:,} {what}, at most {most:,}")
        if found > part.end - part.at:  # each takes a byte at least
            raise malformed(f"it cannot hold {found:,} {what}")
        return found

    def _signature(self, index: int) -> Signature:
        if index >= len(self.functions) or self.functions[index] >= len(self.types):
            raise malformed("an export names a function that is not there")
        return self.types[self.functions[index]]


def _types(reader: _Reader, part: Cursor) -> None:
    for _ in range(reader.count(part, reader.bounds.types, "types")):
        kind = part.byte()
        if kind in _GC_TYPES:
            raise unsupported(_GC)
        if kind != 0x60:
            raise malformed("a type is not a function's")
        parameters = _values(reader, part)
        reader.types.append(Signature(parameters=parameters, results=_values(reader, part)))
    part.finish("type")


def _values(reader: _Reader, part: Cursor) -> tuple[str, ...]:
    codes = part.take(reader.count(part, reader.bounds.parameters, "parameters"))
    return tuple(_value(code) for code in codes)


def _value(code: int) -> str:
    if code in TYPES:
        return TYPES[code]
    if code in (0x69, 0x74):
        raise unsupported("exceptions")
    if 0x63 <= code <= 0x73:
        raise unsupported(_GC)
    raise malformed("a value has an unknown type")


def _imports(reader: _Reader, part: Cursor) -> None:
    missing: list[str] = []
    for _ in range(reader.count(part, reader.bounds.imports, "imports")):
        name = (part.name(), part.name())
        said = f"{name[0][:60]}.{name[1][:60]}"
        kind = part.byte()
        if kind == 0:
            index = part.number()
            reader.functions.append(index)
            reader.imported += 1
            if name not in reader.imports:
                missing.append(said)
            elif not _fits(reader, index, name):
                missing.append(f"{said} (with other parameters than WASI's)")
        else:
            missing.append(f"{said} ({_skip(part, kind)})")
    if missing:
        refused = f"the module imports {remedies.listed(missing)}"
        raise RefusedError("refused_import", refused, hint=remedies.of_imports(missing))
    part.finish("import")


def _fits(reader: _Reader, index: int, name: tuple[str, str]) -> bool:
    """Say whether a function is imported with the type that the host gives it."""
    if index >= len(reader.types):
        return False
    wanted = tuple("i64" if one == "I" else "i32" for one in reader.imports[name])
    found = reader.types[index]
    results = () if name[1] == "proc_exit" else ("i32",)
    return (found.parameters, found.results) == (wanted, results)


def _skip(part: Cursor, kind: int) -> str:
    """Read the type of an import that is not a function, and return what it is."""
    if kind == 1:
        part.byte()
        _limits(part)
        return "a table"
    if kind == 2:
        _limits(part)
        return "a memory"
    if kind == 3:
        _value(part.byte())
        part.byte()
        return "a global"
    if kind == 4:
        raise unsupported("exceptions")
    raise malformed("an import is of an unknown kind")


def _limits(part: Cursor) -> None:
    kind = part.byte()
    bits = 64 if kind & 4 else 32
    part.number(bits)
    if kind & 1:
        part.number(bits)


def _functions(reader: _Reader, part: Cursor) -> None:
    count = reader.count(part, reader.bounds.functions, "functions")
    reader.functions += [part.number() for _ in range(count)]
    part.finish("function")


def _tables(reader: _Reader, part: Cursor) -> None:
    for _ in range(reader.count(part, reader.bounds.tables, "tables")):
        kind = part.byte()
        if kind not in (0x70, 0x6F):
            if kind == 0x40 or 0x63 <= kind <= 0x73:
                raise unsupported("typed function references")
            raise malformed("a table does not hold references")
        least = _least(part)
        if least > reader.bounds.table_elements:
            raise RefusedError("memory_limit", f"a table begins with {least:,} elements")
    part.finish("table")


def _memories(reader: _Reader, part: Cursor) -> None:
    reader.memories = reader.count(part, 100, "memories")
    if reader.memories > 1:
        raise unsupported(f"multiple memories ({reader.memories})", "too_large")
    for _ in range(reader.memories):
        reader.pages = _least(part)
        if reader.pages * PAGE_BYTES > reader.bounds.memory_bytes:
            size = reader.pages * PAGE_BYTES
            raise RefusedError("memory_limit", f"the memory begins with {size:,} bytes")
    part.finish("memory")


def _least(part: Cursor) -> int:
    """Read limits and return the lower one."""
    kind = part.byte()
    if kind > 15:
        raise malformed("a memory or table has unknown limits")
    for bit, feature in _LIMITS.items():
        if kind & bit:
            raise unsupported(feature)
    least = part.number()
    if kind and part.number() < least:
        raise malformed("a memory or table has less at most than at least")
    return least


def _globals(reader: _Reader, part: Cursor) -> None:
    reader.count(part, reader.bounds.globals, "globals")


def _exports(reader: _Reader, part: Cursor) -> None:
    for _ in range(reader.count(part, reader.bounds.exports, "exports")):
        name, kind, index = part.name(), part.byte(), part.number()
        if kind == 4:
            raise unsupported("exceptions")
        if name in reader.exported or kind > 3:
            raise malformed("an export is doubled or of an unknown kind")
        reader.exported[name] = (kind, index)
    part.finish("export")


def _start(reader: _Reader, part: Cursor) -> None:
    if part.number() >= len(reader.functions):
        raise malformed("the start function is not there")
    part.finish("start")


def _segments(reader: _Reader, part: Cursor) -> None:
    reader.count(part, reader.bounds.segments, "segments")


def _data_count(_reader: _Reader, part: Cursor) -> None:
    part.number()
    part.finish("data count")


def _code(reader: _Reader, part: Cursor) -> None:
    reader.bodies = reader.count(part, reader.bounds.functions, "functions")
    reader.code_bytes = part.end - part.at
    for _ in range(reader.bodies):
        body = part.part()
        _locals(reader, body)
        reader.look.at(body.data, body.at, body.end)
    part.finish("code")


def _locals(reader: _Reader, body: Cursor) -> None:
    total = 0
    for _ in range(reader.count(body, reader.bounds.locals, "groups of locals")):
        total += body.number()
        if total > reader.bounds.locals:
            raise RefusedError("too_large", f"a function has {total:,} locals")
        _value(body.byte())


_READ: Final[dict[int, Callable[[_Reader, Cursor], None]]] = {
    1: _types, 2: _imports, 3: _functions, 4: _tables, 5: _memories, 6: _globals, 7: _exports,
    8: _start, 9: _segments, 12: _data_count, 10: _code, 11: _segments,
}  # fmt: skip
_ORDER: Final = {number: place for place, number in enumerate(_READ, 1)}
"""The order in which sections stand: the data count's comes before the code's (§5.5.2)."""
