"""What `arsenale doctor` finds, from wherever it is found."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, how it stands, and, unless it is well, what to do."""

    name: str
    state: State
    found: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check as JSON-ready values."""
        return asdict(self)
