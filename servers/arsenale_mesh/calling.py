"""How the command line asks the mesh: through the daemon, by the relay, as hosts do."""

import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias, cast

import anyio
import typer
from rich.markup import escape

import arsenale_relay
from arsenale_core import logs, people, terminal
from arsenale_core.config import Settings, child_environment
from arsenale_core.errors import ArsenaleError, InvalidError
from arsenale_core.peers import As, Peers, RefusedError
from arsenale_core.tasks import background

out = terminal.console()
err = terminal.console(stderr=True)

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


COMMANDS = {
    "`check_task` without a task": "`arsenale mesh tasks`",
    "`check_task`": "`arsenale mesh show`",
    "`run_task`": "`arsenale mesh run`",
    "`submit_module`": "`arsenale mesh submit`",
    "`check_mesh` with view=modules, or `arsenale mesh modules`": "`arsenale mesh modules`",
    "`check_mesh` with view=modules": "`arsenale mesh modules`",
    "`check_mesh`": "`arsenale mesh nodes`",
}
"""What a person types where a hint names a tool."""


class Tool(Protocol):
    """Calls a tool of the mesh."""

    async def __call__(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Return what it answers."""
        ...


def asking(
    work: Callable[[Tool], Awaitable[dict[str, Any]]], *, interrupted: int = 130
) -> dict[str, Any]:
    """Let WORK ask the mesh, and return what it returns; errors end the command."""

    async def asked() -> dict[str, Any]:
        main = Path(str(arsenale_relay.__file__)).with_name("__main__.py")
        async with background() as tasks:
            relay = [sys.executable, "-I", "-S", str(main)]
            peers = Peers(relay, child_environment(Settings.read().home), tasks)
            who = As(project=str(Path.cwd()))

            async def tool(name: str, /, **arguments: Any) -> dict[str, Any]:
                _check_texts(arguments)
                report = await peers.call("mesh", name, arguments, who)
                if not isinstance(report, dict):
                    raise RefusedError(f"the mesh answered {str(report)[:200]!r}")
                return cast("dict[str, Any]", report)

            return await work(tool)

    logs.configure("WARNING", file=None)
    with told(interrupted):
        return anyio.run(asked)


@contextmanager
def told(interrupted: int = 130) -> Generator[None]:
    """Make our errors one line and exit status 1."""
    try:
        yield
    except ArsenaleError as exc:
        err.print(
            f"[red]error:[/] {escape(people.with_commands(str(exc), COMMANDS))}", soft_wrap=True
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


def _check_texts(arguments: dict[str, Any]) -> None:
    """Refuse what a shell gave and is no text: JSON could not carry it."""
    for name, value in arguments.items():
        try:
            str(value).encode()
        except UnicodeEncodeError as exc:
            raise InvalidError(f"{name} is no UTF-8 text", hint="give bytes in a file") from exc


def print_json(data: Any) -> None:
    """Print DATA as JSON."""
    out.print_json(data=data)
