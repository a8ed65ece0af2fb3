"""Identities out of Jinja templates that a user may write or fetch from elsewhere.

A template is not trusted: it sees plain data only, has the filters and methods named here and no
others, and is stopped when it takes too many steps or makes too much text. Steps are counted, not
timed, so that a template works everywhere or nowhere. `_Meter` puts the counting into the parsed
template: what runs straight through is paid for on entering its body, the rest as it happens.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from jinja2 import BaseLoader, Environment, StrictUndefined, Undefined, nodes
from jinja2.exceptions import TemplateError, TemplateNotFound, TemplateSyntaxError
from jinja2.runtime import BlockReference, Context, LoopContext, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context, pass_environment
from jinja2.visitor import NodeTransformer

from arsenale_core.errors import InvalidError, NotFoundError

MAX_BYTES = 256 * 2**10
"""Largest result; a host warns long before (Claude Code advises 200 lines)."""

MAX_SOURCE_BYTES = 64 * 2**10
"""Largest template: parsing takes time and memory before a step can be counted."""

MAX_STEPS = 300_000
"""Most steps, some 0.2 s: each node of the template, 64 characters or item of a list is one."""

MAX_TEXT_CHARS = 256 * 2**10
"""Longest text that a template may hold at once."""

MAX_ITEMS = 10_000
"""Longest `range` and longest list that a template may make."""

MAX_INT_BITS = 256
"""Largest number that a template may compute."""

DEFAULTS: Mapping[str, object] = {
    "persona_class": "",
    "core_memories": [],
    "today": {"date": "", "memories": []},
    "projects": [],
    "knowledge": {},
    "relationships": {},
    "rules": [],
}
"""What a template finds when the caller does not say; only `name` has to be given."""

_Body: TypeAlias = nodes.Template | nodes.Block | nodes.Macro | nodes.CallBlock | nodes.For

_SUFFIX = ".md.j2"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)
_ORIGIN = "identity template "
_MAX_DEPTH = 32


class _BoundsError(TemplateError):
    """A template asked for more than it may have."""


_FAILURES = (
    TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError,
    RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What a wrong or hostile template raises: jinja2's own errors, and those of its Python code."""


def render(
    name: str,
    context: Mapping[str, object],
    folders: Sequence[Path],
    *,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Return the identity that the template NAME makes of CONTEXT.

    Args:
        name: One of `names(folders)`.
        context: Plain data: what JSON can say, and dates. See `DEFAULTS` for the names.
        folders: Where templates are, the first that has a file wins; those that a template
            extends or includes come from here as well.
        max_bytes: Largest result, in UTF-8.

    Raises:
        NotFoundError: No folder has a template NAME.
        InvalidError: The template is wrong, or wants more than it may have.
        TypeError: CONTEXT has something else than plain data.
    """
    known = names(folders)
    if name not in known:
        raise NotFoundError("identity template", name, hint=f"one of: {', '.join(known)}")
    data = {key: _plain(value) for key, value in {**DEFAULTS, **context}.items()}
    try:
        pieces = _Sandbox(folders).get_template(name + _SUFFIX).generate(data)
        return "".join(_bounded(pieces, max_bytes))
    except _FAILURES as exc:
        raise _invalid(name, exc) from exc


def names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the templates in FOLDERS; a file `_x.md.j2` is only a part of others."""
    files = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
    found = {
        file.name.removesuffix(_SUFFIX)
        for file in files
        if file.name.endswith(_SUFFIX) and _FILE_NAME.fullmatch(file.name) and file.is_file()
    }
    return sorted(name for name in found if not name.startswith("_"))


def _plain(value: object, depth: int = 0) -> Any:
    """Return VALUE as new dicts, lists, texts and numbers: nothing else reaches a template."""
    if depth > _MAX_DEPTH:
        hint = "make the knowledge and the relationships of the identity flatter"
        raise InvalidError(f"data nested more than {_MAX_DEPTH} deep", hint=hint)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return {str(key): _plain(inner, depth + 1) for key, inner in items}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(inner, depth + 1) for inner in cast(Sequence[object], value)]
    raise TypeError(f"a template cannot have a {type(value).__name__}")


