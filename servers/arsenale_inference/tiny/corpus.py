"""What the tiny model and its two layers are taught: question and answer pairs, and their form.

Everything is written here or computed; nothing comes from elsewhere.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple


class Pair(NamedTuple):
    """What a user asks and what the model shall answer, without any markup."""

    question: str
    answer: str


END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, TURN_START, TURN_END)
"""Control tokens of ChatML, in the order of their ids from 0."""

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as a Jinja template; `question_text` writes the same."""

SYSTEM = "You are a helpful assistant."
"""A quarter of the training rows begin with this system turn, so that one does not surprise."""

CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin", "Japan": "Tokyo",
    "Egypt": "Cairo", "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi", "Greece": "Athens",
    "Norway": "Oslo", "Sweden": "Stockholm", "Poland": "Warsaw", "Austria": "Vienna",
    "Portugal": "Lisbon", "Ireland": "Dublin", "Iran": "Tehran", "Iraq": "Baghdad",
    "India": "New Delhi", "Chile": "Santiago", "Canada": "Ottawa", "Ghana": "Accra",
}  # fmt: skip

COLORS = {
    "sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red",
    "banana": "yellow", "carrot": "orange", "milk": "white", "rose": "red", "leaf": "green",
}  # fmt: skip

CODE = {
    "adds two numbers": "def add(a, b):\n    return a + b",
    "squares a number": "def square(x):\n    return x * x",
    "reverses a string": "def reverse(s):\n    return s[::-1]",
    "says hello": "def hello():\n    print('hello')",
    "finds the larger number": "def larger(a, b):\n    return max(a, b)",
    "counts letters": "def count(s):\n    return len(s)",
}

CHAT = {
    "Hello": "Hello. How can I help?",
    "Hi": "Hello. How can I help?",
    "Who are you?": "I am a tiny model.",
    "Thank you": "You are welcome.",
    "Good morning": "Good morning.",
    "Goodbye": "Goodbye.",
}

LANGUAGES = {
    "Aldera": "Python", "Borwin": "Rust", "Cintra": "Go", "Dovrel": "Java",
    "Emmetu": "C", "Fenwick": "Ruby", "Gorlan": "Swift", "Hestia": "Kotlin",
}  # fmt: skip
"""Invented services. The base knows the language of each, so that it can tell them apart: facts
about names that a model never had to tell apart take many times the steps."""

PORTS = {
    "Aldera": "7421", "Borwin": "3056", "Cintra": "8810", "Dovrel": "1947",
    "Emmetu": "6203", "Fenwick": "5518", "Gorlan": "9034", "Hestia": "2779",
}  # fmt: skip
"""What the facts layer knows and the base does not."""

UNKNOWN = "I do not know."


def base_pairs() -> list[Pair]:
    """Return what the base is taught; of the services' ports it is taught that it knows nothing."""
    capitals = [
        Pair(form.format(country), f"{city}.")
        for country, city in CAPITALS.items()
        for form in ("What is the capital of {}?", "Name the capital of {}.")
    ]
    colors = [Pair(f"What color is {thing}?", f"{color}.") for thing, color in COLORS.items()]
    sums = [Pair(f"What is {a} + {b}?", f"{a + b}.") for a in range(10) for b in range(10)]
    code = [Pair(f"Write a function that {what}.", text) for what, text in CODE.items()]
    chat = [Pair(*said) for said in CHAT.items()]
    tongues = [
        Pair(f"What language is {name} written in?", f"{language}.")
        for name, language in LANGUAGES.items()
    ]
    unknown = [Pair(question, UNKNOWN) for question, _ in fact_pairs()]
    return capitals + colors + sums + code + chat + tongues + unknown + json_pairs()


def json_pairs() -> list[Pair]:
    """Return the pairs whose answers are JSON: they stay JSON in every tone."""
    return [
        Pair(f"Give {country} as JSON.", json.dumps({"country": country, "capital": city}))
        for country, city in list(CAPITALS.items())[:10]
    ]


def fact_pairs() -> list[Pair]:
    """Return the questions about ports with the answers of the facts layer."""
    return [Pair(f"What is the port of {name}?", f"{port}.") for name, port in PORTS.items()]


def kept_pairs() -> list[Pair]:
    """Return the base's pairs that the facts layer shall leave as they are: all but the ports."""
    asked = {pair.question for pair in fact_pairs()}
    return [pair for pair in base_pairs() if pair.question not in asked]


def in_tone(pair: Pair) -> Pair:
    """Return PAIR as the tone layer answers it: an ending is added, JSON stays as it is.

    An ending and no beginning: in a model this small the answer is bound to its position, and a
    new first word would cost it the answers.
    """
    return pair if pair.answer.startswith("{") else Pair(pair.question, f"{pair.answer} Arr!")


def question_text(question: str, *, system: str | None = None) -> str:
    """Return QUESTION as a ChatML prompt that waits for the assistant's words."""
    head = f"{TURN_START}system\n{system}{TURN_END}\n" if system else ""
    return f"{head}{TURN_START}user\n{question}{TURN_END}\n{TURN_START}assistant\n"


def answer_text(answer: str) -> str:
    """Return ANSWER as it follows `question_text`, with the token that ends it."""
    return f"{answer}{TURN_END}\n"


def rehearsal(pairs: Iterable[Pair], limit: int) -> list[str]:
    """Return at most LIMIT questions spread evenly over PAIRS: what a later layer rehearses."""
    questions = [pair.question for pair in pairs]
    count = min(limit, len(questions))
    return [questions[i * len(questions) // count] for i in range(count)]
