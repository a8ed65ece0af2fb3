"""What the sidecar costs beside the bare library: tokens per CPU second, layers, first tokens.

    python benchmarks/bench_inference.py [--quick] [--rounds 3] [--server-python VENV/bin/python]

Clients stream 24 tokens of prompts of 16 each, on the tiny model and on a random one of 0.4 B
parameters in 8 bits, made for the run (--quick: the tiny one alone). One thread computes. The floor
is raw: the same prompts and tokens through `llama_decode` in this process, nothing else; rounds of
both alternate, the median of their ratios counts, CPU time is that of sidecar and worker together.
With the python of an environment that has `llama-cpp-python[server]`, that server is measured too.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from measuring import machine, quantile, verdict

from arsenale_core import sidecar
from arsenale_core.config import plain_environment
from arsenale_core.lora.adapters import Adapter, Factors
from arsenale_core.lora.gguf_files import write_adapter
from arsenale_inference.catalogue import TINY
from arsenale_inference.engine.context import Context, ContextOptions, Decoded, Rows
from arsenale_inference.engine.model import Model
from arsenale_inference.engine.testing import LITTLE, SMALL, Shape, random_layer, write_model

PROMPT, TOKENS = 16, 24
CLIENTS = (1, 4, 8, 16)
GENOMES = 8
RANK = 16
TINY_SHAPE = Shape(d=192, blocks=4, heads=3, kv_heads=1, ff=512, vocab=768)


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU time that PIDS have used, seconds."""
    nanoseconds = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return nanoseconds / 1e9


def prompts(count: int, n_vocab: int, seed: int) -> list[list[int]]:
    """Return COUNT prompts that have nothing in common."""
    chance = np.random.default_rng(seed)
    return chance.integers(n_vocab // 4, n_vocab - 1, (count, PROMPT)).tolist()


class Raw:
    """The library alone: one batched context, greedy."""

    def __init__(self, path: Path) -> None:
        self.model = Model.load(path)
        options = ContextOptions(tokens=8_192, sequences=16, batch=512, threads=1)
        self.context = Context(self.model, options)

    def rate(self, asked: Sequence[Sequence[int]]) -> float:
        """Return tokens per CPU second for prompts that are all there at once."""
        began_s = time.process_time()
        self.context.clear()
        rows = [
            (token, place, number, place == PROMPT - 1)
            for number, prompt in enumerate(asked)
            for place, token in enumerate(prompt)
        ]
        for step in range(TOKENS):
            done = self.context.decode(Rows.of(rows))
            assert isinstance(done, Decoded)
            best = done.logits.argmax(axis=1)
            rows = [(int(t), PROMPT + step, number, True) for number, t in enumerate(best)]
        return len(asked) * TOKENS / (time.process_time() - began_s)


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer: when its tokens came, seconds after it was asked."""

    first_s: float
    last_s: float
    tokens: int


class Server:
    """An HTTP server of OpenAI's API, and the processes that it takes."""

    def __init__(self, url: str, headers: dict[str, str], pids: Callable[[], list[int]]) -> None:
        self.pids = pids
        self.http = httpx2.Client(
            base_url=url, headers=headers, timeout=600,
            limits=httpx2.Limits(max_connections=64),
        )  # fmt: skip

    def ask(self, model: str, prompt: Sequence[int] | str, **more: Any) -> Heard:
        """Stream one answer."""
        body: dict[str, Any] = {
            "model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0,
            "stream": True, "ignore_eos": True, **more,
        }  # fmt: skip
        began_s, first_s, count = time.perf_counter(), 0.0, 0
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(answer.read())
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    first_s = first_s or time.perf_counter() - began_s
                    count += 1
        return Heard(first_s, time.perf_counter() - began_s, count)

    def rate(
        self, models: Sequence[str], asked: Sequence[Any], **more: Any
    ) -> tuple[float, list[Heard]]:
        """Return tokens per CPU second when all clients ask at once."""
        pids = self.pids()
        before_s = cpu_s(pids)
        with ThreadPoolExecutor(len(asked)) as pool:
            jobs = [
                pool.submit(self.ask, *pair, **more) for pair in zip(models, asked, strict=True)
            ]
            heard = [job.result() for job in jobs]
        return len(asked) * TOKENS / (cpu_s(pids) - before_s), heard


@contextmanager
def our_server(folder: Path) -> Generator[Server]:
    """Run a sidecar of one thread."""
    home = folder / "home"
    home.mkdir()
    settings = {"sequences": 16, "threads": 1, "answers": 0, "layers": 32, "layers_mb": 4_000}
    text = "".join(f"inference_{name} = {value}\n" for name, value in settings.items())
    (home / "config.toml").write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "arsenale_inference"], env=plain_environment(home)
    )
    try:
        found = _wait_for(lambda: sidecar.address(home))

        def pids() -> list[int]:
            said = server.http.get("/admin/status").json()
            workers = [worker["pid"] for each in said["models"] for worker in each["workers"]]
            return [process.pid, *workers]

        server = Server(found.url, found.headers, pids)
        yield server
    finally:
        process.terminate()
        process.wait()


