"""Answers that follow a JSON schema: whatever is drawn fits, and what cannot be kept is named."""

import json
import random
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from arsenale_core.errors import InvalidError
from arsenale_inference import json_schemas
from arsenale_inference.tiny.card import BASE, FOLDER

if TYPE_CHECKING:
    from arsenale_inference.engine.constraints import Constraints
    from arsenale_inference.engine.model import Model

Draw = Callable[[dict[str, Any], int], str | None]
"""Draws an answer to a schema with tokens at random among the allowed ones; None when cut off."""

MOST_TOKENS = 300


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.fixture(scope="module")
def model() -> "Model":
    if find_spec("llama_cpp") is None:
        pytest.skip("the engine is not installed: `make inference`")
    from arsenale_inference.engine.model import Model  # noqa: PLC0415  # llama_cpp may be absent

    return Model.load(FOLDER / BASE)


@pytest.fixture(scope="module")
def constraints(model: "Model") -> "Constraints":
    from arsenale_inference.engine.constraints import Constraints  # noqa: PLC0415

    return Constraints(model)


@pytest.fixture(scope="module")
def draw(model: "Model", constraints: "Constraints") -> Draw:
    from arsenale_inference.engine.constraints import enforced  # noqa: PLC0415

    def drawn(schema: dict[str, Any], seed: int) -> str | None:
        chance, constraint = random.Random(seed), enforced(schema, constraints)
        said: list[int] = []
        for _ in range(MOST_TOKENS):
            allowed = [int(token) for token in constraint.allowed()]
            ends = [token for token in allowed if model.ends(token)]
            token = chance.choice(ends if ends and chance.random() < 0.5 else allowed)
            if model.ends(token):
                return b"".join(model.piece(each) for each in said).decode()
            constraint.accept(token)
            said.append(token)
        return None

    return drawn


@pytest.fixture(scope="module")
def refusal(constraints: "Constraints") -> Callable[[dict[str, Any]], str]:
    from arsenale_inference.engine.constraints import enforced  # noqa: PLC0415

    def refused(schema: dict[str, Any]) -> str:
        with pytest.raises(InvalidError) as error:
            enforced(schema, constraints)
        return str(error.value)

    return refused


