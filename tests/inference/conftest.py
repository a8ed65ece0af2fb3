"""Engines over a random model of two blocks in 32 bits: see `arsenale_inference.engine.testing`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arsenale_inference.engine.llama import Floats
from arsenale_inference.engine.testing import TINY, Lab, random_weights, write_model


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compose")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Floats]]:
    weights = random_weights(TINY)
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf", TINY, weights), weights


@pytest.fixture
def lab(tmp_path: Path, built: Path, tiny_model: tuple[Path, dict[str, Floats]]) -> Iterator[Lab]:
    model, weights = tiny_model
    lab = Lab(model=model, weights=weights, folder=tmp_path, build_folder=built)
    yield lab
    lab.close()
