"""Which embedder a process uses, by its settings and by what is installed."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from arsenale_core import endpoints
from arsenale_core.config import Settings
from arsenale_core.embedding.base import Embedder
from arsenale_core.embedding.process import ProcessEmbedder
from arsenale_core.errors import InvalidError

MINILM, STATIC = "minilm-l6-int8", "wordllama-256"
"""Ids of the two engines that run here (`MiniLMEngine.id`, `StaticEngine.id`)."""


def minilm_folder(home: Path) -> Path:
    """Return where `arsenale models install minilm` puts the model."""
    return home / "models" / "minilm-l6-int8"


def minilm_is_installed(home: Path) -> bool:
    """Say whether the model's file is there and can be run."""
    return (minilm_folder(home) / "model-int8.onnx").is_file() and bool(find_spec("onnxruntime"))


@asynccontextmanager
async def open_embedder(settings: Settings) -> AsyncGenerator[Embedder]:
    """Open the embedder that SETTINGS ask for; nothing is loaded before its first text.

    Raises:
        InvalidError: It is not installed, or its setting is incomplete.
    """
    kind = settings.embedder
    if kind == "http":
        if not settings.embedder_url:
            raise InvalidError("embedder = http needs `embedder_url`", hint="set it, or use auto")
        import httpx2  # noqa: PLC0415

        from arsenale_core.embedding.http import HttpEmbedder  # noqa: PLC0415

        key = settings.embedder_key.get_secret_value() if settings.embedder_key else None
        base = endpoints.checked(settings.embedder_url) + "/"
        headers = endpoints.bearer(base, key)
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=30) as http:
            yield HttpEmbedder(http, settings.embedder_model)
        return
    installed = minilm_is_installed(settings.home)
    if kind == "minilm" and not installed:
        raise InvalidError(
            "MiniLM is not installed", hint="run `arsenale models install minilm`, or use auto"
        )
    if installed and kind != "static":
        engine = ProcessEmbedder(
            MINILM, ["minilm", str(minilm_folder(settings.home))], idle_s=settings.embedder_idle_s
        )
    else:
        engine = ProcessEmbedder(STATIC, ["static"], idle_s=settings.embedder_idle_s)
    async with engine.running():
        yield engine
