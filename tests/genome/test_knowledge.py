"""A genome answers from the memories of a namespace, asked of the real memory server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from mcp import Client, StdioServerParameters

from arsenale_core.config import child_environment
from arsenale_daemon import control
from arsenale_daemon.install import interpreter, relay_path
from arsenale_genome import knowledge

Call = Callable[..., Awaitable[Any]]
NOTES = ("The port of the API is 8080.", "The API was written by Anna.", "Cats sleep a lot.")


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """SQLite alone: nothing here is the database's."""
    return tmp_path / "home"


@pytest.fixture
async def remembered(own_home: Path) -> AsyncIterator[None]:
    """Let the memory server of this home know NOTES, in the namespace `anna`."""
    (own_home / "config.toml").write_text('http_port = 0\nembedder = "static"\n', encoding="utf-8")
    relay = StdioServerParameters(
        command=interpreter(), args=["-I", "-S", str(relay_path()), "memory"],
        env=child_environment(own_home),
    )  # fmt: skip
    async with Client(relay) as memory:
        kept = await memory.call_tool(
            "remember", {"memories": [{"content": note} for note in NOTES], "namespace": "anna"}
        )
        assert not kept.is_error
    yield
    await to_thread.run_sync(control.down, own_home)


@pytest.mark.slow
async def test_what_fits_goes_before_the_question_and_what_is_quoted_is_said(
    remembered: None, two_layers: Call, sidecar: Any, refusal: Callable[..., Awaitable[str]]
) -> None:
    await two_layers("create_genome", name="clerk", layers=[{"layer": "facts"}])
    prompt = "What is the port of the API? See [1]"  # the fake model repeats it
    said = await two_layers("generate", genome="clerk", prompt=prompt, knowledge="anna")
    first, second = said["sources"][:2]
    assert (first["number"], first["text"], first["named"]) == (1, NOTES[0], True)
    assert (second["text"], second["namespace"]) == (NOTES[1], "anna")
    assert not second.get("named")
    assert said["retrieved_ms"] > 0
    [request] = sidecar.requests
    system = request["messages"][0]["content"]
    assert f"- [1] ({first['at'][:10]}) {NOTES[0]}" in system
    assert knowledge.QUOTE in system

    again = await two_layers(
        "generate", genome="clerk", prompt=prompt, knowledge="anna", knowledge_tokens=50
    )
    assert len(again["sources"]) <= len(said["sources"])
    nothing = await two_layers("generate", genome="clerk", prompt="Hm?", knowledge="nobody")
    assert "sources" not in nothing or not nothing["sources"]


def test_notes_are_numbered_and_the_named_ones_are_known() -> None:
    known = knowledge.found([{"id": "a", "content": "x"}, {"id": "b", "content": "y"}], "n")
    assert knowledge.context(known)[0].startswith("[1] ")
    assert knowledge.context([]) == ()
    assert [each.named for each in knowledge.quoted("As [2] says.", known)] == [False, True]
