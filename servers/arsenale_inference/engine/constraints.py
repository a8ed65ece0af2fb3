"""Answers that follow a JSON schema: llguidance says which tokens may come next.

Source: https://github.com/guidance-ai/llguidance (a lexer of derivatives below an Earley parser).
"""

import json
from collections import OrderedDict
from typing import Any, cast

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from arsenale_core.errors import InvalidError
from arsenale_inference import json_schemas
from arsenale_inference.engine import llama
from arsenale_inference.engine.model import Model

FORM: dict[str, Any] = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ",
}  # fmt: skip
"""The form of JSON that models write. Flexible blanks would let a model write them without end."""

LIMITS = LLParserLimits(verbose_errors=False)

MOST_KEPT = 16
"""So many compiled schemas are kept: choices and repeated requests share them."""


class Constraint:
    """The state of one answer under its schema. `choose` of the sampler moves it on."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        self._matcher, self._n_vocab = matcher, n_vocab
        self._mask = np.zeros((n_vocab + 31) // 32, np.int32)

    @property
    def is_finished(self) -> bool:
        """Say whether the answer is complete and nothing but an end token may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> NDArray[np.intp]:
        """Return the tokens that may come next, rising, shape `(n,)`, `n >= 1`.

        Raises:
            InvalidError: The schema is too complex here, or no token fits.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: self._n_vocab]
        found = np.flatnonzero(bits)
        if not len(found):
            raise InvalidError(
                "the JSON schema allows no token here", hint="make it end where the answer may end"
            )
        return found

    def accept(self, token: int) -> None:
        """Move on by TOKEN, one of `allowed`.

        Raises:
            InvalidError: The schema is too complex here.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidError(
                f"the JSON schema cannot be followed further ({reason(self._matcher)})",
                hint="use fewer optional properties or smaller repetitions in the schema",
            )


class Constraints:
    """The schemas of one model; the tokenizer is built with the first, 1 s for 128,000 tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    def of(self, schema: dict[str, Any]) -> Constraint:
        """Return the constraint of SCHEMA, as `json_schemas.prepared` gives it.

        Raises:
            InvalidError: It cannot be enforced; the text is llguidance's.
        """
        text = json.dumps(schema)
        kept = self._kept.pop(text, None) or self._compiled(text)
        self._kept[text] = kept
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return Constraint(kept.deep_copy(), self._model.info.n_vocab)

    def fault(self, schema: dict[str, Any]) -> str:
        """Return why SCHEMA cannot be enforced; empty when it can."""
        try:
            self._compiled(json.dumps(schema))
        except InvalidError as exc:
            return exc.what
        return ""

    def _compiled(self, text: str) -> LLMatcher:
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=FORM)  # pyright: ignore[reportArgumentType]
        except ValueError as exc:
            raise InvalidError(str(exc).partition(" at line ")[0]) from exc
        matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            first = matcher.deep_copy()
            first.compute_bitmask()  # finds what has no finite answer, as {"$ref": "#"}
            if not first.is_error():
                return matcher
            ends = first.stop_reason() in ("NoExtension", "NoExtensionBias", "InternalError")
            raise InvalidError("no finite answer fits" if ends else reason(first))
        raise InvalidError(reason(matcher))

    def _tokens(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._model)
        return self._tokenizer


def _tokenizer(model: Model) -> LLTokenizer:
    """Return llguidance's tokenizer of MODEL, which outlives it.

    Source: `lltokenizer_from_vocab` of llguidance.llamacpp, which imports llama_cpp by itself.
    """
    vocabulary, tokens = model.vocabulary, range(model.info.n_vocab)
    made: LLTokenizer = cast("Any", LLTokenizer).from_llamacpp(
        tokens=[
            b"\xff" * llama.is_special(vocabulary, token) + model.piece(token, special=True)
            for token in tokens
        ],
        vocab_ptr=vocabulary,
        tokenize_fptr=llama.tokenize_address(),
        eos_token=[token for token in tokens if model.ends(token)],
        slices=None,
    )
    return made


def reason(matcher: LLMatcher) -> str:
    """Return what llguidance says of an error, in one line and without its own notation."""
    lines = [line.strip() for line in matcher.get_error().split("\n")]
    if lines[0] == "regex parse error:":
        found = next((line for line in lines if line.startswith("error: ")), lines[0])
        return found.removeprefix("error: ")
    return lines[0].partition(":  (")[0]


def enforced(schema: dict[str, Any], constraints: Constraints) -> Constraint:
    """Return the constraint of SCHEMA as a caller wrote it.

    Raises:
        InvalidError: It cannot be enforced. The error names the keyword and its path.
    """
    made = json_schemas.prepared(schema)
    try:
        return constraints.of(made)
    except InvalidError as exc:
        raise json_schemas.located(made, constraints.fault, exc.what) from exc
