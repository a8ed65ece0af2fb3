"""What the scenes of the demo share: tools through relays, hooks as processes, lines of text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arsenale_core.assets import asset_dir
from arsenale_core.config import process_environment
from arsenale_core.errors import UnavailableError
from arsenale_core.peers import As, Peers
from arsenale_daemon.install import interpreter, relay_path

WIDTH = 80
"""Columns of a plain terminal; wider ones get the same lines."""

LABEL_WIDTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a scene happens.

    Attributes:
        home: The `ARSENALE_HOME` of the demo.
        project: The folder that the pretended assistants work in.
    """

    console: Console
    home: Path
    project: Path
    peers: Peers

    async def call(
        self, server: str, tool: str, *, session: str = "demo", **arguments: Any
    ) -> dict[str, Any]:
        """Call TOOL of SERVER through its relay, as the session SESSION of an assistant.

        Raises:
            RefusedError: The tool answered with an error.
            UnavailableError: The server does not answer.
        """
        who = As(session=session, project=str(self.project))
        answer = await self.peers.call(server, tool, arguments, who)
        if not isinstance(answer, dict):
            raise UnavailableError(f"unexpected answer of {tool}: {str(answer)[:200]}")
        return answer  # pyright: ignore[reportUnknownVariableType]

    async def hook(self, script: str, name: str, session: str, **event: Any) -> dict[str, Any]:
        """Run the hook SCRIPT as an assistant does; return what it prints for the host."""
        said = {"hook_event_name": name, "session_id": session, "cwd": str(self.project), **event}
        shared = str(relay_path().parents[1])
        done = await run_process(
            interpreter(), "-I", "-S", str(asset_dir("hooks") / script), shared, str(self.home),
            given=json.dumps(said).encode(), CLAUDE_CODE_SESSION_ID=session,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return answer.get("hookSpecificOutput", {})

    def tell(self, label: str, text: str | Text) -> None:
        """Print TEXT beside LABEL, wrapped under itself."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=LABEL_WIDTH)
        grid.add_column(overflow="fold")
        grid.add_row(
            Text(f"   {label}", style="dim"), text if isinstance(text, Text) else Text(text)
        )
        self.console.print(grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended."""

    code: int
    stdout: str


async def run_process(*command: str, given: bytes = b"", **environment: str) -> Ended:
    """Run COMMAND with GIVEN on its stdin; its end is awaited even when the demo is interrupted."""
    variables: Mapping[str, str] = process_environment(environment)
    done = await anyio.run_process(command, input=given, check=False, env=variables)
    return Ended(code=done.returncode, stdout=done.stdout.decode("utf-8", "replace"))
