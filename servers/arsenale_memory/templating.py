"""Identities from Jinja templates, in a sandbox: a template may come from anywhere.

It sees the variables it is given and nothing else and cannot reach into objects. As no sandbox of
the language bounds what a single filter allocates or an empty loop costs, a template runs in a
process of its own with limits on time and memory.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

from arsenale_core.errors import InvalidError, NotFoundError

MAX_CHARS = 256 * 1024
"""Longest result. The host's advice is 200 lines a file."""

MAX_PIECES = 100_000
"""So many pieces a template may give, empty ones too: the end of every loop."""

SUFFIX = ".md.j2"


def names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the templates in FOLDERS; those that begin with `_` are parts."""
    found = {
        path.name.removesuffix(SUFFIX)
        for folder in folders
        for path in folder.glob(f"*{SUFFIX}")
        if not path.name.startswith("_")
    }
    return sorted(found)


CPU_S, WALL_S, MEMORY_BYTES = 2, 10, 512 * 2**20
"""What the process of a template may use."""


def render_apart(name: str, context: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """Return what `render` returns, from a process that is ended when it takes too much.

    Raises:
        NotFoundError: No folder has the template.
        InvalidError: It is wrong, or takes too much.
    """
    request = {"name": name, "context": context, "folders": [str(folder) for folder in folders]}
    command = [sys.executable, "-P", "-m", "arsenale_memory.templating"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, check=False,
            timeout=WALL_S,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    except (subprocess.TimeoutExpired, ValueError):
        answer = {}
    if "text" in answer:
        return str(answer["text"])
    if answer.get("kind") == "NotFoundError":
        raise NotFoundError("template", name, hint=str(answer["hint"]))
    if "what" in answer:
        raise InvalidError(str(answer["what"]), hint=str(answer["hint"]))
    raise InvalidError(
        f"the template {name} takes more than {CPU_S} s or {MEMORY_BYTES // 2**20} MiB",
        hint="simplify it",
    )


def render(name: str, context: Mapping[str, Any], folders: Sequence[Path]) -> str:
    """Return the template NAME, of the first of FOLDERS that has it, filled with CONTEXT.

    Raises:
        NotFoundError: No folder has it.
        InvalidError: It does not parse, asks for what is not there, or passes a limit.
    """
    environment = _Sandbox(
        loader=FileSystemLoader([str(folder) for folder in folders]),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.clear()
    environment.globals["range"] = _short_range  # pyright: ignore[reportArgumentType]
    try:
        template = environment.get_template(name + SUFFIX)
        text = "".join(_bounded(template.generate(**context), name))
    except TemplateNotFound as exc:
        known = ", ".join(names(folders)) or "none"
        raise NotFoundError("template", str(exc.name), hint=f"there are {known}") from exc
    except RecursionError as exc:
        raise InvalidError(f"the template {name} calls itself without end") from exc
    except TemplateError as exc:
        line = f", line {number}" if (number := getattr(exc, "lineno", None)) else ""
        raise InvalidError(
            f"the template {name}{line}: {exc.message or type(exc).__name__}",
            hint="identity_templates/README.md lists the variables",
        ) from exc
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as exc:
        raise InvalidError(f"the template {name}: {exc}", hint="mend it") from exc
    return _tidy(text)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, without the operators that make much of little."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute on numbers only, and on small ones."""
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if not numbers or max(abs(left), abs(right)) > 1e6 or operator == "**":
            raise InvalidError(
                f"a template may not use {operator} here", hint="only with numbers up to 1,000,000"
            )
        return SandboxedEnvironment.call_binop(self, context, operator, left, right)


def _short_range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > 1_000:
        raise InvalidError("a template's range has more than 1,000 numbers")
    return found


def _bounded(pieces: Iterator[str], name: str) -> Iterator[str]:
    size = 0
    for count, piece in enumerate(pieces):
        size += len(piece)
        if size > MAX_CHARS or count > MAX_PIECES:
            raise InvalidError(
                f"the template {name} gives more than {MAX_CHARS // 1024} KiB", hint="shorten it"
            )
        yield piece


def _tidy(text: str) -> str:
    """Return TEXT with one line break at its end and no more than one blank line in a row."""
    lines: list[str] = []
    for line in (line.rstrip() for line in text.strip().splitlines()):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Render what stdin asks for, within limits; the answer is JSON on stdout."""
    request = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    folders = [Path(folder) for folder in request["folders"]]
    try:
        answer = {"text": render(request["name"], request["context"], folders)}
    except (InvalidError, NotFoundError) as exc:
        answer = {"kind": type(exc).__name__, "what": exc.what, "hint": exc.hint}
    except MemoryError:
        answer = {}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
