"""The real Claude Code, run offline against `messages_api`, as a person with a home of its own."""

import json
import math
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.host.messages_api import Api

BINARY = os.environ.get("ARSENALE_TEST_CLAUDE", "")
"""Path of the executable; the tests are skipped without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one `claude -p` did.

    Attributes:
        seconds: From its start to its end.
        first_request_s: From its start to its first request to the model.
        servers: Name -> state of the MCP servers at the first turn.
    """

    seconds: float
    first_request_s: float
    servers: dict[str, str]
    result: dict[str, Any]
    messages: list[dict[str, Any]] = field(repr=False)


@dataclass(slots=True, kw_only=True)
class Person:
    """A home directory, a project, and the variables of a shell in it."""

    home: Path
    project: Path
    variables: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def environment(self, api: Api) -> dict[str, str]:
        """Return the environment of Claude Code: nothing of ours, no way out."""
        return {
            "HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
            "ANTHROPIC_API_KEY": "dummy", "ANTHROPIC_BASE_URL": api.url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1", **self.variables,
        }  # fmt: skip

    def claude(self, api: Api, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the executable with WORDS."""
        return subprocess.run(
            [BINARY, *words], env=self.environment(api), cwd=self.project, text=True,
            capture_output=True, check=check, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def session(self, api: Api, prompt: str, *words: str) -> Session:
        """Run one session with PROMPT and return what it did."""
        asked = len(api.times)
        begun = time.monotonic()
        done = self.claude(
            api, "-p", prompt, "--output-format", "stream-json", "--verbose",
            "--permission-mode", "bypassPermissions", *words, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - begun
        messages: list[dict[str, Any]] = [
            json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
        ]
        first: dict[str, Any] = next(
            (m for m in messages if m.get("subtype") == "init"), dict[str, Any]()
        )
        servers: list[dict[str, str]] = first.get("mcp_servers", [])
        assert messages, done.stderr
        return Session(
            seconds=seconds,
            first_request_s=api.times[asked] - begun if len(api.times) > asked else math.inf,
            servers={one["name"]: one["status"] for one in servers},
            result=messages[-1],
            messages=messages,
        )
