"""From a request to the tokens of its prompt and the grammar of its answer."""

import datetime
import json
import re
from functools import cache
from typing import Any, cast

import jinja2
import jinja2.sandbox
import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Generate

LONGEST_PROMPT_CHARS = 8_000_000
"""A rendered prompt longer than this is refused before it is cut into tokens."""

MOST_REPEATED = 1_000
"""A count in a JSON schema becomes a rule as long as it; 10**9 took all memory."""

DEEPEST_GRAMMAR = 500
"""llama.cpp's parser of grammars takes 10,000 and more; 200,000 crashed it."""

_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})


def tokens_of(model: Model, request: Generate) -> NDArray[np.int32]:
    """Return the prompt of REQUEST, shape `(n,)`, `n >= 1`.

    Raises:
        InvalidError: The model has no chat template, or it refuses the messages; the prompt is
            empty, too long, or has a token that does not exist.
    """
    if request.tokens is not None:
        found = _checked(model, np.array(request.tokens, np.int64))
    elif request.text is not None:
        _check_size(request.text)
        found = model.tokenize(request.text, start=True, special=True)
    else:
        found = model.tokenize(_rendered(model, request), start=False, special=True)
    if not len(found):
        raise InvalidError("the prompt is empty", hint="give at least one token")
    return found


def _checked(model: Model, tokens: NDArray[np.int64]) -> NDArray[np.int32]:
    wrong = tokens[(tokens < 0) | (tokens >= model.info.n_vocab)]
    if len(wrong):
        raise InvalidError(
            f"the prompt has the token {wrong[0]}",
            hint=f"tokens of this model are 0 to {model.info.n_vocab - 1}",
        )
    return tokens.astype(np.int32)


def _rendered(model: Model, request: Generate) -> str:
    template = model.info.chat_template
    if template is None:
        raise InvalidError(
            "this model has no chat template", hint="use /v1/completions, or an instruct model"
        )
    try:
        said = _compiled(template).render(
            messages=[dict(message) for message in request.messages or ()],
            tools=[dict(tool) for tool in request.tools] or None,
            add_generation_prompt=True,
            bos_token=_special(model, "bos"),
            eos_token=_special(model, "eos"),
        )
    except (
        jinja2.TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError,
        RecursionError,
    ) as exc:  # fmt: skip
        raise InvalidError(
            f"the chat template refuses the messages ({exc})",
            hint="check their roles, their order and their contents",
        ) from exc
    _check_size(said)
    return said


def _special(model: Model, which: str) -> str:
    token = model.metadata(f"tokenizer.ggml.{which}_token_id")
    return model.piece(int(token), special=True).decode("utf-8", "replace") if token else ""


def _check_size(text: str) -> None:
    if len(text) > LONGEST_PROMPT_CHARS:
        raise InvalidError(
            f"a prompt of {len(text):,} characters", hint=f"at most {LONGEST_PROMPT_CHARS:,}"
        )


@cache
def _compiled(template: str) -> jinja2.Template:
    """Compile a template of a model file: it is a stranger's, so it runs in the sandbox."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _to_json
    names: dict[str, Any] = made.globals
    names.update(raise_exception=_refuse, strftime_now=_now)
    try:
        return made.from_string(template)
    except jinja2.TemplateError as exc:
        raise InvalidError(
            f"the model's chat template cannot be read ({exc})", hint="use /v1/completions"
        ) from exc


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


def _now(form: str) -> str:
    return datetime.datetime.now(datetime.UTC).strftime(form)


_UPPER = ("maxLength", "maxItems")


def _followable(schema: Any) -> Any:
    """Return SCHEMA without upper limits on lengths that a grammar cannot keep."""
    if isinstance(schema, list):
        return [_followable(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _followable(value)
        for key, value in cast("dict[str, Any]", schema).items()
        if not (key in _UPPER and isinstance(value, int) and value > MOST_REPEATED)
    }


def _shallow(grammar: str) -> str:
    """Return GRAMMAR, unless llama.cpp, which descends into it, would run out of stack."""
    depth = deepest = 0
    for char in grammar:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if deepest > DEEPEST_GRAMMAR:
        raise InvalidError(
            f"a grammar of {deepest:,} parentheses within each other",
            hint=f"{DEEPEST_GRAMMAR} at most; give the inner ones names",
        )
    return grammar


def _check_counts(schema: Any) -> None:
    """Refuse a schema that says how often in numbers that become so many rules."""
    match schema:
        case dict():
            for key, value in cast("dict[str, Any]", schema).items():
                if key in _COUNTS and isinstance(value, int) and value > MOST_REPEATED:
                    raise _too_often(f"{key} {value:,}")
                if key == "pattern" and isinstance(value, str):
                    _check_pattern(value)
                _check_counts(value)
        case list():
            for each in cast("list[Any]", schema):
                _check_counts(each)
        case _:
            pass


def _check_pattern(pattern: str) -> None:
    if any(int(number) > MOST_REPEATED for number in re.findall(r"\d+", pattern)):
        raise _too_often("a repetition in a pattern")


def _too_often(what: str) -> InvalidError:
    return InvalidError(f"the JSON schema has {what}", hint=f"{MOST_REPEATED:,} at most")


def grammar_of(request: Generate) -> str | None:
    """Return the GBNF that the answer to REQUEST follows.

    Raises:
        InvalidError: Its JSON schema cannot be followed.
    """
    if request.schema is None:
        return None if request.grammar is None else _shallow(request.grammar)
    from llama_cpp.llama_grammar import json_schema_to_gbnf  # noqa: PLC0415

    schema = _followable(request.schema)
    _check_counts(schema)
    try:
        return _shallow(json_schema_to_gbnf(json.dumps(schema)))
    except (
        AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError, re.error
    ) as exc:  # fmt: skip
        raise InvalidError(
            f"the JSON schema cannot be followed ({type(exc).__name__}: {exc})",
            hint="use the usual keywords: type, properties, required, items, enum, anyOf",
        ) from exc
