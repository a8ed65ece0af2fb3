"""From token bytes to text that may be sent: whole characters, and nothing of a stop text. Pure."""

import codecs
from collections.abc import Sequence

from arsenale_inference.messages import Piece


class Answer:
    """The text of one answer as it grows.

    Bytes of half a character wait for the other half; the end of the text that may become a stop
    text waits until it is known.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(each for each in stop if each)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """Take in the bytes of a token; return the text that may be sent now."""
        return self._ready(self._held + self._decoder.decode(data))

    def finish(self) -> str:
        """Return what was held back; nothing may be added after it."""
        if self.stopped:
            return ""
        said = self._ready(self._held + self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return said + held

    def _ready(self, text: str) -> str:
        found = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_beginning(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return PIECES, of one answer and in order, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        id=pieces[0].id,
        text="".join(each.text for each in pieces),
        tokens=tuple(token for each in pieces for token in each.tokens),
        logprobs=tuple(shown for each in pieces for shown in each.logprobs),
    )


def _beginning(text: str, stop: str) -> int:
    """Return how long the end of TEXT is that STOP begins with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
