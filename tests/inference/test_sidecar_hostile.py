"""The sidecar under kills, floods, silence, nonsense and broken files."""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arsenale_core.config import plain_environment
from arsenale_core.lora.adapters import Adapter, Factors
from arsenale_core.lora.gguf_files import write_adapter
from arsenale_inference.catalogue import TINY as FOLDER

if TYPE_CHECKING:
    from tests.inference.conftest import Sidecar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Start: TypeAlias = Callable[..., "Sidecar"]
Alive: TypeAlias = Callable[[int], bool]
KillWorker: TypeAlias = Callable[..., int]

HELLO = [{"role": "user", "content": "Hello!"}]
LONG: dict[str, Any] = {
    "model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 6_000, "ignore_eos": True,
}  # fmt: skip
GROWTH_BYTES = 24_000_000
"""Bound on what a process may grow by over 1,000 requests after 300 of warm-up."""


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture
def served(running: "Sidecar") -> Iterator["Sidecar"]:
    """The sidecar of the module; whatever a test does to it, nothing is left over."""
    yield running
    running.until_idle()
    assert running.chat("What is the capital of Italy?", seed=1).status_code == 200


def message_of(answer: httpx2.Response) -> str:
    return answer.json()["error"]["message"]


# ---------------------------------------------------------------- workers that die
def test_a_request_whose_worker_dies_before_its_first_token_is_answered_by_another(
    served: "Sidecar", pool: ThreadPoolExecutor, kill_worker: KillWorker
) -> None:
    served.chat()
    pid = kill_worker(served, signal.SIGSTOP)
    asked: Future[httpx2.Response] = pool.submit(served.chat, "What is 3 + 4?", seed=7)
    served.until(lambda s: s["models"][0]["workers"][0]["live"] == 1)
    os.kill(pid, signal.SIGKILL)
    assert asked.result().status_code == 200
    assert served.worker()["pid"] != pid


def test_a_stream_whose_worker_dies_ends_in_an_error_and_the_service_goes_on(
    served: "Sidecar", kill_worker: KillWorker
) -> None:
    events: list[str] = []
    with served.http.stream("POST", "/v1/chat/completions", json=LONG) as answer:
        for line in answer.iter_lines():
            if line:
                events.append(line)
                if len(events) == 5:
                    kill_worker(served)
    last = json.loads(events[-1].removeprefix("data: "))
    assert "ended while it answered" in last["error"]["message"]
    assert served.chat("go on", seed=2).status_code == 200


def test_a_model_whose_workers_keep_dying_is_given_up_for_a_while(
    start_sidecar: Start, kill_worker: KillWorker
) -> None:
    made = start_sidecar()
    for n in range(4):
        assert made.chat(f"again {n}").status_code == 200
        pid = kill_worker(made)
        made.until(lambda s, pid=pid: pid not in [w["pid"] for w in s["models"][0]["workers"]])
    made.until(lambda s: s["models"][0]["state"] == "broken")
    refused = made.chat("once more")
    assert refused.status_code == 503
    assert "died 4 times in a minute; the last one was killed by SIGKILL" in message_of(refused)
    assert "ran out of memory" in message_of(refused), "the remedy follows the signal"
    made.until_idle()


def test_a_worker_that_hangs_is_replaced(
    start_sidecar: Start, pool: ThreadPoolExecutor, kill_worker: KillWorker, alive: Alive
) -> None:
    made = start_sidecar(hang_s=1.0)
    made.chat()
    pid = kill_worker(made, signal.SIGSTOP)
    waiting = [pool.submit(made.chat, "x" * 200_000 + str(n)) for n in range(3)]  # a full pipe
    asked = pool.submit(made.chat, "What is 3 + 4?")
    assert asked.result(60).status_code == 200
    assert not alive(pid) and made.worker()["pid"] != pid
    assert {each.result(60).status_code for each in waiting} == {400}, "longer than the context"
    made.until_idle()


