"""From a request to the tokens of its prompt and the grammar of its answer."""

import datetime
import json
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
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as exc:
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


MOST_REPEATS = 512
"""llama.cpp refuses grammars that repeat a rule more often; longer limits are left out."""


def _followable(schema: Any) -> Any:
    """Return SCHEMA without limits on lengths that a grammar cannot keep."""
    if isinstance(schema, list):
        return [_followable(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _followable(value)
        for key, value in cast("dict[str, Any]", schema).items()
        if not (key in ("maxLength", "maxItems", "minLength", "minItems")
                and isinstance(value, int) and value > MOST_REPEATS)
    }  # fmt: skip


def grammar_of(request: Generate) -> str | None:
    """Return the GBNF that the answer to REQUEST follows.

    Raises:
        InvalidError: Its JSON schema cannot be followed.
    """
    if request.schema is None:
        return request.grammar
    from llama_cpp.llama_grammar import json_schema_to_gbnf  # noqa: PLC0415

    try:
        return json_schema_to_gbnf(json.dumps(_followable(request.schema)))
    except (KeyError, TypeError, ValueError, AssertionError, RecursionError) as exc:
        raise InvalidError(
            f"the JSON schema cannot be followed ({type(exc).__name__}: {exc})",
            hint="use the usual keywords: type, properties, required, items, enum, anyOf",
        ) from exc
