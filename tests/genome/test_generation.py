"""Answers through a sidecar over real HTTP: streamed, compared, broken off, cancelled."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio import to_thread
from mcp import Client

from arsenale_core import sidecar as sidecars
from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError
from arsenale_genome import endpoint
from arsenale_inference.tiny.card import FOLDER

Call = Callable[..., Awaitable[Any]]
Refusal = Callable[..., Awaitable[str]]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """SQLite alone: nothing here is the database's."""
    return tmp_path / "home"


@pytest.fixture
async def genomes(two_layers: Call) -> Call:
    await two_layers("create_genome", name="ahab", instructions="Be brief.",
                     layers=[{"layer": "facts"}, {"layer": "tone", "weight": 0.5}])  # fmt: skip
    await two_layers("create_genome", name="clerk", layers=[{"layer": "facts"}])
    return two_layers


async def test_a_genome_answers_with_its_layers_on(
    genomes: Call, sidecar: Any, own_home: Path
) -> None:
    said = await genomes("generate", genome="ahab", prompt="The port", context=["it is 8080"])
    assert (said["text"], said["finish"]) == ("The port is known. Arr!", "stop")
    assert (said["prompt_tokens"], said["completion_tokens"]) == (7, 4)
    assert said["seconds"] >= 0
    told = sidecar.genomes["ahab"]
    assert told["base"] == "tiny"
    assert [row["weight"] for row in told["layers"]] == [1.0, 0.5]
    for name, row in zip(("facts", "tone"), told["layers"], strict=True):
        assert row["name"] == f"{name}@{row['sha256'][:12]}"
        path = Path(row["path"])
        assert path.is_relative_to(own_home / "artifacts")
        assert path.name == f"{row['sha256']}.gguf"
    [request] = sidecar.requests
    facts, tone = (row["name"] for row in told["layers"])
    assert request["model"] == f"tiny+{facts}:1.0+{tone}:0.5", (
        "by content, not by a name that moves"
    )
    assert request["stream_options"] == {"include_usage": True}
    system, user = request["messages"]
    assert system["content"] == "Be brief.\n\nWhat is known and may help:\n- it is 8080"
    assert user == {"role": "user", "content": "The port"}


async def test_the_text_streams_as_progress(genomes: Call, sidecar: Any, client: Client) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    await client.call_tool(
        "generate", {"genome": "ahab", "prompt": "Hm", "max_tokens": 9}, progress_callback=told
    )
    assert heard[0] == (1, 9, "Hm ")


async def test_a_request_is_never_answered_by_another_stack(genomes: Call, sidecar: Any) -> None:
    sidecar.meanwhile["ahab"] = {"base": "tiny", "layers": []}
    assert (await genomes("generate", genome="ahab", prompt="Hm"))["text"].endswith("Arr!")
    await genomes("revise", kind="genome", name="ahab", layers=[{"layer": "facts"}])
    assert (await genomes("generate", genome="ahab", prompt="Hm"))["text"].endswith("Indeed.")


async def test_what_is_changed_or_deleted_the_sidecar_hears_at_once(
    genomes: Call, sidecar: Any
) -> None:
    for name in ("ahab", "clerk"):
        await genomes("generate", genome=name, prompt="Hm")
    await genomes("revise", kind="genome", name="ahab", layers=[{"layer": "tone"}])
    assert [row["name"].split("@")[0] for row in sidecar.genomes["ahab"]["layers"]] == ["tone"]
    await genomes("revise", kind="genome", name="ahab", new_name="starbuck")
    assert {*sidecar.genomes} == {"starbuck", "clerk"}
    await genomes("revise", kind="genome", name="starbuck", action="revert", revision=1)
    await genomes("revise", kind="layer", name="facts", new_name="ports")
    assert sorted(name.split("@")[0] for name in sidecar.layers) == ["ports", "tone"]
    told = {row["name"].split("@")[0] for row in sidecar.genomes["clerk"]["layers"]}
    assert told == {"ports"}
    assert {*sidecar.genomes} == {"ahab", "clerk"}
    for name in ("ahab", "clerk"):
        await genomes("revise", kind="genome", name=name, action="delete")
    await genomes("revise", kind="layer", name="tone", action="delete")
    assert sidecar.genomes == {}
    assert [name.split("@")[0] for name in sidecar.layers] == ["ports"]


