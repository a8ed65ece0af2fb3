"""Layers added by the callback equal layers merged into the weights."""

# pyright: reportPrivateUsage=false
# What a graph may do is not in our hand: faults are put in from inside.

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from arsenale_core.errors import InvalidError, NotFoundError, UnavailableError
from arsenale_inference.engine import building, engine, tensors
from arsenale_inference.engine.compose import CComposer
from arsenale_inference.engine.composing import Fault, Mode, Step
from arsenale_inference.engine.context import Decoded, Rows
from arsenale_inference.engine.costs import Way
from arsenale_inference.engine.engine import Engine, Stack
from arsenale_inference.engine.layers import Pair
from arsenale_inference.engine.llama import Floats, Integers
from arsenale_inference.engine.python_compose import PythonComposer
from arsenale_inference.engine.testing import LAYERS, TINY, Lab, random_layer

CLOSE = 1e-5
"""Largest difference of a logit, where logits reach 5: the order of 32-bit sums differs."""

PROMPT = np.arange(40, 52, dtype=np.int32)
STACKS: list[Stack] = [
    (),
    (("ops", 1.0),),
    (("tone", 1.0),),
    (("ops", 1.0), ("tone", 0.5)),
    (("ops", 0.5), ("tone", 1.0), ("values", 0.7), ("output", 1.0)),
]
COMPOSERS = ("c", "python")
WAYS = (Way.ADD, Way.MASK, Way.GROUPS)
BOTH_AND_ALL = list(product(COMPOSERS, WAYS))


def logits(engine: Engine, rows: Rows, stacks: Sequence[Stack], way: Way | None = None) -> Floats:
    done = engine.decode(rows, stacks, way=way)
    assert isinstance(done, Decoded)
    return done.logits.copy()


def prompt_logits(engine: Engine, stack: Stack, way: Way | None = None) -> Floats:
    engine.context.clear()
    return logits(engine, Rows.prompt(PROMPT), [stack] * len(PROMPT), way)


@pytest.mark.parametrize(("composer", "way"), BOTH_AND_ALL)
def test_a_stack_equals_its_layers_merged_into_the_weights(
    lab: Lab, composer: str, way: Way
) -> None:
    mixed = lab.engine(composer)
    for stack in STACKS:
        expected = prompt_logits(lab.merged(stack), ())
        assert np.abs(prompt_logits(mixed, stack, way) - expected).max() < CLOSE


@pytest.mark.parametrize(("composer", "way"), BOTH_AND_ALL)
def test_weight_0_is_the_base_bit_for_bit(lab: Lab, composer: str, way: Way) -> None:
    mixed = lab.engine(composer)
    base = prompt_logits(lab.engine(layers=()), ())
    for stack in ((), (("ops", 0.0),), (("ops", 1.0), ("tone", 0.0), ("ops", -1.0))):
        assert np.array_equal(prompt_logits(mixed, stack, way), base)


@pytest.mark.parametrize(("composer", "way"), BOTH_AND_ALL)
def test_a_step_of_five_stacks_prompts_and_answers_mixed(lab: Lab, composer: str, way: Way) -> None:
    """Sequences 0 to 2 answer, 3 and 4 are at their prompts, of which one ends."""
    expected = [
        answers(lab.merged(stack), tokens) for stack, tokens in zip(STACKS, texts(), strict=True)
    ]
    mixed = lab.engine(composer)
    for number in (0, 1, 2):
        part = texts()[number][:-1]
        mixed.decode(Rows.prompt(part, sequence=number), [STACKS[number]] * len(part), way=way)
    rows: list[tuple[int, int, int, bool]] = []
    stacks: list[Stack] = []
    for number, tokens in enumerate(texts()):
        for position in range(len(tokens) - 1 if number < 3 else 0, len(tokens)):
            wanted = position == len(tokens) - 1 and number != 3
            rows.append((int(tokens[position]), position, number, wanted))
            stacks.append(STACKS[number])
    got = logits(mixed, Rows.of(rows), stacks, way)
    assert len(got) == 4
    for row, number in zip(got, (0, 1, 2, 4), strict=True):
        assert np.abs(row - expected[number]).max() < CLOSE


def texts() -> list[Integers]:
    return [np.arange(40 + 3 * n, 45 + 4 * n, dtype=np.int32) for n in range(len(STACKS))]


def answers(engine: Engine, tokens: Integers) -> Floats:
    return logits(engine, Rows.prompt(tokens), [()] * len(tokens))[0]


