"""From a request of OpenAI's API to its answer, whole or in chunks."""

import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio

from arsenale_core.derived import Derived
from arsenale_core.errors import ArsenaleError
from arsenale_inference.messages import Finished, Generate, Piece, Started
from arsenale_inference.openai_requests import Chat, Completion
from arsenale_inference.replies import Choice, Reply
from arsenale_inference.served import layer_file
from arsenale_inference.service import Inference

Said = Started | Piece | Finished


@dataclass(slots=True, eq=False, kw_only=True)
class Answers:
    """Asks the service; answers that would come out the same are kept for a while.

    Attributes:
        kept: What was said to a deterministic request, by what it asks.
        hits, misses: How often it was, and was not, known.
    """

    inference: Inference
    kept: Derived[str, tuple[Said, ...]]
    hits: int = 0
    misses: int = 0

    async def whole(self, request: Chat | Completion, reply: Reply) -> dict[str, Any]:
        """Return the whole answer to REQUEST."""
        jobs = [job for jobs in request.generate() for job in jobs]
        choices = [Choice() for _ in jobs]
        async with aclosing(self.said(request, jobs)) as events:
            async for index, told in events:
                choices[index].add(told)
        return reply.whole(choices)

    async def chunks(
        self, request: Chat | Completion, reply: Reply
    ) -> AsyncGenerator[dict[str, Any]]:
        """Give the chunks of the answer to REQUEST; the first comes when it has started."""
        jobs = [job for jobs in request.generate() for job in jobs]
        choices = [Choice() for _ in jobs]
        async with aclosing(self.said(request, jobs)) as events:
            async for index, told in events:
                choices[index].add(told)
                for chunk in _chunks(reply, index, told, choices[index]):
                    yield chunk
        if request.with_usage:
            yield reply.usage(choices)

    async def said(
        self, request: Chat | Completion, jobs: Sequence[Generate]
    ) -> AsyncGenerator[tuple[int, Said]]:
        """Give what is said to each of JOBS, with its number."""
        if len(jobs) > 1:
            async with aclosing(self._several(request.model, jobs)) as events:
                async for event in events:
                    yield event
            return
        key = self._key(request) if request.deterministic else None
        known = self.kept.get(key) if key else None
        if known is not None:
            self.hits += 1
            for told in known:
                yield 0, told
            return
        said: list[Said] = []
        async with aclosing(self.inference.ask(request.model, jobs[0])) as events:
            async for told in events:
                assert isinstance(told, Started | Piece | Finished)
                said.append(told)
                yield 0, told
        if key:
            self.misses += 1
            if isinstance(said[-1], Finished) and said[-1].reason in ("stop", "length"):
                self.kept.put(key, tuple(said))

    async def _several(
        self, model: str, jobs: Sequence[Generate]
    ) -> AsyncGenerator[tuple[int, Said]]:
        send, receive = anyio.create_memory_object_stream[tuple[int, Said] | ArsenaleError](1_000)

        scopes = [anyio.CancelScope() for _ in jobs]

        async def run(index: int, job: Generate) -> None:
            with scopes[index]:
                try:
                    async with aclosing(self.inference.ask(model, job)) as events:
                        async for told in events:
                            assert isinstance(told, Started | Piece | Finished)
                            await send.send((index, told))
                except ArsenaleError as exc:
                    await send.send(exc)

        for index, job in enumerate(jobs):
            self.inference.tasks.start_soon(run, index, job)
        try:
            ended = 0
            while ended < len(jobs):
                event = await receive.receive()
                if isinstance(event, ArsenaleError):
                    raise event
                ended += isinstance(event[1], Finished)
                yield event
        finally:
            for scope in scopes:
                scope.cancel()
            send.close()
            receive.close()

    def _key(self, request: Chat | Completion) -> str:
        """Return what REQUEST asks: its fields, and what its model is now."""
        base, stack = self.inference.catalogue.resolve(request.model)
        names = self.inference.catalogue.names
        entry = names.bases[base]
        layers = [names.layers[name].path for name, _ in stack if name in names.layers]
        paths = [*([entry.path] if entry.path else []), *layers]
        files = [str(entry.url), *(layer_file("", path)[0] for path in paths)]
        body = request.model_dump(exclude={"stream", "stream_options", "priority", "timeout"})
        return json.dumps([type(request).__name__, body, files, stack], sort_keys=True, default=str)


def _chunks(reply: Reply, index: int, told: Said, choice: Choice) -> list[dict[str, Any]]:
    """Return the chunks for TOLD; text that may be a tool call waits for its end."""
    match told:
        case Started():
            return [reply.first(index)] if reply.kind == "chat" else []
        case Piece():
            held = bool(reply.tools) or not (told.text or told.logprobs)
            return [] if held else [reply.piece(index, told, choice.places)]
        case Finished():
            return _ending(reply, index, choice)


def _ending(reply: Reply, index: int, choice: Choice) -> list[dict[str, Any]]:
    if not reply.tools:
        return [reply.last(index, choice.reason)]
    rest, calls = reply.calls_in("".join(choice.text))
    piece = Piece(id="", text=rest, tokens=())
    chunks = [reply.piece(index, piece, choice.places)] if rest else []
    if calls:
        chunks.append(reply.calls(index, calls))
    return [*chunks, reply.last(index, "tool_calls" if calls else choice.reason)]


def reply_to(request: Chat | Completion, created: int) -> Reply:
    """Return the head of the answer to REQUEST."""
    chat = isinstance(request, Chat)
    offered = request.offered if isinstance(request, Chat) else []
    return Reply(
        id=("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
        model=request.model, created=created, kind="chat" if chat else "text",
        tools=frozenset(tool.function.name for tool in offered), n=request.n,
        most_calls=1 if isinstance(request, Chat) and not request.parallel_tool_calls else None,
    )  # fmt: skip