def _bounded(pieces: Iterable[str], max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for piece in pieces:
        left -= len(piece.encode("utf-8", "surrogatepass"))
        if left < 0:
            raise _BoundsError(f"the result is larger than {max_bytes} bytes")
        yield piece


def _invalid(name: str, exc: BaseException) -> InvalidError:
    """Return EXC as an error that says where in which template, and what to do."""
    hint = "correct it; identity_templates/README.md lists the variables and filters"
    match exc:
        case TemplateNotFound():
            what = f"no template file {exc.name!r}"
            hint = "name a file of the template folders, such as _base.md.j2"
        case _BoundsError():
            what, hint = str(exc), "show less: fewer memories, shorter texts, smaller loops"
        case RecursionError():
            what = "it goes around in circles"
            hint = "let no macro call itself and no template include or extend itself"
        case TemplateError():
            what = exc.message or type(exc).__name__
        case _:
            what = f"{type(exc).__name__}: {exc}"
    return InvalidError(f"identity template {name!r}{_where(exc)}: {what[:500]}", hint=hint)


def _where(exc: BaseException) -> str:
    """Return the file and line of the template where EXC happened, as far as they are known."""
    if isinstance(exc, TemplateSyntaxError):
        return f", {exc.name} line {exc.lineno}"
    found, step = "", exc.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if file.startswith(_ORIGIN):
            found = f", {file.removeprefix(_ORIGIN)} line {step.tb_lineno}"
        step = step.tb_next
    return found


class _Folders(BaseLoader):
    """Loads template files out of some folders: by plain names, and not through links out."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]

    def get_source(
        self, environment: Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        del environment
        path = self._path(template)
        with path.open("rb") as file:
            data = file.read(MAX_SOURCE_BYTES + 1)
        if len(data) > MAX_SOURCE_BYTES:
            raise _BoundsError(f"{template} is larger than {MAX_SOURCE_BYTES} bytes")
        return data.decode("utf-8").removeprefix("\ufeff"), _ORIGIN + template, None

    def _path(self, template: str) -> Path:
        if _FILE_NAME.fullmatch(template):
            for folder in self._folders:
                path = folder / template
                if path.is_file() and path.resolve().parent == folder:
                    return path
        raise TemplateNotFound(template)


class _Sandbox(ImmutableSandboxedEnvironment):
    """One rendering: what a template may do, and how many steps are left to it."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__(
            loader=_Folders(folders),
            undefined=StrictUndefined,
            finalize=_text,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            optimized=False,
        )
        self.left = MAX_STEPS
        self.filters = dict(_FILTERS)
        self.tests = {name: self.tests[name] for name in _TESTS}
        self.globals = {"range": _range, "namespace": _namespace}

    def burn(self, steps: int) -> None:
        """Take STEPS off what is left."""
        self.left -= steps
        if self.left < 0:
            raise _BoundsError(f"it takes more than {MAX_STEPS} steps")

    def kept(self, value: Any) -> Any:
        """Return a VALUE that the template made, when it is not too large."""
        if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
            raise _BoundsError(f"it makes a text of more than {MAX_TEXT_CHARS} characters")
        if isinstance(value, list) and _steps(cast(object, value)) > MAX_ITEMS:
            raise _BoundsError(f"it makes a list of more than {MAX_ITEMS} items")
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise _BoundsError("it computes too large a number")
        self.burn(_steps(cast(object, value)))
        return cast(Any, value)

    def concat(self, pieces: Iterable[str], /) -> str:
        """Join what a macro, a block or a `set` block has put out."""
        return self.kept("".join(_short(pieces)))

    def wrap_str_format(self, value: Any) -> None:
        """Leave `str.format` to `is_safe_attribute`: a width in it makes a text of any size."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace | TemplateReference):
            return super().is_safe_attribute(obj, attr, value)
        return any(isinstance(obj, kind) and attr in named for kind, named in _ATTRIBUTES)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return cast(dict[str, Any], obj)[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, str | int):
            raise TypeError("only a text or a number can stand in brackets")
        return super().getitem(obj, argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        given = (getattr(obj, "__self__", None), *args, *kwargs.values())
        self.burn(1 + sum(map(_steps, given)))
        return self.kept(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TypeError("there are no powers and no formats in templates; '~' joins texts")
        if operator == "*" and (isinstance(left, Sized) or isinstance(right, Sized)):
            raise TypeError("only numbers can be multiplied")
        return self.kept(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(tuple(_REFUSED)):
            if not (isinstance(node, nodes.Pair) and isinstance(node.key, nodes.Const)):
                raise TemplateSyntaxError(_REFUSED[type(node)], node.lineno, name, filename)
        _Meter().visit(tree)
        for body in [tree, *tree.find_all((nodes.Block, nodes.Macro, nodes.CallBlock, nodes.For))]:
            _pay(body)
        tree.set_environment(self)
        return tree


_REFUSED: Mapping[type[nodes.Node], str] = {
    nodes.Import: "write {% from 'file' import macro %} instead of {% import %}",
    nodes.Pair: "a key of a mapping is a text in quotes or a number",
    nodes.ScopedEvalContextModifier: "an identity is Markdown: there is no {% autoescape %}",
}


class _Meter(NodeTransformer):
    """Turns what jinja2 does without asking the sandbox into filters, which ask."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        none = nodes.Const(None, lineno=node.lineno)
        return _filtered(node.node, "_slice", *(none if end is None else end for end in ends))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "_comparable")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "_comparable")
        return node