def test_when_the_sidecar_is_killed_its_workers_end_and_the_next_one_starts(
    start_sidecar: Start, alive: Alive
) -> None:
    made = start_sidecar(workers=2)
    made.http.post("/admin/load", json={"model": "tiny"})
    workers = [worker["pid"] for worker in made.status()["models"][0]["workers"]]
    assert len(workers) == 2
    stream = made.http.stream("POST", "/v1/chat/completions", json=LONG)
    with pytest.raises(httpx2.HTTPError), stream as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number == 5:
                made.process.kill()
    made.process.wait()
    _until(lambda: not any(map(alive, workers)))
    with ThreadPoolExecutor(3) as pool:
        started = [pool.submit(cli, made.home, "up", "--json") for _ in range(3)]
        ups = [each.result() for each in started]
    assert {up.returncode for up in ups} == {0}, ups
    assert len({json.loads(up.stdout)["pid"] for up in ups}) == 1
    said = cli(made.home, "ask", "tiny", "What is the capital of Italy?", "--temperature", "0")
    assert said.stdout.strip() == "Rome."
    assert cli(made.home, "down").returncode == 0
    up = cli(made.home, "up", "--json")
    assert up.returncode == 0, "it starts while the last one still ends"
    assert cli(made.home, "down").returncode == 0
    _until(lambda: not alive(json.loads(up.stdout)["pid"]))


def cli(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("arsenale"), "inference", *words],
        env=plain_environment(home), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---------------------------------------------------------------- clients
def test_200_clients_that_leave_when_they_like_leave_nothing_behind(served: "Sidecar") -> None:
    chance = random.Random(5)
    models = ["tiny", "tiny+tiny-facts", "tiny+tiny-tone:0.5", "tiny+tiny-facts+tiny-tone"]

    async def client(http: httpx2.AsyncClient, number: int) -> int:
        body = {**LONG, "model": chance.choice(models), "max_tokens": 60, "seed": number}
        leaves_after = chance.choice([0, 1, 3, 10, 10_000])
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                seen = 0
                async for _ in answer.aiter_lines():
                    seen += 1
                    if seen > leaves_after:
                        break
                return answer.status_code
        except httpx2.ReadTimeout:
            return 0

    async def flood() -> list[int]:
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=0)
        async with httpx2.AsyncClient(
            base_url=served.url, headers=served.address.headers, timeout=90, limits=limits
        ) as http:
            return list(await asyncio.gather(*(client(http, number) for number in range(200))))

    found = asyncio.run(flood())
    assert set(found) <= {200, 503}, "what waited for too long is told so"
    assert found.count(200) > 100
    served.until_idle()


def test_a_client_that_never_reads_holds_up_nobody_and_is_let_go(served: "Sidecar") -> None:
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "max_tokens": 100_000}).encode()
    with socket.create_connection((host, int(port))) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        silent.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
            + served.token.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
        )  # fmt: skip
        served.until(lambda s: s["models"][0]["workers"][0]["live"] >= 1)
        for n in range(5):
            assert served.chat(f"number {n}").status_code == 200
    served.until_idle()


