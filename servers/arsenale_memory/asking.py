"""Questions and replies as text: what a question asks for, and what a turn says as a reply. Pure.

A question about a person ("What has John read?") is compared with what was said to that person
("What have you read?"), so it is put in the second person; a memory of a conversation is read
with the last question before it. English; in other languages the texts stay as they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from arsenale_memory import words

ASKS_WHEN = re.compile(
    r"\b(when|how long|what (?:date|day|month|time|year)|which (?:day|month|year)|since)\b",
    re.IGNORECASE,
)
ASKS_NAME = re.compile(
    r"^\s*(who|where|what (?:is|was|are|were) .*name|(?:what|which) .*"
    r"\b(?:band|book|city|company|country|game|movie|name|person|place|project|song|state|tool)\b)",
    re.IGNORECASE,
)
ASKS_NUMBER = re.compile(r"\bhow (?:many|much|old|often|long)\b", re.IGNORECASE)
ASKS_MANY = re.compile(
    r"^\s*(?:which|how many|in what ways|where (?:has|have)|what\b.*\b(?:\w+s|has|have)\b)",
    re.IGNORECASE,
)
"""Questions whose answer is a moment, a name, a number, or likely more than one memory."""

_AGREEMENT = (
    ("does you", "do you"), ("has you", "have you"), ("is you", "are you"), ("was you", "were you"),
    ("you does", "you do"), ("you has", "you have"), ("you is", "you are"), ("you was", "you were"),
)  # fmt: skip
"""What a verb becomes when its subject becomes `you`."""

_MONTHS = tuple(
    re.compile(rf"\b{month}\b")
    for month in "January February March April May June July August September October November "
    "December".split()
)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")

_SENTENCE = re.compile(r"(?<=[.!?])\s+")

_OPENING = re.compile(
    r"(?:thank(?:s| you)|wow|yeah|yep|yes|no|sure|definitely|absolutely|awesome|cool|great|nice"
    r"|that(?:['’]s)?|oh|hey|hi|hello|sounds|congrat\w*|glad|exactly|of course|totally"
    r"|ok(?:ay)?)\b",
    re.IGNORECASE,
)
SHORT = 7
"""A first sentence of so few words that only greets or agrees is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a question asks for.

    Attributes:
        terms: Its words that count, without those of the subjects it names.
        you: The question in the second person.
        months: The months that it names, 1..12.
        years: The years that it names.
    """

    text: str
    terms: tuple[str, ...]
    you: str
    when: bool
    name: bool
    number: bool
    many: bool
    months: tuple[int, ...] = ()
    years: tuple[int, ...] = ()


def asked(question: str, subjects: Sequence[str]) -> Asked:
    """Return what QUESTION asks for; SUBJECTS are those that it names."""
    names = {word for subject in subjects for word in words.words(subject)}
    return Asked(
        text=question,
        terms=tuple(word for word in words.terms(question) if word not in names),
        you=second_person(question, subjects),
        when=bool(ASKS_WHEN.search(question)),
        name=bool(ASKS_NAME.search(question)),
        number=bool(ASKS_NUMBER.search(question)),
        many=bool(ASKS_MANY.search(question)),
        months=tuple(n for n, month in enumerate(_MONTHS, 1) if month.search(question)),
        years=tuple(int(year) for year in _YEAR.findall(question)),
    )


def second_person(question: str, subjects: Sequence[str]) -> str:
    """Return QUESTION as one would ask the SUBJECTS themselves; as it is when there are none."""
    if not subjects:
        return question
    name = "|".join(re.escape(each) for each in sorted(subjects, key=len, reverse=True))
    several = rf"(?<!\w)(?:{name})(?:,? and (?:{name}))?"
    said = re.sub(rf"{several}['’]s?(?!\w)", "your", question, flags=re.IGNORECASE)
    said = re.sub(rf"{several}(?!\w)", "you", said, flags=re.IGNORECASE)
    for third, second in _AGREEMENT:
        said = re.sub(rf"\b{third}\b", second, said, flags=re.IGNORECASE)
    return said


def as_reply(before: str, text: str) -> str:
    """Return TEXT as the reply that it is: the last question of BEFORE, then its `core`."""
    question = last_question(before)
    said = core(text)
    return f"{question} {said}" if question else said


def last_question(text: str) -> str:
    """Return the last sentence of TEXT that asks, or nothing."""
    asks = [sentence for sentence in _sentences(text) if sentence.endswith("?")]
    return asks[-1] if asks else ""


def core(text: str) -> str:
    """Return TEXT without short greetings at its head and without questions at its end."""
    said = _sentences(text)
    while len(said) > 1 and _OPENING.match(said[0]) and len(said[0].split()) <= SHORT:
        said = said[1:]
    while len(said) > 1 and said[-1].endswith("?"):
        said = said[:-1]
    return " ".join(said)


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]
