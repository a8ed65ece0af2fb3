"""A context of llama.cpp: what it decodes, keeps, refuses and survives."""

import ctypes
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from arsenale_core.errors import ConflictError, InvalidError, NotFoundError
from arsenale_inference.engine import llama
from arsenale_inference.engine.context import Aborted, Context, Decoded, NoRoom, Rows
from arsenale_inference.engine.costs import Way
from arsenale_inference.engine.engine import Engine, Stack
from arsenale_inference.engine.model import Model
from arsenale_inference.engine.testing import LAYERS, Lab

PROMPTS = [np.arange(34 + 5 * n, 41 + 7 * n, dtype=np.int32) for n in range(5)]
STACKS: list[Stack] = [
    (),
    (("ops", 1.0),),
    (("tone", 0.5),),
    (("ops", 0.5), ("tone", 1.0)),
    (("values", 1.0),),
]


def decoded(engine: Engine, rows: Rows, stacks: Sequence[Stack]) -> Decoded:
    done = engine.decode(rows, stacks)
    assert isinstance(done, Decoded)
    return done


def alone(engine: Engine, number: int, n: int) -> list[int]:
    """Greedy tokens of one sequence, by native adapters."""
    engine.context.clear()
    tokens, stack = PROMPTS[number], STACKS[number]
    out: list[int] = []
    rows = Rows.prompt(tokens)
    for step in range(n):
        done = engine.decode(rows, [stack] * len(rows), way=Way.NATIVE)
        assert isinstance(done, Decoded)
        out.append(int(done.logits[0].argmax()))
        rows = Rows.of([(out[-1], len(tokens) + step, 0, True)])
    return out


@pytest.mark.parametrize("composer", ["c", "python"])
def test_a_batch_of_sequences_says_what_each_says_alone(lab: Lab, composer: str) -> None:
    expected = [alone(lab.engine(), number, 12) for number in range(5)]
    engine = lab.engine(composer)
    out: list[list[int]] = [[] for _ in PROMPTS]
    rows = [
        (int(token), position, number, position == len(prompt) - 1)
        for number, prompt in enumerate(PROMPTS)
        for position, token in enumerate(prompt)
    ]
    for step in range(12):
        done = decoded(engine, Rows.of(rows), [STACKS[row[2]] for row in rows])
        for said, row in zip(out, done.logits, strict=True):
            said.append(int(row.argmax()))
        rows = [(said[-1], len(PROMPTS[n]) + step, n, True) for n, said in enumerate(out)]
    assert out == expected


def test_a_prefix_is_shared_not_computed_again(lab: Lab) -> None:
    engine = lab.engine()
    tokens = PROMPTS[4]
    whole = decoded(engine, Rows.prompt(tokens), [()] * len(tokens)).logits.copy()
    engine.context.copy_prefix(0, 3, len(tokens) - 1)
    assert engine.context.length(3) == len(tokens) - 1
    last = Rows.of([(int(tokens[-1]), len(tokens) - 1, 3, True)])
    assert np.allclose(decoded(engine, last, [()]).logits, whole, atol=1e-5)
    assert engine.context.remove(3, 2)
    assert engine.context.length(3) == 2
    assert engine.context.length(0) == len(tokens)


@pytest.mark.parametrize("composer", ["c", "python"])
def test_a_step_is_aborted_and_leaves_nothing(lab: Lab, composer: str) -> None:
    engine = lab.engine(composer)
    rows, stacks = Rows.prompt(PROMPTS[4]), [STACKS[1]] * len(PROMPTS[4])
    engine.context.abort.set()
    for way in (Way.ADD, Way.MASK, Way.GROUPS):
        assert engine.decode(rows, stacks, way=way) == Aborted()
        assert engine.context.length(0) == 0
    engine.context.abort.clear()
    assert isinstance(engine.decode(rows, stacks), Decoded)


def test_a_prefill_in_progress_is_aborted(lab: Lab) -> None:
    """The flag is set after the fourth of some seventy operations of the graph."""
    model = lab.engine(layers=()).model
    seen: list[int] = []

    def called(tensor: int, ask: bool, _data: int | None) -> bool:
        if not ask:
            seen.append(tensor)
            if len(seen) == 4:
                context.abort.set()
        return True

    context = Context(model, lab.options().context, evaluation=llama.evaluation_callback(called))
    assert context.decode(Rows.prompt(PROMPTS[4])) == Aborted()
    assert len(seen) < 8
    assert context.length(0) == 0
    context.abort.clear()
    assert isinstance(context.decode(Rows.prompt(PROMPTS[4])), Decoded)
    context.close()


