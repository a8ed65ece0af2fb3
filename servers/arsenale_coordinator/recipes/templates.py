"""`{{ }}` templates: Jinja2 in its sandbox. A text that is one expression keeps the value's type.

Recipes come from files that an assistant may have written, so a template reads what it is given
and nothing else, and cannot grow a value past a limit.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, cast

from jinja2 import StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from arsenale_coordinator.recipes import metering
from arsenale_coordinator.recipes.metering import MOST_CHARS
from arsenale_core.errors import InvalidError

FILTERS = frozenset(
    "abs attr batch bool capitalize count d default dictsort escape e first float forceescape"
    " groupby int items join last length list lower map max min random reject rejectattr replace"
    " reverse round select selectattr slice sort string striptags sum title tojson trim truncate"
    " unique upper urlencode values wordcount keys".split()
) - {"attr", "random", "forceescape", "escape", "e", "striptags"}  # fmt: skip
"""What may be called on values: nothing that pads, nothing that differs between two runs."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Give the field of an object, never a method that is called as the field is."""
        if isinstance(obj, Mapping):
            found = cast("Mapping[str, Any]", obj).get(attribute, self)
            return self.undefined(obj=obj, name=attribute) if found is self else found
        if isinstance(obj, metering.VALUES) and attribute not in metering.methods_of(
            cast("object", obj)
        ):
            return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Give a part of a list or text, or the field of an object."""
        if isinstance(argument, slice):
            metering.skim(obj)
            return super().getitem(obj, cast("Any", argument))
        if isinstance(obj, (*metering.VALUES, Mapping)) and isinstance(argument, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what may be called, counted by what it is called with."""
        metering.skim(getattr(__obj, "__self__", None))
        return metering.skim(super().call(__context, __obj, *args, **kwargs))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(metering.Metering().visit(source), *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        size = _size(left) or _size(right)
        if operator == "+" and _size(left) + _size(right) > MOST_CHARS:
            raise TemplateError(f"a text or list would have more than {MOST_CHARS:,} parts")
        metering.charge(1 + _size(left) // 64 + _size(right) // 64)
        if operator == "*" and size:
            count = right if _size(left) else left
            if not isinstance(count, int) or size * count > MOST_CHARS:
                raise TemplateError(f"a text or list would have more than {MOST_CHARS:,} parts")
        if operator == "%" and isinstance(left, str):
            raise TemplateError("% does not format here: join texts with ~")
        if operator == "**" and not (_small(left) and _small(right)):
            raise TemplateError("a power is too large")
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> int:
    return len(cast("Any", value)) if isinstance(value, str | bytes | list | tuple) else 0


def _small(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= 1_000


def _environment() -> _Environment:
    made = _Environment(
        undefined=StrictUndefined, autoescape=False, cache_size=0, finalize=metering.text
    )
    known = {name: fn for name, fn in made.filters.items() if name in FILTERS}
    made.filters = {name: metering.counting(name, fn) for name, fn in known.items()}
    made.filters |= metering.INTERNAL
    made.tests = {name: metering.counting(name, fn) for name, fn in made.tests.items()}
    made.globals = {"range": made.globals["range"]}
    return made


_ENVIRONMENT = _environment()

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_template(text: str) -> bool:
    """Say whether TEXT is computed."""
    return "{{" in text or "{%" in text


def render(value: Any, names: Mapping[str, Any], *, path: str) -> Any:
    """Return VALUE, any JSON, with its templates computed.

    Args:
        value: Texts, numbers, lists and objects of them.
        names: What templates may refer to.
        path: Where VALUE stands, for errors.

    Raises:
        InvalidError: A template fails; it names PATH and why.
    """
    with metering.metered():
        return _rendered(value, names, path)


def _rendered(value: Any, names: Mapping[str, Any], path: str) -> Any:
    if isinstance(value, str):
        return _text(value, names, path) if is_template(value) else value
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_rendered(one, names, f"{path}[{i}]") for i, one in enumerate(items)]
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return {key: _rendered(one, names, f"{path}.{key}") for key, one in pairs.items()}
    return value


def truth(expression: str, names: Mapping[str, Any], *, path: str) -> bool:
    """Return whether EXPRESSION, bare or in `{{ }}`, holds.

    Raises:
        InvalidError: It fails.
    """
    text = expression if is_template(expression) else f"{{{{ {expression} }}}}"
    found = render(text, names, path=path)
    if isinstance(found, str):
        return found.strip().lower() not in ("", "false", "0", "null", "none")
    return bool(found)


def references(value: Any, *, path: str) -> set[str]:
    """Return the names that the templates in VALUE refer to.

    Raises:
        InvalidError: A template cannot be read; it names PATH.
    """
    if isinstance(value, str):
        try:
            return set(_names(value)) if is_template(value) else set()
        except TemplateError as exc:
            raise InvalidError(f"{path}: {exc}", hint="correct the template") from exc
        except (RecursionError, SyntaxError, MemoryError) as exc:
            raise InvalidError(f"{path}: it is nested too deep", hint="make it simpler") from exc
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return set[str]().union(*(references(x, path=f"{path}[{i}]") for i, x in enumerate(items)))
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return set[str]().union(*(references(x, path=f"{path}.{k}") for k, x in pairs.items()))
    return set()


def _text(text: str, names: Mapping[str, Any], path: str) -> Any:
    try:
        expression = _expression(text)
        if expression is not None:
            found = expression(**names)
            if isinstance(found, StrictUndefined):
                found._fail_with_undefined_error()  # pyright: ignore[reportPrivateUsage]
            return _plain(found)
        return _plain("".join(metering.counted(_template(text).generate(**names))))
    except TemplateError as exc:
        raise InvalidError(f"{path}: {exc}", hint="correct the template") from exc
    except (
        TypeError, ValueError, ArithmeticError, LookupError, AttributeError, NameError,
        RecursionError, SyntaxError, MemoryError,
    ) as exc:  # fmt: skip
        why = f"{path}: {type(exc).__name__}: {exc}"
        raise InvalidError(why, hint="correct the template") from exc


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: what filters yield as lists.

    Raises:
        TemplateError: It is none that JSON has.
    """
    metering.skim(value)
    if isinstance(value, str):
        if "\0" in value or (not value.isprintable() and _SURROGATE.search(value)):
            raise TemplateError("a text holds what is no character")
        return str(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise TemplateError("a number is too large")
    if isinstance(value, float) and not isfinite(value):
        raise TemplateError("a number is infinite, or none")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value)
        return {_plain(str(key)): _plain(one) for key, one in pairs.items()}
    if isinstance(value, list | tuple | range | Iterator):
        return [_plain(one) for one in cast("Iterable[Any]", value)]
    raise TemplateError(f"{type(value).__name__} is no value")


@lru_cache(maxsize=1024)
def _names(text: str) -> frozenset[str]:
    _ENVIRONMENT.compile(text)  # unknown filters are found here
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(text))) - {"range"}


@lru_cache(maxsize=1024)
def _template(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)


@lru_cache(maxsize=1024)
def _expression(text: str) -> Callable[..., Any] | None:
    """Return what computes a text that is one expression; `None` for any other text."""
    single = _single(text)
    if single is None:
        return None
    return _ENVIRONMENT.compile_expression(single, undefined_to_none=False)


def _single(text: str) -> str | None:
    """Return the expression of a text that is one `{{ expression }}` and nothing else."""
    stripped = text.strip()
    if not (stripped.startswith("{{") and stripped.endswith("}}")):
        return None
    body = _ENVIRONMENT.parse(stripped).body
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return None
    if isinstance(body[0].nodes[0], nodes.TemplateData):
        return None
    return stripped[2:-2].strip().removeprefix("-").removesuffix("-").strip()
