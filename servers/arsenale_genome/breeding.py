"""A new stack from the stacks of one or two parents, with what was chosen. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from arsenale_core.errors import InvalidError
from arsenale_genome.record import LAYERS_MAX, Choice, Genome, Layer, Placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Bred:
    """What came out: the layers in their order, and a choice for each layer of a parent."""

    layers: tuple[Placed, ...]
    choices: tuple[Choice, ...]


def breed(parents: Sequence[Genome], asked: Mapping[str, str], layers: Mapping[str, Layer]) -> Bred:
    """Return the stack of a child of PARENTS.

    A layer that both have gets the mean of their weights. Layers stand in the parents' order, but
    one that was trained on others comes above them.

    Args:
        parents: One or two genomes on the same base.
        asked: Trait or layer name -> a parent's name, `both` or `none`; a layer's own entry goes
            before its trait's. What is not named comes from both.
        layers: The layers of the parents, by SHA-256.

    Raises:
        InvalidError: The parents have different bases, ASKED names what no parent has, or more
            than 16 layers remain.
    """
    _check_bases(parents)
    _check_asked(parents, asked)
    placed: dict[str, Placed] = {}
    choices: list[Choice] = []
    for sha in dict.fromkeys(each.sha256 for parent in parents for each in parent.layers):
        has = {p.name: each for p in parents for each in p.layers if each.sha256 == sha}
        first = next(iter(has.values()))
        wanted = asked.get(first.layer, asked.get(first.trait, "both"))
        chosen = tuple(name for name in has if wanted in ("both", name))
        weights = {name: each.weight for name, each in has.items()}
        choices.append(Choice(layer=first.layer, taken_from=chosen, weights=weights))
        if chosen:
            mean = sum(weights[name] for name in chosen) / len(chosen)
            placed[sha] = replace(first, weight=round(mean, 6))
    if len(placed) > LAYERS_MAX:
        raise InvalidError(
            f"the child would have {len(placed)} layers, {LAYERS_MAX} is the most",
            hint="leave some out: choices={'layer-name': 'none'}",
        )
    return Bred(layers=_in_training_order(placed, layers), choices=tuple(choices))


def _check_bases(parents: Sequence[Genome]) -> None:
    bases = {parent.base for parent in parents}
    hashes = {parent.base_sha256 for parent in parents if parent.base_sha256}
    if len(bases) > 1 or len(hashes) > 1:
        said = " and ".join(f"{parent.name} is on {parent.base}" for parent in parents)
        raise InvalidError(
            f"the parents have different bases ({said})",
            hint="a layer works on the base it was trained on only: breed genomes of one base, "
            "which `find_layers` with kind='genome' and `base` lists",
        )


def _check_asked(parents: Sequence[Genome], asked: Mapping[str, str]) -> None:
    known = {word for parent in parents for p in parent.layers for word in (p.layer, p.trait)}
    values = {"both", "none", *(parent.name for parent in parents)}
    for key, value in asked.items():
        if key not in known:
            raise InvalidError(
                f"no parent has a layer or trait {key!r}", hint=f"they have {_listed(known)}"
            )
        if value not in values:
            raise InvalidError(
                f"{key!r} cannot come from {value!r}", hint=f"say one of {_listed(values)}"
            )


def _listed(words: set[str]) -> str:
    return ", ".join(sorted(words))


def _in_training_order(
    placed: Mapping[str, Placed], layers: Mapping[str, Layer]
) -> tuple[Placed, ...]:
    """Return PLACED in their order, each one above those it was trained on."""
    left, found = list(placed), list[str]()
    below = {
        sha: {b.sha256 for b in layers[sha].trained_on if b.sha256 in placed} if sha in layers
        else set[str | None]()
        for sha in left
    }  # fmt: skip
    while left:
        free = next((sha for sha in left if below[sha] <= {*found, sha}), left[0])
        left.remove(free)  # a circle, which nobody can train, keeps the order it has
        found.append(free)
    return tuple(placed[sha] for sha in found)
