"""What the thinking optimiser answers."""

from pydantic import Field

from arsenale_core.lean import Lean


class ThinkingReport(Lean):
    """How hard to think now, what the model takes for it, and why.

    `level` is `default` where nothing is known: then there is no word, no budget and no effort.
    """

    level: str
    word: str = ""
    tokens: int | None = None
    model_takes: str
    because: str
    set_by: list[str] = Field(default_factory=lambda: list[str]())
    changed: str = ""
    why: list[str]
    evidence: str
    expected: str = ""
    hint: str = ""
