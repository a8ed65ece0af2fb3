"""From a request to the tokens of its prompt and the grammar of its answer."""

import numpy as np
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference.engine.model import Model
from arsenale_inference.messages import Generate
from arsenale_inference.worker.templates import template_of

LONGEST_PROMPT_CHARS = 8_000_000
"""A rendered prompt longer than this is refused before it is cut into tokens."""

DEEPEST_GRAMMAR = 500
"""llama.cpp's parser of grammars takes 10,000 and more; 200,000 crashed it."""

_SPECIAL = {
    "bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown",
    "sep_token": "seperator", "mask_token": "mask",
}  # fmt: skip
"""Names that templates use, with those of GGUF (`tokenizer.ggml.*_token_id`; its own spelling)."""


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
    text = model.info.chat_template
    if text is None:
        raise InvalidError(
            "this model has no chat template", hint="use /v1/completions, or an instruct model"
        )
    template, messages = template_of(text), request.messages or ()
    said = template.render(
        messages, request.tools, special=_special_tokens(model), more=request.template_kwargs
    )
    _check_size(said)
    return said


def _special_tokens(model: Model) -> dict[str, str]:
    """Return the special tokens by the name that templates use."""
    found = {name: _special(model, key) for name, key in _SPECIAL.items()}
    return {
        name: text for name, text in found.items() if text or name in ("bos_token", "eos_token")
    }


def _special(model: Model, which: str) -> str:
    token = model.metadata(f"tokenizer.ggml.{which}_token_id")
    return model.piece(int(token), special=True).decode("utf-8", "replace") if token else ""


def _check_size(text: str) -> None:
    if len(text) > LONGEST_PROMPT_CHARS:
        raise InvalidError(
            f"a prompt of {len(text):,} characters", hint=f"at most {LONGEST_PROMPT_CHARS:,}"
        )


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


def grammar_of(request: Generate) -> str | None:
    """Return the GBNF that the answer to REQUEST follows, if a caller gave one.

    Raises:
        InvalidError: Its parentheses are nested too deeply.
    """
    return _shallow(request.grammar) if request.grammar else None
