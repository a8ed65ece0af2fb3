"""The worker's loop: requests in, one step after another, events out."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from arsenale_core import logs
from arsenale_core.errors import (
    ArsenaleError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from arsenale_core.lora import gguf_files
from arsenale_inference.engine import samplers
from arsenale_inference.engine.context import Aborted, Decoded, NoRoom, Rows
from arsenale_inference.engine.engine import Engine
from arsenale_inference.engine.samplers import Sampler
from arsenale_inference.messages import (
    AddLayer,
    Cancel,
    DropLayer,
    Embed,
    Embedded,
    Event,
    Failed,
    Finish,
    Generate,
    LayerReady,
    Piece,
    Pieces,
    Ping,
    Pong,
    Ready,
    Request,
    Started,
    kind_of,
)
from arsenale_inference.worker import prompts
from arsenale_inference.worker.embedding import Embeddings
from arsenale_inference.worker.generation import Generation, canonical
from arsenale_inference.worker.prefixes import Prefixes
from arsenale_inference.worker.steps import plan
from arsenale_inference.worker.text import Answer, joined

PROMPT_ROWS = 128
"""Rows of prompts in a step in which others generate: bounds how long those wait."""

HOLD_S = 0.004
"""Tokens of steps shorter than this travel together, but the first of an answer: each line and
each chunk costs the sidecar and the client as much as a small model's step."""

ABORTABLE_ROWS = 32
"""A step with so many rows of a prompt is stopped when its client leaves; a shorter one ends."""

_CRASHED = "this request cannot be done by the worker ({})"


