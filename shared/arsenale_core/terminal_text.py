"""Text of others on a terminal: what a terminal would obey, or not show, is shown as `\\uXXXX`.

Everything our commands print leaves through here: `terminal.console` for what rich lays out,
`write` for the rest. The escapes are those of JSON, so that printed JSON stays valid and means
the same.
"""

import re
import sys
from typing import TextIO

from arsenale_core.characters import replace

_BREAK = re.compile(r"[\n\t]")


def shown(text: str) -> str:
    """Return TEXT with each control, bidirectional or invisible character as `\\uXXXX`.

    Newline and tab stay. Idempotent.
    """
    return replace(text, _escape)


def shown_line(text: str) -> str:
    """Return TEXT as `shown` does, on one line: newlines and tabs are `\\n` and `\\t`."""
    return _BREAK.sub(lambda found: {"\n": "\\n", "\t": "\\t"}[found[0]], shown(text))


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def write(text: str, *, to: TextIO | None = None) -> None:
    """Write TEXT, as `shown` returns it, to standard output or TO, at once."""
    out = sys.stdout if to is None else to
    out.write(shown(text))
    out.flush()


def write_bytes(data: bytes, *, to: TextIO | None = None) -> None:
    """Write DATA, the output of a guest or a file: unchanged unless a terminal would show it."""
    out = sys.stdout if to is None else to
    if out.isatty():
        write(data.decode(errors="replace"), to=out)
        return
    out.buffer.write(data)
    out.buffer.flush()
