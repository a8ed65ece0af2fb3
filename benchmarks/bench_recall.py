"""How well recall finds what answers a question, through the real MCP server.

    python benchmarks/bench_recall.py --data DIALOGUES.json [--pooled] [--embedder static]

The dialogues are not part of this repository (see `dialogues.py`). Each turn is remembered as a
memory through `remember` (at its time, about its speaker, in its session); each question goes to
`recall`; what comes back is compared with the turns that answer it. Beside it, on the same turns
and with the same vectors: BM25, vectors alone, both by reciprocal rank fusion, our legs alone.
`weights.json` was fitted on part of these dialogues: `fit_ranking.py` prints what the same ranking
reaches on conversations it was not fitted on.
"""

import argparse
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from dialogues import HEADING, Dialogue, load, measures, table_row
from mcp import Client, StdioServerParameters
from measuring import machine, verdict

from arsenale_core.config import Settings, child_environment
from arsenale_core.embedding.choice import minilm_folder, open_embedder
from arsenale_daemon import control
from arsenale_daemon.install import interpreter, relay_path
from arsenale_memory import words

Rows = list[tuple[str, dict[str, float]]]
Search = Callable[[str, str], Awaitable[list[str]]]

MODES = ("hybrid", "keyword", "semantic")


async def through_the_server(dialogues: list[Dialogue], home: Path, pooled: bool) -> None:
    """Measure `recall`, with its three modes."""
    relay = StdioServerParameters(
        command=interpreter(), args=["-I", "-S", str(relay_path()), "memory"],
        env=child_environment(home),
    )  # fmt: skip
    async with Client(relay) as client:
        ids: dict[str, str] = {}
        for dialogue in dialogues:
            space = "all" if pooled else dialogue.name
            for start in range(0, len(dialogue.turns), 25):
                turns = dialogue.turns[start : start + 25]
                answer = await client.call_tool(
                    "remember",
                    {
                        "namespace": space,
                        "memories": [
                            {
                                "content": turn.text, "subject": turn.speaker, "kind": "turn",
                                "session": turn.session, "at": turn.at.isoformat(),
                            }
                            for turn in turns
                        ],
                    },
                )  # fmt: skip
                kept = _rows(answer.structured_content, "items")
                for row, turn in zip(kept, turns, strict=True):
                    ids.setdefault(row["id"], turn.id)  # the same words twice are one memory

        await replies_embedded(client)
        for mode in MODES:

            async def recall(question: str, space: str, mode: str = mode) -> list[str]:
                answer = await client.call_tool(
                    "recall",
                    {"question": question, "namespace": space, "limit": 10, "mode": mode,
                     "budget_tokens": 20_000},
                )  # fmt: skip
                found = _rows(answer.structured_content, "memories")
                return [ids[row["id"]] for row in found]

            rows = await measured(dialogues, recall, pooled)
            print(table_row(f"recall, mode={mode}", rows), flush=True)
            if mode == "hybrid":
                asked_for(rows)


async def replies_embedded(client: Client) -> None:
    """Wait until the turns are embedded as replies: that happens after they are acknowledged."""
    for _ in range(600):
        answer = await client.call_tool("maintain", {"action": "stats"})
        found: dict[str, dict[str, int]] = answer.structured_content or {}
        if not found["stats"]["replies_pending"]:
            return
        await anyio.sleep(1)


