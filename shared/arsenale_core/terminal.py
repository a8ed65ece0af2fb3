"""What our commands show in a terminal: a console that obeys no text, and a live view."""

import os
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import anyio
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from arsenale_core.terminal_text import shown

REFRESH_S = 1.0
"""How often it is looked again."""

LEAVE = b"qQ\x1b\x04"
"""Keys that leave: q, Escape, Ctrl-D."""


class _ShownConsole(Console):
    """A console that shows text as `terminal_text.shown` returns it, whatever it is part of."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return TEXT, markup, as rich's text."""
        return super().render_str(shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of RENDERABLE; text within a `Text` comes here unchanged."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else shown(segment.text)
            yield Segment(text, segment.style, segment.control)


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console for standard output or error: the only way to print with rich."""
    return _ShownConsole(stderr=stderr, quiet=quiet, highlight=False, emoji=False)


@contextmanager
def keys() -> Generator[None]:
    """Let single keys be read, and leave the terminal as it was."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def watch(out: Console, render: Callable[[], Awaitable[RenderableType]]) -> None:
    """Show what RENDER gives, on a screen of its own, until a key of `LEAVE`; within `keys`."""
    with Live(await render(), console=out, screen=True) as live:
        while True:
            with anyio.move_on_after(REFRESH_S) as waited:
                await anyio.wait_readable(sys.stdin)
            if not waited.cancelled_caught and os.read(sys.stdin.fileno(), 16)[:1] in LEAVE:
                return
            live.update(await render(), refresh=True)
