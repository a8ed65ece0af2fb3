"""Layers and genomes as canonical JSON and back: the form that is stored, hashed and exported."""

from dataclasses import asdict
from hashlib import sha256
from typing import Any

import orjson

from arsenale_genome.record import Below, Choice, File, Genome, Layer, Parent, Placed

_HERE_ONLY = frozenset({"id", "number", "created_us", "updated_us"})
"""Fields of a genome or layer that are no part of what it is."""


def layer_out(layer: Layer) -> bytes:
    """Return what LAYER is as canonical JSON."""
    return _canonical({k: v for k, v in asdict(layer).items() if k not in _HERE_ONLY})


def layer_in(body: bytes, **here: Any) -> Layer:
    """Return the layer that BODY is; HERE has its id, number and moments."""
    said: dict[str, Any] = orjson.loads(body)
    said["file"] = File(**said["file"])
    said["trained_on"] = tuple(Below(**each) for each in said["trained_on"])
    said["tags"], said["rehearsal"] = tuple(said["tags"]), tuple(said["rehearsal"])
    return Layer(**said, **here)


def genome_out(genome: Genome) -> bytes:
    """Return what GENOME is as canonical JSON."""
    said = {k: v for k, v in asdict(genome).items() if k not in _HERE_ONLY}
    return _canonical(said)


def genome_in(body: bytes, **here: Any) -> Genome:
    """Return the genome that BODY is; HERE has its id, number and moments."""
    said: dict[str, Any] = orjson.loads(body)
    said["tags"] = tuple(said["tags"])
    said["layers"] = tuple(Placed(**each) for each in said["layers"])
    said["parents"] = tuple(Parent(**each) for each in said["parents"])
    said["choices"] = tuple(_choice(each) for each in said["choices"])
    return Genome(**said, **here)


def genome_sha(genome: Genome) -> str:
    """Return what identifies the content of GENOME: equal wherever it is, whatever it is called.

    Names, both of the genome and of its layers, and the parents' ids are left out: layers count by
    the hash of their files.
    """
    said = {
        "base": genome.base,
        "persona": genome.persona,
        "instructions": genome.instructions,
        "description": genome.description,
        "tags": list(genome.tags),
        "layers": [[placed.sha256, placed.weight] for placed in genome.layers],
        "parents": [parent.sha256 for parent in genome.parents],
        "generation": genome.generation,
    }
    return sha256(_canonical(said)).hexdigest()


def _choice(said: dict[str, Any]) -> Choice:
    said["taken_from"] = tuple(said["taken_from"])
    return Choice(**said)


def _canonical(said: dict[str, Any]) -> bytes:
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