def _rows(answer: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    return list((answer or {})[key])


def asked_for(rows: Rows) -> None:
    """Hold ROWS to what was asked."""
    for key, limit in (("R@10", 0.85), ("R@5", 0.77)):
        value = sum(found[key] for _, found in rows) / len(rows)
        verdict(key, value, limit, at_least=True)
    hops = [found["R@10"] for category, found in rows if category == "multi-hop"]
    verdict("R@10, multi-hop", sum(hops) / max(len(hops), 1), 0.6, at_least=True)


async def measured(dialogues: list[Dialogue], search: Search, pooled: bool) -> Rows:
    """Return the category and the measures of every question."""
    rows: Rows = []
    for dialogue in dialogues:
        for asked in dialogue.questions:
            found = await search(asked.text, "all" if pooled else dialogue.name)
            rows.append((asked.category, measures(found, asked.evidence)))
    return rows


async def peers(dialogues: list[Dialogue], settings: Settings, pooled: bool) -> None:
    """Measure what others do: BM25, vectors alone, and reciprocal rank fusion of both."""
    async with open_embedder(settings) as embedder:
        spaces: dict[str, list[Dialogue]] = {}
        for dialogue in dialogues:
            spaces.setdefault("all" if pooled else dialogue.name, []).append(dialogue)
        stores: dict[str, tuple[list[str], Any, Bm25]] = {}
        for name, inside in spaces.items():
            turns = [turn for dialogue in inside for turn in dialogue.turns]
            texts = [f"[{t.at:%-d %B %Y}] {t.speaker}: {t.text}" for t in turns]
            vectors = await embedder.embed(texts)
            stores[name] = ([turn.id for turn in turns], vectors, Bm25(texts))

        async def bm25(question: str, space: str) -> list[str]:
            ids, _, index = stores[space]
            return [ids[i] for i in index.ranked(question)[:10]]

        async def vectors_alone(question: str, space: str) -> list[str]:
            ids, vectors, _ = stores[space]
            [query] = await embedder.embed([question])
            return [ids[i] for i in np.argsort(-(vectors @ query))[:10]]

        async def fused(question: str, space: str) -> list[str]:
            ids, vectors, index = stores[space]
            [query] = await embedder.embed([question])
            scores: dict[int, float] = {}
            for ranking in (index.ranked(question)[:100], np.argsort(-(vectors @ query))[:100]):
                for rank, i in enumerate(ranking, 1):
                    scores[int(i)] = scores.get(int(i), 0.0) + 1 / (60 + rank)
            return [ids[i] for i in sorted(scores, key=lambda i: -scores[i])[:10]]

        for name, search in (
            ("BM25", bm25),
            (f"vectors alone ({embedder.id}), as Chroma does", vectors_alone),
            ("BM25 + vectors, reciprocal rank fusion", fused),
        ):
            print(table_row(name, await measured(dialogues, search, pooled)))


class Bm25:
    """BM25 (Robertson & Zaragoza 2009), k1 1.2, b 0.75, without stop words."""

    def __init__(self, texts: list[str]) -> None:
        documents = [words.words(text) for text in texts]
        self._sizes = np.array([len(document) for document in documents], float)
        self._postings: dict[str, dict[int, int]] = {}
        for i, document in enumerate(documents):
            for word in document:
                found = self._postings.setdefault(word, {})
                found[i] = found.get(i, 0) + 1

    def ranked(self, question: str) -> list[int]:
        """Return all documents, the best first."""
        n, mean = len(self._sizes), self._sizes.mean()
        scores = np.zeros(n)
        for word in words.terms(question):
            found = self._postings.get(word, {})
            idf = np.log(1 + (n - len(found) + 0.5) / (len(found) + 0.5))
            for i, count in found.items():
                scores[i] += (
                    idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * self._sizes[i] / mean))
                )
        return [int(i) for i in np.argsort(-scores, kind="stable")]


def main() -> None:
    """Print one line for each system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pooled", action="store_true", help="all conversations in one namespace")
    parser.add_argument("--embedder", choices=("auto", "static", "minilm"), default="auto")
    args = parser.parse_args()
    if args.data is None:
        print("left out: give the dialogues with --data")
        return
    dialogues = load(args.data)
    questions = sum(len(dialogue.questions) for dialogue in dialogues)
    print(f"{questions} questions of {len(dialogues)} conversations; {machine()}")
    print(HEADING)
    model = minilm_folder(Settings.read().home)
    with tempfile.TemporaryDirectory(prefix="arsenale-") as folder:
        home = Path(folder)
        config = f'http_port = 0\nembedder = "{args.embedder}"\n'
        (home / "config.toml").write_text(config, encoding="utf-8")
        if model.is_dir():
            minilm_folder(home).parent.mkdir(parents=True)
            os.symlink(model, minilm_folder(home))
        try:
            anyio.run(through_the_server, dialogues, home, args.pooled)
        finally:
            control.down(home)
        settings = Settings.read({"ARSENALE_HOME": folder})
        anyio.run(peers, dialogues, settings, args.pooled)


if __name__ == "__main__":
    main()
