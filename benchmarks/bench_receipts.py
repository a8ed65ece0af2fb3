"""What a receipt costs: committing to the state, signing, verifying; and a check without a run.

    python benchmarks/bench_receipts.py [--rounds 7]

The task burns 10^9 fuel in 4 MiB of memory and is committed to every 500,000,000. What committing
costs is the difference of the least times with and without it, taken in turns.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import anyio
import numpy as np
import rfc8785
from measuring import machine, verdict
from wasmtime import wat2wasm

import arsenale_mesh
from arsenale_mesh import identity, receipts
from arsenale_mesh.canonical import canonical
from arsenale_mesh.sandbox.jobs import Job, Outcome, limits
from arsenale_mesh.sandbox.pool import Pool
from arsenale_mesh.verification import freivalds
from arsenale_mesh.verification.commitments import lacking, show
from arsenale_mesh.verification.reexecution import Holds, check_slice, reexecute

MATMUL: Final = Path(arsenale_mesh.__file__).parent / "guests" / "matmul.wasm"

BURN: Final = """(module (memory (export "memory") 64)
  (func (export "_start") (local $i i32) (local $x i64)
    (local.set $x (i64.const 88172645463325252))
    (loop $l
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (i64.store (i32.and (i32.wrap_i64 (local.get $x)) (i32.const 0x3ffff8)) (local.get $x))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (i32.const 41700000))))))"""


def least(way: Callable[[], object], rounds: int) -> float:
    """Return the least time of WAY, seconds."""
    times = list[float]()
    for _ in range(rounds):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return min(times)


def body_of(job: Job, ended: Outcome, who: identity.Identity) -> receipts.Body:
    """Return what a node says of a run."""
    return receipts.Body(
        task="t" * 32, nonce="n" * 32, module=sha256(job.module).hexdigest(),
        function=job.function, input=sha256(job.input).hexdigest(),
        output=sha256(ended.output).hexdigest(), seed=0, clock_us=0, limits=job.limits,
        status=ended.status, fuel=ended.fuel, slice_fuel=job.slice_fuel, slices=ended.slices,
        trace=ended.trace, engine=ended.engine, node=who.did, started_us=1, ended_us=2,
    )  # fmt: skip


async def task(pool: Pool, rounds: int) -> None:
    """Print what a receipt of 10^9 fuel costs, and what checking it does."""
    job = Job(module=bytes(wat2wasm(BURN)), limits=limits(fuel=2_000_000_000))
    bare, traced = replace(job, trace=False), job
    ended = await pool.run(traced)
    await pool.run(bare)
    times: dict[str, list[float]] = {"bare": [], "traced": []}
    for _ in range(rounds):
        for name, one in (("bare", bare), ("traced", traced)):
            times[name].append((await pool.run(one)).wall_ms / 1000)
    committing = max(0.0, min(times["traced"]) - min(times["bare"]))
    who, leaves = identity.make(), [bytes.fromhex(leaf) for leaf in ended.leaves]
    body = body_of(job, ended, who)
    receipt = receipts.sign(body, who)
    signing = least(lambda: receipts.sign(body, who), 50 * rounds)
    verifying = least(lambda: receipts.problems(receipt), 50 * rounds)
    fitting = least(lambda: lacking(receipt, leaves), 50 * rounds)
    print(f"     {ended.fuel:,} fuel, {ended.slices} slices, {ended.traced_by}")
    print(f"     run {min(times['bare']):.3f} s, with commitments {min(times['traced']):.3f} s")
    print(f"     made: commitments {1000 * committing:.2f} ms + signature {1e6 * signing:.0f} us")
    print(f"     checked: signature {1e6 * verifying:.0f} us + commitments {1e6 * fitting:.0f} us")
    verdict("a receipt made and checked", committing + signing + verifying + fitting, 2, " s")
    await again(pool, job, receipt, leaves)
    small(body, receipt, who, rounds)


async def again(pool: Pool, job: Job, receipt: receipts.Receipt, leaves: list[bytes]) -> None:
    """Print what running it again costs, whole and as far as its first slice."""
    start = time.perf_counter()
    whole = await reexecute(receipt, leaves, job.module, job.input, pool)
    middle = time.perf_counter()
    part = await check_slice(receipt, show(leaves, 0), job.module, job.input, pool)
    end = time.perf_counter()
    assert isinstance(whole, Holds) and isinstance(part, Holds)
    print(f"     run again: {middle - start:.3f} s; as far as slice 1: {end - middle:.3f} s")


def small(
    body: receipts.Body, receipt: receipts.Receipt, who: identity.Identity, rounds: int
) -> None:
    """Print the parts of signing and verifying one receipt."""
    plain, data = asdict(body), b"x" * 900
    signature = who.sign(data)
    parts: dict[str, Callable[[], Any]] = {
        "canonical form": lambda: canonical(plain),
        "the same by rfc8785": lambda: rfc8785.dumps(plain),
        "Ed25519 signature": lambda: who.sign(data),
        "Ed25519 verification, with the key of the did": lambda: identity.is_signed(
            who.did, signature, data
        ),
        "read from JSON": lambda: receipts.parse(receipt.plain()),
    }
    for name, way in parts.items():
        print(f"     {name}: {1e6 * least(way, 100 * rounds):.1f} us")
    ratio = least(parts["the same by rfc8785"], 100 * rounds) / least(
        parts["canonical form"], 100 * rounds
    )
    verdict("canonical form, faster than rfc8785", ratio, 3, "x", at_least=True)


async def products(pool: Pool, rounds: int) -> None:
    """Print how much cheaper Freivalds' check is than multiplying again."""
    rng, module = np.random.default_rng(1), MATMUL.read_bytes()
    for n, asked in ((256, 4.0), (512, 8.0)):
        a, b = (rng.integers(-(2**31), 2**31, (n, n)) for _ in range(2))
        input = freivalds.pack(a, b, width=4)
        job = Job(module=module, function="run", input=input, limits=limits(output_bytes=1 << 22))
        runs, checks = list[float](), list[float]()
        ended = await pool.run(job)
        for _ in range(rounds):
            start = time.perf_counter()
            ended = await pool.run(job)
            middle = time.perf_counter()
            assert freivalds.check(input, ended.output)
            runs.append(middle - start)
            checks.append(time.perf_counter() - middle)
        told = f"{1000 * min(runs):.1f} ms run again, {1000 * min(checks):.2f} ms checked"
        print(f"     {n} x {n}, {freivalds.ROUNDS} rounds: {told}, {ended.fuel:,} fuel")
        verdict(f"Freivalds at n = {n}", min(runs) / min(checks), asked, "x", at_least=True)


async def measure(rounds: int) -> None:
    """Measure all of it."""
    async with Pool() as pool:
        await task(pool, rounds)
        await products(pool, rounds)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    print(machine())
    anyio.run(measure, parser.parse_args().rounds)


if __name__ == "__main__":
    main()
