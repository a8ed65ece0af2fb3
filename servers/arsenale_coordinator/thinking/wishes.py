"""What a prompt asks for in words: more thinking, less, or nothing. Pure.

Only a request counts. `I think hard drives are full` asserts, "`ultrathink` is broken" names the
word, and `no need to ultrathink` asks for less; none of them asks for more. The rules read one
clause: they look at what stands directly before and after each mention of thinking.
"""

import re
from dataclasses import dataclass

from arsenale_coordinator.thinking.levels import Level

_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|^\s*>.*$",
    re.DOTALL | re.MULTILINE,
)
"""Code and quotations: words that the prompt shows, not words that it addresses to the model."""

_KEYWORD = re.compile(r"(?<![\w/.\-@#$=])(ultra|mega)[- ]?think(?:ing)?(?![\w/(=]|[.\-:]\w)")

_ABOUT = r"(?:\s+(?:about|over|on|through)?\s*(?:this|it|that|these|them))?(?:\s+(?:through|over))?"
_FOLLOWING = (
    "about|on|over|before|and|then|here|this|it|that|please|when|while|through|first|how|why|what"
    "|whether|which|if|as|but|for|in|of|with|to|until|now|again|because|so|enough|pls|than|at|is"
    "|i|we|you"
)
_END = rf"(?=\s*(?:$|[.,;:!?)\]\n—\u2013]|-\s)|\s+(?:{_FOLLOWING})\b)"

_PHRASES = (
    (Level.CRITICAL, rf"think{_ABOUT}\s+(?:as hard as|the hardest)"),
    (
        Level.COMPLEX,
        rf"think{_ABOUT}\s+(?:(?:even|much|a lot)\s+)?harder{_END}"
        rf"|think{_ABOUT}\s+(?:(?:really|very|super|extra|extremely)\s+)+(?:hard|deeply){_END}"
        rf"|think{_ABOUT}\s+intensely{_END}",
    ),
    (
        Level.MODERATE,
        rf"think{_ABOUT}\s+(?:long and hard|hard|more deeply|deeply|more carefully"
        rf"|(?:very |really )?carefully|more|a lot){_END}",
    ),
)
_MORE = tuple((level, re.compile(rf"(?<![\w-])(?:{text})")) for level, text in _PHRASES)

_LESS = re.compile(
    rf"(?<![\w-])(?:over-?think(?:ing)?|think(?:ing)?(?:{_ABOUT})?(?:\s+(?:too|so|very|that))?"
    rf"(?:\s+(?:hard|harder|much|long|deep|deeply|carefully|a lot|twice)){_END}"
    rf"|think(?:ing)?(?:{_ABOUT})?(?=\s*(?:$|[.,;:!?)\n—\u2013])|\s+just\b))"
)
"""What only counts where it is negated: asking for less."""

_PLAIN_LESS = re.compile(
    r"\bno (?:over-?)?thinking\b(?!\s+\w)|\bjust quickly\b"
    r"|\bwithout (?:much |any |too much )?thinking\b(?=\s*(?:$|[.,;:!?\n]))"
)

_CLAUSE = re.compile(r"[.,;:!?()\n—\u2013]|(?<=\s)-(?=\s)|\b(?:but|however)\b")

_FILLER = (
    r"(?:you|claude|even|ever|dare|need|needs|have|want|wants|try|bother|start|to|use|using|any|please"
    r"|really|too|the|do|doing|it|me|this|that|should|must|think|be|with|for|necessary|required"
    r"|reason|point|worth|necessarily|go|into|actually|us|let|engage|turn|on|run)"
)
_NEGATED = re.compile(
    r"(?P<who>\b(?:i|i'd|we|you|they|he|she|it|people|users|one)\s+(?:really |just |also "
    r"|would |will |could |can )*)?"
    r"(?P<no>\b(?:do not|don't|dont|does not|doesn't|did not|didn't|need not|needn't|should not"
    r"|shouldn't|must not|mustn't|not|no|never|without|skip|avoid|stop|quit|instead of"
    r"|rather than|nicht|kein|keine|ohne))"
    rf"(?P<rest>(?:\s+{_FILLER})*)\s*$"
)
_UNNEEDED = re.compile(
    r"^\s*(?:mode\s+|keyword\s+)?(?:(?:is|are|was|would be|seems)\s+)?"
    r"(?:(?:not|n't|isn't|never)\s+(?:be\s+)?(?:needed|necessary|required|worth|called for)"
    r"|unnecessary|overkill|too much|nicht nötig|unnötig)"
)
_DECLINED = re.compile(
    r"^\s*(?:mode\s*)?[?:,!]+\s*(?:no|nope|nah|never|nein"
    r"|not (?:now|today|here|this time|for this))"
    r"(?:[,.]?\s*(?:thanks|thank you|please))?\s*(?:$|[.,;!?\n])"
)
"""A question that the prompt answers itself: `ultrathink? no thanks`."""

_SUGGESTED = re.compile(r"\bwhy (?:not|don't|do not)(?: (?:you|we))?(?: (?:just|please))?\s*$")

