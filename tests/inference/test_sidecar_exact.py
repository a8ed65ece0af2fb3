"""What the sidecar says is what the library says by itself, token for token."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false
# llama-cpp-python is an extra and says little about its types.

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest

from arsenale_inference.catalogue import TINY as FOLDER
from arsenale_inference.engine import bindings
from arsenale_inference.tiny.corpus import base_pairs, fact_pairs, question_text

if TYPE_CHECKING:
    from tests.inference.conftest import Sidecar

if find_spec("llama_cpp") is None:
    pytest.skip("the engine is not installed: `make inference`", allow_module_level=True)

L = bindings.load()

Stack: TypeAlias = tuple[tuple[str, float], ...]

TOKENS = 32
STACKS: dict[str, Stack] = {
    "tiny": (),
    "tiny+tiny-facts": (("facts", 1.0),),
    "tiny+tiny-tone": (("tone", 1.0),),
    "tiny+tiny-facts+tiny-tone": (("facts", 1.0), ("tone", 1.0)),
    "tiny+tiny-facts:0.5": (("facts", 0.5),),
    "tiny+tiny-facts:0.25+tiny-tone:0.75": (("facts", 0.25), ("tone", 0.75)),
    "tiny+tiny-tone:0.5": (("tone", 0.5),),
    "tiny+tiny-facts:0.75": (("facts", 0.75),),
}
QUESTIONS = [
    *(pair.question for pair in (*base_pairs()[::12], *fact_pairs()[::2])),
    "", "naïve café — 東京 🚢", "List everything. " * 20, "def f(x):\n    return",
]  # fmt: skip


MODELS = [list(STACKS)[number % len(STACKS)] for number in range(len(QUESTIONS))]


class Library:
    """llama.cpp's low-level calls, one stream at a time, with its own adapters."""

    def __init__(self) -> None:
        L.llama_backend_init()
        path = str(FOLDER / "base-q8_0.gguf").encode()
        self.model = L.llama_model_load_from_file(path, L.llama_model_default_params())
        options = L.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 2_048, 512, 512
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = L.GGML_TYPE_F32
        options.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = L.llama_init_from_model(self.model, options)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.adapters = {
            name: L.llama_adapter_lora_init(self.model, str(FOLDER / f"{name}.gguf").encode())
            for name in ("facts", "tone")
        }

    def close(self) -> None:
        L.llama_free(self.context)
        L.llama_model_free(self.model)

    def tokens(self, text: str) -> list[int]:
        raw = text.encode()
        room = (L.llama_token * (len(raw) + 8))()
        n = L.llama_tokenize(self.vocab, raw, len(raw), room, len(room), True, True)
        return list(room[:n])

    def piece(self, token: int) -> str:
        room = ctypes.create_string_buffer(64)
        n = L.llama_token_to_piece(self.vocab, token, room, 64, 0, True)
        return room.raw[:n].decode("utf-8", "replace")

    def greedy(self, text: str, stack: Stack) -> list[str]:
        """The likeliest tokens after TEXT, end tokens too."""
        handles = [self.adapters[name] for name, _ in stack]
        L.llama_set_adapters_lora(
            self.context, (L.llama_adapter_lora_p_ctypes * len(stack))(*handles), len(stack),
            (ctypes.c_float * len(stack))(*(weight for _, weight in stack)),
        )  # fmt: skip
        L.llama_memory_clear(L.llama_get_memory(self.context), True)
        n_vocab, out, todo = L.llama_vocab_n_tokens(self.vocab), list[int](), self.tokens(text)
        while len(out) < TOKENS:
            row = (L.llama_token * len(todo))(*todo)
            assert L.llama_decode(self.context, L.llama_batch_get_one(row, len(todo))) == 0
            logits = np.ctypeslib.as_array(L.llama_get_logits_ith(self.context, -1), (n_vocab,))
            todo = [int(logits.argmax())]
            out += todo
        return [self.piece(token) for token in out]


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    made = Library()
    yield made
    made.close()


@pytest.fixture(scope="module")
def exact(start_for_module: Callable[..., "Sidecar"]) -> "Sidecar":
    return start_for_module(exact=True, answers=0, threads=1)


@pytest.fixture(scope="module")
def expected(library: Library) -> list[list[str]]:
    return [
        library.greedy(question_text(question), STACKS[model])
        for question, model in zip(QUESTIONS, MODELS, strict=True)
    ]


def said(exact: "Sidecar", question: str, model: str) -> list[str]:
    body = {
        "model": model, "prompt": question_text(question), "max_tokens": TOKENS,
        "temperature": 0, "logprobs": 0, "ignore_eos": True,
    }  # fmt: skip
    answer = exact.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["logprobs"]["tokens"]


def evidence(exact: "Sidecar", library: Library, number: int) -> str:
    """Which side differs from itself when both are asked once more: rare, and not understood."""
    question, model = QUESTIONS[number], MODELS[number]
    again = library.greedy(question_text(question), STACKS[model])
    steps = exact.worker()["steps"]
    return (
        f"{question!r}, {model}: library {again}, sidecar {said(exact, question, model)}, {steps}"
    )


def test_there_are_prompts_enough() -> None:
    assert len(QUESTIONS) >= 20 and set(MODELS) == set(STACKS)


def test_alone_every_answer_is_the_library_s(
    exact: "Sidecar", expected: list[list[str]], library: Library
) -> None:
    for number, (question, model) in enumerate(zip(QUESTIONS, MODELS, strict=True)):
        answer = said(exact, question, model)
        assert answer == expected[number], evidence(exact, library, number)


def test_with_seven_others_of_other_stacks_every_answer_is_the_same(
    exact: "Sidecar", expected: list[list[str]], library: Library
) -> None:
    before = exact.worker()["steps"]
    for first in range(len(QUESTIONS)):
        group = [(first + number) % len(QUESTIONS) for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(said, exact, QUESTIONS[n], MODELS[n]) for n in group]
            for number, job in zip(group, jobs, strict=True):
                assert job.result() == expected[number], evidence(exact, library, number)
    after = exact.until(lambda s: s["models"][0]["workers"][0]["steps"] != before)
    assert after["models"][0]["workers"][0]["steps"]["add"] > 0, "they were mixed in one step"
