"""A live view in a terminal: shown again and again until a key says to leave."""

import os
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
from rich.console import Console, RenderableType
from rich.live import Live

REFRESH_S = 1.0
"""How often it is looked again."""

LEAVE = b"qQ\x1b\x04"
"""Keys that leave: q, Escape, Ctrl-D."""


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