@pytest.mark.parametrize("way", [Way.ADD, Way.MASK, Way.GROUPS])
def test_a_full_cache_keeps_nothing_of_the_step(lab: Lab, way: Way) -> None:
    engine = lab.engine(tokens=256, batch=256)
    tokens = np.full(250, 50, np.int32)
    assert isinstance(engine.decode(Rows.prompt(tokens), [()] * 250), Decoded)
    rows = Rows.of([(40 + n, n // 2, 1 + n % 2, n > 7) for n in range(10)])
    stacks = [STACKS[1 + n % 2] for n in range(10)]
    assert isinstance(engine.decode(rows, stacks, way=way), NoRoom)
    assert [engine.context.length(n) for n in (0, 1, 2)] == [250, 0, 0]
    engine.context.remove(0)
    assert isinstance(engine.decode(rows, stacks, way=way), Decoded)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([(40, n, 0, False) for n in range(65)], "1 to 64 rows"),
        ([(40, 0, 8, True)], "ids from 0 to 7"),
        ([(40, 0, -1, True)], "ids from 0 to 7"),
        ([(128, 0, 0, True)], "tokens must exist"),
        ([(-5, 0, 0, True)], "tokens must exist"),
        ([(40, 0, 0, True), (41, 5, 0, True)], "without a gap"),
    ],
)
def test_rows_that_cannot_be_decoded_are_refused(
    lab: Lab, rows: list[tuple[int, int, int, bool]], said: str
) -> None:
    engine = lab.engine()
    with pytest.raises(InvalidError, match=said):
        engine.decode(Rows.of(rows), [STACKS[1]] * len(rows))
    decoded(engine, Rows.prompt(PROMPTS[0]), [()] * len(PROMPTS[0]))


def test_groups_take_back_what_came_before_a_refusal(lab: Lab) -> None:
    engine = lab.engine()
    rows = Rows.of([(40, 0, 0, True), (128, 0, 1, True)])
    with pytest.raises(InvalidError, match="tokens must exist"):
        engine.decode(rows, STACKS[:2], way=Way.GROUPS)
    assert engine.context.length(0) == 0


def test_stacks_must_fit_the_rows(lab: Lab) -> None:
    engine = lab.engine()
    rows = Rows.of([(40, 0, 0, True), (41, 1, 0, True)])
    with pytest.raises(InvalidError, match="each row its stack"):
        engine.decode(rows, [()])
    with pytest.raises(InvalidError, match="each sequence one stack"):
        engine.decode(rows, STACKS[:2], way=Way.GROUPS)
    for weight in (float("nan"), float("inf")):
        with pytest.raises(InvalidError, match="give a number"):
            engine.decode(rows, [(("ops", weight),)] * 2)


def test_layers_are_known_by_name(lab: Lab) -> None:
    engine = lab.engine(layers=("ops",))
    pairs, alpha = LAYERS["ops"]
    with pytest.raises(ConflictError, match="drop it first"):
        engine.add_layer("ops", pairs, alpha=alpha)
    with pytest.raises(NotFoundError):
        engine.drop_layer("tone")
    assert list(engine.describe().layers) == ["ops"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "header", "noise"])
def test_a_damaged_model_is_told_and_the_process_lives(
    lab: Lab, tmp_path: Path, damage: str
) -> None:
    whole = lab.model.read_bytes()
    broken = {
        "empty": b"", "cut": whole[: len(whole) // 2], "header": whole[:64] + b"\xff" * 64,
        "noise": bytes(range(256)) * 64,
    }  # fmt: skip
    path = tmp_path / "broken.gguf"
    if damage in broken:
        path.write_bytes(broken[damage])
    remedy = {"missing": "name a .gguf", "empty": "not a GGUF", "noise": "not a GGUF"}
    with pytest.raises(InvalidError, match=remedy.get(damage, "checksum")):
        Model.load(path)
    Model.load(lab.model).close()


def test_a_model_says_what_it_is(lab: Lab) -> None:
    model = lab.engine(layers=()).model
    info = model.info
    assert (info.architecture, info.name, info.n_vocab, info.n_embd) == ("llama", "random", 128, 64)
    assert (info.n_layer, info.n_ctx_train, info.chat_template) == (2, 8192, "{{ messages }}")
    assert info.size_bytes == 4 * info.parameters
    assert model.metadata("general.type") == "model"
    assert model.metadata("no.such") is None


def test_text_becomes_tokens_and_text_again(lab: Lab) -> None:
    model = lab.engine(layers=()).model
    tokens = model.tokenize("ab!<|im_end|>")
    assert len(tokens) == 4
    assert model.text(tokens) == "ab!"
    assert model.piece(0, special=True) == b"<|im_end|>"
    assert model.ends(0)
    assert not model.ends(int(tokens[0]))
    assert 0 not in model.tokenize("<|im_end|>", special=False)


def test_a_pooled_embedding_follows_its_stack_and_not_its_company(lab: Lab) -> None:
    engine = lab.engine(pooling="mean")
    one = Rows.prompt(PROMPTS[1])
    decoded(engine, one, [STACKS[1]] * len(one))
    expected = engine.context.pooled(0).copy()
    assert expected.shape == (64,)
    rows = [(int(t), p, n, False) for n in (0, 1) for p, t in enumerate(PROMPTS[n])]
    engine.context.clear()
    decoded(engine, Rows.of(rows), [STACKS[row[2]] for row in rows])
    assert np.allclose(engine.context.pooled(1), expected, atol=1e-5)
    assert not np.allclose(engine.context.pooled(0), expected, atol=1e-2)
    with pytest.raises(InvalidError, match="pooling"):
        engine.context.pooled(5)


def test_an_engine_measures_its_costs_and_says_what_it_did(lab: Lab) -> None:
    seconds = count()
    engine = Engine.open(lab.model, lab.options(), clock=lambda: next(seconds) / 1000)
    lab.opened.append(engine)
    assert engine.describe().costs.step_s >= 0
    pairs, alpha = LAYERS["ops"]
    engine.add_layer("ops", pairs, alpha=alpha)
    decoded(engine, Rows.of([(40, 0, 0, True), (40, 0, 1, True)]), STACKS[:2])
    said = engine.describe()
    assert sum(said.steps.values()) == 1
    assert said.ways == (Way.NATIVE, Way.ADD, Way.MASK, Way.GROUPS)


def test_ctypes_gives_the_lock_back_while_it_decodes() -> None:
    """What lets another thread set the abort flag: llama.cpp is called as a CDLL, not a PyDLL."""
    assert isinstance(llama.GGML, ctypes.CDLL)
    assert not isinstance(llama.GGML, ctypes.PyDLL)
