"""Masks secrets in text and JSON before anything is stored. Pure.

What is recognised: keys in the published formats of common vendors, JWTs, `Authorization` values,
passwords in URLs, assignments to password-like names (shell, JSON, YAML, command options), PEM
private keys, values of password-like JSON keys, and long random-looking strings. The formats are
the vendors' own, as their documentation and secret-scanning lists publish them. Limits: a short
password in free prose ("my password is hunter2") is not recognised, and a random string below
`MIN_RANDOM_CHARS` passes. `redact` is idempotent and linear in the length of the text.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias, cast

JsonValue: TypeAlias = (
    "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)

MAX_ROUNDS = 10

MIN_RANDOM_CHARS = 24
"""From this length on a string may be called random: shorter ones are mostly identifiers."""

MIN_ENTROPY_BITS = 3.7
"""Shannon entropy of a character, bits. 24 random base64 characters have about 4.3 on average;
words joined by separators stay below 3.6."""

_VENDORS = (
    ("anthropic", r"sk-ant-[A-Za-z0-9_-]{16,}"),
    ("stripe", r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}"),
    ("openai", r"sk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}"),
    ("aws", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("github", r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    ("gitlab", r"gl(?:pat|ptt|dt|rt)-[A-Za-z0-9_-]{16,}"),
    ("slack", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("slack", r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{10,}"),
    ("google", r"(?:AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})"),
    ("huggingface", r"hf_[A-Za-z0-9]{20,}"),
    ("npm", r"npm_[A-Za-z0-9]{30,}"),
    ("pypi", r"pypi-[A-Za-z0-9_-]{16,}"),
    ("sendgrid", r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("twilio", r"SK[0-9a-f]{32}(?![0-9a-f])"),
    ("digitalocean", r"do[opr]_v1_[0-9a-f]{32,}"),
    ("telegram", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}"),
    ("discord", r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}"),
    ("jwt", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
)

_VENDOR = re.compile(
    r"(?<![A-Za-z0-9_])(?:" + "|".join(f"(?P<v{i}>{p})" for i, (_, p) in enumerate(_VENDORS)) + ")"
)

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?!-----END)[\s\S])*(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@\"'\[\]]{0,200}):([^\s/@\"']{1,200})@")
_AUTHORIZATION = re.compile(
    r"(?i)\b(bearer|basic|authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token|apikey)?)"
    r"(\s{1,4}|(?<=[:=\"' ]))([A-Za-z0-9._~+/=-]{8,})"
)

_SECRET_WORDS = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|auth[_-]?key"
    r"|private[_-]?key|signing[_-]?key|encryption[_-]?key|credentials?|cookie)"
)
_ASSIGNMENT = re.compile(
    r"(?i)(?<![A-Za-z0-9_.-])"
    r"([A-Za-z0-9_.-]{0,80}?" + _SECRET_WORDS + r"[A-Za-z0-9_]{0,20}\\?[\"']?"
    r"(?:\s{0,3}[:=]\s{0,3}|(?<=[a-z])\s{1,3}(?=\S)))"
    r"(\\?\"[^\"\\\n]{1,500}\\?\"|'[^'\n]{1,500}'|[^\s\"',;&|)}\]]{1,500})"
)

_NOT_SECRET = re.compile(
    r"(?i)(?:max|min|total|input|output|prompt|completion|cache\w*|reasoning|thinking|num|n)[_-]?tokens?"
    r"|tokens|tokens?[_-]?(?:count|usage|limit|budget|type|s?_per\w*)|token(?:izer|ize|ization)\w*"
    r"|cookie[_-]?(?:policy|consent)|pass(?:ed|es|ing|ive|age|through)\w*|passport|secretar\w+"
)
_SECRET_KEY = re.compile(r"(?i)(?:^|[_.-])" + _SECRET_WORDS + r"s?(?:$|[_.-])|authorization$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_RANDOM = re.compile(rf"[A-Za-z0-9+/_=-]{{{MIN_RANDOM_CHARS},}}")
_HEX = re.compile(r"(?i)(?:0x)?[0-9a-f-]+")
_IDENTIFIER = re.compile(r"(?:toolu|msg|req|call|run|resp|chatcmpl|item|evt|session)_[A-Za-z0-9]+")

_HINT = re.compile(
    r"(?i)pass|pwd|secret|token|key|credential|cookie|bearer|basic|auth|://|[A-Za-z0-9+/_=-]{20}"
)
"""What text with anything to mask contains; one scan that lets ordinary text through."""


def redact(text: str) -> str:
    """Return TEXT with secrets masked as `[redacted:<kind>]`.

    A mask can bring a new secret to light (what followed it now stands alone), so masking goes on
    until nothing changes, `MAX_ROUNDS` at most.
    """
    if not _HINT.search(text):
        return text
    for _ in range(MAX_ROUNDS):
        masked = _mask(text)
        if masked == text:
            return text
        text = masked
    return text


def _mask(text: str) -> str:
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub("[redacted:private-key]", text)
    text = _VENDOR.sub(_vendor, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(_url, text)
    text = _AUTHORIZATION.sub(_authorization, text)
    text = _ASSIGNMENT.sub(_assignment, text)
    return _RANDOM.sub(_random, text)


def redact_value(value: JsonValue, *, max_text: int) -> JsonValue:
    """Return a JSON value with secrets masked, its strings cut to MAX_TEXT characters.

    The value of a key that names a secret is masked whole, whatever it is. Strings are masked
    before they are cut, so that no half of a secret remains.
    """
    if isinstance(value, str):
        return redact(value)[:max_text]
    if isinstance(value, Mapping):
        return {
            key[:max_text]: "[redacted:value]"
            if names_secret(key) and item not in (None, "", True, False)
            else redact_value(item, max_text=max_text)
            for key, item in cast("Mapping[str, JsonValue]", value).items()
        }
    if isinstance(value, Sequence):
        items = cast("Sequence[JsonValue]", value)
        return [redact_value(item, max_text=max_text) for item in items]
    return value


def names_secret(key: str) -> bool:
    """Say whether KEY names a secret: `api_key`, `dbPassword`, but not `max_tokens`."""
    snake = _CAMEL.sub("_", key[:200])
    return bool(_SECRET_KEY.search(snake)) and not _NOT_SECRET.search(snake)


def entropy_bits(text: str) -> float:
    """Return the Shannon entropy of TEXT's characters, bits each (Shannon 1948)."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