@pytest.mark.parametrize("composer", COMPOSERS)
@pytest.mark.parametrize("wanted", [(0,), (5,), (0, 3, 5), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5), ()])
def test_logits_of_any_rows_of_a_step(lab: Lab, composer: str, wanted: tuple[int, ...]) -> None:
    """Also where as many rows want logits as belong to one sequence (3) or one stack (4)."""
    mixed = lab.engine(composer)
    rows = [(40 + n, n % 3, n // 3, n in wanted) for n in range(6)]
    stacks = [STACKS[1 + 3 * (n // 3)] for n in range(6)]
    every = [(token, position, sequence, True) for token, position, sequence, _ in rows]
    got = logits(mixed, Rows.of(rows), stacks, Way.ADD)
    mixed.context.clear()
    alone = logits(mixed, Rows.of(every), stacks, Way.GROUPS)
    assert got.shape == (len(wanted), 128)
    assert np.allclose(got, alone[list(wanted)], atol=CLOSE, rtol=0)


@pytest.mark.parametrize(("composer", "way"), BOTH_AND_ALL)
def test_layers_come_and_go_between_steps(lab: Lab, composer: str, way: Way) -> None:
    mixed = lab.engine(composer)
    before = prompt_logits(mixed, STACKS[4], way)
    mixed.drop_layer("ops")
    with pytest.raises(NotFoundError, match="add it to this model first"):
        prompt_logits(mixed, STACKS[1])
    tone = prompt_logits(mixed, STACKS[2], way)
    pairs, alpha = LAYERS["tone"]
    mixed.add_layer("ops", pairs, alpha=alpha)
    assert np.abs(prompt_logits(mixed, STACKS[1], way) - tone).max() < CLOSE
    mixed.drop_layer("ops")
    pairs, alpha = LAYERS["ops"]
    mixed.add_layer("ops", pairs, alpha=alpha)
    assert np.abs(prompt_logits(mixed, STACKS[4], way) - before).max() < CLOSE


def test_ways_may_alternate_from_step_to_step(lab: Lab) -> None:
    mixed = lab.engine()
    expected = [prompt_logits(mixed, stack, Way.ADD) for stack in STACKS]
    for way in (Way.MASK, Way.ADD, Way.GROUPS, Way.MASK, Way.GROUPS, Way.ADD):
        for stack, known in zip(STACKS, expected, strict=True):
            assert np.abs(prompt_logits(mixed, stack, way) - known).max() < CLOSE


def test_one_stop_of_the_graph_serves_products_of_one_input(lab: Lab) -> None:
    """Of q, v, k, output, gate, up and down, v waits for k and gate for up: 5 stops a block."""
    mixed = lab.engine(layers=("ops",))
    composer = mixed._composer
    assert isinstance(composer, CComposer)
    waiting = {site.name.split(".")[2] for site in composer.sites() if site.waits}
    assert waiting == {"attn_v", "ffn_gate"}
    stops: list[int] = []
    found: list[Floats] = []
    for merge in (True, False):
        composer.merge(merge)
        before = composer.counts()[1]
        found.append(prompt_logits(mixed, STACKS[1], Way.ADD))
        stops.append(composer.counts()[1] - before)
    assert stops == [10, 14]
    assert np.array_equal(found[0], found[1])


def test_a_graph_that_is_not_as_recorded_is_run_in_another_way(lab: Lab) -> None:
    mixed = lab.engine()
    expected = prompt_logits(mixed, STACKS[3], Way.GROUPS)
    composer = mixed._composer
    faults = iter([Fault.ORDER, Fault.NONE, Fault.ROWS])

    class Faulty:
        def __getattr__(self, name: str) -> object:
            return getattr(composer, name)

        def end(self) -> Fault:
            assert composer is not None
            composer.end()
            return next(faults)

    mixed._composer = Faulty()  # type: ignore[assignment]
    for ways in ({Way.ADD, Way.MASK}, set[Way]()):
        got = prompt_logits(mixed, STACKS[3], Way.ADD)
        assert np.abs(got - expected).max() < CLOSE
        assert mixed._ways == ways
    mixed._composer = composer


def test_threads_that_share_the_work_change_nothing(lab: Lab) -> None:
    alone, shared = lab.engine(), lab.engine(threads=2)
    for stack in STACKS:
        expected = prompt_logits(alone, stack, Way.ADD)
        assert np.abs(prompt_logits(shared, stack, Way.ADD) - expected).max() < CLOSE


def test_a_callback_that_fails_costs_the_step_not_the_process(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = lab.engine("python")
    expected = prompt_logits(mixed, STACKS[3], Way.GROUPS)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PythonComposer, "_add", broken)
    assert np.abs(prompt_logits(mixed, STACKS[3], Way.ADD) - expected).max() < CLOSE
    assert "ZeroDivisionError" in caplog.text
    assert mixed.describe().ways == (Way.NATIVE, Way.GROUPS)


def test_a_layer_in_8_bits_is_near(lab: Lab) -> None:
    exact, compact = (lab.engine(compact=compact) for compact in (False, True))
    sizes = [engine.describe().layers["ops"] for engine in (exact, compact)]
    assert sizes[1] < sizes[0] / 3
    base, full, near = (
        prompt_logits(exact, ()), prompt_logits(exact, STACKS[1], Way.ADD),
        prompt_logits(compact, STACKS[1], Way.ADD),
    )  # fmt: skip
    assert np.linalg.norm(near - full) < 0.03 * np.linalg.norm(full - base)
    assert np.allclose(near, prompt_logits(compact, STACKS[1], Way.GROUPS), atol=CLOSE, rtol=0)


def test_16_bits_are_used_where_nothing_is_lost(lab: Lab) -> None:
    pairs, alpha = LAYERS["ops"]
    rounded = {name: (halved(a), halved(b)) for name, (a, b) in pairs.items()}
    exact = lab.engine(layers=())
    sizes = [exact.add_layer("a", pairs, alpha=alpha), exact.add_layer("b", rounded, alpha=alpha)]
    composer = exact._composer
    assert isinstance(composer, CComposer)
    if composer.halves:
        assert sizes[1] < 0.6 * sizes[0]
    for way in (Way.ADD, Way.GROUPS):
        got = prompt_logits(exact, (("b", 1.0),), way)
        assert np.abs(got - prompt_logits(exact, (("b", 1.0),), Way.MASK)).max() < CLOSE


def halved(side: Floats) -> Floats:
    return side.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({}, "at least one pair"),
        ({"blk.0.attn_norm.weight": (np.ones((1, 1)), np.ones((64, 1)))}, "cannot change"),
        ({"token_embd.weight": (np.ones((1, 64)), np.ones((128, 1)))}, "cannot change"),
        ({"blk.0.attn_q.weight": (np.ones((2, 64)), np.ones((64, 3)))}, r"needs A \(rank, 64\)"),
        ({"blk.0.attn_k.weight": (np.ones((2, 64)), np.ones((64, 2)))}, r"B \(32, rank\)"),
        ({"blk.0.attn_q.weight": (np.full((2, 64), np.nan), np.ones((64, 2)))}, "not finite"),
        ({"blk.0.attn_q.weight": (np.ones((0, 64)), np.ones((64, 0)))}, "empty"),
    ],
)
def test_a_layer_of_another_model_is_refused(lab: Lab, pairs: dict[str, Pair], said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        lab.engine(layers=()).add_layer("odd", pairs, alpha=1.0)


@pytest.mark.parametrize("rank", [1, 3, 4, 5, 16, 33])
def test_any_rank_and_any_number_of_rows(lab: Lab, rank: int) -> None:
    mixed = lab.engine(layers=())
    mixed.add_layer("odd", random_layer(TINY, 9, rank=rank, size=0.1), alpha=1.0)
    for n in (1, 3, 4, 7):
        rows = Rows.prompt(PROMPT[:n])
        found: list[Floats] = []
        for way in (Way.ADD, Way.NATIVE):
            mixed.context.clear()
            found.append(logits(mixed, rows, [(("odd", 1.0),)] * n, way))
        assert np.abs(found[0] - found[1]).max() < CLOSE


def test_numpy_adds_layers_where_there_is_no_compiler(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(building, "COMPILERS", ("no-such-compiler",))
    composer, reason = engine._composer(engine.EngineOptions(build_folder=tmp_path))
    assert composer is not None
    assert composer.name == "python"
    assert "install gcc or clang" in reason
    assert "layers are added by numpy" in caplog.text


def test_one_by_one_where_the_library_cannot_be_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = prompt_logits(lab.engine(), STACKS[4])
    monkeypatch.setattr(tensors, "OP", 84)
    alone = lab.engine("none")
    assert "another way" in alone.describe().reason
    assert np.abs(prompt_logits(alone, STACKS[4]) - expected).max() < CLOSE


def test_the_helper_is_compiled_once_and_a_bad_compiler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = building.library(tmp_path)
    made = first.stat().st_mtime_ns
    assert building.library(tmp_path) == first
    assert first.stat().st_mtime_ns == made
    assert list(tmp_path.iterdir()) == [first]
    monkeypatch.setattr(building, "FLAGS", ("-no-such-flag",))
    with pytest.raises(UnavailableError, match="could not compile"):
        building.library(tmp_path)
    assert list(tmp_path.iterdir()) == [first]


def test_a_damaged_helper_is_told(tmp_path: Path) -> None:
    (tmp_path / "compose.so").write_bytes(b"no library")
    with pytest.raises(UnavailableError, match="delete it"):
        CComposer(tmp_path / "compose.so")


def test_a_step_that_llama_cpp_cuts_in_parts_is_noticed(lab: Lab) -> None:
    """As if 12 rows had been announced and 11 came: no row gets another row's layers."""
    mixed = lab.engine()
    composer = mixed._composer
    assert composer is not None
    composer.begin(Step(mode=Mode.ADD, weights=np.ones((12, 4), np.float32),
                        outputs=np.array([11], np.int32)))  # fmt: skip
    mixed.context.decode(Rows.prompt(PROMPT[:11]))
    assert composer.end() is Fault.ROWS


def test_the_compiled_helper_leaves_the_processors_arithmetic_alone(built: Path) -> None:
    CComposer(building.library(built)).close()
    assert np.float32(1e-40) * np.float32(1) != 0  # subnormal numbers are still numbers
