"""Chat models behind HTTP: the sidecar, any OpenAI-compatible endpoint, or Anthropic's API."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
from anyio import to_thread

from arsenale_core import endpoints, sidecar
from arsenale_core.config import Settings
from arsenale_core.errors import UnavailableError

ANTHROPIC_VERSION = "2023-06-01"
"""The `anthropic-version` header of the Messages API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked.

    Attributes:
        system: Who is to answer, and how.
        schema: JSON schema that the answer follows; an endpoint that cannot follow it is told.
        max_tokens: Of the answer.
    """

    system: str
    user: str
    schema: Mapping[str, Any] | None = None
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int = 512


class ChatModel(Protocol):
    """Something that answers."""

    @property
    def name(self) -> str:
        """Return the name of the model."""
        ...

    async def answer(self, prompt: Prompt) -> str:
        """Return the answer to PROMPT.

        Raises:
            UnavailableError: The endpoint does not answer, or refuses.
        """
        ...


class OpenAIChat:
    """`POST /chat/completions` under the base URL of HTTP."""

    def __init__(self, http: httpx2.AsyncClient, model: str) -> None:
        self._http, self._model = http, model

    @property
    def name(self) -> str:
        """Return the name of the model."""
        return self._model

    async def answer(self, prompt: Prompt) -> str:
        """Return the answer to PROMPT."""
        body: dict[str, Any] = {
            "model": self._model, "temperature": prompt.temperature,
            "max_tokens": prompt.max_tokens,
            "messages": [{"role": "system", "content": prompt.system},
                         {"role": "user", "content": prompt.user}],
        }  # fmt: skip
        if prompt.seed is not None:
            body["seed"] = prompt.seed
        if prompt.schema is not None:
            schema = {"name": "answer", "schema": prompt.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        said = await _post(self._http, "chat/completions", body)
        try:
            return str(said["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as exc:
            raise _unreadable(self._http) from exc


class AnthropicChat:
    """`POST /v1/messages` of Anthropic's Messages API."""

    def __init__(self, http: httpx2.AsyncClient, model: str) -> None:
        self._http, self._model = http, model

    @property
    def name(self) -> str:
        """Return the name of the model."""
        return self._model

    async def answer(self, prompt: Prompt) -> str:
        """Return the answer to PROMPT."""
        body: dict[str, Any] = {
            "model": self._model, "temperature": min(prompt.temperature, 1.0),
            "max_tokens": prompt.max_tokens, "system": prompt.system,
            "messages": [{"role": "user", "content": prompt.user}],
        }  # fmt: skip
        said = await _post(self._http, "v1/messages", body)
        try:
            return "".join(part["text"] for part in said["content"] if part["type"] == "text")
        except (KeyError, TypeError) as exc:
            raise _unreadable(self._http) from exc


@asynccontextmanager
async def open_chat(settings: Settings) -> AsyncGenerator[ChatModel]:
    """Open the chat model that SETTINGS name: `chat_url`, else the sidecar, started if need be.

    Raises:
        UnavailableError: The sidecar cannot be started, or no model is named.
        InvalidError: `chat_url` is not usable, or its key would travel in plain text.
    """
    key = settings.chat_key.get_secret_value() if settings.chat_key else None
    if settings.chat_url:
        url = endpoints.checked(settings.chat_url)
        headers = _headers(url, settings.chat_api, key)
        model = settings.chat_model
    else:
        found = await to_thread.run_sync(sidecar.ensure, settings.home)
        url, headers = f"{found.url}/v1", found.headers
        model = settings.chat_model or settings.inference_model
    if not model:
        raise UnavailableError(
            "no chat model is named",
            hint="set `inference_model` (`arsenale models list`), or `chat_url` and `chat_model`",
        )
    timeout = httpx2.Timeout(settings.chat_timeout_s, connect=5)
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=timeout, trust_env=settings.chat_url is not None
    ) as http:  # what is on this machine is not for a proxy
        anthropic = settings.chat_url is not None and settings.chat_api == "anthropic"
        yield AnthropicChat(http, model) if anthropic else OpenAIChat(http, model)


def _headers(url: str, api: str, key: str | None) -> dict[str, str]:
    if api == "anthropic":
        endpoints.check_key(url, key)
        return {"anthropic-version": ANTHROPIC_VERSION} | ({"x-api-key": key} if key else {})
    return endpoints.bearer(url, key)


async def _post(http: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = await http.post(path, json=body)
    except httpx2.HTTPError as exc:
        raise UnavailableError(
            f"the chat endpoint {http.base_url} does not answer ({type(exc).__name__})",
            hint="check that it runs, and `chat_url` and `chat_timeout_s`",
        ) from exc
    if answer.status_code != 200:
        raise UnavailableError(
            f"the chat endpoint {http.base_url} refuses ({answer.status_code}: {_said(answer)})",
            hint="check `chat_model` and `chat_key`",
        )
    try:
        said: dict[str, Any] = answer.json()
    except ValueError as exc:
        raise _unreadable(http) from exc
    return said


def _said(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _unreadable(http: httpx2.AsyncClient) -> UnavailableError:
    return UnavailableError(
        f"the chat endpoint {http.base_url} answers what is no chat answer",
        hint="check `chat_url` and `chat_api`",
    )
