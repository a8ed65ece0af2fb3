"""One form of every JSON value (RFC 8785), and its SHA-256; pure.

RFC 8785 sorts keys by UTF-16 and writes numbers as ECMAScript does. Where keys are ASCII and
numbers are integers below 2**53, sorted keys without spaces are the same bytes: orjson writes
those, many times as fast; everything else goes through rfc8785.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, cast

import orjson
import rfc8785

from arsenale_core.errors import InvalidError

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_SCALARS = frozenset({str, int, bool, type(None)})


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return VALUE as JSON in its canonical form (RFC 8785).

    Raises:
        InvalidError: It holds what JSON has no one form for: a number that is none or too large.
    """
    plain = dict(value)
    if _is_simple(plain):
        try:
            return orjson.dumps(plain, option=_OPTIONS)
        except orjson.JSONEncodeError:
            pass  # rfc8785 says what is wrong
    try:
        return rfc8785.dumps(plain)
    except (rfc8785.CanonicalizationError, UnicodeError) as exc:
        raise InvalidError(f"no canonical form: {exc}", hint="integers lie within 2**53") from exc


def digest(data: bytes) -> str:
    """Return the SHA-256 of DATA in hex."""
    return sha256(data).hexdigest()


def _is_simple(value: object) -> bool:
    """Say whether VALUE has ASCII keys throughout and no number but integers."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        members = cast("dict[object, object]", value)
        return all(
            type(key) is str and key.isascii() and _is_simple(member)
            for key, member in members.items()
        )
    if kind is list or kind is tuple:
        return all(map(_is_simple, cast("list[object]", value)))
    return False
