"""An engine elsewhere as a base model: any OpenAI-compatible one that takes LoRA by model name.

Two ways of naming layers are known: `stack`, another sidecar's `base+layer:weight`, and `adapter`,
one layer at weight 1 as a model of its own (vLLM's `--lora-modules`, `/v1/load_lora_adapter`).
"""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import anyio
import httpx2
from anyio.abc import TaskGroup

from arsenale_core import endpoints
from arsenale_core.errors import ArsenaleError, InvalidError, NotFoundError, UnavailableError
from arsenale_inference.catalogue import BaseEntry, Catalogue
from arsenale_inference.messages import Embed, Embedded, Finish, Finished, Generate, Piece, Stack
from arsenale_inference.messages import Started as Begun

CONNECT_S = 5.0
SILENT_S = 600.0
"""How long an engine may say nothing, seconds: its queue is its own."""

Said = Begun | Piece | Finished | Embedded

_REASONS: dict[str, Finish] = {"stop": "stop", "tool_calls": "stop", "length": "length"}


class Upstream:
    """Asks one engine over HTTP."""

    def __init__(
        self,
        entry: BaseEntry,
        name: str,
        *,
        key: str | None,
        now: Callable[[], float],
    ) -> None:
        """Ask ENTRY, which is called NAME here; KEY is its bearer token.

        Raises:
            InvalidError: KEY would travel in plain text.
        """
        headers = endpoints.bearer(entry.url or "", key)
        timeout = httpx2.Timeout(SILENT_S, connect=CONNECT_S)
        self.entry = entry
        self._name, self._now = name, now
        self._asking = 0
        self._unasked = anyio.Event()
        self._http = httpx2.AsyncClient(base_url=entry.url or "", headers=headers, timeout=timeout)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def retire(self) -> None:
        """Close its connections once the answers on their way are there; it is asked no more."""
        while self._asking:
            self._unasked = anyio.Event()
            await self._unasked.wait()
        await self.close()

    async def ask(self, request: Generate | Embed, stack: Stack) -> AsyncGenerator[Said]:
        """Give what the engine says to REQUEST; closing the generator ends the connection.

        Raises:
            InvalidError, NotFoundError: The engine cannot do what is asked.
            UnavailableError: It does not answer.
        """
        self._asking += 1
        try:
            if isinstance(request, Embed):
                yield await self._embedded(request)
                return
            self._refuse(request)
            way = self._whole if request.tools else self._generated
            async with aclosing(way(request, stack)) as told:
                async for each in told:
                    yield each
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
            raise UnavailableError(
                f"the engine of {self._name} at {self.entry.url} says what is no OpenAI answer "
                f"({type(exc).__name__})",
                hint="check that the URL ends in /v1",
            ) from exc
        except httpx2.HTTPError as exc:
            raise UnavailableError(
                f"the engine of {self._name} at {self.entry.url} does not answer "
                f"({type(exc).__name__})",
                hint="check that it runs",
            ) from exc
        finally:
            self._asking -= 1
            self._unasked.set()

    def _refuse(self, request: Generate) -> None:
        """Refuse what only an engine of ours gives back: tokens and their log-probabilities."""
        if request.sampling.logprobs >= 0:
            raise InvalidError(
                f"another engine serves {self._name}: it gives no logprobs", hint="leave them out"
            )
        if request.echo and request.text is None:
            raise InvalidError(
                f"another engine serves {self._name}: it does not echo tokens", hint="send text"
            )

    async def _embedded(self, request: Embed) -> Embedded:
        inputs = [each if isinstance(each, str) else list(each) for each in request.inputs]
        answer = await self._http.post(
            "embeddings", json={"model": self._model(()), "input": inputs}
        )
        said = await self._said(answer)
        rows = sorted(said["data"], key=lambda row: row["index"])
        return Embedded(
            id=request.id, vectors=tuple(tuple(row["embedding"]) for row in rows),
            tokens=int(said.get("usage", {}).get("prompt_tokens", 0)),
        )  # fmt: skip

    async def _whole(self, request: Generate, stack: Stack) -> AsyncGenerator[Said]:
        """Ask for the answer in one piece: tool calls come in crumbs otherwise."""
        began_s = self._now()
        body = self._body(request, stack) | {"stream": False}
        del body["stream_options"]
        yield Begun(id=request.id, prompt_tokens=0, cached_tokens=0)
        said = await self._said(await self._http.post("chat/completions", json=body))
        choice = said["choices"][0]
        yield Piece(id=request.id, text=_with_calls(choice["message"]), tokens=())
        reason = _REASONS.get(choice.get("finish_reason") or "", "stop")
        yield self._finished(request.id, reason, said.get("usage") or {}, began_s, self._now())

    async def _generated(self, request: Generate, stack: Stack) -> AsyncGenerator[Said]:
        chat = request.messages is not None
        path = "chat/completions" if chat else "completions"
        began_s, first_s = self._now(), None
        usage: dict[str, Any] = {}
        reason: Finish = "stop"
        yield Begun(id=request.id, prompt_tokens=0, cached_tokens=0)
        if request.echo:
            yield Piece(id=request.id, text=request.text or "", tokens=())
        async with self._http.stream("POST", path, json=self._body(request, stack)) as answer:
            await self._said(answer, stream=True)
            async for line in answer.aiter_lines():
                chunk = _chunk(line)
                if chunk is None:
                    continue
                if "error" in chunk:
                    raise UnavailableError(_message(chunk), hint="it stopped while it answered")
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", ()):
                    first_s = first_s or self._now()
                    reason = _REASONS.get(choice.get("finish_reason") or "", reason)
                    if (piece := _piece(request.id, choice, chat=chat)) is not None:
                        yield piece
        if first_s is None:
            raise ValueError("no answer in the stream")
        yield self._finished(request.id, reason, usage, began_s, first_s)

    def _finished(
        self, id: str, reason: Finish, usage: dict[str, Any], began_s: float, first_s: float | None
    ) -> Finished:
        ended_s = self._now()
        details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        return Finished(
            id=id, reason=reason, prompt_tokens=int(usage.get("prompt_tokens", 0)),
            completion_tokens=int(usage.get("completion_tokens", 0)), cached_tokens=int(cached),
            waited_s=0.0, prefill_s=(first_s or ended_s) - began_s,
            decode_s=ended_s - (first_s or ended_s),
        )  # fmt: skip

    def _model(self, stack: Stack) -> str:
        base = self.entry.model or self._name
        if not stack:
            return base
        if self.entry.layers_by == "stack":
            return "+".join([base, *(f"{name}:{weight:g}" for name, weight in stack)])
        [(layer, weight), *others] = stack
        if others or weight != 1:
            raise InvalidError(
                f"the engine of {self._name} takes one layer at weight 1", hint="ask for one"
            )
        return layer

    def _body(self, request: Generate, stack: Stack) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model(stack), "stream": True, "stream_options": {"include_usage": True},
            "temperature": sampling.temperature, "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
        }  # fmt: skip
        if request.messages is not None:
            body["messages"] = list(request.messages)
        else:
            body["prompt"] = request.text if request.tokens is None else list(request.tokens)
        optional: dict[str, Any] = {
            "max_tokens": request.max_tokens, "seed": sampling.seed,
            "stop": list(request.stop) or None, "tools": list(request.tools) or None,
            "logit_bias": {str(t): b for t, b in sampling.bias} or None,
            "top_k": sampling.top_k or None, "min_p": sampling.min_p or None,
            "grammar": request.grammar, "ignore_eos": request.ignore_end or None,
            "chat_template_kwargs": request.template_kwargs or None,
            "repetition_penalty": (
                None if sampling.repetition_penalty == 1 else sampling.repetition_penalty
            ),
        }  # fmt: skip
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | {name: value for name, value in optional.items() if value is not None}

    async def _said(self, answer: httpx2.Response, *, stream: bool = False) -> dict[str, Any]:
        if answer.status_code == 200:
            return {} if stream else answer.json()
        await answer.aread()
        try:
            message = _message(answer.json())
        except ValueError:
            message = answer.reason_phrase
        raise _error(answer.status_code, f"the engine of {self._name} says: {message}")