def _vendor(found: re.Match[str]) -> str:
    assert found.lastgroup is not None
    return f"[redacted:{_VENDORS[int(found.lastgroup[1:])][0]}]"


def _url(found: re.Match[str]) -> str:
    return f"{found[1]}:[redacted:password]@"


def _authorization(found: re.Match[str]) -> str:
    value = found[3]
    looks_real = len(value) >= 16 or any(c.isdigit() for c in value) or "auth" in found[1].lower()
    return f"{found[1]}{found[2]}[redacted:authorization]" if looks_real else found[0]


def _assignment(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    bare = value.strip("\"'\\")
    by_space = not name.rstrip("\"' ").endswith((":", "="))
    if by_space and not name.lstrip().startswith("-"):
        return found[0]
    harmless = bare.startswith(("$", "[redacted:", "<", "{", "%")) or bare.lower() in _HARMLESS
    if harmless or not bare or _NOT_SECRET.search(name):
        return found[0]
    quote = value[: len(value) - len(value.lstrip("\"'\\"))]
    return f"{name}{quote}[redacted:password]{quote}"


_HARMLESS = frozenset({"true", "false", "null", "none", "undefined", "str", "string", "yes", "no"})


def _random(found: re.Match[str]) -> str:
    text = found[0]
    return "[redacted:high-entropy]" if _is_random(text) else text


def _is_random(text: str) -> bool:
    """Say whether TEXT looks drawn at random: three character classes, mixed, of high entropy.

    Digests, UUIDs and git hashes (hexadecimal), numbers, paths, identifiers with words in them and
    the ids of calls and messages are not meant.
    """
    if _HEX.fullmatch(text) or _IDENTIFIER.fullmatch(text) or text.count("/") > 2:
        return False
    body = text.rstrip("=")
    classes = sum(any(test(c) for c in body) for test in _CLASSES)
    if classes < 3 or _in_words(body) > len(body) // 2:
        return False
    changes = sum(_kind(a) != _kind(b) for a, b in pairwise(body))
    return changes >= len(body) * 0.3 and entropy_bits(body) >= MIN_ENTROPY_BITS


_CLASSES: tuple[Callable[[str], bool], ...] = (str.isdigit, str.islower, str.isupper)


def _kind(c: str) -> int:
    return 0 if c.isdigit() else 1 if c.islower() else 2 if c.isupper() else 3


def _in_words(text: str) -> int:
    """Return how many characters of TEXT stand in what could be words, four letters or more."""
    return sum(len(word) for word in re.findall(r"[A-Z]?[a-z]{3,}", text))
