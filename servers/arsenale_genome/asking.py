"""Answers of genomes: one, or several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import anyio
from anyio import to_thread

from arsenale_core.errors import ArsenaleError, UnavailableError
from arsenale_genome import knowledge, names, reading
from arsenale_genome.generation import Told
from arsenale_genome.knowledge import Recall
from arsenale_genome.listing import Listing
from arsenale_genome.models import AnswerReport, CompareReport, Similarity
from arsenale_genome.record import Genome
from arsenale_genome.service import Genomes

CONTEXT_HEAD = "What is known and may help:"
NO_VECTORS_HINT = "The embedder does not answer, so the answers are not compared (`arsenale logs`)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        context: Texts that may help, as memories that `recall` found.
        knowledge: A namespace of the memory server: what fits there is put before the question.
        knowledge_tokens: How much of it.
        temperature: `None` leaves it to the server.
    """

    prompt: str
    system: str | None = None
    context: Sequence[str] = field(default_factory=tuple[str, ...])
    knowledge: str | None = None
    knowledge_tokens: int = 1_000
    max_tokens: int = 512
    temperature: float | None = None
    seed: int | None = None


@dataclass(slots=True, eq=False)
class Asking:
    """Asks genomes, and bare base models, through the inference sidecar."""

    genomes: Genomes
    listing: Listing
    recall: Recall

    async def generate(self, name: str, question: Question, told: Told | None) -> AnswerReport:
        """Return what the genome or base model NAME answers; TOLD hears it grow.

        Raises:
            NotFoundError: There is no such genome.
            ConflictError: A layer's file is missing.
            UnavailableError: The sidecar does not answer, or broke off.
        """
        genome = await to_thread.run_sync(self._genome, name)
        if question.knowledge is None:
            return await self._answer(genome, name, question, told)
        begun = anyio.current_time()
        known = await self.recall(question.prompt, question.knowledge, question.knowledge_tokens)
        took_ms = (anyio.current_time() - begun) * 1e3
        asked = replace(question, context=(*question.context, *knowledge.context(known)))
        report = await self._answer(genome, name, asked, told)
        sources = knowledge.quoted(report.text, known)
        hint = None if known else f"Nothing in {question.knowledge!r} fits the prompt."
        update = {"sources": sources, "retrieved_ms": round(took_ms, 1), "hint": hint}
        return report.model_copy(update=update)

    async def compare(
        self, asked: Sequence[str], question: Question, told: Told | None
    ) -> CompareReport:
        """Ask all of ASKED at once; say how near their answers are to one another.

        One that fails says so in its place.

        Raises:
            NotFoundError: One of ASKED is no genome.
            UnavailableError: All of them failed.
        """
        wanted = list(dict.fromkeys(asked))
        genomes = [await to_thread.run_sync(self._genome, name) for name in wanted]
        answers: dict[str, AnswerReport] = {}

        async def ask(name: str, genome: Genome | None) -> None:
            try:
                answers[name] = await self._answer(genome, name, question, None)
            except ArsenaleError as exc:
                answers[name] = AnswerReport(model=name, text="", error=str(exc))
            if told is not None:
                await told(len(answers), len(wanted), f"{name} has answered")

        async with anyio.create_task_group() as tasks:
            for name, genome in zip(wanted, genomes, strict=True):
                tasks.start_soon(ask, name, genome)
        rows = [answers[name] for name in wanted]
        if all(row.error for row in rows):
            raise UnavailableError(str(rows[0].error), hint="none of them answered")
        similarities, hint = await self._compared(rows)
        return CompareReport(answers=rows, similarities=similarities, hint=hint)

    async def _answer(
        self, genome: Genome | None, name: str, question: Question, told: Told | None
    ) -> AnswerReport:
        model = name
        if genome is not None:
            model, genome = await self.listing.register(genome)
        said = await self.listing.sidecar.chat(_body(model, genome, question), told)
        return AnswerReport(
            model=name,
            text=said.text,
            finish=said.finish,
            prompt_tokens=said.prompt_tokens,
            completion_tokens=said.completion_tokens,
            seconds=said.seconds,
        )

    def _genome(self, name: str) -> Genome | None:
        """Return the genome NAME, or nothing when it is a base model."""
        with self.genomes.store.reading() as db:
            found = reading.genome(db, name)
            bases = self.genomes.bases(db)
            if found is None and name not in bases:
                known = [*reading.names(db, "genome"), *bases]
                raise names.unknown("genome", name, known)
            return found

    async def _compared(self, rows: Sequence[AnswerReport]) -> tuple[list[Similarity], str | None]:
        said = [row for row in rows if row.text.strip()]
        if len(said) < 2:
            return [], None
        try:
            vectors = await self.genomes.embedder.embed([row.text for row in said])
        except UnavailableError:
            return [], NO_VECTORS_HINT
        return [
            Similarity(
                a=said[i].model, b=said[j].model, cosine=round(float(vectors[i] @ vectors[j]), 3)
            )
            for i, j in combinations(range(len(said)), 2)
        ], None


def _body(model: str, genome: Genome | None, question: Question) -> dict[str, Any]:
    """Return the request for a chat completion."""
    system = question.system
    if system is None and genome is not None:
        system = genome.instructions
    parts = [system or ""]
    if question.context:
        parts.append("\n".join([CONTEXT_HEAD, *(f"- {text}" for text in question.context)]))
    head = "\n\n".join(part for part in parts if part)
    messages = [{"role": "system", "content": head}] if head else []
    body: dict[str, Any] = {
        "model": model,
        "messages": [*messages, {"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "seed": question.seed,
    }
    return {key: value for key, value in body.items() if value is not None}
