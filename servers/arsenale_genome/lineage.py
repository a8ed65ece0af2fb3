"""Where a genome comes from and what came of it, as a tree of names. Pure."""

from collections.abc import Callable, Sequence

from arsenale_genome.record import Genome, Parent

LINES_MAX = 60
"""So many lines of a tree are drawn."""


def tree(genome: Genome, known: Callable[[Parent], Genome | None]) -> list[str]:
    """Return the ancestors of GENOME as lines; KNOWN finds a parent that is still there."""
    lines = [f"{genome.name} (generation {genome.generation})"]
    _grow(genome.parents, "", frozenset({genome.id}), known, lines)
    return lines


def _grow(
    parents: Sequence[Parent],
    indent: str,
    path: frozenset[str],
    known: Callable[[Parent], Genome | None],
    lines: list[str],
) -> None:
    for place, parent in enumerate(parents):
        last = place == len(parents) - 1
        if len(lines) >= LINES_MAX:
            lines.append(f"{indent}…")
            return
        found = known(parent)
        name = found.name if found else f"{parent.name} (not here)"
        renamed = f", then {parent.name}" if found and found.name != parent.name else ""
        lines.append(
            f"{indent}{'└── ' if last else '├── '}{name} (generation {parent.generation}{renamed})"
        )
        if found and found.id not in path:
            further = indent + ("    " if last else "│   ")
            _grow(found.parents, further, path | {found.id}, known, lines)
