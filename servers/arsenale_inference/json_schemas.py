"""JSON schemas as llguidance enforces them: rewritten where that is exact, located where not. Pure.

Source: JSON Schema 2020-12; drafts 4 to 7 where a keyword has the same meaning.
"""

import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias, TypeGuard, cast
from urllib.parse import quote

from arsenale_core.errors import InvalidError

Schema: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str, ...]
"""Where a subschema stands: keys and indices from the root."""

MOST_LEVELS = 250
"""Keys and indices on the way to a subschema; llguidance reads about 128 levels of JSON."""

MOST_TRIED = 300
"""So many subschemas are compiled at most to find the one at fault, 0.3 to 1 ms each."""

MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose value has schemas by name."""

LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
SINGLE = frozenset(
    {
        "items", "additionalItems", "additionalProperties", "not", "if", "then", "else", "contains",
        "propertyNames", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords whose value is a schema; that of `items` may be a list of them."""

LARGEST_INTEGER = 2**53 - 1
"""Integers without bounds stay within it: every JSON parser reads them exactly (RFC 8259, 6)."""

LARGEST_INT32 = 2**31 - 1
"""The same for integers of the format int32."""

_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")

HINTS = frozenset({"password", "binary", "path", "file-path", "directory-path", "textarea"})
"""Values of `format` that tell a form how to show a text and exclude none."""

ANNOTATIONS = frozenset(
    {
        "title", "description", "default", "examples", "example", "deprecated", "readOnly",
        "writeOnly", "$comment", "$schema", "$id", "$anchor", "$defs", "definitions",
    }
)  # fmt: skip
"""Keywords that constrain nothing."""

OPEN_GAP = Decimal("1e-9")
"""Numbers closer than this to an open, whole bound are not generated."""

LARGEST_OPEN = 1_000_000
"""A gap of `OPEN_GAP` beside a larger bound would vanish in 64 bits."""


def children(schema: Schema) -> Iterator[tuple[Path, Any]]:
    """Give the subschemas of SCHEMA, each with its path from there."""
    for key, value in schema.items():
        if key in MAPS and isinstance(value, dict):
            for name, child in cast("Schema", value).items():
                yield (key, name), child
        elif (key in LISTS or key == "items") and isinstance(value, list):
            for index, child in enumerate(cast("list[Any]", value)):
                yield (key, str(index)), child
        elif key in SINGLE:
            yield (key,), value


def subschemas(schema: Any) -> Iterator[tuple[Path, Schema]]:
    """Give SCHEMA and all objects below it that are schemas, the outer ones first."""
    waiting: deque[tuple[Path, Any]] = deque([((), schema)])
    while waiting:
        place, found = waiting.popleft()
        if isinstance(found, dict):
            yield place, cast("Schema", found)
            steps = children(cast("Schema", found))
            waiting.extend((place + step, child) for step, child in steps)


def pointer(path: Sequence[str]) -> str:
    """Return PATH as a JSON pointer (RFC 6901) with `#` in front."""
    return "#" + "".join("/" + each.replace("~", "~0").replace("/", "~1") for each in path)


