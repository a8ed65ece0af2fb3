"""Structured answers: which schemas are kept, and what a token costs beside llama.cpp's grammar.

    python benchmarks/bench_structured.py [--answers 20] [--tokens 400]

Answers are drawn at random among the allowed tokens of the tiny model, which is harsher than any
model, and checked with jsonschema. Costs are CPU time of one thread over a vocabulary of 32,000,
in turns: what llguidance takes for the mask of a token and to accept it; what llama.cpp's grammar
takes over all candidates; and over the one token that was drawn, which is how callers' own
grammars are followed.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from measuring import machine, verdict

from arsenale_core.errors import InvalidError
from arsenale_inference.engine import llama
from arsenale_inference.engine.constraints import Constraints, enforced
from arsenale_inference.engine.model import Model
from arsenale_inference.engine.testing import Shape, write_model
from arsenale_inference.json_schemas import forced_call
from arsenale_inference.tiny.card import BASE, FOLDER

VOCABULARY = 32_000
MOST_TOKENS = 300


def obj(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has PROPERTIES."""
    return {"type": "object", "properties": properties, "required": list(properties)}


TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}
REAL: dict[str, Any] = {"type": "number"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {"type": "object"},
    "texts": obj(a=TEXT, b=TEXT),
    "text of 3 to 5": obj(a={**TEXT, "minLength": 3, "maxLength": 5}),
    "integer 1 to 5": obj(a={**WHOLE, "minimum": 1, "maximum": 5}),
    "integer above -3": obj(a={**WHOLE, "exclusiveMinimum": -3}),
    "number 0 to 1": obj(a={**REAL, "minimum": 0, "maximum": 1}),
    "number in (0, 0.25]": obj(a={**REAL, "exclusiveMinimum": 0, "maximum": 0.25}),
    "number in (0, 1)": obj(a={**REAL, "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    "multiple of 5": obj(a={**WHOLE, "multipleOf": 5}),
    "enum": obj(a={"enum": ["red", "blue", 1, None]}),
    "enum of odd texts": {"enum": ["😀", 'a"b', "C:\\temp", "e\nf", "", "größe"]},
    "const": {"const": {"a": [1, "\n"]}},
    "nullable enum": obj(a={"type": ["string", "null"], "enum": ["a", None]}),
    "nullable text": obj(a={"type": ["string", "null"], "maxLength": 3}),
    "nullable object": obj(a={**obj(b=WHOLE), "type": ["object", "null"]}),
    "nullable list": obj(a={"type": ["array", "null"], "items": WHOLE}),
    "allOf of an enum": {
        **obj(a={"allOf": [{"$ref": "#/definitions/C"}], "default": "x"}),
        "definitions": {"C": {"enum": ["x", "y"]}},
    },
    "allOf of objects": {"allOf": [obj(a=WHOLE), obj(b={"type": "boolean"})]},
    "anyOf": {"anyOf": [obj(a=WHOLE), {"type": "null"}]},
    "discriminated oneOf": {"oneOf": [obj(k={"const": 1}, a=WHOLE), obj(k={"const": 2}, b=TEXT)]},
    "oneOf of types": {"oneOf": [TEXT, WHOLE]},
    "oneOf that overlaps": {"oneOf": [TEXT, {**TEXT, "maxLength": 3}]},
    "tuple": {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False, "minItems": 2},
    "prefix and rest": {"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}},
    "list of 2 to 3": {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 3},
    "two of anything": {"type": "array", "minItems": 2, "maxItems": 2},
    "uniqueItems": obj(a={"type": "array", "uniqueItems": True, "items": WHOLE}),
    "contains": obj(a={"type": "array", "contains": {"const": 1}}),
    "patternProperties": {
        "type": "object", "patternProperties": {"^x_": WHOLE}, "additionalProperties": False,
    },
    "additionalProperties": {"type": "object", "additionalProperties": WHOLE},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "propertyNames of zod": {"type": "object", "propertyNames": TEXT},
    "minProperties 1": {"type": "object", "minProperties": 1},
    "minProperties 2": {"type": "object", "minProperties": 2},
    "date": obj(a={**TEXT, "format": "date"}),
    "date-time": obj(a={**TEXT, "format": "date-time"}),
    "e-mail": obj(a={**TEXT, "format": "email"}),
    "IPv4": obj(a={**TEXT, "format": "ipv4"}),
    "UUID": obj(a={**TEXT, "format": "uuid"}),
    "unknown format": obj(a={**TEXT, "format": "color"}),
    "pattern": obj(a={**TEXT, "pattern": r"^\d{4}-[\w-]+$"}),
    "pattern with numbers": obj(a={**TEXT, "pattern": "^(2024|2025)$"}),
    "pattern without anchors": obj(a={**TEXT, "pattern": "[a-z]+"}),
    "look-ahead": obj(a={**TEXT, "pattern": "(?=a)b"}),
    "not": obj(a={**WHOLE, "not": {"const": 1}}),
    "if and then": {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "recursive definition": {
        "$ref": "#/$defs/T",
        "$defs": {"T": obj(k={"type": "array", "items": {"$ref": "#/$defs/T"}, "maxItems": 1})},
    },
    "definition called date": {
        **obj(a={"$ref": "#/$defs/date"}), "$defs": {"date": {**WHOLE, "maximum": 3}},
    },
    "untyped": obj(a={"description": "anything"}, b=True),
    "call of a tool with $defs": forced_call(
        [("save", {**obj(a={"$ref": "#/$defs/A"}), "$defs": {"A": obj(b=WHOLE)}}), ("f", None)]
    ),
}  # fmt: skip

SPOKEN = obj(city={**TEXT, "maxLength": 200}, n={**WHOLE, "minimum": 0})
"""What the costs are measured on, and the same as a grammar."""

GRAMMAR = r"""
root ::= "{\"city\": \"" char{0,200} "\", \"n\": " ("0" | [1-9] [0-9]{0,15}) "}"
char ::= [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4})
"""


def drawn(model: Model, constraints: Constraints, schema: dict[str, Any], seed: int) -> str | None:
    """Return an answer of tokens at random among the allowed ones; None when it is cut off."""
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


def fault(model: Model, constraints: Constraints, schema: dict[str, Any], answers: int) -> str:
    """Return `kept`, `rejected` with its reason, or `broken` with an answer that does not fit."""
    form = jsonschema.Draft202012Validator.FORMAT_CHECKER
    valid = jsonschema.Draft202012Validator(schema, format_checker=form)
    for seed in range(answers):
        try:
            said = drawn(model, constraints, schema, seed)
        except InvalidError as exc:
            return f"rejected: {exc.what.partition(': ')[2]}"
        try:
            if said is not None:
                valid.validate(json.loads(said))  # pyright: ignore[reportUnknownMemberType]
        except (ValueError, jsonschema.ValidationError):
            return f"broken: {said}"
    return "kept"


def words(count: int) -> list[str]:
    """Return COUNT different words as a vocabulary has them, some behind a blank."""
    chance, found = random.Random(1), {"Ġ": None}
    while len(found) < count:
        word = "".join(chance.choices("etaoinshrdlucmfwypvbgkjqxz", k=chance.randint(2, 9)))
        found[("Ġ" if chance.random() < 0.6 else "") + word] = None
    return list(found)


def spoken(model: Model, constraints: Constraints, most: int) -> list[int]:
    """Return the tokens of an answer to SPOKEN, drawn at random."""
    chance, constraint = random.Random(3), enforced(SPOKEN, constraints)
    said: list[int] = []
    while len(said) < most:
        token = int(chance.choice(constraint.allowed()))
        if model.ends(token):
            break
        constraint.accept(token)
        said.append(token)
    return said


def by_llguidance(constraints: Constraints, said: list[int]) -> float:
    """Return microseconds of CPU a token."""
    constraint = enforced(SPOKEN, constraints)
    began_s = time.process_time()
    for token in said:
        constraint.allowed()
        constraint.accept(token)
    return (time.process_time() - began_s) / len(said) * 1e6


def by_grammar(model: Model, said: list[int], *, one: bool) -> float:
    """Return the same for llama.cpp's grammar over all candidates, or over ONE."""
    chain = llama.sampler_chain()
    assert llama.add_sampler(chain, "grammar", model.vocabulary, GRAMMAR.encode(), b"root")
    candidates = np.zeros(1 if one else model.info.n_vocab, llama.TOKEN_DATA)
    ids = np.arange(model.info.n_vocab, dtype=np.int32)
    began_s = time.process_time()
    for token in said:
        candidates["id"] = token if one else ids
        candidates["logit"] = 0
        llama.sample(chain, candidates)
        llama.accept(chain, token)
    spent_s = time.process_time() - began_s
    llama.free_sampler(chain)
    return spent_s / len(said) * 1e6


def measure_costs(tokens: int, rounds: int = 3) -> None:
    """Print what a token costs."""
    shape = Shape(d=64, blocks=1, heads=4, kv_heads=2, ff=96, vocab=VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "words.gguf", shape, words=words(VOCABULARY - 200))
        model = Model.load(path)
        constraints = Constraints(model)
        began_s = time.process_time()
        said = spoken(model, constraints, tokens)
        print(f"the first constrained request: {time.process_time() - began_s:.2f} s of CPU")
        ways: dict[str, Callable[[], float]] = {
            "llguidance": lambda: by_llguidance(constraints, said),
            "llama.cpp's grammar, all candidates": lambda: by_grammar(model, said, one=False),
            "llama.cpp's grammar, the drawn token": lambda: by_grammar(model, said, one=True),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
        median = {name: statistics.median(values) for name, values in found.items()}
        for name, value in median.items():
            print(f"{name}: {value:,.0f} us a token ({len(said)} tokens, {VOCABULARY:,} words)")
        ours, theirs, _ = median.values()
        verdict("cost of a token / llama.cpp's grammar", ours / theirs, 0.1)
        model.close()


def main() -> None:
    """Print which schemas are kept, and the costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--answers", type=int, default=20, help="answers drawn for each schema")
    parser.add_argument("--tokens", type=int, default=120, help="tokens that are timed")
    options = parser.parse_args()
    print(machine())
    llama.start()
    model = Model.load(FOLDER / BASE)
    constraints = Constraints(model)
    found = {
        name: fault(model, constraints, schema, options.answers) for name, schema in SCHEMAS.items()
    }
    for name, what in found.items():
        if what != "kept":
            print(f"  {name}: {what}")
    kept = sum(what == "kept" for what in found.values())
    broken = sum(what.startswith("broken") for what in found.values())
    print(f"{len(found)} schemas: {kept} kept, {len(found) - kept - broken} rejected by name")
    verdict("broken schemas", broken, 0)
    measure_costs(options.tokens)


if __name__ == "__main__":
    main()
