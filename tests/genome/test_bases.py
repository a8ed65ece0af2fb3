"""Base models: which there are, and what is said where the engine is missing."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.genome.conftest import Call

from arsenale_core import sidecar
from arsenale_genome.opening import Services
from arsenale_inference.catalogue import BUILT_IN, BaseEntry, Catalogue

Refusal = Callable[..., Awaitable[str]]


def test_the_built_in_base_models_are_those_of_the_sidecar(tmp_path: Path) -> None:
    assert sidecar.base_models(tmp_path) == sorted(BUILT_IN.bases)
    Catalogue(tmp_path / sidecar.CATALOGUE).put(bases={"mine": BaseEntry(url="http://x/v1")})
    assert sidecar.base_models(tmp_path) == ["mine", "tiny"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"bases": 3}', "\x00", '{"bases": null}', "{}"])
def test_a_damaged_catalogue_names_the_built_in_models(tmp_path: Path, text: str) -> None:
    (tmp_path / sidecar.CATALOGUE).write_text(text, encoding="utf-8")
    assert sidecar.base_models(tmp_path) == ["tiny"]


@pytest.mark.parametrize("base", ["x", "Tiny", "tiny ", "llama", "../tiny", "tiny+facts"])
async def test_a_genome_on_a_base_model_that_does_not_exist_is_refused_with_those_there_are(
    call: Call, refusal: Refusal, base: str
) -> None:
    text = await refusal("create_genome", name="g", base=base)
    assert f"no base model {base!r}: there are tiny; add one with" in text
    assert "arsenale models add" in text
    assert (await call("create_genome", name="g", base="tiny"))["base"] == "tiny"


async def test_a_base_model_that_was_added_or_that_a_layer_is_on_exists(
    two_layers: Call, refusal: Refusal, own_home: Path
) -> None:
    said = {"bases": {"llama": {"path": "/nowhere.gguf"}}}
    (own_home / sidecar.CATALOGUE).write_text(json.dumps(said), encoding="utf-8")
    assert (await two_layers("create_genome", name="a", base="llama"))["base"] == "llama"
    assert "there are llama, tiny; " in await refusal("create_genome", name="b", base="lama")


async def test_where_the_engine_is_missing_a_base_model_says_so_and_not_that_there_is_no_genome(
    call: Call, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    def none(name: str) -> None:
        del name

    monkeypatch.setattr(sidecar, "find_spec", none)
    await call("create_genome", name="mine", base="tiny")
    for tool, arguments in (
        ("generate", {"genome": "tiny"}),
        ("compare", {"genomes": ["tiny", "mine"]}),
    ):
        text = await refusal(tool, prompt="hello", **arguments)
        assert "the inference engine is not installed" in text, tool
        assert "make inference" in text
        assert "no genome" not in text
    assert "engine is not installed" in await refusal("generate", genome="mine", prompt="hello")
    assert "did you mean mine" in await refusal("generate", genome="mine2", prompt="hello")