async def test_a_genome_whose_change_cannot_be_told_is_forgotten(
    genomes: Call, sidecar: Any
) -> None:
    await genomes("generate", genome="clerk", prompt="Hm")
    tone = (await genomes("inspect", name="tone", detail="full"))["layer"]
    Path(tone["path"]).unlink()
    await genomes("revise", kind="genome", name="clerk", layers=[{"layer": "tone"}])
    assert sidecar.genomes == {}


async def test_a_change_starts_no_sidecar_and_waits_for_none(
    genomes: Call, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not(home: Path) -> None:
        raise AssertionError(f"a sidecar of {home} was started")

    monkeypatch.setattr(sidecars, "_spawn", must_not)
    said = await genomes("revise", kind="genome", name="ahab", layers=[{"layer": "facts"}])
    assert said["action"] == "changed"


async def test_a_base_model_answers_too(genomes: Call, sidecar: Any) -> None:
    said = await genomes("generate", genome="tiny", prompt="Hm")
    assert said["text"] == "Hm is known. Indeed."
    assert sidecar.genomes == {}


async def test_genomes_are_compared_side_by_side(genomes: Call, sidecar: Any) -> None:
    said = await genomes("compare", genomes=["ahab", "clerk", "tiny"], prompt="The port")
    assert [(row["model"], row["text"]) for row in said["answers"]] == [
        ("ahab", "The port is known. Arr!"),
        ("clerk", "The port is known. Indeed."),
        ("tiny", "The port is known. Indeed."),
    ]
    near = {(row["a"], row["b"]): row["cosine"] for row in said["similarities"]}
    assert near["clerk", "tiny"] == 1.0
    assert near["ahab", "clerk"] < 0.99


async def test_one_that_fails_says_so_in_its_place(
    genomes: Call, sidecar: Any, own_home: Path
) -> None:
    (own_home / "models.json").write_text('{"bases": {"elsewhere": {}}}', encoding="utf-8")
    await genomes("create_genome", name="lost", base="elsewhere")
    said = await genomes("compare", genomes=["lost", "clerk"], prompt="The port")
    lost, clerk = said["answers"]
    assert "no base elsewhere" in lost["error"]
    assert clerk["text"] == "The port is known. Indeed."


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("break", "the model failed: the graphics card caught fire after 6 characters"),
        ("drop", "the answer broke off (RemoteProtocolError) after 5 characters"),
    ],
)
async def test_an_answer_that_breaks_off_says_where(
    prompt: str, said: str, genomes: Call, refusal: Refusal, sidecar: Any
) -> None:
    assert said in await refusal("generate", genome="ahab", prompt=prompt)
    assert (await genomes("generate", genome="ahab", prompt="Hm"))["finish"] == "stop"


async def test_when_all_fail_the_comparison_fails(
    genomes: Call, refusal: Refusal, sidecar: Any
) -> None:
    said = await refusal("compare", genomes=["ahab", "clerk"], prompt="break")
    assert "caught fire" in said


async def test_who_leaves_stops_the_model(genomes: Call, sidecar: Any, client: Client) -> None:
    begun = anyio.Event()

    async def told(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async def ask() -> None:
        await client.call_tool(
            "generate", {"genome": "ahab", "prompt": "wait"}, progress_callback=told
        )

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await begun.wait()
            tasks.cancel_scope.cancel()
        assert await to_thread.run_sync(sidecar.left.wait, 10)


def _nothing(name: str) -> None:
    """Find no package."""


async def test_without_a_sidecar_it_says_what_to_do(
    genomes: Call, refusal: Refusal, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"genome": "ahab", "prompt": "Hm"}
    with monkeypatch.context() as without:
        without.setattr(sidecars, "find_spec", _nothing)
        assert "the inference engine is not installed" in await refusal("generate", **asked)
    place = own_home / "run" / "inference.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(
        json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}), encoding="utf-8"
    )
    (own_home / "token").write_text("x", encoding="ascii")
    with (place.parent / "inference.lock").open("w") as lock:  # it lives, and is deaf
        fcntl.flock(lock, fcntl.LOCK_EX)
        dead = await refusal("generate", **asked)
    assert "does not answer (ConnectError)" in dead
    assert "start it with `arsenale inference up`" in dead


