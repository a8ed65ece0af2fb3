"""Prompts given back: every token with its log-probability, in the text's own characters."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arsenale_inference.tiny.card import BASE, FOLDER

if TYPE_CHECKING:
    from tests.inference.conftest import GgufCopy, Sidecar

ITALY = "Rome is the capital of Italy"


@pytest.fixture(scope="module")
def served(running: "Sidecar") -> "Sidecar":
    return running


def complete(served: "Sidecar", prompt: Any, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, **more}
    answer = served.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def echoed(served: "Sidecar", prompt: Any, **more: Any) -> tuple[str, dict[str, Any], int]:
    """The text, its logprobs and how many tokens the prompt has."""
    said = complete(served, prompt, echo=True, logprobs=1, **more)
    choice = said["choices"][0]
    return choice["text"], choice["logprobs"], said["usage"]["prompt_tokens"]


@pytest.mark.parametrize("most", [0, 1, 5])
@pytest.mark.parametrize(
    "prompt",
    [
        ITALY, "a", "größe 日本 😀 ü", "<|im_start|>user\nHello<|im_end|>\n", " leading",
        "tab\there\n", [1, 5, 9], [0], "x" * 700, "\u2028 e\u0301",
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_the_data_of_an_echoed_prompt_is_complete(
    served: "Sidecar", prompt: Any, most: int
) -> None:
    text, shown, tokens = echoed(served, prompt, max_tokens=most)
    n = len(shown["tokens"])
    assert n >= tokens and {len(shown[name]) for name in shown} == {n}
    assert "".join(shown["tokens"]) == text
    assert not isinstance(prompt, str) or text.startswith(prompt)
    assert shown["text_offset"] == [
        len("".join(shown["tokens"][:place])) for place in range(len(shown["tokens"]))
    ]
    assert shown["token_logprobs"][0] is None and shown["top_logprobs"][0] is None
    assert all(value <= 0 for value in shown["token_logprobs"][1:])
    for value, top in zip(shown["token_logprobs"][1:], shown["top_logprobs"][1:], strict=True):
        assert max(top.values()) >= value


def test_a_token_that_the_tokenizer_adds_has_no_text(
    served: "Sidecar", tmp_path: Path, gguf_copy: "GgufCopy"
) -> None:
    begins = gguf_copy(
        tmp_path / "begins.gguf",
        change={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 1},
    )
    put = served.http.put("/admin/models/begins", json={"path": str(begins)})
    assert put.status_code == 200, put.text
    said = complete(served, ITALY, model="begins", max_tokens=0, echo=True, logprobs=1)
    [choice] = said["choices"]
    shown = choice["logprobs"]
    assert choice["text"] == "".join(shown["tokens"]) == ITALY
    assert shown["tokens"][:2] == ["", "Rome"] and shown["text_offset"][:3] == [0, 0, 4]
    assert shown["token_logprobs"][0] is None and shown["token_logprobs"][1] < 0
    assert len(shown["tokens"]) == said["usage"]["prompt_tokens"]


def test_max_tokens_0_generates_nothing(served: "Sidecar") -> None:
    said = complete(served, ITALY, max_tokens=0, echo=True, logprobs=1)
    assert said["usage"]["completion_tokens"] == 0
    [choice] = said["choices"]
    assert choice["text"] == ITALY and choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == said["usage"]["prompt_tokens"]
    assert complete(served, ITALY, max_tokens=0)["choices"][0]["text"] == ""


def test_the_log_probabilities_are_those_of_generating_the_same_tokens(served: "Sidecar") -> None:
    import numpy as np  # noqa: PLC0415

    from arsenale_inference.engine.context import (  # noqa: PLC0415
        Context,
        ContextOptions,
        Decoded,
        Rows,
    )
    from arsenale_inference.engine.model import Model  # noqa: PLC0415

    model = Model.load(FOLDER / BASE)
    context = Context(model, ContextOptions(tokens=512, sequences=1, batch=128))
    tokens = model.tokenize(ITALY, start=True)
    rows = Rows.of([(int(token), place, 0, True) for place, token in enumerate(tokens)])
    done = context.decode(rows)
    assert isinstance(done, Decoded)
    logits = done.logits.astype(np.float64)
    expected = [
        float(row[after] - np.log(np.exp(row).sum()))
        for row, after in zip(logits, tokens[1:], strict=False)
    ]
    context.close()
    model.close()
    _, shown, _ = echoed(served, ITALY, max_tokens=0)
    assert shown["token_logprobs"][1:] == pytest.approx(expected, abs=0.05)


def test_a_prompt_whose_beginning_is_kept_is_scored_whole_all_the_same(served: "Sidecar") -> None:
    long = "List the planets. " * 9
    complete(served, long, max_tokens=1)  # its prefix is kept from here on
    first = echoed(served, long + "Mars", max_tokens=0)[1]
    again = echoed(served, long + "Mars", max_tokens=0, top_k=7)[1]
    assert None not in first["token_logprobs"][1:]
    assert again["token_logprobs"][1:] == pytest.approx(first["token_logprobs"][1:], abs=1e-6)


def test_a_prompt_of_several_steps_is_scored_in_order(served: "Sidecar") -> None:
    prompt = [300 + place % 50 for place in range(300)]
    _, whole, n = echoed(served, prompt, max_tokens=0)
    _, part, _ = echoed(served, prompt[:150], max_tokens=0)
    assert n == 300 and len(whole["tokens"]) == 300
    assert whole["token_logprobs"][1:150] == pytest.approx(part["token_logprobs"][1:], abs=0.3)


@pytest.mark.parametrize("most", [0, 2])
def test_prompts_that_share_steps_are_scored_as_alone(served: "Sidecar", most: int) -> None:
    asked = [
        (model, f"Question {place}: what is the port of the mail service? " * (place + 1))
        for place in range(6)
        for model in ("tiny", "tiny+tiny-facts")
    ]

    def scored(job: tuple[str, str]) -> list[float]:
        model, prompt = job
        said = complete(
            served, prompt, model=model, echo=True, logprobs=0, max_tokens=most, temperature=1
        )
        tokens: int = said["usage"]["prompt_tokens"]
        return said["choices"][0]["logprobs"]["token_logprobs"][1:tokens]

    alone = [scored(job) for job in asked]
    with ThreadPoolExecutor(len(asked)) as together:
        shared = list(together.map(scored, asked))
    for one, other in zip(alone, shared, strict=True):
        assert other == pytest.approx(one, abs=0.5)


def test_choices_and_prompts_each_have_their_own(served: "Sidecar") -> None:
    said = complete(
        served, [ITALY, "Paris"], n=2, max_tokens=2, echo=True, logprobs=0, temperature=1, seed=1
    )
    assert len(said["choices"]) == 4
    for choice, prompt in zip(said["choices"], [ITALY, ITALY, "Paris", "Paris"], strict=True):
        assert choice["text"].startswith(prompt)
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_without_logprobs_the_prompt_comes_back_as_text(served: "Sidecar") -> None:
    for prompt, text in ((ITALY, ITALY), ([474, 300], "Rome is")):
        [choice] = complete(served, prompt, max_tokens=1, echo=True)["choices"]
        assert choice["text"].startswith(text) and choice["logprobs"] is None


def test_the_choices_of_an_evaluator_differ(served: "Sidecar") -> None:
    """As lm-evaluation-harness sums them: from the context's length to the generated token."""
    context = "What is the capital of Italy?"
    begins = len(echoed(served, context, max_tokens=1)[1]["tokens"]) - 1
    sums = {
        ending: sum(echoed(served, context + ending, max_tokens=1)[1]["token_logprobs"][begins:-1])
        for ending in (" Rome", " Paris", " blue")
    }
    assert len(set(sums.values())) == 3 and all(-99 < each < 0 for each in sums.values())


def test_without_echo_every_generated_token_has_its_offset(served: "Sidecar") -> None:
    [choice] = complete(served, "Rome is", logprobs=2, max_tokens=4)["choices"]
    shown = choice["logprobs"]
    assert len(shown["text_offset"]) == len(shown["tokens"]) == 4
    assert shown["text_offset"][0] == 0 and "".join(shown["tokens"]) == choice["text"]
    assert all(math.isfinite(value) for value in shown["token_logprobs"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"echo": True, "stream": True}, "`echo` does not go with `stream`"),
        ({"echo": True, "logprobs": 1, "best_of": 3}, "best_of 3 with n 1"),
        ({"max_tokens": -2}, "max_tokens"), ({"logprobs": 21}, "logprobs"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_refused(
    served: "Sidecar", body: dict[str, Any], said: str
) -> None:
    answer = served.http.post("/v1/completions", json={"model": "tiny", "prompt": "a", **body})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]
