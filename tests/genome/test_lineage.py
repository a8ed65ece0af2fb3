"""Breeding: what is taken from whom, in which order, and what a family tree says."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from arsenale_core.errors import InvalidError
from arsenale_genome import lineage
from arsenale_genome.breeding import breed
from arsenale_genome.record import Below, File, Genome, Layer, Parent, Placed, Trait

Call = Callable[..., Awaitable[Any]]
Refusal = Callable[..., Awaitable[str]]


def a_layer(name: str, trait: Trait = "general_reasoning", on: tuple[str, ...] = ()) -> Layer:
    file = File(sha256=name, size_bytes=1, rank=1, alpha=1, tensors=1, architecture="llama")
    below = tuple(Below(name=each, sha256=each) for each in on)
    return Layer(id=name, number=1, name=name, trait=trait, base="b", file=file, trained_on=below)


def a_genome(name: str, weights: dict[str, float], base: str = "b") -> Genome:
    placed = tuple(
        Placed(layer=each, sha256=each, trait="general_reasoning", weight=weight)
        for each, weight in weights.items()
    )
    return Genome(id=name, number=1, name=name, base=base, layers=placed)


def bred(asked: dict[str, str], *parents: Genome, layers: tuple[Layer, ...] = ()) -> list[Any]:
    found = breed(parents, asked, {layer.file.sha256: layer for layer in layers})
    return [(placed.layer, placed.weight) for placed in found.layers]


def test_a_child_has_the_layers_of_both_and_the_mean_where_both_have_one() -> None:
    a, b = a_genome("a", {"x": 1.0, "y": 0.2}), a_genome("b", {"y": 0.6, "z": 0.5})
    assert bred({}, a, b) == [("x", 1.0), ("y", 0.4), ("z", 0.5)]


def test_a_choice_takes_a_layer_from_one_parent_or_from_none() -> None:
    a, b = a_genome("a", {"x": 1.0, "y": 0.2}), a_genome("b", {"y": 0.6, "z": 0.5})
    assert bred({"y": "b", "x": "none"}, a, b) == [("y", 0.6), ("z", 0.5)]
    assert bred({"general_reasoning": "b"}, a, b) == [("y", 0.6), ("z", 0.5)]
    assert bred({"general_reasoning": "b", "x": "a"}, a, b) == [("x", 1.0), ("y", 0.6), ("z", 0.5)]


def test_each_choice_is_recorded_with_what_each_parent_gave() -> None:
    a, b = a_genome("a", {"x": 1.0, "y": 0.2}), a_genome("b", {"y": 0.6})
    choices = {
        c.layer: (c.taken_from, dict(c.weights)) for c in breed([a, b], {"x": "none"}, {}).choices
    }
    assert choices == {"x": ((), {"a": 1.0}), "y": (("a", "b"), {"a": 0.2, "b": 0.6})}


def test_a_layer_comes_above_those_it_was_trained_on() -> None:
    a, b = a_genome("a", {"top": 1.0}), a_genome("b", {"x": 1.0, "low": 1.0})
    layers = (a_layer("top", on=("low",)), a_layer("x"), a_layer("low"))
    assert bred({}, a, b, layers=layers) == [("x", 1.0), ("low", 1.0), ("top", 1.0)]


def test_layers_that_claim_to_be_trained_on_one_another_keep_their_order() -> None:
    layers = (a_layer("x", on=("y",)), a_layer("y", on=("x",)))
    assert bred({}, a_genome("a", {"x": 1.0}), a_genome("b", {"y": 1.0}), layers=layers) == [
        ("x", 1.0), ("y", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "base", "said"),
    [
        ({}, "other", "different bases"),
        ({"nothing": "a"}, "b", "no parent has a layer or trait 'nothing'"),
        ({"x": "mother"}, "b", "cannot come from 'mother'"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: dict[str, str], base: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        bred(asked, a_genome("a", {"x": 1.0}), a_genome("b", {"y": 1.0}, base))


def test_more_than_sixteen_layers_are_refused() -> None:
    a = a_genome("a", {f"a{n}": 1.0 for n in range(15)})
    b = a_genome("b", {f"b{n}": 1.0 for n in range(15)})
    with pytest.raises(InvalidError, match="30 layers, 16 is the most"):
        bred({}, a, b)


def test_a_tree_draws_ancestors_and_says_who_is_not_here() -> None:
    def a_parent(name: str, generation: int = 0) -> Parent:
        return Parent(name=name, generation=generation, sha256="0" * 64, id=name)

    family = {
        "mother": Genome(id="mother", number=1, name="mother", base="b", generation=1,
                         parents=(a_parent("grandmother"),)),
        "grandmother": Genome(id="grandmother", number=2, name="oma", base="b"),
    }  # fmt: skip
    child = Genome(id="c", number=1, name="child", base="b", generation=2,
                   parents=(a_parent("mother", 1), a_parent("father")))  # fmt: skip
    assert lineage.tree(child, lambda parent: family.get(parent.id)) == [
        "child (generation 2)",
        "├── mother (generation 1)",
        "│   └── oma (generation 0, then grandmother)",
        "└── father (not here) (generation 0)",
    ]


async def test_breeding_through_the_tools_records_parents_and_choices(
    two_layers: Call, refusal: Refusal
) -> None:
    await two_layers("create_genome", name="scholar", layers=[{"layer": "facts", "weight": 0.8}],
                     instructions="Be exact.", tags=["wise"])  # fmt: skip
    await two_layers("create_genome", name="pirate", tags=["wild"],
                     layers=[{"layer": "tone"}, {"layer": "facts", "weight": 0.4}])  # fmt: skip
    child = await two_layers("create_genome", name="ahab", parents=["pirate", "scholar"])
    assert (child["generation"], child["parents"]) == (1, ["pirate", "scholar"])
    assert (child["instructions"], child["tags"]) == ("Be exact.", ["wild", "wise"])
    # tone was trained on facts, so facts comes first
    assert [(row["layer"], row["weight"]) for row in child["layers"]] == [
        ("facts", 0.6), ("tone", 1.0),
    ]  # fmt: skip
    heir = await two_layers("create_genome", name="heir", parents=["ahab"])
    assert heir["generation"] == 2
    full = (await two_layers("inspect", name="heir", detail="full"))["genome"]
    assert full["lineage"] == [
        "heir (generation 2)",
        "└── ahab (generation 1)",
        "    ├── pirate (generation 0)",
        "    └── scholar (generation 0)",
    ]
    bred_ = (await two_layers("inspect", name="ahab", detail="full"))["genome"]
    assert bred_["children"] == ["heir"]
    assert {c["layer"]: c["taken_from"] for c in bred_["choices"]} == {
        "facts": ["pirate", "scholar"], "tone": ["pirate"],
    }  # fmt: skip
    await two_layers("revise", kind="layer", name="facts", new_name="ports")
    other = await two_layers(
        "create_genome", name="other", parents=["pirate", "scholar"], choices={"ports": "scholar"}
    )
    assert other["layers"][0] | {"size_bytes": 0} == {
        "layer": "ports", "trait": "domain_expertise", "weight": 0.8, "size_bytes": 0,
    }  # fmt: skip
    await two_layers("revise", kind="genome", name="pirate", action="delete")
    full = (await two_layers("inspect", name="heir", detail="full"))["genome"]
    assert "    ├── pirate (not here) (generation 0)" in full["lineage"]
    said = await refusal("create_genome", name="x", parents=["ahab", "heir"], layers=[])
    assert "exclude each other" in said


async def test_genomes_of_different_bases_are_not_bred(
    two_layers: Call, refusal: Refusal, another_layer: Callable[..., Path], own_home: Path
) -> None:
    (own_home / "models.json").write_text('{"bases": {"other": {}}}', encoding="utf-8")
    await two_layers("create_genome", name="a", layers=[{"layer": "facts"}])
    await two_layers("create_genome", name="b", base="other")
    said = await refusal("create_genome", name="c", parents=["a", "b"])
    assert "a is on tiny and b is on other" in said
