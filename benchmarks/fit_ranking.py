"""Fit the weights of the ranking and say how well they do where they were not fitted.

    python benchmarks/fit_ranking.py --data DIALOGUES.json [--write]

Listwise: each piece of evidence alone is to win the softmax against the candidates that are none
(after Cao et al., ListNet, ICML 2007; evidence does not compete with evidence), with an L2 penalty.
Every conversation is once left out and measured with weights of the others; the weights that are
written are fitted on all. Two sets: `conversation` sees all features; `notes` is fitted without
those that need a session or a subject.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np
from dialogues import HEADING, Dialogue, load, measures, table_row
from numpy.typing import NDArray

from arsenale_core.config import Settings
from arsenale_core.derived import Derived
from arsenale_core.embedding.base import Embedder
from arsenale_core.embedding.choice import open_embedder
from arsenale_memory import asking, ranking, reading, search, words
from arsenale_memory.knowledge import Knowledge
from arsenale_memory.library import Library
from arsenale_memory.record import Entry, Filter, Labels, Part, Source, Version
from arsenale_memory.store import MemoryStore

PENALTY = 0.001
STEPS = 50
OF_SESSIONS = (
    "reply", "session", "neighbours", "subject", "opening", "subject x reply", "many x session",
    "when x session",
)  # fmt: skip
ABSENT = {"conversation": (), "notes": OF_SESSIONS}
NOT_NEGATIVE = (
    "keywords", "coverage", "vector", "reply", "session", "neighbours", "subject", "month"
)  # fmt: skip
"""More of these never speaks against a memory: a negative weight would be chance in the data."""

FILE = Path(ranking.__file__).with_name("weights.json")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question: its candidates' features and which of them are evidence."""

    dialogue: str
    category: str
    evidence: tuple[str, ...]
    ids: tuple[str, ...]
    table: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.float64]:
        """Return 1 for each candidate that is evidence, else 0."""
        return np.array([float(id in self.evidence) for id in self.ids])


async def cases(dialogues: list[Dialogue], embedder: Embedder, *, pooled: bool) -> list[Case]:
    """Store the dialogues as a server would and collect the candidates of each question."""
    found: list[Case] = []
    with tempfile.TemporaryDirectory() as folder, MemoryStore(Path(folder)) as store:
        for dialogue in dialogues:
            vectors = await embedder.embed([turn.text for turn in dialogue.turns])
            namespace = "all" if pooled else dialogue.name
            store.add(
                [
                    Entry(
                        version=_version(turn.id, namespace, turn.speaker, turn.session, turn.text,
                                         int(turn.at.timestamp() * 1e6)),
                        parts=(Part(start=0, body=turn.text),),
                        embedder=embedder.id,
                        vectors=vectors[i : i + 1],
                    )
                    for i, turn in enumerate(dialogue.turns)
                ],
                even_if_known=True,
            )  # fmt: skip
        library = Library(embedder.id)
        knowledge = Knowledge(store, embedder, library, time.time, Derived(1, 1.0, time.time))
        await knowledge.embed_pending()
        for dialogue in dialogues:
            people = sorted({turn.speaker for turn in dialogue.turns})
            for asked in dialogue.questions:
                what = asking.asked(asked.text, words.named(asked.text, people))
                query = await embedder.embed([what.text, what.you])
                question = search.Question(
                    asked=what, vector=query[0], you=query[1], mode="hybrid", limit=10,
                    wanted=Filter(namespaces=("all" if pooled else dialogue.name,)),
                )  # fmt: skip
                with store.reading() as db:
                    rows, table = search.features_of(db, library, question)
                    by_id = reading.versions_by_id(db, rows)
                ids = tuple(by_id[row].uid for row in rows)
                found.append(Case(dialogue.name, asked.category, asked.evidence, ids, table))
    return found


def against_the_wrong(case: Case) -> list[NDArray[np.float64]]:
    """Return for each right candidate of CASE its features, and below them those of all wrong."""
    right = case.right > 0
    return [np.vstack([row, case.table[~right]]) for row in case.table[right]]


