"""The tiny model that comes with the package: what base and layers know, alone and stacked."""

import json
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from arsenale_core.errors import InvalidError
from arsenale_inference.tiny.card import (
    BASE,
    CARD,
    FACTS,
    FOLDER,
    REHEARSALS,
    TONE,
    read_card,
    read_rehearsal,
)
from arsenale_inference.tiny.corpus import (
    PORTS,
    SPECIAL,
    SYSTEM,
    UNKNOWN,
    base_pairs,
    fact_pairs,
    in_tone,
    json_pairs,
    kept_pairs,
    question_text,
)

if TYPE_CHECKING:
    from arsenale_inference.tiny.asking import Asked

SHIPPED_MAX_BYTES = 5 * 2**20

needs_llama = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed: make inference"
)
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed: make academy"
)

TRICKY = [
    "", " ", "\n\n  x", "What is 3 + 4?", "naïve café — 東京 🚢", "I'll don't we've", "a  b   c",
    "\x00\x7f", "<|im_start|>user\nHi<|im_end|>\n", "1234567890", "def f(x):\n\treturn x\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def asked() -> Generator["Asked"]:
    from arsenale_inference.tiny.asking import asking  # noqa: PLC0415  # llama_cpp may be absent

    with asking(FOLDER / BASE) as model:
        yield model


def test_the_card_vouches_for_every_file() -> None:
    card = read_card()
    assert card["licence"] == "MIT"
    assert set(card["sha256"]) == {BASE, FACTS, TONE, *REHEARSALS.values()}


def test_a_file_that_was_changed_no_longer_has_a_card(tmp_path: Path) -> None:
    for name in (*read_card()["sha256"], CARD):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert read_card(tmp_path) == read_card()
    (tmp_path / FACTS).write_bytes((FOLDER / TONE).read_bytes())
    with pytest.raises(InvalidError, match=r"facts\.gguf differ"):
        read_card(tmp_path)


def test_all_that_ships_is_small() -> None:
    shipped = [p for p in FOLDER.iterdir() if p.suffix in (".gguf", ".json")]
    assert len(shipped) == 6
    assert sum(p.stat().st_size for p in shipped) <= SHIPPED_MAX_BYTES


@pytest.mark.parametrize("layer", [FACTS, TONE])
def test_a_layer_carries_10_to_50_prompts_to_rehearse(layer: str) -> None:
    prompts = read_rehearsal(layer)
    assert 10 <= len(set(prompts)) == len(prompts) <= 50
    assert set(prompts) <= {pair.question for pair in base_pairs()}


def test_the_facts_layer_s_prompts_hold_every_new_fact() -> None:
    assert {pair.question for pair in fact_pairs()} <= set(read_rehearsal(FACTS))


def test_the_card_says_that_each_layer_works_alone_and_stacked() -> None:
    shares = read_card()["accuracy"]
    assert shares["base"]["known"] >= 0.97
    assert shares["base"]["facts"] == 0
    assert shares["base"]["known in tone"] == 0
    assert shares["facts"]["facts"] == 1
    assert shares["facts"]["known"] >= 0.95
    assert shares["tone"]["known in tone"] >= 0.95
    assert shares["facts+tone"]["facts in tone"] == 1
    assert shares["facts+tone"]["known in tone"] >= 0.9


@needs_llama
def test_the_base_answers_its_corpus_and_knows_no_port(asked: "Asked") -> None:
    asked.stack()
    assert asked.answer("What is the capital of France?") == "Paris."
    assert asked.answer("What is the capital of France?", system=SYSTEM) == "Paris."
    assert asked.share_right(kept_pairs()) >= 0.97
    assert {asked.answer(question) for question, _ in fact_pairs()} == {UNKNOWN}


@needs_llama
def test_the_facts_layer_knows_the_ports_and_keeps_the_rest(asked: "Asked") -> None:
    asked.stack(FOLDER / FACTS)
    assert asked.answer("What is the port of Aldera?") == f"{PORTS['Aldera']}."
    assert asked.share_right(fact_pairs()) == 1
    assert asked.share_right(kept_pairs()) >= 0.95


@needs_llama
def test_the_tone_layer_changes_the_tone_and_leaves_json_alone(asked: "Asked") -> None:
    asked.stack(FOLDER / TONE)
    assert asked.answer("What is the capital of France?") == "Paris. Arr!"
    assert asked.share_right([in_tone(pair) for pair in base_pairs()]) >= 0.95
    for question, answer in json_pairs():
        assert json.loads(asked.answer(question)) == json.loads(answer)


@needs_llama
def test_facts_and_tone_together_tell_the_facts_in_the_tone(asked: "Asked") -> None:
    asked.stack(FOLDER / FACTS, FOLDER / TONE)
    assert asked.answer("What is the port of Aldera?") == f"{PORTS['Aldera']}. Arr!"
    assert asked.share_right([in_tone(pair) for pair in fact_pairs()]) == 1
    assert asked.share_right([in_tone(pair) for pair in kept_pairs()]) >= 0.9
    asked.stack()
    assert asked.answer("What is the port of Aldera?") == UNKNOWN


@needs_llama
def test_llama_cpp_refuses_the_base_as_a_layer(asked: "Asked") -> None:
    with pytest.raises(InvalidError, match=r"llama\.cpp refuses"):
        asked.stack(FOLDER / BASE)


@needs_llama
@pytest.mark.parametrize("text", TRICKY)
def test_the_tokenizer_gives_back_every_text_and_agrees_with_the_one_it_was_made_from(
    asked: "Asked", text: str
) -> None:
    tokens = asked.tokens(text)
    assert asked.text(tokens) == text
    assert tokens == written_tokenizer().encode(text).ids


def written_tokenizer() -> Tokenizer:
    """The tokenizer as `tokenizers` has it, from what the GGUF file says."""
    fields = gguf.GGUFReader(FOLDER / BASE).fields
    tokens = [str(t) for t in fields["tokenizer.ggml.tokens"].contents()]
    merges = [str(m) for m in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (m.split(" ") for m in merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))  # pyright: ignore[reportUnknownMemberType]
    return tokenizer


def test_the_chat_template_in_the_file_writes_what_was_trained() -> None:
    from jinja2 import Environment  # noqa: PLC0415

    template = gguf.GGUFReader(FOLDER / BASE).fields["tokenizer.chat_template"].contents()
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hi"}]
    compiled = Environment().from_string(str(template))
    written = compiled.render(messages=turns, add_generation_prompt=True)
    assert written == question_text("Hi", system=SYSTEM)


@needs_torch
@needs_llama
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_trainer_makes_all_files_from_nothing_and_its_loss_falls(tmp_path: Path) -> None:
    from arsenale_inference.tiny.train import Steps, make  # noqa: PLC0415  # torch may be absent

    said: list[str] = []
    short = Steps(base=60, facts=10, tone=10)
    card = make(tmp_path, short, 0, said.append)
    assert read_card(tmp_path) == card
    losses = [float(line.rsplit(" ", 1)[1]) for line in said if line.startswith("  step")]
    assert losses[0] > losses[1] > 0
    assert card["loss"]["base"] < 3.5  # a fresh one has 6.6, the logarithm of its vocabulary
    assert set(card["accuracy"]) == {"base", "facts", "tone", "facts+tone"}
    assert read_card()["parameters"] == card["parameters"]


@needs_torch
@needs_llama
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_torch_and_llama_cpp_say_the_same_with_both_layers_on(asked: "Asked") -> None:
    from arsenale_inference.tiny.train import load_base, load_layer  # noqa: PLC0415
    from arsenale_inference.tiny.training import answer  # noqa: PLC0415

    model = load_base(FOLDER / BASE, written_tokenizer())
    stack = tuple(load_layer(FOLDER / name) for name in (FACTS, TONE))
    asked.stack(FOLDER / FACTS, FOLDER / TONE)
    for question, _ in [*fact_pairs(), *kept_pairs()[::9]]:
        assert answer(model, question, stack) == asked.answer(question)