class Worker:
    """One engine and the generations on it. One thread runs it; `submit` is for others.

    Args:
        engine: The model.
        send: Takes each event, in order.
        now: A steady clock, seconds.
        live: How many generations run at once; further sequences of the context keep prefixes.
    """

    def __init__(
        self, engine: Engine, send: Callable[[Event], None], *, now: Callable[[], float], live: int
    ) -> None:
        self._engine, self._send, self._now, self._most_live = engine, send, now, live
        self._inbox: queue.SimpleQueue[Request | _Read | None] = queue.SimpleQueue()
        self._prefixes = Prefixes(engine.options.context.sequences)
        self._embeddings = Embeddings(engine)
        self._live: list[Generation] = []
        self._waiting: list[Generation] = []
        self._orders = itertools.count()
        self._prefilling: frozenset[str] = frozenset()
        self._counts = dict.fromkeys(("steps", "generated", "prefilled", "cached"), 0)
        self._step_s = 0.0
        self._said: dict[str, list[Piece]] = {}
        self._sent_s = 0.0
        self._log = logs.get("arsenale.inference")
        self._ends = cache(engine.model.ends)
        self._bytes = cache(engine.model.piece)

    # ------------------------------------------------------------ from other threads
    def submit(self, request: Request | None) -> None:
        """Hand in REQUEST; `None` ends the loop after the current step."""
        if isinstance(request, AddLayer):
            threading.Thread(target=self._read_layer, args=(request,), daemon=True).start()
            return
        self._inbox.put(request)
        if isinstance(request, Cancel) and request.id in self._prefilling:
            self._engine.context.abort.set()

    def _read_layer(self, request: AddLayer) -> None:
        """Read the file of a layer while steps go on."""
        try:
            found: Any = gguf_files.read_adapter(Path(request.path))
        except ArsenaleError as exc:
            found = exc
        self._inbox.put(_Read(request, found))

    # ------------------------------------------------------------ the loop
    def run(self) -> None:
        """Serve until `submit(None)`."""
        self._send(self._ready())
        while self._receive():
            self._admit()
            if self._live:
                self._step()
            if self._embeddings.waiting:
                self._flush()
                if (event := self._embeddings.step()) is not None:
                    self._send(event)

    def _ready(self) -> Ready:
        info = self._engine.describe()
        model = {name: getattr(info.model, name) for name in info.model.__slots__}
        return Ready(
            context=self._engine.context.tokens, sequences=self._most_live,
            template=model.pop("chat_template") is not None, model=model,
            composer=info.composer, reason=info.reason,
        )  # fmt: skip

    def _receive(self) -> bool:
        """Take in what came; wait for something when there is nothing to do."""
        while True:
            idle = not (self._live or self._waiting or self._embeddings.waiting)
            try:
                request = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if request is None:
                return False
            self._take(request)

    def _take(self, request: "Request | _Read") -> None:
        try:
            match request:
                case Generate():
                    self._waiting.append(self._generation(request))
                    self._waiting.sort(key=lambda g: (-g.request.priority, g.order))
                case Cancel():
                    self._cancel(request.id)
                case Embed():
                    self._embeddings.add(request)
                case _Read():
                    self._add_layer(request)
                case DropLayer():
                    self._drop_layer(request)
                case Ping():
                    self._send(self._pong(request.id))
                case AddLayer():
                    self._read_layer(request)
                case _:
                    assert_never(request)
        except ArsenaleError as exc:
            self._fail(request.id, exc)
        except Exception as exc:  # noqa: BLE001  # one request must not end those of the others
            self._log.exception("a request cannot be done", kind=type(request).__name__)
            self._fail(request.id, UnavailableError(_CRASHED.format(type(exc).__name__)))

    def _generation(self, request: Generate) -> Generation:
        stack = canonical(request.stack)
        known = self._engine.describe().layers
        for name, _ in stack:
            if name not in known:
                raise NotFoundError("layer", name, hint="load it into this worker first")
        if request.ignore_end and (request.grammar or request.schema):
            raise InvalidError(
                "an answer that ignores the end token cannot follow a grammar", hint="choose one"
            )
        tokens = prompts.tokens_of(self._engine.model, request).tolist()
        room = self._engine.context.tokens - len(tokens)
        if room <= 0:
            raise InvalidError(
                f"a prompt of {len(tokens):,} tokens",
                hint=f"this model is served with a context of {self._engine.context.tokens:,}",
            )
        most = room if request.max_tokens is None else min(request.max_tokens, room)
        now_s = self._now()
        return Generation(
            request=request, stack=stack, tokens=tokens, prompt_tokens=len(tokens), most=most,
            sampler=Sampler(self._engine.model, request.sampling, prompts.grammar_of(request)),
            order=next(self._orders), arrived_s=now_s, answer=Answer(request.stop),
            deadline_s=None if request.deadline_s is None else now_s + request.deadline_s,
        )  # fmt: skip

    def _cancel(self, id: str) -> None:
        for generation in (*self._waiting, *self._live):
            if generation.id == id:
                generation.cancelled = True
        if self._embeddings.drop(id):
            self._send(Embedded(id=id, vectors=(), tokens=0))

    # ------------------------------------------------------------ layers
    def _add_layer(self, read: "_Read") -> None:
        if isinstance(read.found, ArsenaleError):
            raise read.found
        pairs = {name: (pair.a, pair.b) for name, pair in read.found.factors.items()}
        size = self._engine.add_layer(read.request.name, pairs, alpha=read.found.alpha)
        self._send(LayerReady(id=read.id, name=read.request.name, size_bytes=size))

    def _drop_layer(self, request: DropLayer) -> None:
        for generation in (*self._waiting, *self._live):
            if any(name == request.name for name, _ in generation.stack):
                raise ConflictError(
                    f"an answer uses the layer {request.name}", hint="drop it when that is done"
                )
        for sequence in self._prefixes.with_layer(request.name):
            self._forget(sequence)
        self._engine.drop_layer(request.name)
        self._send(LayerReady(id=request.id, name=request.name, size_bytes=0))

    # ------------------------------------------------------------ sequences
    def _admit(self) -> None:
        """Give sequences to those who wait, in order; nobody overtakes one that needs more room."""
        self._end_early(self._waiting)
        while self._waiting and len(self._live) < self._most_live:
            generation = self._waiting[0]
            promised = sum(each.promised for each in self._live)
            if self._live and promised + generation.promised > self._engine.context.tokens:
                return
            self._waiting.pop(0)
            self._place(generation)
            self._make_room(promised + generation.promised)
            self._live.append(generation)

    def _place(self, generation: Generation) -> None:
        """Give GENERATION a sequence that holds as much of its prompt as can be had."""
        context = self._engine.context
        tokens = np.array(generation.tokens, np.int32)
        share = None
        if self._engine.model.info.one_kv_cache:
            share = self._prefixes.best(generation.stack, tokens)
        if share is not None and share.whole:
            generation.sequence = share.sequence
            self._prefixes.revive(share.sequence)
        else:
            generation.sequence = self._sequence(generation, share.sequence if share else None)
            if share is not None:
                context.copy_prefix(share.sequence, generation.sequence, share.length)
        generation.computed = share.length if share else 0
        self._prefixes.note(generation.sequence, tokens[: generation.computed])
        if generation.started_s is None:
            generation.started_s = self._now()
            generation.cached = generation.computed
            self._counts["cached"] += generation.cached
            self._send(
                Started(
                    id=generation.id, prompt_tokens=generation.prompt_tokens,
                    cached_tokens=generation.cached,
                )
            )  # fmt: skip

    def _sequence(self, generation: Generation, source: int | None) -> int:
        found = self._prefixes.take(generation.stack)
        while found is None:
            oldest = self._prefixes.oldest_kept(but=source)
            if oldest is None:
                assert source is not None  # more sequences than live ones: one kept is left
                oldest = source
            self._forget(oldest)
            found = self._prefixes.take(generation.stack)
        return found

    def _make_room(self, promised: int) -> None:
        """Forget kept prefixes, the oldest first, until PROMISED tokens fit beside the others."""
        while promised + self._prefixes.kept_tokens > self._engine.context.tokens:
            oldest = self._prefixes.oldest_kept()
            if oldest is None:
                return
            self._forget(oldest)

    def _forget(self, sequence: int) -> None:
        self._engine.context.remove(sequence)
        self._prefixes.drop(sequence)

    # ------------------------------------------------------------ steps
    def _step(self) -> None:
        self._end_early(self._live)
        if not self._live:
            return
        batch = self._engine.options.context.batch
        counts = plan([each.turn() for each in self._live], batch=batch, budget=PROMPT_ROWS)
        parts = [(g, n) for g, n in zip(self._live, counts, strict=True) if n]
        self._prefilling = frozenset(g.id for g, n in parts if n >= ABORTABLE_ROWS)
        started_s = self._now()
        if any(n > 1 for _, n in parts):
            self._flush()  # a long step begins
        rows = _rows(parts)
        outcome = self._engine.decode(rows, [g.stack for g, n in parts for _ in range(n)])
        self._prefilling = frozenset()
        self._step_s += self._now() - started_s
        self._counts["steps"] += 1
        match outcome:
            case Decoded():
                self._advance(parts, outcome)
            case Aborted():
                self._engine.context.abort.clear()
            case NoRoom():
                self._without_room()
            case _:
                assert_never(outcome)

    def _advance(self, parts: Sequence[tuple[Generation, int]], decoded: Decoded) -> None:
        now_s = self._now()
        urgent = now_s - self._sent_s >= HOLD_S
        ended: list[tuple[Generation, Finish]] = []
        logits = iter(decoded.logits)
        for generation, n in parts:
            whole = generation.whole(n)
            generation.computed += n
            if not whole:
                self._counts["prefilled"] += n
                continue
            self._counts["prefilled"] += n - 1
            if generation.first_s is None:
                generation.first_s, urgent = now_s, True
                self._note(generation)
            try:
                piece, reason = self._next(generation, next(logits))
            except ArsenaleError as exc:
                self._remove(generation)
                self._fail(generation.id, exc)
                continue
            if piece is not None:
                self._said.setdefault(generation.id, []).append(piece)
            if reason is not None:
                ended.append((generation, reason))
        if urgent:
            self._flush()
        for generation, reason in ended:
            self._end(generation, reason)

    def _flush(self) -> None:
        """Send what was said since the last time."""
        if self._said:
            said = tuple(joined(pieces) for pieces in self._said.values())
            self._said.clear()
            self._send(Pieces(pieces=said))
        self._sent_s = self._now()

    def _next(self, generation: Generation, logits: Any) -> tuple[Piece | None, Finish | None]:
        """Choose the next token of GENERATION; return what it says and why it ends, if it does."""
        request = generation.request
        token = generation.sampler.choose(logits)
        self._counts["generated"] += 1
        if not request.ignore_end and self._ends(token):
            return self._piece(generation, generation.answer.finish(), (), ()), "stop"
        generation.tokens.append(token)
        said = generation.answer.add(self._bytes(token))
        shown = self._logprobs(logits, token, request.sampling.logprobs)
        reason: Finish | None = None
        if generation.answer.stopped:
            reason = "stop"
        elif generation.generated >= generation.most:
            reason = "length"
            said += generation.answer.finish()
        return self._piece(generation, said, (token,), shown), reason

    @staticmethod
    def _piece(
        generation: Generation, text: str, tokens: tuple[int, ...], shown: tuple[Any, ...]
    ) -> Piece | None:
        if not text and not tokens:
            return None
        return Piece(id=generation.id, text=text, tokens=tokens, logprobs=shown)

    def _logprobs(self, logits: Any, token: int, most: int) -> tuple[dict[str, Any], ...]:
        if most < 0:
            return ()
        chosen, best = samplers.log_probabilities(logits, token, most)
        top = [self._shown(t, value) for t, value in best]
        return ({**self._shown(token, chosen), "top_logprobs": top},)

    def _shown(self, token: int, value: float) -> dict[str, Any]:
        data = self._engine.model.piece(token, special=True)
        return {
            "token": data.decode("utf-8", "replace"), "logprob": value, "bytes": list(data),
            "id": token,
        }  # fmt: skip

    # ------------------------------------------------------------ ends
    def _end_early(self, group: list[Generation]) -> None:
        now_s = self._now()
        for generation in list(group):
            if generation.cancelled:
                self._end(generation, "cancelled")
            elif generation.deadline_s is not None and now_s > generation.deadline_s:
                self._end(generation, "deadline")

    def _end(self, generation: Generation, reason: Finish) -> None:
        self._remove(generation)
        self._flush()
        self._send(generation.finished(reason, self._now()))

    def _remove(self, generation: Generation) -> None:
        """Let go of GENERATION; what it computed is kept for later prompts."""
        for group in (self._live, self._waiting):
            with suppress(ValueError):
                group.remove(generation)
        if generation.sequence is not None:
            self._note(generation)
            self._prefixes.keep(generation.sequence)
            generation.sequence = None
        generation.sampler.close()

    def _note(self, generation: Generation) -> None:
        assert generation.sequence is not None
        tokens = np.array(generation.tokens[: generation.computed], np.int32)
        self._prefixes.note(generation.sequence, tokens)

    def _without_room(self) -> None:
        """Make room in a full KV cache: kept prefixes go, then the last and least urgent waits."""
        if self._prefixes.oldest_kept() is not None:
            while (oldest := self._prefixes.oldest_kept()) is not None:
                self._forget(oldest)
            return
        last = max(self._live, key=lambda g: (-g.request.priority, g.order))
        if len(self._live) == 1:
            self._end(last, "length")
            return
        assert last.sequence is not None
        self._live.remove(last)
        self._forget(last.sequence)
        last.sequence, last.computed = None, 0
        self._waiting.insert(0, last)

    def _fail(self, id: str, error: ArsenaleError) -> None:
        self._flush()
        self._send(Failed(id=id, kind=kind_of(error), what=error.what, hint=error.hint))

    def _pong(self, id: str) -> Pong:
        info = self._engine.describe()
        return Pong(
            id=id, live=len(self._live), waiting=len(self._waiting),
            held_tokens=sum(each.promised for each in self._live),
            steps=self._counts["steps"], generated_tokens=self._counts["generated"],
            prefilled_tokens=self._counts["prefilled"], cached_tokens=self._counts["cached"],
            step_s=self._step_s, rss_bytes=_rss_bytes(), layers=dict(info.layers),
            ways={way.name.lower(): n for way, n in info.steps.items()},
        )  # fmt: skip


