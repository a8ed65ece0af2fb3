"""The HTTP surface of the sidecar: OpenAI's API, health, metrics and administration."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import orjson
from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from arsenale_core import endpoints, logs
from arsenale_core.errors import ArsenaleError, ConflictError, InvalidError, NotFoundError
from arsenale_core.lora import gguf_files
from arsenale_core.lora.gguf_files import file_sha256
from arsenale_core.tasks import background
from arsenale_inference import replies
from arsenale_inference.answering import Answers, reply_to
from arsenale_inference.catalogue import (
    BaseEntry,
    Catalogue,
    GenomeEntry,
    Group,
    LayerEntry,
    once,
)
from arsenale_inference.openai_requests import Chat, Completion, Embedding
from arsenale_inference.queueing import QueueFullError
from arsenale_inference.service import Inference
from arsenale_inference.status import status

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]

GONE = 499
"""The client went before its answer came; nobody reads this (nginx's code)."""


class _Gone(Exception):  # no error: nobody is there
    pass


class LayerFile(BaseModel):
    """A layer of a genome, with its file unless that is registered."""

    model_config = ConfigDict(extra="forbid")
    name: str
    path: Path | None = None
    sha256: str | None = None
    weight: float = Field(1.0, ge=0, le=1)


class GenomeBody(BaseModel):
    """`PUT /admin/genomes/{name}`.

    Attributes:
        kept: Whether it is known after the sidecar's end too. Who keeps genomes itself, and
            changes them while no sidecar runs, lends them.
    """

    model_config = ConfigDict(extra="forbid")
    base: str
    layers: list[LayerFile] = []
    kept: bool = True


class PathBody(BaseModel):
    """`PUT /admin/layers/{name}`."""

    model_config = ConfigDict(extra="forbid")
    path: Path


class ModelBody(BaseModel):
    """What names a model."""

    model_config = ConfigDict(extra="ignore")
    model: str


class Api:
    """The handlers over one service.

    Args:
        now: Unix seconds.
        stop: Ends the process.
    """

    def __init__(
        self,
        inference: Inference,
        answers: Answers,
        registry: CollectorRegistry,
        *,
        now: Callable[[], float],
        stop: Callable[[], None],
    ) -> None:
        self._inference, self._answers, self._registry = inference, answers, registry
        self._now, self._stop = now, stop

    def routes(self) -> list[Route]:
        """Return every route."""
        return [
            Route("/healthz", _guarded(self.health)),
            Route("/metrics", _guarded(self.metrics)),
            Route("/v1/models", _guarded(self.models)),
            Route("/v1/models/{name:path}", _guarded(self.model)),
            Route("/v1/chat/completions", _guarded(self.chat), methods=["POST"]),
            Route("/v1/completions", _guarded(self.complete), methods=["POST"]),
            Route("/v1/embeddings", _guarded(self.embed), methods=["POST"]),
            Route("/admin/status", _guarded(self.status)),
            Route("/admin/load", _guarded(self.load), methods=["POST"]),
            Route("/admin/unload", _guarded(self.unload), methods=["POST"]),
            Route("/admin/warm", _guarded(self.warm), methods=["POST"]),
            Route("/admin/stop", _guarded(self.stop), methods=["POST"]),
            Route("/admin/models/{name:path}", _guarded(self.put_base), methods=["PUT"]),
            Route("/admin/layers/{name:path}", _guarded(self.put_layer), methods=["PUT"]),
            Route("/admin/genomes/{name:path}", _guarded(self.put_genome), methods=["PUT"]),
            Route("/admin/{kind}/{name:path}", _guarded(self.remove), methods=["DELETE"]),
        ]

    # ------------------------------------------------------------ /v1
    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        return await self._answer(request, await _body(request, Chat))

    async def complete(self, request: Request) -> Response:
        """Complete a text."""
        return await self._answer(request, await _body(request, Completion))

    async def _answer(self, request: Request, body: Chat | Completion) -> Response:
        reply = reply_to(body, int(self._now()))
        if not body.stream:
            return JSONResponse(await _unless_gone(request, self._answers.whole(body, reply)))
        chunks = self._answers.chunks(body, reply)
        try:
            first = await _unless_gone(request, anext(chunks))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await chunks.aclose()
            raise
        headers = {"Cache-Control": "no-cache"}
        return _Events(_events(first, chunks), headers=headers)

    async def embed(self, request: Request) -> Response:
        """Give the embeddings of texts."""
        body = await _body(request, Embedding)
        found = await _unless_gone(request, self._inference.embed(body.model, body.inputs))
        return JSONResponse(
            replies.embeddings(
                body.model, found.vectors, found.tokens,
                as_base64=body.encoding_format == "base64",
            )
        )  # fmt: skip

    async def models(self, request: Request) -> Response:
        """List base models and genomes."""
        return JSONResponse(replies.models(self._named(), int(self._now())))

    async def model(self, request: Request) -> Response:
        """Show one model, or a base with layers."""
        name = request.path_params["name"]
        self._inference.catalogue.resolve(name)
        kind = dict(self._named()).get(name, "stack")
        return JSONResponse(replies.model(name, kind, int(self._now())))

    def _named(self) -> list[tuple[str, str]]:
        names = self._inference.catalogue.names
        return [(n, "base") for n in names.bases] + [(n, "genome") for n in names.genomes]

    # ------------------------------------------------------------ the rest
    async def health(self, request: Request) -> Response:
        """Say that the process lives."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Give the metrics in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def status(self, request: Request) -> Response:
        """Say what is loaded and how it does."""
        return JSONResponse(status(self._inference, self._answers))

    async def load(self, request: Request) -> Response:
        """Load a model and wait until it answers."""
        await self._inference.load((await _body(request, ModelBody)).model)
        return await self.status(request)

    async def unload(self, request: Request) -> Response:
        """Unload a model."""
        await self._inference.unload((await _body(request, ModelBody)).model)
        return await self.status(request)

    async def warm(self, request: Request) -> Response:
        """Load model and layers and compute a prompt, so that the next answer starts at once."""
        body = await _body(request, Chat)
        asked = body.model_copy(  # temperature 1: an answer that is kept would warm nothing
            update={"max_tokens": 1, "max_completion_tokens": None, "stream": False, "n": 1,
                    "seed": None, "temperature": 1.0, "ignore_eos": False}
        )  # fmt: skip
        answer = await self._answers.whole(asked, reply_to(asked, int(self._now())))
        return JSONResponse({"model": body.model, "usage": answer["usage"]})

    async def stop(self, request: Request) -> Response:
        """End the sidecar."""
        self._stop()
        return JSONResponse({"status": "stopping"})

    async def put_base(self, request: Request) -> Response:
        """Register a base model."""
        name, body = request.path_params["name"], await _body(request, BaseEntry)
        if body.path is not None:
            _file(body.path)
        if body.url is not None:  # a name is looked up, which may take a while
            await to_thread.run_sync(partial(endpoints.checked, body.url, look_up=True))
        self._catalogue.put(bases={name: body})
        return JSONResponse({"model": name})

    async def put_layer(self, request: Request) -> Response:
        """Register a layer."""
        name, body = request.path_params["name"], await _body(request, PathBody)
        self._catalogue.put(layers={name: LayerEntry(path=_file(body.path))})
        return JSONResponse({"layer": name})

    async def put_genome(self, request: Request) -> Response:
        """Register a genome with the files of its layers."""
        name, body = request.path_params["name"], await _body(request, GenomeBody)
        known = [each.name for each in body.layers if each.path is None]
        if body.base not in self._catalogue.names.bases:
            raise NotFoundError("base model", body.base, hint="a genome stands on a base model")
        self._catalogue.resolve("+".join([body.base, *known]))
        once(each.name for each in body.layers)
        await to_thread.run_sync(self._check_hashes, body.layers)
        layers = {
            each.name: LayerEntry(path=_file(each.path), sha256=each.sha256)
            for each in body.layers
            if each.path is not None
        }
        placed = tuple((each.name, each.weight) for each in body.layers)
        genomes = {name: GenomeEntry(base=body.base, layers=placed)}
        if body.kept:
            self._catalogue.put(layers=layers, genomes=genomes)
        else:
            self._catalogue.lend(layers, genomes)
        return JSONResponse({"model": name})

    def _check_hashes(self, layers: list[LayerFile]) -> None:
        """Refuse a layer whose file is not the one that was meant; what is registered was seen."""
        known = self._catalogue.names.layers
        for each in layers:
            if each.path is None or each.sha256 is None:
                continue
            if known.get(each.name) == LayerEntry(path=each.path, sha256=each.sha256):
                continue
            if file_sha256(_file(each.path)) != each.sha256:
                raise InvalidError(
                    f"the file of layer {each.name} has another SHA-256", hint="import it again"
                )

    async def remove(self, request: Request) -> Response:
        """Forget a model, layer or genome."""
        kinds: dict[str, Group] = {"models": "bases", "layers": "layers", "genomes": "genomes"}
        kind = request.path_params["kind"]
        if kind not in kinds:
            raise NotFoundError("kind", kind, hint="there are models, layers and genomes")
        self._catalogue.remove(request.path_params["name"], kinds[kind])
        return JSONResponse({"removed": request.path_params["name"]})

    @property
    def _catalogue(self) -> Catalogue:
        return self._inference.catalogue


def application(api: Api, middleware: list[Middleware]) -> Starlette:
    """Return the application."""
    return Starlette(
        routes=api.routes(), middleware=middleware,
        exception_handlers={HTTPException: _refused, Exception: _crashed},
    )  # fmt: skip


async def _refused(request: Request, exc: Exception) -> Response:
    """Answer what no route takes in OpenAI's shape."""
    assert isinstance(exc, HTTPException)
    said = f"{request.method} {request.url.path}: {exc.detail}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code)
    body = replies.error(said, kind="invalid_request_error", code=code)
    return JSONResponse(body, status_code=exc.status_code, headers=exc.headers)


async def _crashed(request: Request, exc: Exception) -> Response:
    """Say that it is our fault, and no more; the log has the rest."""
    logs.get("arsenale.inference").error("crashed", path=request.url.path, exc_info=exc)
    said = "the sidecar failed at this request: see ARSENALE_HOME/logs/inference.log"
    return JSONResponse(
        replies.error(said, kind="server_error", code="internal_error"), status_code=500
    )


def _file(path: Path) -> Path:
    """Return PATH if it is the absolute path of a GGUF file: no other is opened by a worker."""
    try:
        found = path.is_absolute() and path.is_file()
        is_model = found and gguf_files.has_magic(path)
    except OSError:  # its name is too long, or it may not be read
        found = is_model = False
    if not found:
        raise InvalidError(f"there is no file {path}", hint="give the absolute path of a .gguf")
    if not is_model:
        raise InvalidError(f"{path} is not a GGUF file", hint="give the path of a model or layer")
    return path


async def _body(request: Request, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _BadFieldError(first["msg"], where) from exc


class _BadFieldError(InvalidError):
    def __init__(self, said: str, field: str) -> None:
        super().__init__(f"{field}: {said}" if field else said)
        self.field = field


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return what WORK gives; it is cancelled when the client goes."""

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with background() as tasks:
            tasks.start_soon(watch, scope)
            return await work
    raise _Gone


class _Events(StreamingResponse):
    """Server-sent events; whatever ends them, who makes them is told."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        super().__init__(events, headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._events.aclose()


async def _events(
    first: dict[str, Any], chunks: AsyncGenerator[dict[str, Any]]
) -> AsyncGenerator[bytes]:
    """Give server-sent events; an error after the first is an event too, as clients expect."""
    async with aclosing(chunks):
        yield _event(first)
        try:
            async for chunk in chunks:
                yield _event(chunk)
        except ArsenaleError as exc:
            _, body = _shaped(exc)
            yield _event(body)
            return
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _guarded(handler: Handler) -> Handler:
    async def call(request: Request) -> Response:
        try:
            return await handler(request)
        except ArsenaleError as exc:
            code, body = _shaped(exc)
            headers: dict[str, str] = {}
            if isinstance(exc, QueueFullError):
                headers["Retry-After"] = str(exc.retry_after_s)
            elif code == 503:
                headers["Retry-After"] = "1"
            return JSONResponse(body, status_code=code, headers=headers)
        except (_Gone, ClientDisconnect):
            return Response(status_code=GONE)

    return call


def _shaped(error: ArsenaleError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status of ERROR and OpenAI's shape of it."""
    said = str(error)
    match error:
        case QueueFullError():
            return 429, replies.error(said, kind="rate_limit_error", code="rate_limit_exceeded")
        case NotFoundError():
            return 404, replies.error(
                said, kind="invalid_request_error", code="model_not_found", param="model"
            )
        case InvalidError():
            field = error.field if isinstance(error, _BadFieldError) else None
            return 400, replies.error(
                said, kind="invalid_request_error", code="invalid_request", param=field
            )
        case ConflictError():
            return 409, replies.error(said, kind="invalid_request_error", code="conflict")
        case _:
            logs.get("arsenale.inference").warning("unavailable", reason=said)
            return 503, replies.error(said, kind="server_error", code="unavailable")