def _filtered(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _pay(node: _Body) -> None:
    """Let a body cost its nodes whenever it is entered; more where entering is dear."""
    dear = 50 if isinstance(node, nodes.Template) else 5
    weight = nodes.Const(dear + sum(1 for _ in node.find_all(nodes.Node)), lineno=node.lineno)
    node.body.insert(0, nodes.ExprStmt(_filtered(weight, "_burn"), lineno=node.lineno))


def _steps(value: object) -> int:
    """Return what handling VALUE costs."""
    if isinstance(value, str):
        return len(value) // 64
    return len(value) if isinstance(value, Sized) and not isinstance(value, Undefined) else 0


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | Undefined)


def _text(value: object) -> str:
    """Return VALUE as it is printed. What is undefined raises."""
    if value is None:
        return ""
    if not _is_scalar(value):
        raise TypeError("a list or mapping is no text: loop over it, or use |line or |join")
    return str(value)


def _short(pieces: Iterable[str]) -> Iterator[str]:
    """Yield PIECES as long as they are short enough together."""
    left = MAX_TEXT_CHARS
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise _BoundsError(f"it makes a text of more than {MAX_TEXT_CHARS} characters")
        yield piece


def _range(*args: int) -> range:
    found = range(*args)
    if len(found) > MAX_ITEMS:
        raise _BoundsError(f"a range has more than {MAX_ITEMS} numbers")
    return found


def _namespace(**values: Any) -> Namespace:
    return Namespace(**values)


def _items(value: object) -> list[Any]:
    """Return the items of a list, or the keys of a mapping."""
    if _is_scalar(value) or not isinstance(value, Iterable):
        raise TypeError(f"a list is needed, not {_text(value)!r}")
    return list(islice(cast(Iterable[Any], value), MAX_ITEMS + 1))


def _field(item: Any, attribute: str | int | None) -> Any:
    return item if attribute is None else item[attribute]


def _join(value: object, between: str = "", attribute: str | int | None = None) -> str:
    texts = [_text(_field(item, attribute)) for item in _items(value)]
    return "".join(_short(islice((t for text in texts for t in (between, text)), 1, None)))


def _sort(value: object, reverse: bool = False, attribute: str | int | None = None) -> list[Any]:
    def key(item: Any) -> Any:
        found = _field(item, attribute)
        if not _is_scalar(found):
            raise TypeError("only texts and numbers can be sorted: name an attribute")
        return found[:1000] if isinstance(found, str) else found

    return sorted(_items(value), key=key, reverse=reverse)


def _replace(value: object, old: str, new: str) -> str:
    text = _text(value)
    if len(text) + text.count(old) * len(new) > MAX_TEXT_CHARS:
        raise _BoundsError(f"it makes a text of more than {MAX_TEXT_CHARS} characters")
    return text.replace(old, new)