_ADVERBS = r"(?:\s*\b(?:please|pls|kindly|really|actually|just|also|maybe|perhaps|first|then|now|always|again|carefully|do))*"  # noqa: E501
_OPENERS = re.compile(
    rf"(?:^|\b(?:please|pls|and|then|so|now|also|first|or|let's|lets|let us|ok|okay|claude|hey"
    rf"|should|must|better)"
    rf"|\b(?:can|could|would|will|should|must|may) (?:you|we)"
    rf"|\b(?:you|claude|it|model|agent) (?:should|must|can|could|will|may)"
    rf"|\b(?:you|claude|sure|remember|try|need|have|got|ought|want|time|better|forget|hesitate"
    rf"|important|necessary|worth|free) to){_ADVERBS}\s*$"
)
_SUBJECT = re.compile(
    r"^\s*(?:and |so |if |when |because |as |that |while |since )*"
    r"(?:i|i'd|i've|we've|they|he|she|people|users|everyone|everybody|nobody|somebody|one|most"
    r"|some|many|who|customers|developers|others|humans)\b"
)
_ASKED = re.compile(r"\b(?:you|claude|model|agent)\b|\blet(?:'s| us)\b")

_NAMED_BEFORE = re.compile(
    r"(?:\b(?:the|an?|our|my|your|its|does|did|do|is|was|of|called|named|word|keyword|setting"
    r"|flag|option|command|says?|said|i|they|he|she|people|users|rename|remove|delete|define"
    r"|document|implement|why|how)|\bwe(?: always)?|\b(?:i|they|users|people) (?:always|often))\s*$"
)
_NAMED_AFTER = re.compile(
    r"^\s*(?:mode|keyword|setting|level|word|option|flag|tier|feature|trigger|button|budget)?\s*"
    r"\b(?:is|was|are|were|does|doesn't|did|didn't|do|has|had|costs?|works?|worked|should|sets?"
    r"|gives?|means?|triggers?|uses?|used|isn't|wasn't|stopped|no longer|never|takes?|took"
    r"|keyword|setting|word|flag|option|feature|trigger|handling|support|parser|regex)\b"
)


@dataclass(frozen=True, slots=True)
class _Mention:
    """A place where a prompt speaks of thinking, with the clause around it."""

    level: Level
    keyword: bool
    before: str
    after: str


def wished_level(prompt: str) -> Level | None:
    """Return the level that the user asks for in words, None where none is asked for.

    A request for more outweighs one for less: `don't think hard about names, but ultrathink the
    lock order` is critical.
    """
    text = _QUOTED.sub(" ", prompt.lower().replace("’", "'"))
    wished = [_meant(mention) for mention in _mentions(text)]
    more = [level for level in wished if level]
    if more:
        return max(more)
    if wished.count(Level.SIMPLE) or _PLAIN_LESS.search(text) or _asks_for_less(text):
        return Level.SIMPLE
    return None


def _mentions(text: str) -> list[_Mention]:
    """Return the mentions of thinking with an intensity; the most intense of those that overlap."""
    found: list[tuple[int, int, Level, bool]] = []
    for match in _KEYWORD.finditer(text):
        level = Level.CRITICAL if match[1] == "ultra" else Level.COMPLEX
        found.append((match.start(), match.end(), level, True))
    for level, pattern in _MORE:
        for match in pattern.finditer(text):
            if all(match.end() <= start or end <= match.start() for start, end, _, _ in found):
                found.append((match.start(), match.end(), level, False))
    return [
        _Mention(level, keyword, _clause_before(text[:start]), text[end:])
        for start, end, level, keyword in found
    ]


def _meant(mention: _Mention) -> Level | None:
    """Return what one mention asks for: its level, SIMPLE where it is negated, or nothing."""
    before, after = mention.before, mention.after
    if _SUGGESTED.search(before):
        return mention.level
    negation = _NEGATED.search(before)
    if negation is not None:
        return Level.SIMPLE if _forbids(negation, mention.keyword) else None
    if _DECLINED.search(after):
        return Level.SIMPLE
    if mention.keyword:
        if _UNNEEDED.search(after):
            return Level.SIMPLE
        named = _NAMED_BEFORE.search(before) or _NAMED_AFTER.search(after)
        return None if named else mention.level
    return mention.level if _is_request(before) else None


def _is_request(before: str) -> bool:
    """Say whether the verb that follows BEFORE is an order or a wish, not what somebody does."""
    if _SUBJECT.search(before) and not _ASKED.search(before):
        return False
    return _OPENERS.search(before) is not None


def _forbids(negation: re.Match[str], keyword: bool) -> bool:
    """Say whether a negation asks for less; `I don't think hard` only describes its speaker."""
    who, rest = (negation["who"] or "").strip(), negation["rest"].split()
    who = who.split(" ")[0] if who else ""
    if not who or who == "it":
        return True
    if who in ("i", "i'd"):
        return "you" in rest or (keyword and bool(rest) and rest[-1] != "to")
    return any(word in rest for word in ("need", "have", "want", "bother", "should")) or not (
        negation["no"].startswith("d") or negation["no"] == "never"
    )


def _asks_for_less(text: str) -> bool:
    """Say whether TEXT asks not to think (much), without naming an intensity."""
    for match in _LESS.finditer(text):
        before = _clause_before(text[: match.start()])
        negation = _NEGATED.search(before)
        if negation and not _SUGGESTED.search(before) and _forbids(negation, keyword=False):
            return True
    return False


def _clause_before(text: str) -> str:
    """Return the end of TEXT that belongs to the clause which follows it."""
    ends = [match.end() for match in _CLAUSE.finditer(text[-200:])]
    return text[-200:][ends[-1] if ends else 0 :].strip(" \t*_-•")