class Upstreams:
    """The engines of CATALOGUE's models; those that were replaced or forgotten are let go of."""

    def __init__(
        self, catalogue: Catalogue, tasks: TaskGroup, *, key: str | None, now: Callable[[], float]
    ) -> None:
        self._catalogue, self._tasks, self._key, self._now = catalogue, tasks, key, now
        self._known: dict[str, Upstream] = {}

    def of(self, base: str) -> Upstream:
        """Return the engine of the model BASE."""
        bases = self._catalogue.names.bases
        for name, known in list(self._known.items()):
            if bases.get(name) != known.entry:
                self._tasks.start_soon(self._known.pop(name).retire)
        if base not in self._known:
            self._known[base] = Upstream(bases[base], base, key=self._key, now=self._now)
        return self._known[base]

    async def close(self) -> None:
        """Close all connections."""
        for upstream in self._known.values():
            await upstream.close()


def _error(status: int, said: str) -> ArsenaleError:
    if status == 404:
        return NotFoundError("model at the engine", said, hint="check its name there")
    if status in (400, 409, 413, 422):
        return InvalidError(said)
    return UnavailableError(said, hint="try again")


def _message(said: Any) -> str:
    for name in ("error", "message"):
        if isinstance(said, dict):
            said = cast("dict[str, Any]", said).get(name, cast("object", said))
    return str(said)[:500]


def _chunk(line: str) -> dict[str, Any] | None:
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return None
    found: dict[str, Any] = json.loads(line.removeprefix("data:"))
    return found


def _piece(id: str, choice: dict[str, Any], *, chat: bool) -> Piece | None:
    delta: dict[str, Any] = choice.get("delta") or {}
    text: str | None = delta.get("content") if chat else choice.get("text")
    return Piece(id=id, text=text, tokens=()) if text else None


def _with_calls(message: dict[str, Any]) -> str:
    """Return the text of MESSAGE with its tool calls as models write them."""
    blocks = [
        {"name": call["function"]["name"], "arguments": call["function"].get("arguments", "{}")}
        for call in message.get("tool_calls") or ()
    ]
    tagged = "".join(f"<tool_call>{json.dumps(block)}</tool_call>" for block in blocks)
    return (message.get("content") or "") + tagged
