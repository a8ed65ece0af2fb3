"""A true receipt is found to be so, and one that is not is refuted at its first false slice."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mesh.conftest import Wat
from tests.mesh.test_determinism import WORK

import arsenale_mesh
from arsenale_core.errors import InvalidError
from arsenale_mesh import identity, merkle, receipts
from arsenale_mesh.canonical import canonical
from arsenale_mesh.sandbox.jobs import Job, Outcome, limits
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.verification import freivalds
from arsenale_mesh.verification.bisection import (
    Claim,
    Known,
    Parting,
    Same,
    Settled,
    Unproved,
    first_difference,
    settle,
)
from arsenale_mesh.verification.commitments import Shown, lacking, place_of, show
from arsenale_mesh.verification.reexecution import (
    Differs,
    Finding,
    Holds,
    Unsure,
    check_slice,
    reexecute,
)

ONE, OTHER = identity.make(), identity.make()
INPUT = b"12345678"
MATMUL = (Path(arsenale_mesh.__file__).parent / "guests" / "matmul.wasm").read_bytes()


def job(module: bytes, **changes: Any) -> Job:
    plain = Job(
        module=module, function="run", input=INPUT, slice_fuel=5_000_000,
        limits=limits(fuel=200_000_000),
    )  # fmt: skip
    return replace(plain, **changes)


def signed(run: Job, ended: Outcome, who: identity.Identity = ONE, **lies: Any) -> receipts.Receipt:
    """Return an honest receipt of a run, with LIES in it."""
    body = receipts.Body(
        task="t", nonce="n", module=sha256(run.module).hexdigest(), function=run.function,
        input=sha256(run.input).hexdigest(), output=sha256(ended.output).hexdigest(),
        seed=run.seed, clock_us=run.clock_us, limits=run.limits, status=ended.status,
        fuel=ended.fuel, slice_fuel=run.slice_fuel, slices=ended.slices, trace=ended.trace,
        engine=ended.engine, node=who.did, started_us=1, ended_us=2,
    )  # fmt: skip
    return receipts.sign(replace(body, **lies), who)


def raw(ended: Outcome) -> list[bytes]:
    return [bytes.fromhex(leaf) for leaf in ended.leaves]


def cheated(leaves: Sequence[bytes], place: int) -> tuple[list[bytes], str]:
    """Return leaves that are false from PLACE on, and their root."""
    false = [*leaves[:place], *(sha256(b"false" + leaf).digest() for leaf in leaves[place:])]
    return false, merkle.root(false).hex()


@pytest.fixture(scope="module")
async def ran(pool: Pool, wat: Wat) -> tuple[Job, Outcome]:
    run = job(wat(WORK))
    ended = await pool.run(run)
    assert ended.status == "ok" and ended.slices >= 9
    return run, ended


async def again(
    pool: Pool, run: Job, receipt: receipts.Receipt, leaves: Sequence[bytes] | None = None,
    **more: Any,
) -> Finding:  # fmt: skip
    return await reexecute(receipt, leaves, run.module, run.input, pool, **more)


@pytest.mark.parametrize("backend", ["cranelift", "pulley64"])
async def test_a_true_receipt_holds_on_both_backends(
    pool: Pool, ran: tuple[Job, Outcome], backend: str
) -> None:
    run, ended = ran
    found = await again(pool, run, signed(*ran), raw(ended), backend=backend)
    assert isinstance(found, Holds), found
    assert found.fuel == ended.fuel


@pytest.mark.parametrize(
    "lie",
    [{"output": "0" * 64}, {"fuel": 7}, {"status": "trap"}, {"trace": "1" * 64}, {"slices": 3},
     {"seed": 9, "status": "out_of_fuel"}],
)  # fmt: skip
async def test_a_lie_is_told_by_its_name(
    pool: Pool, ran: tuple[Job, Outcome], lie: dict[str, Any]
) -> None:
    found = await again(pool, ran[0], signed(*ran, **lie))
    assert isinstance(found, Differs)
    assert {one.name for one in found.differences} == set(lie) - {"seed"}


async def test_where_a_trace_begins_to_be_false_is_told(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    false, root = cheated(raw(ran[1]), 4)
    found = await again(pool, ran[0], signed(*ran, trace=root), false)
    assert isinstance(found, Differs) and found.place == 4
    assert [one.name for one in found.differences] == ["trace"]


async def test_leaves_that_are_not_the_receipts_are_a_fault_without_a_run(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    leaves = raw(ran[1])
    for given_ in (leaves[:-1], cheated(leaves, 2)[0], []):
        assert lacking(signed(*ran), given_) is not None
        found = await again(pool, ran[0], signed(*ran), given_)
        assert isinstance(found, Differs) and found.fuel == 0
    assert lacking(signed(*ran), leaves) is None


async def test_module_and_input_must_be_the_receipts(pool: Pool, ran: tuple[Job, Outcome]) -> None:
    with pytest.raises(InvalidError, match="the input is not the receipt's"):
        await again(pool, replace(ran[0], input=b"other"), signed(*ran))


async def test_every_slice_of_a_true_trace_holds_at_its_part_of_the_cost(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    run, ended = ran
    for place in range(ended.slices + 1):
        shown = show(raw(ended), place)
        found = await check_slice(signed(*ran), shown, run.module, run.input, pool)
        assert isinstance(found, Holds), found
        assert found.fuel <= (place + 2) * run.slice_fuel


async def test_a_false_slice_is_found_and_a_leaf_that_is_not_shown_too(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    run, ended = ran
    false, root = cheated(raw(ended), 4)
    liar = signed(*ran, trace=root)
    kinds = [
        type(await check_slice(liar, show(false, place), run.module, run.input, pool))
        for place in (2, 3, 4, 6, ended.slices)
    ]
    assert kinds == [Holds, Holds, Differs, Differs, Differs]
    moved = replace(show(false, 3), place=4)
    short = Shown(place=3, leaf=false[3][:31], proof=show(false, 3).proof)
    for shown in (moved, short, show(raw(ended), 6)):
        found = await check_slice(liar, shown, run.module, run.input, pool)
        assert isinstance(found, Differs) and found.differences[0].name == "proof"


LONG = """(module (memory (export "memory") 600)
  (func (export "_start") (local $i i32)
    (loop $l
      (memory.fill (i32.const 0) (local.get $i) (i32.const 30000000))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (i32.const 5))))))"""


async def test_slices_that_one_operation_makes_longer_are_found_all_the_same(
    pool: Pool, wat: Wat
) -> None:
    run = job(wat(LONG), function="_start", input=b"")
    ended = await pool.run(run)
    assert ended.status == "ok" and ended.slices < ended.fuel // run.slice_fuel // 2
    for place in range(ended.slices):
        shown = show(raw(ended), place)
        found = await check_slice(signed(run, ended), shown, run.module, b"", pool)
        assert isinstance(found, Holds), found


FOREVER = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'


async def test_a_timeout_is_checked_as_far_as_its_slices_go(pool: Pool, wat: Wat) -> None:
    long = limits(fuel=10**10, wall_ms=150)
    run = job(wat(FOREVER), function="_start", input=b"", limits=long, slice_fuel=10_000_000)
    ended = await pool.run(run)
    assert ended.status == "timeout" and ended.slices >= 2
    found = await again(pool, run, signed(run, ended), raw(ended))
    assert isinstance(found, Unsure) and f"{ended.slices} of {ended.slices}" in found.reason
    false, root = cheated(raw(ended), 1)
    caught = await again(pool, run, signed(run, ended, trace=root), false)
    assert isinstance(caught, Differs) and caught.place == 1
    bare = await again(pool, run, signed(run, ended))
    assert isinstance(bare, Unsure) and bare.fuel == 0


async def test_a_claim_of_more_slices_than_there_are_is_no_timeout(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    leaves = [*raw(ran[1])[:-1], *(bytes([n]) * 32 for n in range(4))]
    liar = signed(*ran, status="timeout", slices=len(leaves) - 1, trace=merkle.root(leaves).hex())
    found = await again(pool, ran[0], liar, leaves)
    assert isinstance(found, Differs) and found.differences[0].name == "slices"


DEEP = """(module (memory (export "memory") 1)
  (func $f (param i32) (result i32)
    (i32.add (i32.const 1) (call $f (i32.add (local.get 0) (i32.const 1)))))
  (func (export "_start") (drop (call $f (i32.const 0)))))"""


async def test_of_a_stack_overflow_another_backend_compares_the_status_alone(
    pool: Pool, wat: Wat
) -> None:
    run = job(wat(DEEP), function="_start", input=b"")
    ended = await pool.run(run)
    assert ended.status == "stack_overflow"
    receipt = signed(run, ended)
    assert isinstance(await again(pool, run, receipt), Holds)
    assert isinstance(await again(pool, run, receipt, backend="pulley64"), Holds)
    other = signed(run, ended, status="trap")
    assert isinstance(await again(pool, run, other, backend="pulley64"), Unsure)
    assert isinstance(await again(pool, run, other), Differs)


async def test_a_difference_to_another_version_is_no_proof(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    old = ran[1].engine.replace("wasmtime-", "wasmtime-1")
    assert isinstance(await again(pool, ran[0], signed(*ran, engine=old)), Holds)
    assert isinstance(await again(pool, ran[0], signed(*ran, engine=old, fuel=7)), Unsure)


CHANCE = """(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (drop (call $random (i32.const 0) (i32.const 16)))
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 16)))
    (i64.const 24)))"""
"""A guest that gives 16 random bytes and the time."""


async def test_a_guest_of_chance_and_time_says_the_same_everywhere(pool: Pool, wat: Wat) -> None:
    run = job(wat(CHANCE), seed=7, clock_us=12)
    ended = await pool.run(run)
    assert ended.output[16:] == (12_000).to_bytes(8, "little")
    for backend in ("cranelift", "pulley64"):
        assert isinstance(await again(pool, run, signed(run, ended), backend=backend), Holds)


@pytest.mark.parametrize("real", [{"seed": 8}, {"clock_us": 13}])
async def test_a_guest_that_its_node_gives_real_chance_or_time_is_found_out(
    pool: Pool, wat: Wat, real: dict[str, int]
) -> None:
    said = job(wat(CHANCE), seed=7, clock_us=12)
    ended = await pool.run(replace(said, **real))
    found = await again(pool, said, signed(said, ended), raw(ended))
    assert isinstance(found, Differs)
    assert {one.name for one in found.differences} >= {"output"}


def test_a_draw_names_every_place_and_no_other() -> None:
    assert [place_of(draw, 4) for draw in (0.0, 0.24, 0.25, 0.99, 1.0)] == [0, 0, 1, 3, 3]


def claims(
    one: Sequence[bytes], other: Sequence[bytes], run: Job, ended: Outcome, **lies: Any
) -> tuple[Claim, Claim]:
    pair = zip((one, other), (ONE, OTHER), ({}, lies), strict=True)
    first, second = [
        Claim(
            receipt=signed(run, ended, who, trace=merkle.root(leaves).hex(),
                           slices=len(leaves) - 1, **more),
            prover=Known(leaves),
        )
        for leaves, who, more in pair
    ]  # fmt: skip
    return first, second


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sets(st.integers(0, 69), max_size=4))
async def test_bisection_finds_the_first_difference_in_log_n_probes(
    ran: tuple[Job, Outcome], size: int, other_size: int, lies: set[int]
) -> None:
    one = [merkle.leaf(bytes([n])) for n in range(size)]
    other = [merkle.leaf(bytes([n])) for n in range(other_size)]
    for leaves in (one, other):
        leaves[-1] = merkle.leaf(b"end" + bytes([len(leaves)]))
    for place in (place for place in lies if place < other_size):
        other[place] = merkle.leaf(b"false" + bytes([place]))
    differing = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    found = await first_difference(*claims(one, other, *ran))
    if one == other:
        assert found == Same()
        return
    assert isinstance(found, Parting)
    assert found.place == differing[0]
    assert found.probes <= 1 + math.ceil(math.log2(min(size, other_size)))


async def test_a_trace_that_is_the_beginning_of_another_parts_where_it_ends(
    ran: tuple[Job, Outcome],
) -> None:
    leaves = [merkle.leaf(bytes([n])) for n in range(9)]
    found = await first_difference(*claims(leaves[:4], leaves, *ran))
    assert isinstance(found, Parting) and found.place == 3


async def test_a_dispute_is_settled_by_running_to_the_first_false_slice(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    run, ended = ran
    for place in (0, 5, ended.slices):
        false, _ = cheated(raw(ended), place)
        honest, liar = claims(raw(ended), false, *ran)
        found = await settle(honest, liar, run.module, run.input, pool)
        assert isinstance(found, Settled)
        assert (found.place, found.refuted, found.standing) == (place, (OTHER.did,), (ONE.did,))
        if place < ended.slices:
            assert found.fuel <= (place + 2) * run.slice_fuel
    both = claims(cheated(raw(ended), 3)[0], cheated(raw(ended), 3)[0][::-1], *ran)
    found = await settle(*both, run.module, run.input, pool)
    assert isinstance(found, Settled) and found.standing == (ONE.did,)  # right so far, not later


async def test_who_copies_a_trace_and_lies_about_the_output_is_refuted(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    run, ended = ran
    honest, thief = claims(raw(ended), raw(ended), *ran, output="0" * 64)
    found = await settle(honest, thief, run.module, run.input, pool)
    assert isinstance(found, Settled) and found.refuted == (OTHER.did,)
    same = await settle(*claims(raw(ended), raw(ended), *ran), run.module, run.input, pool)
    assert same == Same()


class Evasive:
    """Shows leaves of another tree from some place on."""

    def __init__(self, leaves: Sequence[bytes], true_below: int) -> None:
        self._true, self._false = leaves, cheated(leaves, 0)[0]
        self._below = true_below

    async def leaf(self, place: int) -> Shown:
        return show(self._true if place < self._below else self._false, place)


async def test_who_cannot_show_what_it_committed_to_has_lost(
    pool: Pool, ran: tuple[Job, Outcome]
) -> None:
    run, ended = ran
    honest, liar = claims(raw(ended), cheated(raw(ended), 6)[0], *ran)
    evasive = replace(liar, prover=Evasive(cheated(raw(ended), 6)[0], 1))
    found = await first_difference(honest, evasive)
    assert isinstance(found, Unproved) and found.nodes == (OTHER.did,)
    settled = await settle(honest, evasive, run.module, run.input, pool)
    assert isinstance(settled, Settled) and settled.refuted == (OTHER.did,)


async def test_receipts_of_two_jobs_are_not_compared(ran: tuple[Job, Outcome]) -> None:
    leaves = raw(ran[1])
    with pytest.raises(InvalidError, match="two jobs: seed differ"):
        await first_difference(*claims(leaves, leaves, *ran, seed=8))


def matrices(seed: int, n: int, k: int, m: int, width: int) -> tuple[Any, Any]:
    rng, most = np.random.default_rng(seed), 2 ** (8 * width - 1)
    return rng.integers(-most, most, (n, k)), rng.integers(-most, most, (k, m))


async def multiplied(pool: Pool, input: bytes) -> Outcome:
    wide = limits(output_bytes=1 << 23)
    return await pool.run(Job(module=MATMUL, function="run", input=input, limits=wide))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99), *[st.integers(1, 20)] * 3, st.sampled_from([4, 8]), st.integers(0, 2**20)
)
async def test_a_product_passes_and_a_single_changed_bit_does_not(
    pool: Pool, seed: int, n: int, k: int, m: int, width: int, bit: int
) -> None:
    a, b = matrices(seed, n, k, m, width)
    input = freivalds.pack(a, b, width=width)
    ended = await multiplied(pool, input)
    assert ended.status == "ok"
    assert ended.output == (a @ b).astype("<i8").tobytes()
    assert freivalds.check(input, ended.output)
    assert ended.fuel <= freivalds.fuel_at_most(input)
    if min(n, k, m) >= 16:
        assert ended.fuel >= 0.75 * freivalds.fuel_at_most(input)
    false = bytearray(ended.output)
    false[bit // 8 % len(false)] ^= 1 << bit % 8
    assert not freivalds.check(input, bytes(false))
    assert not freivalds.check(input, ended.output[:-8])


@pytest.mark.parametrize(
    "input", [b"", b"\4\0\0\0" * 4, freivalds.pack(np.eye(2), np.eye(2))[:-1],
              b"\5" + freivalds.pack(np.eye(2), np.eye(2))[1:], bytes(16)],
)  # fmt: skip
async def test_what_is_no_two_matrices_is_refused_by_guest_and_check_alike(
    pool: Pool, input: bytes
) -> None:
    ended = await multiplied(pool, input)
    assert (ended.status, ended.output) == ("ok", freivalds.REFUSED)
    assert freivalds.check(input, ended.output) and not freivalds.check(input, b"")
    assert ended.fuel <= freivalds.fuel_at_most(input)


def test_a_wrong_product_passes_one_round_half_of_the_time_at_most() -> None:
    rng = random.Random(4)
    zero, one = np.zeros((3, 3), np.uint64), np.zeros((3, 3), np.uint64)
    one[1, 2] = 2**63  # the worst: a divisor of zero
    passed = sum(freivalds.holds(zero, zero, one, 1, rng) for _ in range(2_000))
    assert 900 < passed < 1_100
    assert not any(freivalds.holds(zero, zero, one, 40, rng) for _ in range(200))
    assert freivalds.holds(zero, zero, zero, 40, rng)
    assert not freivalds.holds(zero, zero, zero[:2], 1, rng)
    with pytest.raises(ValueError, match="0 rounds"):
        freivalds.holds(zero, zero, zero, 0, rng)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=500)
@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_the_canonical_form_is_that_of_rfc_8785_byte_for_byte(value: dict[str, Any]) -> None:
    assert canonical(value) == rfc8785.dumps(value)


NUMBER = st.integers(0, 2**53 - 1)
BODIES = st.builds(
    receipts.Body, task=TEXT, nonce=TEXT, module=TEXT, function=TEXT, input=TEXT, output=TEXT,
    seed=NUMBER, clock_us=NUMBER, status=st.just("ok"), fuel=NUMBER, slice_fuel=NUMBER,
    slices=NUMBER, trace=TEXT, engine=TEXT, node=st.just(ONE.did), started_us=NUMBER,
    ended_us=NUMBER,
    limits=st.builds(receipts.Limits, memory_bytes=NUMBER, fuel=NUMBER, wall_ms=NUMBER,
                     output_bytes=NUMBER),
)  # fmt: skip


@settings(max_examples=300)
@given(BODIES)
def test_every_receipt_has_the_bytes_of_rfc_8785(body: receipts.Body) -> None:
    plain = receipts.sign(body, ONE).plain()
    assert canonical(plain) == rfc8785.dumps(plain)


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), float("nan"), float("inf"), "\ud800", b"bytes", {1: 2}, {"\ud800": 1}],
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidError, match="no canonical form"):
        canonical({"x": value})
