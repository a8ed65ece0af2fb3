"""An embedder behind an OpenAI-compatible endpoint (`POST /v1/embeddings`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx2

from arsenale_core.errors import UnavailableError

if TYPE_CHECKING:
    from arsenale_core.embedding.vectors import Vectors

BATCH = 64
"""Texts in one request."""


class HttpEmbedder:
    """Embeds by MODEL at the endpoint that HTTP's base URL names."""

    def __init__(self, http: httpx2.AsyncClient, model: str) -> None:
        self._http = http
        self._model = model

    @property
    def id(self) -> str:
        """Return the model's name, marked as one that is asked for over HTTP."""
        return f"http:{self._model}"

    async def embed(self, texts: Sequence[str], *, urgent: bool = True) -> "Vectors":
        """Return a unit vector for each of TEXTS."""
        import numpy as np  # noqa: PLC0415

        del urgent  # the endpoint has a queue of its own
        rows: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            rows += await self._request(texts[start : start + BATCH])
        vectors = np.asarray(rows, np.float32).reshape(len(texts), -1)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    async def _request(self, texts: Sequence[str]) -> list[list[float]]:
        try:
            answer = await self._http.post(
                "embeddings", json={"model": self._model, "input": list(texts)}
            )
            answer.raise_for_status()
            data: list[dict[str, Any]] = answer.json()["data"]
            found = [each["embedding"] for each in sorted(data, key=lambda each: each["index"])]
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as exc:
            raise UnavailableError(
                f"the embedding endpoint {self._http.base_url} failed ({type(exc).__name__})",
                hint="check `embedder_url` and `embedder_model`, and whether the endpoint runs",
            ) from exc
        if len(found) != len(texts):
            raise UnavailableError("the embedding endpoint left out texts", hint="try again")
        return found
