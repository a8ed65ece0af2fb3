"""The worker's loop: requests in, one step after another, events out."""

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, assert_never

from arsenale_core import logs
from arsenale_core.errors import (
    ArsenaleError,
    ConflictError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from arsenale_core.lora import gguf_files
from arsenale_inference.engine.constraints import Constraint, Constraints, enforced
from arsenale_inference.engine.context import Aborted, Decoded, NoRoom
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
from arsenale_inference.worker.places import Places
from arsenale_inference.worker.rows import rows
from arsenale_inference.worker.saying import Saying
from arsenale_inference.worker.steps import plan
from arsenale_inference.worker.text import Answer

PROMPT_ROWS = 128
"""Rows of prompts in a step in which others generate: bounds how long those wait."""

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
        self._inbox: queue.SimpleQueue[Request | _Read | _Constrained | None] = queue.SimpleQueue()
        self._places = Places(engine)
        self._saying = Saying(engine.model, send, now)
        self._constraints = Constraints(engine.model)
        self._embeddings = Embeddings(engine)
        self._live: list[Generation] = []
        self._waiting: list[Generation] = []
        self._orders = itertools.count()
        self._prefilling: frozenset[str] = frozenset()
        self._counts = dict.fromkeys(("steps", "prefilled", "cached"), 0)
        self._step_s = 0.0
        self._log = logs.get("arsenale.inference")

    # ------------------------------------------------------------ from other threads
    def submit(self, request: Request | None) -> None:
        """Hand in REQUEST; `None` ends the loop after the current step."""
        if isinstance(request, AddLayer):
            threading.Thread(target=self._read_layer, args=(request,), daemon=True).start()
            return
        if isinstance(request, Generate) and request.schema is not None:
            self._inbox.put(self._constrained(request, request.schema))
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

    def _constrained(self, request: Generate, schema: dict[str, Any]) -> "_Constrained":
        """Compile SCHEMA while steps go on: a large one takes half a second."""
        try:
            return _Constrained(request, enforced(schema, self._constraints))
        except ArsenaleError as exc:
            return _Constrained(request, exc)
        except Exception as exc:  # noqa: BLE001  # requests of others come through this thread
            self._log.exception("a JSON schema cannot be compiled")
            return _Constrained(request, UnavailableError(_CRASHED.format(type(exc).__name__)))

    # ------------------------------------------------------------ the loop
    def run(self) -> None:
        """Serve until `submit(None)`."""
        self._send(self._ready())
        while self._receive():
            self._admit()
            if self._live:
                self._step()
            if self._embeddings.waiting:
                self._saying.flush()
                if (event := self._embeddings.step()) is not None:
                    self._send(event)

    def _ready(self) -> Ready:
        info = self._engine.describe()
        model = {name: getattr(info.model, name) for name in info.model.__slots__}
        return Ready(
            context=self._engine.context.tokens, sequences=self._most_live,
            template=model.pop("chat_template") is not None, model=model,
            composer=info.composer, reason=info.reason, rss_bytes=_rss_bytes(),
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

    def _take(self, request: "Request | _Read | _Constrained") -> None:
        try:
            match request:
                case Generate() | _Constrained():
                    self._wait(request)
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

    def _wait(self, request: "Generate | _Constrained") -> None:
        if isinstance(request, Generate):
            self._waiting.append(self._generation(request))
        elif isinstance(request.found, ArsenaleError):
            raise request.found
        else:
            self._waiting.append(self._generation(request.request, request.found))
        self._waiting.sort(key=lambda g: (-g.request.priority, g.order))

    def _generation(self, request: Generate, constraint: Constraint | None = None) -> Generation:
        stack = canonical(request.stack)
        known = self._engine.describe().layers
        for name, _ in stack:
            if name not in known:
                raise NotFoundError("layer", name, hint="load it into this worker first")
        if request.ignore_end and (request.grammar or request.schema is not None):
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
            sampler=Sampler(
                self._engine.model, request.sampling, prompts.grammar_of(request), constraint
            ),
            order=next(self._orders), arrived_s=now_s, answer=Answer(request.stop),
            echo=self._saying.echo_of(request, tokens),
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
        self._places.forget_layer(request.name)
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
            self._places.give(generation)
            self._started(generation)
            self._places.make_room(promised + generation.promised)
            self._live.append(generation)

    def _started(self, generation: Generation) -> None:
        """Tell that GENERATION starts, once."""
        if generation.started_s is not None:
            return
        generation.started_s = self._now()
        generation.cached = generation.computed
        self._counts["cached"] += generation.cached
        self._send(
            Started(
                id=generation.id, prompt_tokens=generation.prompt_tokens,
                cached_tokens=generation.cached,
            )
        )  # fmt: skip
        self._saying.prompt(generation)

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
            self._saying.flush()  # a long step begins
        outcome = self._engine.decode(rows(parts), [g.stack for g, n in parts for _ in range(n)])
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
        urgent = self._saying.is_due
        ended: list[tuple[Generation, Finish]] = []
        logits = iter(decoded.logits)
        for generation, n in parts:
            whole = generation.whole(n)
            self._saying.scores(generation, itertools.islice(logits, generation.scored_rows(n)))
            generation.computed += n
            if not whole:
                self._counts["prefilled"] += n
                continue
            row = next(logits)
            self._counts["prefilled"] += n - 1
            if generation.first_s is None:
                generation.first_s, urgent = now_s, True
                self._places.note(generation)
            if generation.most == 0:
                ended.append((generation, "length"))
                continue
            try:
                reason = self._saying.next(generation, row)
            except ArsenaleError as exc:
                self._remove(generation)
                self._fail(generation.id, exc)
                continue
            if reason is not None:
                ended.append((generation, reason))
        if urgent:
            self._saying.flush()
        for generation, reason in ended:
            self._end(generation, reason)

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
        self._saying.finish(generation)
        self._send(generation.finished(reason, self._now()))

    def _remove(self, generation: Generation) -> None:
        """Let go of GENERATION; what it computed is kept for later prompts."""
        for group in (self._live, self._waiting):
            with suppress(ValueError):
                group.remove(generation)
        self._places.keep(generation)
        generation.sampler.close()

    def _without_room(self) -> None:
        """Make room in a full KV cache: kept prefixes go, then the last and least urgent waits."""
        if self._places.forget_kept():
            return
        last = max(self._live, key=lambda g: (-g.request.priority, g.order))
        if len(self._live) == 1:
            self._end(last, "length")
            return
        self._live.remove(last)
        self._places.take_back(last)
        self._waiting.insert(0, last)

    def _fail(self, id: str, error: ArsenaleError) -> None:
        self._saying.flush()
        self._send(Failed(id=id, kind=kind_of(error), what=error.what, hint=error.hint))

    def _pong(self, id: str) -> Pong:
        info = self._engine.describe()
        return Pong(
            id=id, live=len(self._live), waiting=len(self._waiting),
            held_tokens=sum(each.promised for each in self._live),
            steps=self._counts["steps"], generated_tokens=self._saying.generated,
            prefilled_tokens=self._counts["prefilled"], cached_tokens=self._counts["cached"],
            step_s=self._step_s, rss_bytes=_rss_bytes(), layers=dict(info.layers),
            ways={way.name.lower(): n for way, n in info.steps.items()},
        )  # fmt: skip


class _Constrained:
    """A request with the constraint of its JSON schema, or why that cannot be enforced."""

    def __init__(self, request: Generate, found: "Constraint | ArsenaleError") -> None:
        self.request, self.found, self.id = request, found, request.id


class _Read:
    """A layer's file that was read, or why it could not be."""

    def __init__(self, request: AddLayer, found: Any) -> None:
        self.request, self.found, self.id = request, found, request.id


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096