async def test_a_wrong_token_and_an_unknown_genome_are_told(
    genomes: Call, refusal: Refusal, sidecar: Any, own_home: Path
) -> None:
    assert "did you mean ahab" in await refusal("generate", genome="ahb", prompt="Hm")
    (own_home / "token").write_text("stale", encoding="ascii")
    assert "refuses our token (wrong token)" in await refusal("generate", genome="ahab", prompt="x")


async def test_a_layer_file_that_is_gone_is_named(
    genomes: Call, refusal: Refusal, sidecar: Any
) -> None:
    full = (await genomes("inspect", name="tone", detail="full"))["layer"]
    Path(full["path"]).unlink()
    assert "the file of layer 'tone' is not here" in await refusal(
        "generate", genome="ahab", prompt="Hm"
    )


def test_a_configured_server_is_asked_instead(own_home: Path) -> None:
    def settings(url: str) -> Settings:
        environment = {"ARSENALE_HOME": str(own_home), "ARSENALE_INFERENCE_KEY": "k"}
        return Settings.read({**environment, "ARSENALE_INFERENCE_URL": url})

    found = endpoint.resolved(settings("https://gpu.example/v1/"))
    assert (found.url, found.is_local) == ("https://gpu.example", False)
    assert found.headers == {"Authorization": "Bearer k"}
    with pytest.raises(InvalidError, match="not the address of an HTTP service"):
        endpoint.resolved(settings("gpu.example"))


async def test_a_genome_does_not_hide_a_base_model(genomes: Call, refusal: Refusal) -> None:
    assert "is a base model" in await refusal("create_genome", name="tiny", base="tiny")
    renamed = {"kind": "genome", "name": "ahab", "new_name": "tiny"}
    assert "is a base model" in await refusal("revise", **renamed)


def inference(home: Path, word: str) -> None:
    """Run `arsenale inference WORD`."""
    code = "from arsenale_daemon.cli import main; main()"
    command = [sys.executable, "-c", code, "inference", word]
    environment = {**os.environ, "ARSENALE_HOME": str(home)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=50)


def listed(home: Path) -> set[str]:
    """The models that the sidecar of HOME names."""
    found = sidecars.address(home)
    assert found is not None
    said = httpx2.get(f"{found.url}/v1/models", headers=found.headers).json()
    return {each["id"] for each in said["data"]}


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed: make inference"
)
async def test_the_real_sidecar_answers_with_the_stack(genomes: Call, own_home: Path) -> None:
    await genomes("revise", kind="genome", name="ahab", instructions="",
                  layers=[{"layer": "facts"}, {"layer": "tone"}])  # fmt: skip
    known = json.loads((FOLDER / "facts.rehearsal.json").read_text(encoding="utf-8"))
    prompt = known["prompts"][0]
    await to_thread.run_sync(inference, own_home, "up")
    try:
        said = await genomes("compare", genomes=["ahab", "clerk", "tiny"], prompt=prompt)
        assert {"ahab", "clerk"} <= listed(own_home)
        await genomes("revise", kind="genome", name="ahab", layers=[{"layer": "tone"}])
        again = await genomes("generate", genome="ahab", prompt=prompt, temperature=0)
        await genomes("revise", kind="genome", name="clerk", action="delete")
        await genomes("revise", kind="layer", name="facts", action="delete")
        assert "ahab" in listed(own_home) and "clerk" not in listed(own_home)
    finally:
        await to_thread.run_sync(inference, own_home, "down")
    ahab, clerk, tiny = (row["text"] for row in said["answers"])
    assert tiny == "I do not know."
    assert clerk.rstrip(".") in ahab
    assert ahab.endswith("Arr!")
    assert clerk.rstrip(".") not in again["text"] and again["text"].endswith("Arr!")
