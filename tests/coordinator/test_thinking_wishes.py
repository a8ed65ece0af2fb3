"""What a prompt asks for in words: assertions, mentions and negations of thinking, and wishes."""

import pytest

from arsenale_coordinator.thinking.levels import Level
from arsenale_coordinator.thinking.start import start_level
from arsenale_coordinator.thinking.wishes import wished_level

ASSERTED = (
    "I don't think the deadlock is in scheduler.c, please look at the lock order in pool.c instead",
    "I don't think we should go with the cache idea here; redesign the queue",
    "I think more tests are needed for the parser",
    "I think hard-coded passwords are still in settings.py, find them",
    "I think hard drives are filling up on build-3",
    "You do not think of the time zone here: why is the report a day late?",
    "I think the rebuilt index is wrong.",
    "Rethink hardware support.",
    "We should not think of it as a list.",
    "we think harder tests are missing",
    "Do you think hard links work here?",
    "Rename `ultrathink` to foo",
    "why does ultrathink not work?",
    "what does ultrathink do?",
    "the ultrathink keyword is broken",
    "Users think hard about the price",
    "They think more of us than I do",
    "My colleagues think harder rules help",
    "I need to think hard about that myself, for now list the files",
    "What do you think? More tests?",
    "I think hard. You too?",
    "Think hard drives: is the code ready for 4k sectors?",
    "Don't think of the queue as FIFO",
    "don't think about performance, only correctness",
    "fix ultrathink.py",
    "open src/ultrathink/main.go",
    "I can't think harder about this, you do it",
    "You are overthinking this",
    "It makes me think hard work pays off",
    "one would think more memory helps",
    "you don't think hard enough",
    "if you think more logs are useful, add them",
    "I always ultrathink in the morning",
    "think more tests are needed",
    "I'd think harder types would help",
    "I would not think hard about it",
)

LESS = (
    "no need to ultrathink this, just rename foo to bar",
    "don't you dare ultrathink",
    "do not dare to think harder, it is a typo",
    "please do not ultrathink, it is a typo",
    "don't think too hard about it, bump the version",
    "don't think hard, bump the version",
    "Don't overthink it, bump the version.",
    "You don't need to think hard about this",
    "there is no reason to ultrathink here",
    "I don't want you to think hard about names",
    "ultrathink is overkill here, rename x",
    "ultrathink? no thanks",
    "Ultrathink?? Nope. Rename x",
    "megathink: not now, just run the tests",
    "think harder? no, thank you. Rename foo.",
    "I don't think you should ultrathink this",
    "I don't think ultrathink is needed",
    "never ultrathink for typos",
    "Without ultrathink, please",
    "skip the ultrathink",
    "not ultrathink, only think",
    "don’t think hard",
    "DO NOT ULTRATHINK",
    "don't think, just do it",
    "stop overthinking",
    "no thinking, answer",
    "just quickly rename it",
    "bitte nicht ultrathink",
    "instead of thinking hard, just grep",
    "it is not necessary to think hard here",
    "no need for ultrathink",
    "this doesn't need ultrathink",
    "You needn't think hard",
    "please don't bother thinking hard",
)

MODERATE = (
    "think hard about the migration",
    "Think hard, then fix it.",
    "don't forget to think hard about races",
    "He said: think hard! about nothing",
    "why don't you think hard about the schema",
    "We need to think hard about the locking",
    "Let's think carefully about the failure",
    "Read a.py and think deeply about its invariants",
    "think about it carefully",
    "think this through carefully",
    "Make sure to think hard before editing",
    "- think hard about X\n- do Y",
    "Think more!",
)

COMPLEX = (
    "Please think harder about the lock.",
    "megathink this",
    "Could you think harder about the cache?",
    "I'd like you to think very hard about it",
    "I think you should think harder about this",
    "the tests don't pass, think harder",
)

CRITICAL = (
    "ultrathink",
    "ultrathink: why is this slow?",
    "I want you to ultrathink this",
    "fix the bug ultrathink",
    "don't just think hard, ultrathink",
    "Why not ultrathink?",
    "Please think as hard as you can",
    "why does this not work ultrathink",
    "use ultrathink",
    "with ultrathink",
    "This needs ultrathink.",
    "do not think hard about the names but ultrathink the lock order",
)


@pytest.mark.parametrize("prompt", ASSERTED)
def test_a_prompt_that_only_asserts_or_names_thinking_asks_for_nothing(prompt: str) -> None:
    assert wished_level(prompt) is None
    assert not start_level(prompt).wished


@pytest.mark.parametrize("prompt", LESS)
def test_a_negated_wish_asks_for_little(prompt: str) -> None:
    assert wished_level(prompt) is Level.SIMPLE


@pytest.mark.parametrize(
    ("prompt", "level"),
    [
        *((prompt, Level.MODERATE) for prompt in MODERATE),
        *((prompt, Level.COMPLEX) for prompt in COMPLEX),
        *((prompt, Level.CRITICAL) for prompt in CRITICAL),
    ],
)
def test_a_wish_for_more_is_granted(prompt: str, level: Level) -> None:
    assert wished_level(prompt) is level


def test_quoted_text_and_code_ask_for_nothing() -> None:
    assert wished_level("```\n# ultrathink about it\n```\nWhat does this comment do?") is None
    assert wished_level("> think harder\n\nWho wrote that?") is None


def test_a_long_prompt_of_negations_is_read_quickly() -> None:
    assert wished_level("do not " * 3_000 + "ultrathink") is Level.SIMPLE
    assert wished_level("think " * 4_000) is None
