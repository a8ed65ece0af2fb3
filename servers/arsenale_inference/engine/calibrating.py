"""Measures the coefficients of `costs` on the model at hand, in a bounded time."""

from collections.abc import Callable, Sequence

import numpy as np

from arsenale_inference.engine import llama
from arsenale_inference.engine.composing import Composer, Mode, Step
from arsenale_inference.engine.context import Context, Rows
from arsenale_inference.engine.costs import Costs
from arsenale_inference.engine.layers import Layer, Site

ROUNDS = 3
MANY = 8
RANK = 4
BUDGET_S = 0.8
"""No further round begins after this: a large model is measured once."""

READ_VALUES = 1 << 22
Clock = Callable[[], float]


def base_costs(context: Context, clock: Clock) -> Costs:
    """Measure a step of the base model with one row and with several."""
    many = min(MANY, context.options.sequences)
    one_s = _best(lambda: _step(context, 1), clock)
    many_s = _best(lambda: _step(context, many), clock) if many > 1 else one_s
    row_s = min(max(many_s - one_s, 0.0) / max(many - 1, 1), one_s)
    share = one_s / (Costs().step_s + Costs().row_s)
    return Costs(
        step_s=max(one_s - row_s, 0.0), row_s=row_s, switch_s=Costs().switch_s * share,
        stop_s=Costs().stop_s * share, read_s=_read_s(clock), add_s=Costs().add_s,
        native_layer_s=Costs().native_layer_s * share, native_s=Costs().native_s,
    )  # fmt: skip


def native_costs(
    context: Context, adapter: llama.Handle, base_s: float, clock: Clock
) -> tuple[float, float]:
    """Measure llama.cpp's own way with ADAPTER, which is set on no context before and after.

    Returns:
        Seconds that a change of the set takes, and seconds that one more adapter takes a step.
    """
    start = clock()
    context.set_adapters([(adapter, 1.0)])
    _step(context, 1)
    first_s = clock() - start
    later_s = _best(lambda: _step(context, 1), clock)
    context.set_adapters([])
    _step(context, 1)
    return max(first_s - later_s, 0.0), max(later_s - base_s, 0.0)


def add_costs(
    context: Context, composer: Composer, layer: Layer, clock: Clock
) -> tuple[float, float]:
    """Measure the callback with LAYER, of all weights; slot 0 must be free.

    Returns:
        Seconds that the stops of a step take, and seconds of a value for one row.
    """
    composer.set_layer(0, layer)
    try:
        many = min(MANY, context.options.sequences)
        base_s = [_best(lambda n=n: _step(context, n), clock) for n in (1, many)]
        with_s = [_best(lambda n=n: _step(context, n, composer), clock) for n in (1, many)]
    finally:
        composer.drop_layer(0)
    one_s, many_s = (max(w - b, 0.0) for w, b in zip(with_s, base_s, strict=True))
    add_s = max(many_s - one_s, 0.0) / max(many - 1, 1) / layer.values
    return one_s, add_s


def _best(step: Callable[[], None], clock: Clock) -> float:
    begun = clock()
    times: list[float] = []
    while len(times) < ROUNDS and (not times or clock() - begun < BUDGET_S / 6):
        start = clock()
        step()
        times.append(clock() - start)
    return min(times)


def _step(context: Context, n: int, composer: Composer | None = None) -> None:
    everyone = np.arange(n, dtype=np.int32)
    rows = Rows(tokens=np.zeros(n, np.int32), positions=np.zeros(n, np.int32),
                sequences=everyone, wants=np.ones(n, bool))  # fmt: skip
    if composer is not None:
        composer.begin(Step(mode=Mode.ADD, weights=np.ones((n, 1), np.float32), outputs=everyone))
    try:
        context.decode(rows)
    finally:
        if composer is not None:
            composer.end()
        context.clear()


def zeros(sites: Sequence[Site]) -> Layer:
    """Make a layer that changes nothing, on all weights of the blocks."""
    pairs = {
        site.name: (
            np.zeros((RANK, site.n_in), np.float32),
            np.zeros((site.n_out, RANK), np.float32),
        )
        for site in sites
        if site.name.startswith("blk.")
    }
    return Layer(name="calibration", pairs=pairs, alpha=0.0)


def _read_s(clock: Clock) -> float:
    """Return the time to read a value of 16 bits from memory."""
    values = np.ones(READ_VALUES, np.int32)

    def read() -> None:
        values.sum()

    return _best(read, clock) / READ_VALUES / 2
