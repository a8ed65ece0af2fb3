"""The words of a question: which count, what the full-text index is asked. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STOP_WORDS = frozenset(
    "a about after all also am an and any are as at be because been before being both but by can "
    "could did do does during each few for from had has have he her hers him his how i if in into "
    "is it its just me more most my no nor not now of on only or other our out over own same she "
    "should so some such than that the their them then there these they this those through to too "
    "under until up us very was we were what when where which while who whom whose why will with "
    "would you your".split()
)
"""English words that are in most memories and tell none apart."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?", re.UNICODE)
_POSSESSIVE = re.compile(r"['’]s$")

MOST_WORDS = 40
"""A question's first words; what follows changes the order hardly and costs time."""

DATE_WORDS = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|ago|recently|since"
    r"|last (?:night|week|weekend|month|year|summer|winter|spring|fall|\w+day)"
    r"|next (?:week|weekend|month|year|\w+day)|this (?:morning|week|weekend|month|year|past)"
    r"|(?:few|two|three|couple)(?: of)? (?:days|weeks|months|years)"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|january|february|march|april|june|july|august|september|october|november|december"
    r"|(?:19|20)\d\d)\b",
    re.IGNORECASE,
)
"""Words of a memory that say when."""

NUMBER_WORDS = re.compile(
    r"\b(\d+|one|two|three|four|five|six|seven|eight|nine|ten|twice|once|couple|several|few|dozen"
    r"|first|second|third|another)\b",
    re.IGNORECASE,
)
"""Words of a memory that say how many."""

_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+")


def words(text: str) -> list[str]:
    """Return the words of TEXT in lower case, without possessive endings."""
    return [_POSSESSIVE.sub("", word.lower()) for word in _WORD.findall(text)]


def terms(question: str) -> list[str]:
    """Return the words of QUESTION that count, each once; all of them when none counts."""
    found = list(dict.fromkeys(words(question)))
    counting = [word for word in found if word not in STOP_WORDS]
    return (counting or found)[:MOST_WORDS]


def named(question: str, subjects: Iterable[str]) -> list[str]:
    """Return those of SUBJECTS that QUESTION names as whole words, whatever the case."""
    lower = question.lower()
    return [
        subject
        for subject in subjects
        if subject.lower() in lower
        and re.search(rf"(?<!\w){re.escape(subject.lower())}(?!\w)", lower)
    ]


def names_in(text: str) -> int:
    """Return how many words of TEXT look like names: capitals within a sentence."""
    return len(_NAME.findall(text))


@dataclass(frozen=True, slots=True)
class FullText:
    """A question in the language of a full-text index; `reading.keyword` takes it.

    Attributes:
        sqlite: FTS5: any of the words, in the columns of text, in the given spaces.
        postgresql: The spaces, a line break, and the words for `to_tsquery`.
    """

    sqlite: str
    postgresql: str

    def of(self, dialect: str) -> str:
        """Return the form for DIALECT."""
        return self.sqlite if dialect == "sqlite" else self.postgresql


def full_text(found: Sequence[str], spaces: Sequence[str]) -> FullText | None:
    """Return the question for any of the words FOUND; `None` when there is no word."""
    if not found:
        return None
    any_word = " OR ".join(f'"{word}"' for word in found)
    where = " OR ".join(f'"{space}"' for space in spaces)
    return FullText(
        sqlite=f"space : ({where}) AND {{body subject day prev next}} : ({any_word})",
        postgresql=" ".join(spaces) + "\n" + " | ".join(f"'{w}'" for w in found if "'" not in w),
    )