@contextmanager
def official_server(python: str, path: Path) -> Generator[Server]:
    """Run `llama_cpp.server` of one thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        python, "-m", "llama_cpp.server", "--model", str(path), "--port", str(port), "--n_ctx",
        "2048", "--n_threads", "1", "--n_threads_batch", "1", "--interrupt_requests", "False",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(lambda: _answers(url) or None)
        yield Server(url, {}, lambda: [process.pid])
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/v1/models", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


def _wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise TimeoutError("the server does not start")


# ---------------------------------------------------------------- the measurements
@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One model in one run."""

    name: str
    path: Path
    server: Server
    raw: Raw
    rounds: int

    @property
    def n_vocab(self) -> int:
        """Return how many tokens there are."""
        return self.raw.model.info.n_vocab

    def throughput(self) -> None:
        """Compare with raw at each number of clients."""
        for clients in CLIENTS:
            rates: list[tuple[float, float]] = []
            heard: list[Heard] = []
            for number in range(self.rounds):
                asked = prompts(clients, self.n_vocab, 100 * clients + number)
                mine, said = self.server.rate([self.name] * clients, asked)
                rates.append((mine, self.raw.rate(asked)))
                heard += said
            mine, floor = (statistics.median(values) for values in zip(*rates, strict=True))
            ratio = statistics.median(ours / theirs for ours, theirs in rates)
            first = sorted(each.first_s for each in heard)
            print(
                f"  {clients:2} clients: {mine:,.1f} tokens/cpu-s (raw {floor:,.1f}), first token"
                f" p50 {quantile(first, 0.5) * 1e3:,.0f} ms,"
                f" p95 {quantile(first, 0.95) * 1e3:,.0f} ms"
            )
            verdict(f"{clients} clients, share of raw", ratio, 0.90, at_least=True)

    def layers(self, folder: Path, shape: Shape) -> None:
        """Load layers; compare eight clients of eight genomes, and stacks, with the base."""
        names = [self._put(folder, shape, seed) for seed in range(GENOMES)]
        loads: list[float] = []
        for name in names:
            asked = prompts(1, self.n_vocab, hash(name) % 1_000)[0]
            with_s = self.server.ask(f"{self.name}+{name}", asked, max_tokens=1).last_s
            asked = prompts(1, self.n_vocab, hash(name) % 1_000 + 1)[0]
            loads.append(with_s - self.server.ask(self.name, asked, max_tokens=1).last_s)
        print(f"  first load of a layer of rank {RANK}: {statistics.median(loads) * 1e3:,.1f} ms")
        self._genomes([f"{self.name}+{name}" for name in names])
        for depth in (1, 2, 4):
            model = self.name + "".join(f"+{name}:0.5" for name in names[:depth])
            for clients in (1, 8):
                ratio = self._share([model] * clients)
                print(f"  stack of {depth}, {clients} clients: +{1 / ratio - 1:.1%} a token")

    def _genomes(self, models: list[str]) -> None:
        last: list[float] = []
        ratio = self._share(models, last)
        verdict(f"{GENOMES} genomes in {GENOMES} clients, share of the base", ratio, 0.80,
                at_least=True)  # fmt: skip
        verdict("last client's first token / the median", statistics.median(last), 1.5)

    def _share(self, models: list[str], last: list[float] | None = None) -> float:
        def rate(names: list[str], seed: int) -> tuple[float, list[Heard]]:
            return self.server.rate(names, prompts(len(names), self.n_vocab, seed))

        ratios: list[float] = []
        for number in range(self.rounds):
            mine, heard = rate(models, 10_000 + 2 * number)
            base, _ = rate([self.name] * len(models), 10_001 + 2 * number)
            ratios.append(mine / base)
            firsts = [each.first_s for each in heard]
            if last is not None:
                last.append(max(firsts) / statistics.median(firsts))
        return statistics.median(ratios)

    def _put(self, folder: Path, shape: Shape, seed: int) -> str:
        pairs = random_layer(shape, seed, rank=RANK, kind="f16")
        factors = {name: Factors(a=a, b=b) for name, (a, b) in pairs.items()}
        path = folder / f"{self.name}-{seed}.gguf"
        adapter = Adapter(architecture="llama", alpha=float(RANK), factors=factors)
        write_adapter(adapter, path, half=True)
        name = f"{self.name}-layer-{seed}"
        self.server.http.put(f"/admin/layers/{name}", json={"path": str(path)}).raise_for_status()
        return name

    def cancelling(self) -> None:
        """Close streams in the middle; count what was generated after."""
        late: list[int] = []
        for number in range(self.rounds):
            before = self._answered()
            body = {
                "model": self.name, "prompt": prompts(1, self.n_vocab, 50_000 + number)[0],
                "max_tokens": 4_000, "temperature": 0, "stream": True, "ignore_eos": True,
                "logprobs": 0,
            }  # fmt: skip
            seen = 0
            with self.server.http.stream("POST", "/v1/completions", json=body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: {"):  # several tokens, where steps are short
                        shown = json.loads(line[6:])["choices"][0]["logprobs"]
                        seen += len(shown["tokens"]) if shown else 0
                    if seen >= 10:
                        break
            _wait_for(lambda: None if self._live() else True)
            late.append(self._answered() - before - seen)
        verdict("tokens after a client left", statistics.median(late), 20)

    def _worker(self) -> dict[str, Any]:
        said = self.server.http.get("/admin/status").json()
        [found] = [each for each in said["models"] if each["model"] == self.name]
        return found["workers"][0]

    def _answered(self) -> int:
        return self._worker()["answered_tokens"]

    def _live(self) -> int:
        return self._worker()["live"]


def official(bench: Bench, python: str | None) -> None:
    """Compare with `llama_cpp.server`."""
    if python is None or not _has_server(python):
        print("  llama_cpp.server: skipped (--server-python names no environment that has it)")
        return
    with official_server(python, bench.path) as theirs:
        ends = [token for token in range(bench.n_vocab) if bench.raw.model.ends(token)]
        more = {"logit_bias": dict.fromkeys(map(str, ends), -100)}
        for clients in (1, 8):
            texts = [f"{number} What is this about, my friend?" for number in range(clients)]
            theirs.rate([bench.name] * clients, texts, **more)
            rate, heard = theirs.rate([bench.name] * clients, texts, **more)
            rate *= sum(each.tokens for each in heard) / (clients * TOKENS)  # a chunk a token
            asked = prompts(clients, bench.n_vocab, 77)
            mine, _ = bench.server.rate([bench.name] * clients, asked)
            print(f"  {clients} clients: {mine / rate:.2f} times llama_cpp.server ({rate:,.1f})")


def _has_server(python: str) -> bool:
    found = subprocess.run([python, "-c", "import llama_cpp.server.app"], capture_output=True,
                           check=False)  # fmt: skip
    return found.returncode == 0


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-python")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with our_server(folder) as server:
            models = [("tiny", TINY / "base-q8_0.gguf", LITTLE)]
            if not arguments.quick:
                path = write_model(folder / "small.gguf", SMALL)
                server.http.put("/admin/models/small", json={"path": str(path)})
                models.append(("small", path, SMALL))
            for called, path, shape in models:
                print(f"{called}: {path.stat().st_size / 1e6:,.0f} MB")
                server.http.post("/admin/load", json={"model": called}).raise_for_status()
                bench = Bench(name=called, path=path, server=server, raw=Raw(path),
                              rounds=arguments.rounds)  # fmt: skip
                server.ask(called, prompts(1, bench.n_vocab, 0)[0])
                bench.throughput()
                bench.layers(folder, shape if called != "tiny" else TINY_SHAPE)
                bench.cancelling()
                official(bench, arguments.server_python)
    print(machine())


if __name__ == "__main__":
    main()
