"""What the commands share: output, errors, the option `--json`. Imports nothing heavy."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import typer

from arsenale_core.terminal_text import shown_line, write

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def say(text: str = "") -> None:
    """Print TEXT on a line of its own."""
    write(f"{text}\n")


def print_json(value: Any) -> None:
    """Print VALUE as JSON."""
    write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def table(rows: list[tuple[str, ...]]) -> str:
    """Return ROWS, the first of which is the head, in aligned columns."""
    rows = [tuple(map(shown_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


@contextmanager
def errors_shown() -> Generator[None]:
    """Turn our errors into one line on stderr and exit status 1, Ctrl-C into 130."""
    from arsenale_core.errors import ArsenaleError  # noqa: PLC0415  # --version needs none

    try:
        yield
    except ArsenaleError as exc:
        typer.secho("error: ", fg="red", nl=False, err=True)
        write(f"{exc}\n", to=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def confirmed(question: str, *, yes: bool) -> bool:
    """Return whether the person at the terminal agrees; without one only `--yes` does.

    Raises:
        InvalidError: There is no terminal, so nobody could be asked.
    """
    from arsenale_core.errors import InvalidError  # noqa: PLC0415  # --version needs none

    if yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidError(
            "nothing was changed, as there is no terminal to ask at", hint="add --yes to agree"
        )
    return typer.confirm(shown_line(question), default=True)
