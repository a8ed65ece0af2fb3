"""What was made, as `card.json` beside the files says it: hashes, measured accuracies, origin."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from arsenale_core.errors import InvalidError
from arsenale_core.lora.gguf_files import file_sha256

FOLDER = Path(__file__).parent
"""Where the files that come with the package lie."""

BASE, FACTS, TONE = "base-q8_0.gguf", "facts.gguf", "tone.gguf"
CARD = "card.json"
REHEARSALS = {FACTS: "facts.rehearsal.json", TONE: "tone.rehearsal.json"}
"""A layer's file -> the file of its rehearsal prompts."""


class Card(TypedDict):
    """The content of `card.json`.

    Args:
        name: Of the model.
        licence: Of all files.
        made_by: The command that makes them again.
        seed: Of all that is random.
        steps: Stage -> training steps.
        loss: Stage -> the last loss, nats a token.
        parameters: File -> numbers in it.
        sha256: File -> hash, hex.
        versions: Package -> version it was made with.
        accuracy: What is on, as `facts+tone` -> set of questions -> share answered word for word
            by llama.cpp.
    """

    name: str
    licence: str
    made_by: str
    seed: int
    steps: dict[str, int]
    loss: dict[str, float]
    parameters: dict[str, int]
    sha256: dict[str, str]
    versions: dict[str, str]
    accuracy: dict[str, dict[str, float]]


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of FOLDER that a card vouches for."""
    return {name: file_sha256(folder / name) for name in (BASE, FACTS, TONE, *REHEARSALS.values())}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write CONTENT to PATH for people to read."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_card(folder: Path = FOLDER) -> Card:
    """Read the card of FOLDER and check every file against it.

    Raises:
        InvalidError: A file is not the one the card vouches for.
        NotFoundError: A file is missing.
    """
    card = cast("Card", json.loads((folder / CARD).read_text(encoding="utf-8")))
    wrong = [name for name, found in hashes(folder).items() if card["sha256"].get(name) != found]
    if wrong:
        raise InvalidError(
            f"{', '.join(wrong)} differ from {folder / CARD}",
            hint=f"make them again: {card['made_by']}",
        )
    return card


def read_rehearsal(layer: str, folder: Path = FOLDER) -> list[str]:
    """Return the prompts that who trains on top of the file LAYER, as `facts.gguf`, rehearses."""
    content = json.loads((folder / REHEARSALS[layer]).read_text(encoding="utf-8"))
    return cast("list[str]", content["prompts"])