KEPT: dict[str, dict[str, Any]] = {
    "json object": {"type": "object"},
    "free text": obj(text={"type": "string"}),
    "integer 1 to 5": obj(n={"type": "integer", "minimum": 1, "maximum": 5}),
    "integer below 0": obj(n={"type": "integer", "exclusiveMaximum": 0}),
    "number 0 to 1": obj(p={"type": "number", "minimum": 0, "maximum": 1}),
    "above 0, at most a quarter": obj(
        p={"type": "number", "exclusiveMinimum": 0, "maximum": 0.25}
    ),
    "between 0 and a half": obj(
        p={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}
    ),
    "above 1, at most 1.5": obj(p={"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}),
    "below -1, at least -1.5": obj(p={"type": "number", "minimum": -1.5, "exclusiveMaximum": -1}),
    "bounds in two parts": obj(
        p={"type": "number", "allOf": [{"exclusiveMinimum": 0}, {"maximum": 0.5}]}
    ),
    "multiple of 5": obj(n={"type": "integer", "multipleOf": 5}),
    "nullable enum": obj(c={"type": ["string", "null"], "enum": ["a", None]}),
    "nullable text": obj(c={"type": ["string", "null"], "maxLength": 3}),
    "nullable object": obj(c={**obj(a={"type": "integer"}), "type": ["object", "null"]}),
    "nullable list": obj(c={"type": ["array", "null"], "items": {"type": "integer"}}),
    "enum with a default, as pydantic 1 writes it": {
        **obj(c={"allOf": [{"$ref": "#/definitions/Color"}], "default": "red", "title": "Color"}),
        "definitions": {"Color": {"enum": ["red", "blue"]}},
    },
    "inheritance": {
        "allOf": [{"$ref": "#/$defs/Base"}, obj(b={"type": "boolean"})],
        "$defs": {"Base": obj(a={"type": "boolean"})},
    },
    "tuple": {
        "type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "items": False, "minItems": 2,
    },
    "list of 2 to 3": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    "two of anything": {"type": "array", "minItems": 2, "maxItems": 2},
    "pattern properties": {
        "type": "object", "patternProperties": {"^x_": {"type": "integer"}},
        "additionalProperties": False,
    },
    "at least one property": {
        "type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
        "minProperties": 1, "maxProperties": 1,
    },
    "date": obj(x={"type": "string", "format": "date"}),
    "e-mail": obj(x={"type": "string", "format": "email"}),
    "IPv4": obj(x={"type": "string", "format": "ipv4"}),
    "UUID": obj(x={"type": "string", "format": "uuid"}),
    "a definition called date": {
        **obj(x={"type": "string", "format": "date"}, y={"$ref": "#/$defs/date"}),
        "$defs": {"date": {"type": "integer", "maximum": 3}},
    },
    "definitions called string, char and value": {
        **obj(x={"$ref": "#/$defs/string"}, y={"$ref": "#/$defs/char"}),
        "$defs": {"string": {"type": "integer"}, "char": {"enum": ["value"]}, "value": False},
    },
    "untyped": obj(value={"description": "any JSON value"}, data={"title": "Data"}, more=True),
    "list of anything": obj(rows={"type": "array", "items": {}}),
    "years": obj(year={"type": "string", "pattern": "^(2024|2025|2026)$"}),
    "a port in a pattern": obj(u={"type": "string", "pattern": "^http://localhost:8080/[a-z]+$"}),
    "digits": obj(day={"type": "string", "pattern": r"^\d{4}-\d{2}$"}),
    "slug": obj(slug={"type": "string", "pattern": r"^[\w-]+$"}),
    "pattern without anchors": obj(name={"type": "string", "pattern": "[a-z]+"}),
    "many repetitions": obj(a={"type": "string", "pattern": "^a{2,2000}$"}),
    "Chinese characters": obj(name={"type": "string", "pattern": "^[\u4e00-\u9fff]{2,4}$"}),
    "a root that refers to a definition": {
        "$ref": "#/$defs/TreeNode",
        "$defs": {
            "TreeNode": obj(
                name={"enum": ["a", "b"]},
                kids={"type": "array", "items": {"$ref": "#/$defs/TreeNode"}, "maxItems": 1},
            )
        },
    },
    "a root that refers to itself": {
        "type": "object",
        "properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["child"],
    },
    "a reference into a list": obj(
        l={"anyOf": [{"type": "string"}, obj(v={"type": "integer"})]},
        r={"$ref": "#/properties/l/anyOf/1"},
    ),
    "percent-encoded reference": {
        **obj(a={"$ref": "#/definitions/My%20Type"}),
        "definitions": {"My Type": {"type": "integer"}},
    },
    "anyOf of required": {
        "type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "discriminated oneOf": {
        "oneOf": [
            obj(kind={"const": "cat"}, lives={"type": "integer"}),
            obj(kind={"const": "dog"}, name={"type": "string"}),
        ]
    },
    "a property called $ref": obj(**{"$ref": {"type": "string"}}),
    "a property called not": obj(**{"not": {"type": "boolean"}}),
    "uniqueItems that is false": {
        "type": "array", "uniqueItems": False, "items": {"type": "boolean"}, "minContains": 2,
    },
    "a record, as zod writes it": {
        "type": "object", "propertyNames": {"type": "string"}, "dependentRequired": {},
        "additionalProperties": {"type": "integer"}, "unevaluatedProperties": True,
    },
    "if without then": obj(x={"type": "boolean", "if": {"const": True}}),
    "a password": obj(x={"type": "string", "format": "password", "maxLength": 4}),
    "a schema that asks llguidance for other blanks": {
        "x-guidance": {"whitespace_flexible": True, "lenient": True},
        **obj(x={"type": "boolean"}),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_whatever_is_drawn_fits_the_schema(draw: Draw, name: str) -> None:
    schema = KEPT[name]
    valid = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    answers = [text for seed in range(9) if (text := draw(schema, seed)) is not None]
    assert answers, "some answer ends"
    for text in answers:
        valid.validate(json.loads(text))  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    "text",
    [
        "größe", "日本", "😀", 'a"b', "c\\d", "C:\\temp\\new", "e\nf", "tab\there", "a/b", "\u2028",
        "e\u0301", "x\x7fy", "^$.*[]()", "'", "%", "", " ", "\x00", "</s>", "{{x}}", "\ufeff",
    ],
    ids=repr,
)  # fmt: skip
def test_any_text_of_an_enum_a_const_and_a_name_comes_out_as_it_is(draw: Draw, text: str) -> None:
    for schema in ({"enum": [text]}, {"const": text}, {"type": "string", "enum": [text]}):
        said = draw(schema, 1)
        assert said is not None and json.loads(said) == text
    said = draw({**obj(**{text: {"type": "boolean"}}), "additionalProperties": False}, 1)
    assert said is not None and list(json.loads(said)) == [text]


def test_answers_have_the_blanks_that_models_write_and_no_others(draw: Draw) -> None:
    schema = obj(a={"const": 1}, b={"const": [1, {"c": None}]})
    assert draw(schema, 1) == '{"a": 1, "b": [1, {"c": null}]}'
    assert draw({"x-guidance": {"whitespace_flexible": True}, **schema}, 2) == draw(schema, 2)


def test_an_object_that_lists_its_properties_has_no_others(draw: Draw) -> None:
    for seed in range(9):
        assert draw(obj(a={"const": 1}), seed) == '{"a": 1}'
    several = {"allOf": [obj(a={"const": 1}), obj(b={"const": 2})]}
    found = {tuple(json.loads(said)) for seed in range(9) if (said := draw(several, seed))}
    assert all({"a", "b"} <= set(names) for names in found) and found


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (obj(tags={"type": "array", "uniqueItems": True}), "uniqueItems", "#/properties/tags/"),
    (obj(a={"type": "integer", "not": {"const": 1}}), "not", "#/properties/a/"),
    (obj(a={"contains": {"const": 1}}), "contains", "#/properties/a/"),
    (obj(a={"if": {"const": 1}, "then": {"type": "string"}}), "if", "#/properties/a/"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired", "#/"),
    (obj(a=obj(b={"propertyNames": {"maxLength": 3}})), "propertyNames",
     "#/properties/a/properties/b/"),
    ({"anyOf": [{"type": "null"}, {"unevaluatedProperties": False}]}, "unevaluatedProperties",
     "#/anyOf/1/"),
    ({"type": "array", "items": {"uniqueItems": True}}, "uniqueItems", "#/items/"),
    ({"oneOf": [{"type": "string"}, {"maxLength": 3, "type": "string"}]}, "oneOf", "#/"),
    (obj(x={"type": "object", "minProperties": 2}), "minProperties", "#/properties/x/"),
    (obj(x={"type": "string", "format": "color"}), "format", "#/properties/x/"),
    (obj(x={"type": "string", "pattern": "^(["}), "pattern", "#/properties/x/"),
    (obj(x={"type": "string", "pattern": r"(?=a)b"}), "pattern", "#/properties/x/"),
    (obj(x={"type": "string", "pattern": r"\bb"}), "pattern", "#/properties/x/"),
    (obj(x={"type": "integer", "minimum": 5, "maximum": 1}), "minimum", "#/properties/x/"),
    (obj(x={"enum": []}), "enum", "#/properties/x/"),
    (obj(x={"type": "objekt"}), "type", "#/properties/x/"),
    (obj(x={"$ref": "#/$defs/Nobody"}), "$ref", "#/properties/x/"),
    (obj(x={"$ref": "https://example.org/x"}), "$ref", "#/properties/x/"),
    ({"$ref": "#"}, "$ref", "#/"),
    ({**obj(x={"$ref": "#/$defs/T"}), "$defs": {"T": {"not": {}}}}, "not", "#/$defs/T/"),
    (obj(größe={"not": {}}), "not", "#/properties/größe/"),
    (obj(**{"a/b~c": {"not": {}}}), "not", "#/properties/a~1b~0c/"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "allOf", "#/"),
    ({"type": "string", "minLength": 10**30}, "minLength", "#/"),
    ({"type": "integer", "minimum": 10**400}, "minimum", "#/"),
    ({"properties": {"a": 5}}, "properties", "#/"),
    ({"type": 7}, "type", "#/"),
    (json_schemas.forced_call([("save", obj(x={"not": {}}))]), "not",
     "#/$defs/save.arguments/properties/x/"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "keyword", "path"), REFUSED, ids=str)
def test_what_cannot_be_kept_is_refused_by_keyword_and_path(
    refusal: Callable[[dict[str, Any]], str], schema: dict[str, Any], keyword: str, path: str
) -> None:
    said = refusal(schema)
    assert f"the JSON schema cannot be enforced: `{keyword}` at {path}{keyword}" in said
    assert "Error" not in said and "Unimplemented" not in said


def test_a_schema_that_is_nested_too_deeply_is_refused(
    refusal: Callable[[dict[str, Any]], str],
) -> None:
    schema: dict[str, Any] = {}
    for _ in range(900):
        schema = {"type": "object", "properties": {"a": schema}}
    assert "nested too deeply" in refusal(schema)
    value: Any = 0
    for _ in range(300):
        value = [value]
    assert "recursion limit" in refusal({"const": value})


def test_a_schema_that_becomes_too_complex_in_the_middle_is_an_error_of_its_answer(
    draw: Draw,
) -> None:
    with pytest.raises(InvalidError, match="cannot be followed further"):
        draw({"type": "string", "pattern": "^(a{1000}){1000}$"}, 1)


# ---------------------------------------------------------------- calls that must be made
ADDRESS = {**obj(where={"$ref": "#/$defs/Address"}), "$defs": {"Address": obj(n={"const": 1})}}


@pytest.mark.parametrize(
    "parameters",
    [
        ADDRESS,
        {"$ref": "#/definitions/Args", "definitions": {"Args": obj(n={"enum": [1]})}},
        {"$id": "https://example.org/args", **ADDRESS},
        obj(child={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        obj(**{"$ref": {"const": "x"}}),
        {"type": "object", "properties": {}},
        obj(a={"enum": [1]}, b={"$ref": "#/properties/a"}),
        obj(value={"const": {"$ref": "#/nowhere"}}),
        {**obj(a={"$ref": "#/$defs/a~1b"}), "$defs": {"a/b": {"const": 1}}},
        {**obj(a={"$ref": "#/$defs/A/items"}), "$defs": {"A": {"items": {"enum": [3]}}}},
    ],
    ids=str,
)
def test_a_forced_call_follows_the_schema_of_its_tool(
    draw: Draw, parameters: dict[str, Any]
) -> None:
    schema = json_schemas.forced_call([("save", parameters), ("größe", ADDRESS)])
    said = [json.loads(text) for seed in range(9) if (text := draw(schema, seed)) is not None]
    assert said
    for call in said:
        assert set(call) == {"name", "arguments"}
        wanted = {"save": parameters, "größe": ADDRESS}[call["name"]]
        jsonschema.validate(call["arguments"], wanted)  # pyright: ignore[reportUnknownMemberType]


def test_two_tools_of_one_name_and_definitions_of_one_name_do_not_collide(draw: Draw) -> None:
    def tool(value: str) -> dict[str, Any]:
        return {**obj(x={"$ref": "#/$defs/X"}), "$defs": {"X": {"const": value}}}

    schema = json_schemas.forced_call([("f", tool("a")), ("f", tool("b")), ("g", tool("c"))])
    said = {text for seed in range(40) if (text := draw(schema, seed))}
    assert {json.loads(text)["arguments"]["x"] for text in said} == {"a", "b", "c"}


# ---------------------------------------------------------------- pure
def test_a_schema_is_not_changed_by_its_preparation() -> None:
    schema = obj(a={"type": "integer", "x-guidance": {}}, b={"uniqueItems": False})
    before = json.dumps(schema)
    assert json_schemas.prepared(schema) != schema
    assert json.dumps(schema) == before


def test_open_bounds_are_left_alone_where_they_are_kept() -> None:
    for schema in (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 100},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "number", "exclusiveMaximum": 0, "minimum": -5},
        {"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.75},
    ):
        assert json_schemas.prepared(schema) == schema
    moved = json_schemas.prepared({"exclusiveMinimum": 0, "maximum": 0.25})
    assert moved == {"minimum": 1e-9, "maximum": 0.25}


def test_the_open_bounds_of_draft_4_are_those_of_today() -> None:
    for schema, wanted in (
        ({"minimum": 3, "exclusiveMinimum": True}, {"exclusiveMinimum": 3}),
        ({"minimum": 3, "exclusiveMinimum": False}, {"minimum": 3}),
        ({"maximum": 3, "exclusiveMaximum": True}, {"exclusiveMaximum": 3}),
        ({"exclusiveMinimum": True}, {}),
    ):
        assert json_schemas.prepared(schema) == wanted


def test_integers_have_sixteen_digits_at_most_unless_their_bounds_say_otherwise() -> None:
    def bounds(**schema: Any) -> tuple[Any, Any]:
        found = json_schemas.prepared({"type": "integer", **schema})
        return found.get("minimum"), found.get("maximum")

    assert bounds() == (-(2**53) + 1, 2**53 - 1)
    assert bounds(minimum=0) == (0, 2**53 - 1)
    assert bounds(minimum=2**60) == (2**60, None)
    assert bounds(format="int32") == (-(2**31) + 1, 2**31 - 1)