class _Read:
    """A layer's file that was read, or why it could not be."""

    def __init__(self, request: AddLayer, found: Any) -> None:
        self.request, self.found, self.id = request, found, request.id


def _rows(parts: Sequence[tuple[Generation, int]]) -> Rows:
    if all(n == 1 and generation.whole(1) for generation, n in parts):
        return _next_rows([generation for generation, _ in parts])
    each = [_rows_of(generation, n) for generation, n in parts]
    if len(each) == 1:
        return each[0]
    joined: Iterator[Any] = (
        np.concatenate([getattr(rows, name) for rows in each])
        for name in ("tokens", "positions", "sequences", "wants")
    )
    tokens, positions, sequences, wants = joined
    return Rows(tokens=tokens, positions=positions, sequences=sequences, wants=wants)


def _next_rows(generations: Sequence[Generation]) -> Rows:
    """Return the usual step: a token of each."""
    return Rows(
        tokens=np.array([each.tokens[-1] for each in generations], np.int32),
        positions=np.array([each.computed for each in generations], np.int32),
        sequences=np.array([each.sequence for each in generations], np.int32),
        wants=np.ones(len(generations), bool),
    )


def _rows_of(generation: Generation, n: int) -> Rows:
    assert generation.sequence is not None
    rows = Rows.prompt(generation.rows(n), sequence=generation.sequence, start=generation.computed)
    return rows if generation.whole(n) else replace(rows, wants=np.zeros(n, bool))


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096
