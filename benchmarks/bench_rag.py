"""What it costs to answer from memory: retrieval and generation, end to end through the servers.

    python benchmarks/bench_rag.py [--chunks 10000] [--answers 60]

The chunks are the sentences of `bench_memory.py`. `generate` of the genome server asks the memory
server through the relay, as any client, then the sidecar's built-in model. The floor of retrieval
is `recall` asked over a connection that is open already.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import anyio
from bench_memory import SUBJECTS, THINGS, WHY, call, sentences
from mcp import Client, StdioServerParameters
from measuring import machine, quantile, verdict

from arsenale_core import sidecar
from arsenale_core.config import child_environment
from arsenale_daemon import control
from arsenale_daemon.install import interpreter, relay_path


def relay(home: Path, server: str) -> StdioServerParameters:
    """Return the relay of a server."""
    return StdioServerParameters(
        command=interpreter(), args=["-I", "-S", str(relay_path()), server],
        env=child_environment(home),
    )  # fmt: skip


async def measure(home: Path, chunks: int, answers: int) -> None:
    """Fill a namespace, then let a genome answer from it."""
    chance = random.Random(5)
    asked = [
        f"What did {chance.choice(SUBJECTS)} do with {chance.choice(THINGS)} {chance.choice(WHY)}?"
        for _ in range(answers)
    ]
    made = sentences(chunks)
    async with Client(relay(home, "memory")) as memory:
        for start in range(0, chunks, 500):
            items = [{"content": text} for text in made[start : start + 500]]
            await call(memory, "remember", memories=items, namespace="known")
        await call(memory, "recall", question="warm up", namespace="known")
        floor: list[float] = []
        for question in asked:
            begun = time.perf_counter()
            await call(memory, "recall", question=question, namespace="known")
            floor.append(time.perf_counter() - begun)
    async with Client(relay(home, "genome")) as genome:
        await call(genome, "create_genome", name="guide", base="tiny")
        await call(genome, "generate", genome="guide", prompt="Hello")
        found_ms: list[float] = []
        whole: list[float] = []
        for question in asked:
            begun = time.perf_counter()
            answer = await genome.call_tool(
                "generate",
                {"genome": "guide", "prompt": question, "knowledge": "known",
                 "knowledge_tokens": 400, "max_tokens": 16, "temperature": 0},
            )  # fmt: skip
            whole.append(time.perf_counter() - begun)
            assert not answer.is_error and answer.structured_content, answer.content
            found_ms.append(answer.structured_content["retrieved_ms"])
            assert answer.structured_content["sources"]
    print(f"recall over an open connection: p50 {quantile(floor, 0.5) * 1e3:.1f} ms, "
          f"p95 {quantile(floor, 0.95) * 1e3:.1f} ms")  # fmt: skip
    print(f"recall + generate (16 tokens of the tiny model): p50 {quantile(whole, 0.5) * 1e3:.0f} "
          f"ms, p95 {quantile(whole, 0.95) * 1e3:.0f} ms")  # fmt: skip
    ratio = quantile(found_ms, 0.5) / (quantile(floor, 0.5) * 1e3)
    print(f"retrieval p50 {quantile(found_ms, 0.5):.1f} ms, {ratio:.1f} x that floor")
    verdict("retrieval p95", quantile(found_ms, 0.95), 100, " ms")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--answers", type=int, default=60)
    args = parser.parse_args()
    print(f"{args.chunks:,} chunks; {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "config.toml").write_text('http_port = 0\nembedder = "static"\n', encoding="utf-8")
        os.environ["ARSENALE_HOME"] = folder
        try:
            anyio.run(measure, home, args.chunks, args.answers)
        finally:
            sidecar.stop(home)
            control.down(home)


if __name__ == "__main__":
    main()
