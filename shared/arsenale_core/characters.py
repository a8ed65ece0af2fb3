"""Characters that a reader does not see, or that a terminal obeys: found and replaced. Pure.

`model_text` removes them, `terminal_text` shows them as JSON escapes. Honest text needs some:
newline and tab, joiners within emoji and Arabic and Indic words, a presentation selector after a
symbol, and the flags of England, Scotland and Wales, which are spelt with tag characters.
"""

import re
import unicodedata
from collections.abc import Callable

_JOINER, _NON_JOINER = "\u200d", "\u200c"
_SELECTORS = "\ufe0e\ufe0f"

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line separators, bidirectional
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]"
)
"""Control, bidirectional, invisible (Unicode Default_Ignorable_Code_Point) and lone surrogates."""

_FLAG = re.compile(
    "\U0001f3f4\U000e0067\U000e0062"
    "(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074"
    "|\U000e0077\U000e006c\U000e0073)\U000e007f"
)
"""The three flags of tag characters that Unicode recommends (UTS 51, RGI_Emoji_Tag_Sequence)."""


def replace(text: str, by: Callable[[str], str]) -> str:
    """Return TEXT with BY(character) in place of each hidden character.

    Args:
        text: Any text, lone surrogates too.
        by: Gives what stands for a character; it is not looked at again.
    """
    if not _HIDDEN.search(text):
        return text
    parts: list[str] = []
    end = 0
    for flag in _FLAG.finditer(text):
        parts += [_replaced(text, end, flag.start(), by), flag[0]]
        end = flag.end()
    return "".join([*parts, _replaced(text, end, len(text), by)])


def _replaced(text: str, start: int, end: int, by: Callable[[str], str]) -> str:
    def one(found: re.Match[str]) -> str:
        at = found.start()
        if at > 0 and _is_needed(found[0], text[at - 1], text[at + 1 : at + 2]):
            return found[0]
        return by(found[0])

    parts: list[str] = []
    at = start
    for found in _HIDDEN.finditer(text, start, end):
        parts += [text[at : found.start()], one(found)]
        at = found.end()
    return "".join([*parts, text[at:end]])


def _is_needed(char: str, before: str, after: str) -> bool:
    """Say whether honest text has CHAR between BEFORE and AFTER."""
    if char in _SELECTORS:
        return before in "0123456789#*" or unicodedata.category(before) in {"So", "Sm", "Sk", "Po"}
    if char not in (_JOINER, _NON_JOINER) or not after:
        return False
    if _is_joined_script(before):
        return _is_joined_script(after) or char == _JOINER
    return char == _JOINER and _is_emoji(before) and _is_emoji(after)


def _is_emoji(char: str) -> bool:
    return char == "\ufe0f" or unicodedata.category(char) in {"So", "Sk"} or char in "♀♂"


def _is_joined_script(char: str) -> bool:
    """Say whether CHAR is a letter or mark of a script that spells with joiners.

    Arabic, Syriac, N'Ko, the scripts of India and of mainland South-East Asia, Mongolian: after
    RFC 5892, appendices A.1 and A.2.
    """
    code = ord(char)
    joined = 0x0600 <= code <= 0x0DFF or 0x1000 <= code <= 0x109F or 0x1780 <= code <= 0x18AF
    return joined and unicodedata.category(char)[0] in "LM"
