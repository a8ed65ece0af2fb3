"""The research track: off until it is switched on and consented to, erased when withdrawn."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from arsenale_core.errors import NotFoundError
from arsenale_memory import counting, trials
from arsenale_memory.opening import Services
from arsenale_memory.tracks import FEATURES

NAME = "named-embeddings"


async def ask(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def used(services: Services, client: Client) -> None:
    """Remember, search, and read what was found."""
    items = [{"content": f"fact {i} about the harbour", "session": "s"} for i in range(6)]
    await ask(client, "remember", memories=items)
    if services.research.runs(FEATURES[NAME]):
        await services.research.embed_pending()
    found = await ask(client, "recall", question="fact 3 about the harbour")
    await ask(client, "read", ids=[found["memories"][0]["id"]])


def kept(services: Services) -> tuple[int, int]:
    with services.memory.store.reading() as db:
        vectors = sum(n for name, n in counting.vector_counts(db).items() if "#" in name)
        return vectors, int(trials.metrics(db, NAME).get("uses", 0))


@pytest.fixture
def environment_of(environment_of: dict[str, str]) -> dict[str, str]:
    return {**environment_of, "ARSENALE_RESEARCH": "true"}


async def test_without_consent_nothing_is_made_and_nothing_measured(
    services: Services, client: Client
) -> None:
    await used(services, client)
    assert kept(services) == (0, 0)
    [row] = (await ask(client, "maintain", action="research"))["tracks"]
    assert (row["on"], row["consent"].startswith("none")) == (False, True)


async def test_with_consent_it_runs_is_measured_and_is_erased_when_withdrawn(
    services: Services, client: Client
) -> None:
    services.research.grant(NAME, "me")
    await used(services, client)
    assert kept(services) == (6, 1)
    [row] = (await ask(client, "maintain", action="research"))["tracks"]
    assert row["on"] is True
    assert row["metrics"]["rr_ranking"] == 1.0
    assert 0 < row["metrics"]["rr_named"] <= 1.0
    assert services.research.withdraw(NAME) == 8
    assert kept(services) == (0, 0)
    [row] = (await ask(client, "maintain", action="research"))["tracks"]
    assert (row["on"], "withdrawn" in row["consent"]) == (False, True)
    assert (await ask(client, "maintain"))["stats"]["memories"] == 6


async def test_consent_is_to_a_text_and_the_switch_is_needed_too(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = FEATURES[NAME]
    services.memory.store.grant(NAME, "me", 1, feature.text_version, b"another text")
    assert not services.research.runs(feature)
    services.research.grant(NAME, "me")
    assert services.research.runs(feature)
    services.research.switched_on = False
    assert not services.research.runs(feature)


async def test_what_is_unknown_is_named(services: Services) -> None:
    with pytest.raises(NotFoundError, match="there are named-embeddings"):
        services.research.grant("mind-reading", "me")
    with pytest.raises(NotFoundError, match="nothing to withdraw"):
        services.research.withdraw(NAME)


def test_every_feature_has_its_hypothesis() -> None:
    root = Path(__file__).parents[2]
    for feature in FEATURES.values():
        text = (root / feature.hypothesis).read_text(encoding="utf-8")
        assert "Refuted" in text
        assert f"`{feature.name}`" in text
