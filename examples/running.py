"""Runs an example: its servers through relays, in a temporary home unless it is given another."""

import argparse
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
from mcp import StdioServerParameters

from arsenale_core import sidecar
from arsenale_core.config import child_environment, forget_environment
from arsenale_core.errors import ArsenaleError
from arsenale_daemon.install import interpreter, relay_path
from arsenale_daemon.temporary_home import temporary_home


def run(main: Callable[..., Awaitable[None]], *servers: str, engine: bool = False) -> None:
    """Call MAIN with a way to reach each of SERVERS; exit with 1 where something is missing.

    Args:
        main: The example.
        servers: Names of servers; `sidecar` is the address of the inference engine.
        engine: Whether the example needs the inference engine.
    """
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument("--home", type=Path, help="an ARSENALE_HOME; default: a temporary one")
    if engine:
        parser.add_argument("--base", help="a base model; default: the built-in one")
    given = parser.parse_args()
    if engine and find_spec("llama_cpp") is None:
        sys.exit(f"This example needs the inference engine: {sidecar.NOT_INSTALLED}.")
    more = {"base": given.base} if engine and given.base else {}
    try:
        with _home(given.home) as home:
            reached = [_reach(home, server) for server in servers]

            async def called() -> None:
                await main(*reached, **more)

            anyio.run(called)
    except ArsenaleError as exc:
        sys.exit(f"error: {exc}")
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def _home(given: Path | None) -> Generator[Path]:
    if given is not None:
        yield given.expanduser().absolute()
        return
    forget_environment()  # a database of the user's is not for playing with
    with temporary_home() as home:
        yield home


def _reach(home: Path, server: str) -> Any:
    if server == "sidecar":
        return sidecar.ensure(home)
    relay = ["-I", "-S", str(relay_path()), server]
    return StdioServerParameters(command=interpreter(), args=relay, env=child_environment(home))