def test_a_client_that_leaves_while_it_waits_is_forgotten(
    served: "Sidecar", kill_worker: KillWorker
) -> None:
    served.chat()
    pid = kill_worker(served, signal.SIGSTOP)
    try:
        for n in range(12):
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(
                    f"{served.url}/v1/chat/completions", headers=served.address.headers,
                    json={"model": f"tiny+tiny-facts:0.{n + 1}", "messages": HELLO}, timeout=0.2,
                )  # fmt: skip
        served.until(lambda status: status["queue_depth"] == 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    served.until_idle()
    assert served.worker()["pid"] == pid


# ---------------------------------------------------------------- nonsense
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/admin/load", "/admin/warm")
BODIES = [
    b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b"{" * 100_000, b"[" * 1_000_000,
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": 1e999}]}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": {"a": ' + b"9" * 400 + b"}}]}",
    b'{"model": "tiny", "input": ["' + b"x" * 3_000_000 + b'"], "prompt": "a", "max_tokens": 1}',
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_none_is_a_bad_request(served: "Sidecar", path: str, body: bytes) -> None:
    answer = served.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_is_refused(served: "Sidecar") -> None:
    for content in (b"x" * 65_000_000, iter([b"x" * 1_000_000] * 70)):
        try:
            answer = served.http.post("/v1/completions", content=content)
        except httpx2.HTTPError:
            continue  # a chunked one is cut off
        assert answer.status_code in (413, 499), answer.text[:200]


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = (
    "messages", "prompt", "input", "max_tokens", "n", "stop", "seed", "temperature", "top_p",
    "logit_bias", "response_format", "tools", "tool_choice", "grammar", "stream_options",
    "logprobs", "top_logprobs", "top_k", "min_p", "priority", "timeout", "encoding_format",
    "model", "echo", "suffix", "stream", "json_schema", "chat_template_kwargs", "best_of",
    "parallel_tool_calls", "reasoning_effort", "documents", "repetition_penalty", "n_predict",
    "modalities", "functions",
)  # fmt: skip
VALID: dict[str, Any] = {
    "model": "tiny", "messages": HELLO, "prompt": "Hi", "input": "Hi", "max_tokens": 2,
}  # fmt: skip


@settings(
    max_examples=400, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    path=st.sampled_from(PATHS[:3]),
    more=st.dictionaries(st.sampled_from(FIELDS), Json, min_size=1, max_size=2),
)
def test_no_value_of_any_field_is_an_internal_error(
    running: "Sidecar", path: str, more: dict[str, Any]
) -> None:
    answer = running.http.post(path, content=json.dumps({**VALID, **more}))
    assert answer.status_code in (200, 400, 404), (more, answer.text)


SCHEMAS: list[Any] = [
    {"type": ["string", 1]}, {"$ref": "#/x"}, {"$ref": 5}, {"$ref": "https://example.org/x"},
    {"type": "string", "pattern": "^(["}, {"type": "string", "pattern": "^" + "(" * 3_000 + "$"},
    {"type": "string", "pattern": "^a{1000000000}$"}, {"enum": 5}, {"anyOf": 5}, {"allOf": [5]},
    {"properties": 5}, {"type": "array", "items": {}, "minItems": 10**9}, {"minLength": 10**30},
    {"type": "string", "maxLength": 10**9}, {"const": {"a": 1}}, {"type": "x"}, {"enum": []},
    {"type": "integer", "minimum": 10**400}, {"oneOf": []}, {"items": {"items": {"minItems": -1}}},
]  # fmt: skip
GRAMMARS = [
    "", "root", "root ::=", "root ::= foo", 'root ::= root "a"', 'root ::= "a"{1000000000}',
    "root ::= " + "(" * 200_000 + '"a"' + ")" * 200_000, 'root ::= "\x00"', "root ::= [^",
    "\n" * 99, 'root ::= x*\nx ::= y*\ny ::= "a"*', 'root ::= ("a"*)*', 'root ::= ""',
    "root ::= [\\U0010ffff]",
]  # fmt: skip


def test_schemas_and_grammars_of_malice_harm_nobody(served: "Sidecar") -> None:
    served.chat()
    pid = served.worker()["pid"]
    for schema in SCHEMAS:
        wanted = {"type": "json_object", "schema": schema}
        answer = served.chat(response_format=wanted)
        assert answer.status_code in (200, 400), (schema, answer.text)
    for grammar in GRAMMARS:
        answer = served.chat(grammar=grammar)
        assert answer.status_code in (200, 400), (grammar[:50], answer.text)
    assert served.worker()["pid"] == pid, "no worker died of it"


# ---------------------------------------------------------------- files
def put(made: "Sidecar", kind: str, name: str, path: Path) -> None:
    answer = made.http.put(f"/admin/{kind}/{name}", json={"path": str(path)})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("damage", ["noise", "empty", "header", "cut", "text"])
def test_a_model_file_that_is_damaged_is_refused(
    served: "Sidecar", tmp_path: Path, damage: str
) -> None:
    whole = (FOLDER / "base-q8_0.gguf").read_bytes()
    made = {
        "noise": random.Random(1).randbytes(100_000), "empty": b"", "header": whole[:24],
        "cut": whole[: len(whole) // 2], "text": b"GGUF" + b"hello" * 100,
    }  # fmt: skip
    path = tmp_path / "bad.gguf"
    path.write_bytes(whole)
    put(served, "models", "bad", path)
    path.write_bytes(made[damage])  # after it was registered, where noise is refused already
    answer = served.chat(model="bad")
    assert answer.status_code == 400
    assert "bad.gguf" in message_of(answer) or "llama.cpp cannot load" in message_of(answer)


@pytest.mark.parametrize("damage", ["noise", "empty", "cut", "base"])
def test_a_layer_file_that_is_damaged_is_refused_and_the_model_goes_on(
    served: "Sidecar", tmp_path: Path, damage: str
) -> None:
    whole = (FOLDER / "tone.gguf").read_bytes()
    made = {
        "noise": random.Random(1).randbytes(100_000), "empty": b"",
        "cut": whole[: len(whole) // 2], "base": (FOLDER / "base-q8_0.gguf").read_bytes(),
    }  # fmt: skip
    path = tmp_path / "bad.gguf"
    path.write_bytes(whole)
    put(served, "layers", "bad", path)
    path.write_bytes(made[damage])
    for _ in range(2):
        answer = served.chat(model="tiny+tiny-tone+bad")
        assert answer.status_code == 400 and str(path) in message_of(answer)
    assert served.chat(model="tiny+tiny-tone", seed=3).status_code == 200
    path.write_bytes(whole)
    assert served.chat(model="tiny+bad").status_code == 200, "it was mended"


def test_a_layer_for_another_base_is_refused_with_the_tensor_that_does_not_fit(
    served: "Sidecar", tmp_path: Path
) -> None:
    from arsenale_inference.engine import testing  # noqa: PLC0415  # llama_cpp may be absent

    pairs = testing.random_layer(testing.TINY, 1, rank=4)
    factors = {name: Factors(a=a, b=b) for name, (a, b) in pairs.items()}
    path = tmp_path / "other.gguf"
    write_adapter(Adapter(architecture="llama", alpha=4.0, factors=factors), path)
    put(served, "layers", "other", path)
    answer = served.chat(model="tiny+other")
    assert answer.status_code == 400
    assert "layer other: blk.0." in message_of(answer) and "has A (4, 64)" in message_of(answer)


def test_a_layer_that_vanishes_is_missed_with_its_path(served: "Sidecar", tmp_path: Path) -> None:
    path = tmp_path / "layer.gguf"
    shutil.copy(FOLDER / "tone.gguf", path)
    put(served, "layers", "gone", path)
    assert served.chat(model="tiny+gone").status_code == 200
    path.unlink()
    answer = served.chat(model="tiny+gone", seed=5)
    assert answer.status_code == 400 and str(path) in message_of(answer)
    shutil.copy(FOLDER / "tone.gguf", path)
    assert served.chat(model="tiny+gone", seed=6).status_code == 200


# ---------------------------------------------------------------- limits
def test_a_model_that_does_not_fit_the_memory_limit_is_refused(start_sidecar: Start) -> None:
    made = start_sidecar(memory_mb=1)
    answer = made.chat()
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "0.0 GB are allowed" in message_of(answer)
    assert "raise `inference_memory_mb`" in message_of(answer)


def test_an_idle_model_makes_room_and_a_busy_one_does_not(
    start_sidecar: Start, tmp_path: Path
) -> None:
    probe = start_sidecar()
    probe.chat()
    used = probe.until(lambda s: s["memory_bytes"] > 10_000_000)["memory_bytes"]
    made = start_sidecar(memory_mb=used // 2_000_000)  # what one takes differs from run to run
    shutil.copy(FOLDER / "base-q8_0.gguf", tmp_path / "other.gguf")
    put(made, "models", "other", tmp_path / "other.gguf")
    assert made.chat().status_code == 200
    made.until(lambda s: s["memory_bytes"] > 10_000_000)
    assert made.chat(model="other").status_code == 200
    states = {each["model"]: each["state"] for each in made.status()["models"]}
    assert states == {"other": "ready"}
    made.until(lambda s: s["memory_bytes"] > 10_000_000)
    body = {**LONG, "model": "other", "max_tokens": 8_000}
    with made.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()  # dropped, it would close the answer
        next(lines)
        refused = made.chat("Are you there?")
        assert refused.status_code == 503
        assert "beside the models that are answering" in message_of(refused)
    made.until_idle()


def test_more_layers_than_may_be_loaded_are_loaded_in_turn(
    start_sidecar: Start, tmp_path: Path
) -> None:
    made = start_sidecar(layers=2, answers=0)
    for n in range(6):
        shutil.copy(FOLDER / ("tone.gguf" if n % 2 else "facts.gguf"), tmp_path / f"{n}.gguf")
        put(made, "layers", f"l{n}", tmp_path / f"{n}.gguf")
    with ThreadPoolExecutor(12) as pool:
        models = [f"tiny+l{n % 6}:{1 - n / 100}" for n in range(60)]
        asked = [pool.submit(made.chat, model=model, max_tokens=4) for model in models]
        assert {each.result().status_code for each in asked} == {200}
    assert len(made.worker()["layers"]) <= 2
    made.until_idle()


def test_memory_is_bounded_over_1000_requests(start_sidecar: Start) -> None:
    made = start_sidecar(answers=64)
    models = ["tiny", "tiny+tiny-facts", "tiny+tiny-tone:0.5", "tiny+tiny-facts:0.3+tiny-tone"]
    chance = random.Random(3)

    def ask(number: int) -> int:
        prompt = "word " * chance.randrange(1, 120) + str(number)
        return made.chat(prompt, chance.choice(models), max_tokens=4, seed=number).status_code

    def rss() -> dict[int, int]:
        pids = (made.process.pid, made.worker()["pid"])
        return {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096 for pid in pids}

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(300))) == {200}
        before = rss()
        assert set(pool.map(ask, range(300, 1_300))) == {200}
    grown = {pid: now - before[pid] for pid, now in rss().items()}
    assert max(grown.values()) < GROWTH_BYTES, grown
    made.until_idle()
