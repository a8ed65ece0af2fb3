"""Templates that end: what they may say, and how much work they may make. Pure.

A recipe is written by an assistant, and all runs share one process: a template that loops for
minutes, or makes a gigabyte, would stop them all. Work is counted, not timed, so that a run that is
begun anew decides as it did.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, cast

from jinja2 import TemplateError, nodes
from jinja2.visitor import NodeTransformer

MOST_CHARS = 1_000_000
"""Longest text that a template may make."""

MOST_WORK = 2_000_000
"""Work of the templates of one step: about a second. A part of a list is 1, 64 characters are."""

STATEMENTS = (nodes.Output, nodes.For, nodes.If, nodes.Assign)
"""No macros, blocks or imports: they call themselves, or gather text that nobody counts."""

METHODS = frozenset(
    "capitalize count endswith find index isalnum isalpha isascii isdecimal isdigit islower isspace"
    " isupper lower lstrip partition removeprefix removesuffix rpartition rsplit rstrip split"
    " splitlines startswith strip title upper".split()
)
"""What may be called on texts: nothing that pads, joins or formats."""

VALUES = (str, bytes, bytearray, int, float, complex, list, tuple, set, frozenset, type(None))
"""What templates compute with. Only texts have methods: `int.to_bytes` makes gigabytes."""

TEXTS = frozenset("capitalize lower replace title trim truncate upper urlencode wordcount".split())
"""Filters that take a text: they get what is no text as `text` prints it."""

_left: ContextVar[list[int]] = ContextVar("_left")


def methods_of(value: object) -> frozenset[str]:
    """Return the names of what may be called on VALUE, one of VALUES."""
    return METHODS if isinstance(value, str) else frozenset()


@contextmanager
def metered() -> Generator[None]:
    """Let all templates within share MOST_WORK."""
    token = _left.set([MOST_WORK])
    try:
        yield
    finally:
        _left.reset(token)


def charge(work: int) -> None:
    """Count WORK.

    Raises:
        TemplateError: It is more than what is left.
    """
    left = _left.get(None)
    if left is None:  # computed while it is compiled: a constant of the text
        left = [MOST_WORK]
    left[0] -= work
    if left[0] < 0:
        raise TemplateError("a template makes too much work: loop over less, or in more steps")


def weigh(value: Any) -> None:
    """Count VALUE with all that it holds."""
    if isinstance(value, str | bytes):
        charge(1 + len(value) // 64)
    elif isinstance(value, Mapping):
        for key, one in cast("Mapping[Any, Any]", value).items():
            weigh(key)
            weigh(one)
    elif isinstance(value, list | tuple):
        for one in cast("Iterable[Any]", value):
            weigh(one)
    charge(len(value) if isinstance(value, range) else 1)


def skim(value: Any) -> Any:
    """Count VALUE without what its parts hold, and return it."""
    if isinstance(value, str | bytes):
        charge(1 + len(value) // 64)
    else:
        charge(1 + (len(value) if hasattr(value, "__len__") else 0))
    return value


def each(items: Iterable[Any], work: int) -> Iterator[Any]:
    """Yield ITEMS, and count WORK for each."""
    for item in items:
        charge(work)
        yield item


def joined(parts: list[Any]) -> str:
    """Join PARTS to one text, that is not too long."""
    return "".join(counted([text(part) for part in parts]))


def text(value: Any) -> Any:
    """Return VALUE as a text has it: texts and numbers as they are, all else as JSON."""
    if isinstance(value, Iterator):
        value = counted_list(cast("Iterator[Any]", value))
    weigh(value)
    if isinstance(value, str) or hasattr(value, "__html__"):
        return value
    if isinstance(value, range):
        value = list(value)
    if value is None or isinstance(value, bool | Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=_text_of)
    return str(value)


def _text_of(value: Any) -> Any:
    """Return a part of a value that JSON does not have: what filters yield as lists."""
    return list(each(cast("Any", value), 1)) if isinstance(value, range | Iterator) else str(value)


def counted_list(items: Iterator[Any]) -> list[Any]:
    """Return ITEMS, counted."""
    return list(each(items, 1))


def counted(pieces: Iterable[str]) -> list[str]:
    """Return PIECES, if together they are no longer than a text may be."""
    found: list[str] = []
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MOST_CHARS:
            raise TemplateError(f"more than {MOST_CHARS:,} characters")
        found.append(piece)
    return found


def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter or test FUNCTION, counting what it is given."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0
        if name in TEXTS and (args[first] is None or isinstance(args[first], bool)):
            args = (*args[:first], text(args[first]), *args[first + 1 :])
        given = [*args[first:], *kwargs.values()]
        for one in given:
            weigh(one)
        numbers = [one for one in given[1:] if isinstance(one, int)]
        if name in ("batch", "slice", "tojson"):
            charge(sum(abs(number) for number in numbers) * (100 if name == "tojson" else 1))
        if name == "sum" and not all(isinstance(x, str | int | float | None) for x in given[1:]):
            raise TemplateError("sum adds numbers")
        if name == "replace" and len(given) > 2:
            old, new = str(given[1]), str(given[2])
            subject = str(given[0])
            if len(subject) + subject.count(old) * len(new) > MOST_CHARS:
                raise TemplateError(f"more than {MOST_CHARS:,} characters")
        if name == "join":
            return _join(function, args, first, given)
        if name == "string":
            return text(given[0])
        return function(*args, **kwargs)

    return called


def _join(function: Callable[..., Any], args: Any, first: int, given: list[Any]) -> Any:
    items = [text(item) if item is None or isinstance(item, bool) else item for item in given[0]]
    between = str(given[1]) if len(given) > 1 else ""
    attribute = given[2] if len(given) > 2 else None
    if attribute is None:
        counted(piece for item in items for piece in (str(item), between))
    return function(*args[:first], items, between, attribute)


class Metering(NodeTransformer):
    """Rewrites a template so that its loops and comparisons count, and refuses what may not be."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # jinja2 looks for this name
        """Count every turn by what is in the loop."""
        if node.recursive:
            raise TemplateError("a loop may not be recursive")
        work = 1 + sum(1 for _ in node.find_all(nodes.Node))
        made = cast("nodes.For", self.generic_visit(node))
        made.iter = _filtered(made.iter, "each", [nodes.Const(work)])
        return made

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Count what is joined before it is."""
        made = cast("nodes.Concat", self.generic_visit(node))
        return _filtered(nodes.List(made.nodes), "joined", [])

    def visit_Operand(self, node: nodes.Operand) -> nodes.Operand:
        """Count what is looked through."""
        made = cast("nodes.Operand", self.generic_visit(node))
        made.expr = _filtered(made.expr, "skim", [])
        return made

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Refuse statements that are not for recipes."""
        if isinstance(node, nodes.Stmt) and not isinstance(node, STATEMENTS):
            raise TemplateError(f"{type(node).__name__.lower()} is not for recipes")
        return super().generic_visit(node, *args, **kwargs)


def _filtered(node: nodes.Node, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(
        cast("nodes.Expr", node), f"#{name}", args, [], None, None, lineno=node.lineno
    )


INTERNAL: Mapping[str, Callable[..., Any]] = {"#each": each, "#joined": joined, "#skim": skim}
"""What a rewritten template calls; no text can name these."""