# ---------------------------------------------------------------- what is rewritten
def prepared(schema: Schema) -> Schema:
    """Return SCHEMA with what llguidance keeps wrong or refuses for no reason rewritten.

    Keywords that exclude nothing are left out. An object that lists its properties has no others
    unless the schema says so, and an integer has 16 digits at most: a model could go on without
    end otherwise, and what it writes fits the schema all the same. An open bound becomes a closed
    one `OPEN_GAP` further in where llguidance would let the bound itself through.

    Raises:
        InvalidError: It is nested too deeply, or asks for a number of properties that llguidance
            would count wrong.
    """
    found = [each for _, each in subschemas(schema)]
    bounds = {
        value for each in found for key in (*_LOWER, *_UPPER) if _is_number(value := each.get(key))
    }
    return _prepared(schema, (), _Whole(bounds=bounds, merges=any(map(_merges, found))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """What a subschema has to know of the whole: its bounds, and whether objects are merged."""

    bounds: Collection[float]
    merges: bool


def _merges(schema: Schema) -> bool:
    """Say whether SCHEMA makes one object of several descriptions; each then lacks some names."""
    parts = {"allOf", "anyOf", "oneOf", "$ref"} & schema.keys()
    every = schema.get("allOf")
    several = isinstance(every, list) and len(cast("list[Any]", every)) > 1
    return several or (bool(parts) and len(schema.keys() - ANNOTATIONS) > 1)


def _prepared(schema: Any, path: Path, whole: _Whole) -> Any:
    if len(path) > MOST_LEVELS:
        raise InvalidError(
            "the JSON schema is nested too deeply", hint="name inner parts under `$defs`"
        )
    if not isinstance(schema, dict):
        return schema
    given = cast("Schema", schema)
    kept = {key: value for key, value in given.items() if not _is_neutral(key, value, given)}
    _close_bounds(kept, whole.bounds)
    _bound_integers(kept)
    if not whole.merges:
        _close_object(kept)
    _check_count(kept, path)
    return _mapped(kept, lambda step, child: _prepared(child, path + step, whole))


def _mapped(schema: Schema, change: Callable[[Path, Any], Any]) -> Schema:
    """Return SCHEMA with each subschema as CHANGE gives it, from its path in there and itself."""

    def value_of(key: str, value: Any) -> Any:
        if key in MAPS and isinstance(value, dict):
            named = cast("Schema", value)
            return {name: change((key, name), child) for name, child in named.items()}
        if (key in LISTS or key == "items") and isinstance(value, list):
            listed = cast("list[Any]", value)
            return [change((key, str(i)), child) for i, child in enumerate(listed)]
        return change((key,), value) if key in SINGLE else value

    return {key: value_of(key, value) for key, value in schema.items()}


def _is_neutral(key: str, value: Any, schema: Schema) -> bool:
    """Say whether KEY excludes nothing in SCHEMA, or is an option of llguidance."""
    match key:
        case "x-guidance":
            return True
        case "uniqueItems":
            return value is False
        case "propertyNames":
            return value is True or value in ({}, {"type": "string"})
        case "unevaluatedProperties" | "unevaluatedItems":
            return value is True or value == {}
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return value == {}
        case "minContains" | "maxContains":
            return "contains" not in schema
        case "if":
            return "then" not in schema and "else" not in schema
        case "then" | "else":
            return "if" not in schema
        case "format":
            return value in HINTS if isinstance(value, str) else False
        case _:
            return False


def _check_count(schema: Schema, path: Path) -> None:
    """Refuse `minProperties` where llguidance would count a repeated name twice."""
    least, required = schema.get("minProperties"), schema.get("required")
    sure = len(set(map(str, cast("list[Any]", required)))) if isinstance(required, list) else 0
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if isinstance(least, int) and least > max(1, sure) and not closed:
        raise refusal(
            path, "minProperties", "names that repeat would count",
            hint="list the properties that must be there under `required`",
        )  # fmt: skip


def _close_bounds(schema: Schema, bounds: Collection[float]) -> None:
    """Make an open, whole bound a closed one where llguidance would let the bound itself through.

    It does so with 0 < x <= 0.25 and -1.5 <= x < -1: where the other bound, which may stand in
    another part of the schema, is less than 1 away. BOUNDS are all those of the schema.
    """
    for open_, closed, sign in (
        ("exclusiveMinimum", "minimum", 1),
        ("exclusiveMaximum", "maximum", -1),
    ):
        bound = schema.get(open_)
        if isinstance(bound, bool):  # draft 4: it says how the closed one is meant
            del schema[open_]
            bound = schema.pop(closed, None) if bound else None
            if _is_number(bound):
                schema[open_] = bound
        if not _is_number(bound) or bound != int(bound) or not 0 <= sign * bound <= LARGEST_OPEN:
            continue
        if not any(0 < sign * (other - bound) < 1 for other in bounds):
            continue
        inner, other = float(Decimal(int(bound)) + sign * OPEN_GAP), schema.get(closed)
        del schema[open_]
        if not _is_number(other) or sign * (inner - other) > 0:
            schema[closed] = inner


def _close_object(schema: Schema) -> None:
    """Let an object have the properties that are listed, where nothing is said of others."""
    named = schema.get("properties")
    if not isinstance(named, dict) or {"additionalProperties", "patternProperties"} & schema.keys():
        return
    required: Any = schema.get("required", [])
    if isinstance(required, list) and set(map(str, cast("list[Any]", required))) <= named.keys():
        schema["additionalProperties"] = False


def _bound_integers(schema: Schema) -> None:
    """Give integers bounds where there are none: a model can write digits without end."""
    kinds = schema.get("type")
    if kinds != "integer" and not (isinstance(kinds, list) and "integer" in kinds):
        return
    if isinstance(kinds, list) and "number" in kinds:
        return
    largest = LARGEST_INT32 if schema.get("format") == "int32" else LARGEST_INTEGER
    given = [value for key in (*_LOWER, *_UPPER) if _is_number(value := schema.get(key))]
    if any(abs(value) >= largest for value in given):
        return
    for names, bound in ((_LOWER, -largest), (_UPPER, largest)):
        if schema.keys().isdisjoint(names):
            schema[names[0]] = bound


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1000


# ---------------------------------------------------------------- several schemas in one
def with_definitions(
    make: Callable[[Sequence[Schema]], Schema], parts: Mapping[str, Any]
) -> Schema:
    """Return the schema that MAKE builds of references to PARTS, which become its `$defs`.

    References of a part to itself (`#/$defs/Address`, `#`) go on to mean that part.
    """
    found = make([{"$ref": f"#/$defs/{name}"} for name in parts])
    return {
        **found,
        "$defs": {name: _moved(part, f"#/$defs/{name}") for name, part in parts.items()},
    }


def _moved(schema: Any, place: str) -> Any:
    """Return SCHEMA with the references to its own root meaning PLACE."""
    if not isinstance(schema, dict):
        return schema
    moved = dict(cast("Schema", schema))
    if isinstance(moved.get("$id"), str):  # a document of its own: its references stay
        return moved
    target = moved.get("$ref")
    if isinstance(target, str) and (target == "#" or target.startswith("#/")):
        moved["$ref"] = place + target[1:]
    return _mapped(moved, lambda _, child: _moved(child, place))


def forced_call(tools: Sequence[tuple[str, Schema | None]]) -> Schema:
    """Return the schema of a call of one of TOOLS, each a name and the schema of its arguments."""
    parts: dict[str, Any] = {}
    for name, parameters in tools:
        key = re.sub(r"[^\w-]", "_", name, flags=re.ASCII) + ".arguments"
        while key in parts:
            key = f"_{key}"
        parts[key] = parameters or {"type": "object"}

    def call(name: str, arguments: Schema) -> Schema:
        return {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }

    def choice(references: Sequence[Schema]) -> Schema:
        names = [name for name, _ in tools]
        calls = [call(*each) for each in zip(names, references, strict=True)]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    return with_definitions(choice, parts)


# ---------------------------------------------------------------- what is refused
def refusal(path: Path, keyword: str, reason: str, *, hint: str = "") -> InvalidError:
    """Return the error for a KEYWORD of the subschema at PATH that cannot be enforced."""
    what = (
        f"`{keyword}` at {pointer((*path, keyword))}"
        if keyword
        else f"what stands at {pointer(path)}"
    )
    because = f" ({reason})" if reason else ""
    return InvalidError(
        f"the JSON schema cannot be enforced: {what}{because}",
        hint=hint
        or "leave it out, or say it with type, properties, required, items, enum or anyOf",
    )


def located(schema: Schema, fault: Callable[[Schema], str], said: str) -> InvalidError:
    """Return the error for a SCHEMA that is refused, with the keyword at fault and its path.

    Args:
        schema: It is refused.
        fault: Says why a schema is refused; empty when it is not.
        said: What `fault` says of SCHEMA.
    """
    named = set(re.findall(r"\w+", said))
    found = list(subschemas(schema))
    unfit = said.startswith(UNSATISFIABLE)  # then it names a property, else a keyword
    found.sort(key=lambda each: (named.isdisjoint(each[0] if unfit else each[1]), -len(each[0])))
    for path, sub in found[:MOST_TRIED]:
        here = fault(_alone(schema, path)).replace("/$defs/root", "") if path else said
        if here and (unfit or here == said):
            keyword = _keyword(schema, sub, fault, here)
            if keyword or not path:
                return refusal(path, keyword, plain(here))
    return refusal((), "", plain(said))


def _alone(root: Schema, path: Path) -> Schema:
    """Return the subschema of ROOT at PATH as a schema of its own; references go on to hold."""
    inner = with_definitions(lambda references: references[0], {"root": root})
    return {**inner, "$ref": "#/$defs/root" + quote(pointer(path)[1:], safe="/~")}


def _keyword(root: Schema, schema: Schema, fault: Callable[[Schema], str], said: str) -> str:
    """Return the keyword of SCHEMA that is at fault, empty where it is none of them alone."""
    context = {key: root[key] for key in ("$defs", "definitions") if key in root}
    place = {"type": schema["type"]} if "type" in schema else {}
    containers = MAPS | LISTS | SINGLE | {"type", "required"}
    keys = sorted(schema, key=lambda key: key in containers)
    for key in keys:
        if fault({**context, **place, key: schema[key]}) == said:
            return key
    for key in keys:
        rest = {name: value for name, value in schema.items() if name != key}
        if fault({**context, **rest}) != said:
            return key
    return ""


UNSATISFIABLE = "Unsatisfiable schema: "

_LIBRARY_WORDS = (
    (r"Unimplemented keys: .*", ""),
    (r"oneOf constraints are not supported\..*", "its options may overlap; use anyOf"),
    (r"Resource .* is not present in a registry.*", "other documents are not fetched"),
    (r"min/maxProperties only supported.*", "it needs every listed property to be required"),
    (UNSATISFIABLE, "no value fits: "),
    (r"(lookarounds not supported yet; )?Word\w+ in regex .*", r"\\b is not supported"),
)


def plain(said: str) -> str:
    """Return what llguidance says of a schema, without words that mean nothing to its author."""
    for pattern, words in _LIBRARY_WORDS:
        said = re.sub(f"^{pattern}", words, said)
    return said