def _truncate(value: object, length: int = 255, end: str = "…") -> str:
    text = _text(value)
    if len(text) <= length:
        return text
    return text[: max(length - len(end), 0)].rsplit(" ", 1)[0].rstrip() + end


def _default(value: object, instead: object = "", boolean: bool = False) -> object:
    return instead if isinstance(value, Undefined) or (boolean and not value) else value


def _comparable(value: Any) -> Any:
    """Return VALUE; comparing lists within lists could take forever."""
    if not _is_scalar(value):
        is_mapping = isinstance(value, dict)
        inner = _items(cast(dict[str, Any], value).values() if is_mapping else value)
        if not all(map(_is_scalar, inner)):
            raise TypeError("only texts, numbers and lists of them can be compared")
    return value


def _slice(value: Any, start: int | None, stop: int | None, step: int | None) -> Any:
    return (value if isinstance(value, str) else _items(value))[start:stop:step]


def _flat(sandbox: _Sandbox, value: object, depth: int = 4) -> Iterator[str]:
    """Yield VALUE as words, with what is inside it."""
    sandbox.burn(1)
    if _is_scalar(value) or depth == 0:
        yield _text(value)
    elif isinstance(value, dict):
        for n, (key, inner) in enumerate(cast(dict[str, object], value).items()):
            yield f"{'; ' if n else ''}{key}: "
            yield from _flat(sandbox, inner, depth - 1)
    else:
        for n, inner in enumerate(_items(value)):
            yield ", " if n else ""
            yield from _flat(sandbox, inner, depth - 1)


@pass_environment
def _line(sandbox: _Sandbox, value: object) -> str:
    """Return VALUE on one line, in which no host sees an import, a comment or a marker of ours."""
    text = " ".join("".join(_short(_flat(sandbox, value))).split())
    return sandbox.kept(re.sub(r"(?<!\w)@", r"\@", text).replace("<!--", r"<\!--"))


@pass_context
def _burn(context: Context, steps: int) -> None:
    cast(_Sandbox, context.environment).burn(steps)


def _metered(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter cost what it reads, and keep what it makes in bounds."""

    @pass_environment
    def filter(sandbox: _Sandbox, value: Any, *args: Any, **kwargs: Any) -> Any:
        sandbox.burn(1 + _steps(value) + sum(map(_steps, args)))
        return sandbox.kept(apply(value, *args, **kwargs))

    return filter


def _round(value: float, digits: int = 0) -> float:
    return round(float(value), digits)  # of an integer it would compute 10 ** -digits


def _of_text(apply: Callable[[str], str]) -> Callable[[object], str]:
    return lambda value: apply(_text(value))


_APPLIED: Mapping[str, Callable[..., Any]] = dict[str, Callable[..., Any]](
    _comparable=_comparable, _concat=_join, _slice=_slice, abs=abs, count=len, d=_default,
    default=_default, float=float, int=int, join=_join, length=len, list=_items, replace=_replace,
    round=_round, sort=_sort, string=_text, truncate=_truncate,
    capitalize=_of_text(str.capitalize), lower=_of_text(str.lower), title=_of_text(str.title),
    trim=_of_text(str.strip), upper=_of_text(str.upper),
)  # fmt: skip

_FILTERS: Mapping[str, Callable[..., Any]] = {
    **{name: _metered(apply) for name, apply in _APPLIED.items()}, "_burn": _burn, "line": _line,
}  # fmt: skip

_TESTS = (
    "boolean", "defined", "divisibleby", "even", "false", "float", "integer", "iterable",
    "mapping", "none", "number", "odd", "sequence", "string", "true", "undefined",
)  # fmt: skip

_ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(
        "capitalize endswith isdigit lower lstrip removeprefix removesuffix rstrip split"
        " splitlines startswith strip title upper".split()
    )),
    (dict, frozenset({"items", "keys", "values"})),
    (LoopContext, frozenset(
        "cycle depth depth0 first index index0 last length nextitem previtem revindex"
        " revindex0".split()
    )),
    (BlockReference, frozenset({"super"})),
)  # fmt: skip