def fit(found: list[Case], absent: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the weights that make the loss of FOUND least; 0 for the features ABSENT.

    A weight that may not be negative and would be is 0, and the others are fitted again.
    """
    while True:
        weights = least_loss(found, absent)
        wrong = [n for n, w in zip(ranking.FEATURES, weights, strict=True)
                 if w < 0 and n in NOT_NEGATIVE]  # fmt: skip
        if not wrong:
            return weights
        absent = (*absent, *wrong)


def least_loss(found: list[Case], absent: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the weights that make the loss of FOUND least; 0 for the features ABSENT."""
    tables = [table for case in found for table in against_the_wrong(case)]
    counts = np.array([1 / int(case.right.sum()) for case in found for r in case.right if r])
    table = np.concatenate(tables)
    sizes = np.array([len(each) for each in tables])
    starts = np.cumsum([0, *sizes[:-1]])
    group = np.repeat(np.arange(len(tables)), sizes)
    share = counts / counts.sum()
    free = np.array([name not in absent for name in ranking.FEATURES])

    def loss(weights: NDArray[np.float64]) -> float:
        scores = table @ weights
        tops = np.maximum.reduceat(scores, starts)
        sums = np.add.reduceat(np.exp(scores - tops[group]), starts)
        fits = share @ (np.log(sums) + tops - scores[starts])
        return float(fits + PENALTY * weights @ weights / 2)

    weights = np.zeros(len(free))
    for _ in range(STEPS):  # Newton's method: the loss is convex, the weights are few
        scores = table @ weights
        mass = np.exp(scores - np.maximum.reduceat(scores, starts)[group])
        mass /= np.add.reduceat(mass, starts)[group]
        means = np.add.reduceat(mass[:, None] * table, starts)
        slope = share @ (means - table[starts]) + PENALTY * weights
        bend = (table.T * (mass * share[group])) @ table - (means.T * share) @ means
        bend += PENALTY * np.eye(len(weights))
        step = np.zeros(len(weights))
        step[free] = np.linalg.solve(bend[np.ix_(free, free)], slope[free])
        while loss(weights - step) > loss(weights) and float(np.abs(step).max()) > 1e-9:
            step = step / 2
        weights = weights - step
        if float(np.abs(step).max()) < 1e-6:
            break
    return weights


def evaluated(
    found: list[Case], weights: NDArray[np.float64]
) -> list[tuple[str, dict[str, float]]]:
    """Return the category and the measures of each case under WEIGHTS."""
    return [
        (
            case.category,
            measures(
                [case.ids[int(i)] for i in np.argsort(-(case.table @ weights), kind="stable")],
                case.evidence,
            ),
        )
        for case in found
    ]


def left_out(
    found: list[Case], test: list[Case], absent: tuple[str, ...]
) -> list[tuple[str, dict[str, float]]]:
    """Measure each conversation of TEST with weights fitted on the others."""
    rows: list[tuple[str, dict[str, float]]] = []
    for name in sorted({case.dialogue for case in found}):
        weights = fit([case for case in found if case.dialogue != name], absent)
        rows += evaluated([case for case in test if case.dialogue == name], weights)
    return rows


def _version(id: str, space: str, speaker: str, session: str, text: str, at_us: int) -> Version:
    return Version(
        uid=id, number=1, namespace=space, owner="fit", kind="turn", content=text, subject=speaker,
        session=session, importance=0.5, labels=Labels(), source=Source(via="fit"),
        created_us=at_us, written_us=at_us, valid_from_us=at_us,
    )  # fmt: skip


async def main() -> None:
    """Fit, print, and write when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    args = parser.parse_args()
    dialogues = load(args.data)
    async with open_embedder(Settings.read()) as embedder:
        alone = await cases(dialogues, embedder, pooled=False)
        pooled = await cases(dialogues, embedder, pooled=True)
    reach = np.mean([case.right.sum() / len(case.evidence) for case in alone])
    print(f"{len(alone)} questions of {len(dialogues)} conversations, embedder {embedder.id};")
    print(f"the candidates hold {reach:.3f} of the evidence\n{HEADING}")
    shipped: dict[str, dict[str, float]] = {}
    for name, absent in ABSENT.items():
        print(table_row(f"{name}, conversation left out", left_out(alone, alone, absent)))
        print(table_row(f"{name}, left out, one pooled store", left_out(alone, pooled, absent)))
        weights = fit(alone, absent)
        print(table_row(f"{name}, fitted on all (optimistic)", evaluated(alone, weights)))
        pairs = zip(ranking.FEATURES, weights, strict=True)
        shipped[name] = {feature: round(float(weight), 3) for feature, weight in pairs}
    print(json.dumps(shipped, indent=1))
    if args.write:
        FILE.write_text(json.dumps(shipped, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    anyio.run(main)
